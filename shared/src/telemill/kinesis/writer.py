"""Writes one stream: records packed into PutRecords, order kept inside a slot, none lost."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import structlog
from botocore.exceptions import ClientError

from telemill import aws, errors, slots
from telemill.kinesis import backoff, batching, bodies
from telemill.kinesis.budget import ByteBudget
from telemill.metrics import Metrics
from telemill.seldom import Seldom

DEFAULT_MAX_BUFFERED_BYTES = 64 * 1024 * 1024
MAX_REQUESTS_IN_FLIGHT = 4
DEFAULT_DRAIN_TIMEOUT_SECONDS = 10.0
THROTTLE_CODE = "ProvisionedThroughputExceededException"

OPERATION = "PutRecords"

Acknowledgement = asyncio.Future[str]
Entry = batching.Entry[Acknowledgement]
Outcome = str | errors.TelemillError

log = structlog.get_logger()


class Writer:
    """One output stream. `start`, then `put`; `stop` waits for what is not acknowledged yet.

    A record stays in the buffer until Kinesis acknowledged it, however often that takes: an answer
    that was lost means the record is put again, so it may be on the stream twice but is never
    missing and never overtakes another one of its slot.

    Attributes:
        unavailable_since: Clock reading of the first failure since Kinesis last took a record;
            None while all is well.
        unavailable_reason: What failed then.
    """

    def __init__(
        self,
        client: Any,
        stream: str,
        *,
        slot_count: int,
        metrics: Metrics,
        max_buffered_bytes: int = DEFAULT_MAX_BUFFERED_BYTES,
        drain_timeout_seconds: float = DEFAULT_DRAIN_TIMEOUT_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Wire the writer.

        Args:
            client: aiobotocore's Kinesis client, or one like it, without retries of its own.
            stream: Where to write.
            slot_count: Slots of that stream.
            metrics: Counts records out, retries and throttles.
            max_buffered_bytes: Memory for what is not acknowledged; `put` waits beyond it,
                `try_put` refuses.
            drain_timeout_seconds: How long `stop` waits for acknowledgements.
            monotonic: Clock of `unavailable_since` and of how long records wait.
            sleep: Waits some seconds.
            jitter: A random number in [0, 1).
        """
        bodies.install(client)
        self.stream = stream
        self.slot_count = slot_count
        self.unavailable_since: float | None = None
        self.unavailable_reason = ""
        self._client = client
        self._metrics = metrics
        self._drain_timeout_seconds = drain_timeout_seconds
        self._monotonic = monotonic
        self._sleep = sleep
        self._jitter = jitter
        self._budget = ByteBudget(max_buffered_bytes)
        self._outbox: batching.Outbox[Acknowledgement] = batching.Outbox()
        self._work = asyncio.Event()
        self._drained = asyncio.Event()
        self._drained.set()
        self._in_flight = 0
        self._closed = False
        self._seldom = Seldom(monotonic=monotonic)
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def buffered_bytes(self) -> int:
        """Memory held by what is put and not acknowledged."""
        return self._budget.held_bytes

    @property
    def is_available(self) -> bool:
        """Whether Kinesis took the last records it was sent."""
        return self.unavailable_since is None

    def waited_seconds(self, slot: int) -> float:
        """How long the slot's oldest record has waited: a new one will hardly wait less."""
        oldest = self._outbox.oldest(slot)
        return 0.0 if oldest is None else self._monotonic() - oldest.put_at

    async def start(self) -> None:
        """Begin to write."""
        self._spawn(self._dispatch())

    async def stop(self) -> None:
        """Take no more records, wait until all are acknowledged, at most the drain time-out.

        Raises:
            ServiceUnavailableError: Some were not; their futures have the same error.
        """
        self._closed = True
        try:
            async with asyncio.timeout(self._drain_timeout_seconds):
                await self._drained.wait()
        except TimeoutError:
            pass
        finally:
            lost = await self._end()
        if lost:
            raise errors.ServiceUnavailableError(_not_acknowledged(self.stream, lost))

    async def put(self, slot: int, data: bytes, partition_key: str) -> Acknowledgement:
        """Queue a record behind those of its slot, waiting for room.

        Cancelled while it waits, it has queued nothing.

        Returns:
            Its sequence number, once Kinesis has acknowledged it. Fails with
            ServiceUnavailableError when the writer stopped before: then the record may or may not
            be on the stream.

        Raises:
            RecordTooLargeError: Kinesis would refuse it.
            ServiceUnavailableError: The writer is stopped.
        """
        entry = self._entry(slot, data, partition_key)
        await self._budget.acquire(entry.memory_bytes)
        if self._closed:
            self._budget.release(entry.memory_bytes)
            self._check_open()
        return self._queue(entry)

    def try_put(self, slot: int, data: bytes, partition_key: str) -> Acknowledgement:
        """`put`, without waiting.

        Raises:
            RecordTooLargeError: Kinesis would refuse it.
            ServiceUnavailableError: The buffer is full, or the writer is stopped.
        """
        entry = self._entry(slot, data, partition_key)
        if not self._budget.try_acquire(entry.memory_bytes):
            raise errors.ServiceUnavailableError(
                f"{self._budget.held_bytes} bytes wait to be written to stream {self.stream}"
            )
        return self._queue(entry)

    async def flush(self) -> None:
        """Wait until everything put so far is acknowledged, or failed."""
        waiting = [entry.ticket for entry in self._outbox.entries()]
        if waiting:
            await asyncio.wait(waiting)

    def _check_open(self) -> None:
        if self._closed:
            raise errors.ServiceUnavailableError(f"the writer of stream {self.stream} is stopped")

    def _entry(self, slot: int, data: bytes, partition_key: str) -> Entry:
        """The record, if it could be put at all."""
        size_bytes = batching.size_of(data, partition_key)
        self._check_open()
        ticket: Acknowledgement = asyncio.get_running_loop().create_future()
        return batching.Entry(slot, data, partition_key, ticket, size_bytes, self._monotonic())

    def _queue(self, entry: Entry) -> Acknowledgement:
        entry.ticket.add_done_callback(_retrieve)
        self._outbox.add(entry)
        self._metrics.buffered_bytes.set(self._budget.held_bytes)
        self._drained.clear()
        self._work.set()
        return entry.ticket

    async def _dispatch(self) -> None:
        """Start a request whenever one may go: never more than some in flight."""
        while True:
            await self._work.wait()
            self._work.clear()
            while self._in_flight < MAX_REQUESTS_IN_FLIGHT:
                request = self._outbox.next_request()
                if not request:
                    break
                self._in_flight += 1
                self._spawn(self._send(request))

    async def _send(self, request: list[Entry]) -> None:
        try:
            outcomes = await self._attempt(request)
        finally:
            self._in_flight -= 1
            self._work.set()
        failed = [
            (entry, outcome)
            for entry, outcome in zip(request, outcomes, strict=True)
            if not self._settle(entry, outcome)
        ]
        if failed:
            await self._back_off(failed)
            for entry, _ in failed:
                self._outbox.fail(entry)
            self._work.set()

    async def _back_off(self, failed: Sequence[tuple[Entry, Outcome]]) -> None:
        throttled = all(isinstance(why, errors.ThroughputExceededError) for _, why in failed)
        cap_seconds = backoff.THROTTLED_CAP_SECONDS if throttled else backoff.CAP_SECONDS
        failures = failed[0][0].failures
        await self._sleep(backoff.full_jitter(failures, self._jitter, cap_seconds=cap_seconds))

    async def _attempt(self, request: Sequence[Entry]) -> Sequence[Outcome]:
        """One PutRecords: a sequence number or an error for each entry."""
        try:
            with aws.map_exceptions("kinesis:PutRecords", stream=self.stream):
                answer = await self._client.put_records(
                    StreamName=self.stream, Records=[self._described(entry) for entry in request]
                )
        except (errors.TransientError, errors.ConfigurationError) as error:
            # The request may have arrived all the same; what is missing may be put right.
            outcomes: list[Outcome] = [error] * len(request)
        except ClientError as error:
            if not self._outbox.refused(request):
                raise
            log.warning("writer.request_refused", stream=self.stream, error=str(error))
            outcomes = [errors.PartialPutError(str(error))] * len(request)
        else:
            outcomes = [_outcome(result) for result in answer["Records"]]
        self._note(outcomes)
        return outcomes

    def _described(self, entry: Entry) -> dict[str, Any]:
        return {
            "Data": entry.data,
            "PartitionKey": entry.partition_key,
            "ExplicitHashKey": str(slots.hash_key_of(entry.slot, self.slot_count)),
        }

    def _settle(self, entry: Entry, outcome: Outcome) -> bool:
        if isinstance(outcome, errors.TelemillError):
            entry.failures += 1
            return False
        self._outbox.acknowledge(entry)
        self._budget.release(entry.memory_bytes)
        self._metrics.buffered_bytes.set(self._budget.held_bytes)
        if not entry.ticket.done():  # done: its caller has cancelled it and no longer asks
            entry.ticket.set_result(outcome)
        if not len(self._outbox):
            self._drained.set()
        return True

    def _note(self, outcomes: Sequence[Outcome]) -> None:
        """Count, and remember whether the stream can be written to."""
        refused = [outcome for outcome in outcomes if isinstance(outcome, errors.TelemillError)]
        self._metrics.records_out.inc(len(outcomes) - len(refused))
        if len(refused) < len(outcomes) and self.unavailable_since is not None:
            self._recovered(self._monotonic() - self.unavailable_since)
        if not refused:
            return
        throttled = sum(isinstance(error, errors.ThroughputExceededError) for error in refused)
        self._metrics.retries.labels(operation=OPERATION).inc(len(refused))
        self._metrics.throttles.labels(operation=OPERATION).inc(throttled)
        if len(refused) == len(outcomes) and self.unavailable_since is None:
            self.unavailable_since = self._monotonic()
            self.unavailable_reason = str(refused[0])
            if times := self._seldom.due("unavailable"):
                log.warning(
                    "writer.unavailable", stream=self.stream, error=str(refused[0]), times=times
                )

    def _recovered(self, seconds: float) -> None:
        self.unavailable_since = None
        if times := self._seldom.due("available"):
            log.info(
                "writer.available_again",
                stream=self.stream,
                after_seconds=round(seconds, 1),
                times=times,
            )

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # A bug, or a request Kinesis calls invalid: fail every waiter rather than hang it.
            log.error("writer.failed", stream=self.stream, error=repr(error))
            self._closed = True
            for other in self._tasks:
                other.cancel()
            self._give_up(error)

    async def _end(self) -> int:
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        lost = len(self._outbox)
        if lost:
            self._give_up(errors.ServiceUnavailableError(_not_acknowledged(self.stream, lost)))
        return lost

    def _give_up(self, error: BaseException) -> None:
        for entry in self._outbox.clear():
            self._budget.release(entry.memory_bytes)
            if not entry.ticket.done():
                entry.ticket.set_exception(error)
        self._drained.set()


def _outcome(result: dict[str, Any]) -> Outcome:
    code = result.get("ErrorCode")
    if not code:
        number: str = result["SequenceNumber"]
        return number
    text = f"PutRecords: {code}: {result.get('ErrorMessage', '')}"
    if code == THROTTLE_CODE:
        return errors.ThroughputExceededError(text)
    return errors.PartialPutError(text)


def _not_acknowledged(stream: str, count: int) -> str:
    return f"{count} records were not acknowledged by stream {stream} in time"


def _retrieve(ticket: Acknowledgement) -> None:
    """Nobody needs to look at a failed acknowledgement for asyncio to stay quiet."""
    if not ticket.cancelled():
        ticket.exception()
