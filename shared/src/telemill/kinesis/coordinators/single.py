"""One worker reads every shard it can claim, parents before children. No KCL, no Java."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog

from telemill import errors
from telemill.kinesis import backoff, prefetch, reader
from telemill.kinesis.calls import Readiness, StreamCalls
from telemill.kinesis.coordinators.base import Listener
from telemill.kinesis.prefetch import Prefetch
from telemill.kinesis.reader import ShardReader
from telemill.kinesis.records import Shard
from telemill.kinesis.shards import Event, Shards
from telemill.metrics import Metrics
from telemill.seldom import Seldom
from telemill.stages.owner import ShardOwner, StartPosition

DEFAULT_LIST_INTERVAL_SECONDS = 30.0
DEFAULT_CLAIM_INTERVAL_SECONDS = 1.0

log = structlog.get_logger()


class SingleCoordinator:
    """Reads a stream with aiobotocore alone; see `coordinators.base.Coordinator`.

    Two workers may run: what one has claimed the other asks for once in a claim interval.
    """

    def __init__(
        self,
        client: Any,
        stream: str,
        owner: ShardOwner,
        *,
        metrics: Metrics,
        health: Readiness,
        prefetch_bytes: int = prefetch.DEFAULT_PREFETCH_BYTES,
        max_chunk_bytes: int = reader.DEFAULT_MAX_CHUNK_BYTES,
        get_records_per_second: float = reader.DEFAULT_GET_RECORDS_PER_SECOND,
        list_interval_seconds: float = DEFAULT_LIST_INTERVAL_SECONDS,
        claim_interval_seconds: float = DEFAULT_CLAIM_INTERVAL_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
    ) -> None:
        """Wire the coordinator.

        Args:
            client: aiobotocore's Kinesis client, or one like it.
            stream: What to read.
            owner: Claims and processes the shards.
            metrics: The service's metrics.
            health: Told when the stream is missing, forbidden or away, and when a shard cannot be
                claimed because the store is away.
            prefetch_bytes: Most bytes fetched and not yet processed, over all shards.
            max_chunk_bytes: Most data in one chunk.
            get_records_per_second: Most GetRecords a second and shard.
            list_interval_seconds: How often the shards are listed when none has ended.
            claim_interval_seconds: How often a claim that another worker holds is asked for.
            monotonic: Clock for paces.
            sleep: Waits some seconds.
        """
        self.stream = stream
        self.prefetch = Prefetch(prefetch_bytes)
        self._owner = owner
        self._metrics = metrics
        self._max_chunk_bytes = max_chunk_bytes
        self._get_records_per_second = get_records_per_second
        self._list_interval_seconds = list_interval_seconds
        self._claim_interval_seconds = claim_interval_seconds
        self._monotonic = monotonic
        self._sleep = sleep
        self._calls = StreamCalls(
            client, stream, metrics=metrics, health=health, sleep=sleep, monotonic=monotonic
        )
        self._health = health
        self._seldom = Seldom(monotonic=monotonic)
        self._shards = Shards()
        self._look = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._openings: dict[Shard, asyncio.Task[StartPosition]] = {}
        self._readings: dict[str, asyncio.Task[None]] = {}
        self._open: dict[str, Shard] = {}
        self._listener: Listener | None = None

    async def start(self, listener: Listener) -> None:
        """Begin to list, claim and read."""
        self._listener = listener
        self._spawn(self._watch())

    def drop(self, shard: Shard) -> None:
        """Stop reading a shard whose claim is void; `_follow` claims it again later."""
        reading = self._readings.get(shard.shard_id)
        if reading is not None:
            reading.cancel()

    async def stop(self, *, drain: bool) -> None:
        """Stop reading; with `drain`, close and release every open shard."""
        self._listener = None
        tasks = [*self._tasks, *self._readings.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if drain:
            await self._close_all()
        for opening in self._openings.values():
            opening.cancel()

    async def _watch(self) -> None:
        """List the shards every so often, and at once when one is finished."""
        incarnation = await self._calls.persist("DescribeStreamSummary", self._calls.incarnation)
        while True:
            self._look.clear()
            await self._list(incarnation)
            for shard in self._shards.to_claim():
                self._spawn(self._follow(shard))
            await self._wait_for_look()

    async def _list(self, incarnation: int) -> None:
        now = await self._calls.persist("DescribeStreamSummary", self._calls.incarnation)
        if now != incarnation:
            raise errors.LeaseLostError(
                f"stream {self.stream} was deleted and created again: start afresh"
            )
        listed = await self._calls.persist(
            "ListShards", lambda: self._calls.list_shards(incarnation)
        )
        self._shards.listed(listed)

    async def _wait_for_look(self) -> None:
        look = asyncio.ensure_future(self._look.wait())
        rest = asyncio.ensure_future(self._sleep(self._list_interval_seconds))
        try:
            await asyncio.wait((look, rest), return_when=asyncio.FIRST_COMPLETED)
        finally:
            look.cancel()
            rest.cancel()

    async def _follow(self, shard: Shard) -> None:
        """One shard, from its claim to its end; again from the claim whenever it is dropped."""
        while True:
            start = await self._claim(shard)
            if start.finished:
                break
            self._shards.apply(shard.shard_id, Event.OPENED)
            if await self._read(shard, start):
                break
            log.warning("coordinator.shard_dropped", shard_id=shard.shard_id)
            self._metrics.handovers.labels(way="lost").inc()
            self._metrics.claims_lost.inc()
            self._shards.apply(shard.shard_id, Event.DROPPED)
            await self._sleep(self._claim_interval_seconds)
        self._shards.apply(shard.shard_id, Event.POSITION_AT_END)
        self._look.set()

    async def _claim(self, shard: Shard) -> StartPosition:
        """Ask the owner to open the shard until it does."""
        failures = 0
        while True:
            try:
                start = await self._ask(shard)
            except errors.TransientError as error:
                failures += 1
                self._say_waiting(shard, error, failures)
                await self._sleep(self._wait_after(error, failures))
            else:
                self._health.clear(_claim_name(shard))
                return start

    def _say_waiting(self, shard: Shard, error: errors.TransientError, failures: int) -> None:
        # 1. Another worker holds it: so lives whoever stands by, and is ready.
        # 2. The store is away: nobody can tell who holds it.
        if isinstance(error, errors.ClaimHeldError):
            self._health.clear(_claim_name(shard))
            due = failures == 1
        else:
            self._health.set(_claim_name(shard), str(error))
            due = self._seldom.due("claim") > 0
        if due:
            log.info("coordinator.claim_waits", shard_id=shard.shard_id, why=str(error))

    async def _ask(self, shard: Shard) -> StartPosition:
        """Ask once. The owner is let finish even when we stop: `stop` closes what it opened."""
        opening = self._openings[shard] = asyncio.ensure_future(self._owner.open(shard))
        start = StartPosition(finished=True)
        try:
            start = await asyncio.shield(opening)
        finally:
            if opening.done():
                del self._openings[shard]
        return start

    def _wait_after(self, error: errors.TransientError, failures: int) -> float:
        if isinstance(error, errors.ClaimHeldError):
            return self._claim_interval_seconds
        self._metrics.retries.labels(operation="Claim").inc()
        return backoff.full_jitter(failures, random.random)

    async def _read(self, shard: Shard, start: StartPosition) -> bool:
        """Read to the end; False when the shard was dropped before."""
        shard_id = shard.shard_id
        self._open[shard_id] = shard
        self._metrics.open_shards.set(len(self._open))
        self._metrics.handovers.labels(way="taken").inc()
        reading = self._readings[shard_id] = asyncio.create_task(self._pump(shard, start))
        self._tell("assigned", shard)
        await asyncio.wait((reading,))
        self.prefetch.discard(shard_id)
        del self._readings[shard_id], self._open[shard_id]
        self._metrics.open_shards.set(len(self._open))
        self._metrics.forget_shard(shard_id)
        self._tell("revoked", shard)
        if reading.cancelled():
            return False
        reading.result()
        self._metrics.handovers.labels(way="ended").inc()
        return True

    async def _pump(self, shard: Shard, start: StartPosition) -> None:
        shard_reader = ShardReader(
            self._calls,
            shard,
            start,
            prefetch=self.prefetch,
            is_gone=lambda: not self._shards.is_listed(shard.shard_id),
            get_records_per_second=self._get_records_per_second,
            max_chunk_bytes=self._max_chunk_bytes,
            monotonic=self._monotonic,
        )
        while not shard_reader.ended:
            await shard_reader.fetch()
        self._shards.apply(shard.shard_id, Event.ENDED)
        # Children show up in the list as soon as a shard is closed.
        self._look.set()
        while not await self._is_finished(shard):
            await self._sleep(self._claim_interval_seconds)

    async def _is_finished(self, shard: Shard) -> bool:
        try:
            return await self._owner.finished(shard)
        except errors.TransientError:
            return False

    async def _close_all(self) -> None:
        opened = await asyncio.gather(*self._openings.values(), return_exceptions=True)
        for shard, start in zip(self._openings, opened, strict=True):
            if isinstance(start, StartPosition) and not start.finished:
                self._open[shard.shard_id] = shard
        self._openings.clear()
        shards = list(self._open.values())
        closed = await asyncio.gather(
            *(self._owner.close(shard, release=True) for shard in shards), return_exceptions=True
        )
        for result in closed:
            if isinstance(result, BaseException):
                raise result
            self._metrics.handovers.labels(way="given").inc()

    def _tell(self, what: str, shard: Shard) -> None:
        """Tell the listener, unless we are stopping: nobody listens then."""
        if self._listener is not None:
            tell: Callable[[Shard], None] = getattr(self._listener, what)
            tell(shard)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and self._listener is not None:
            self._listener.failed(error)


def _claim_name(shard: Shard) -> str:
    return f"claim of {shard.shard_id}"
