"""One shard's lease: the daemon's conversation about it, and what the worker makes of it."""

import asyncio
import enum
from collections.abc import Awaitable
from contextlib import suppress
from typing import Protocol

import structlog

from telemill import errors
from telemill.kinesis import multilang, prefetch, reader, records, rejoin
from telemill.kinesis.coordinators.base import Listener
from telemill.kinesis.coordinators.outstanding import Outstanding
from telemill.kinesis.coordinators.watch import Clock
from telemill.kinesis.multilang import Checkpointed, Conversation, ProcessRecords, ProtocolError
from telemill.kinesis.records import Chunk, Record, Shard
from telemill.metrics import Metrics
from telemill.stages.owner import ShardOwner, StartPosition

READ_BYTES = 64 * 1024
MAX_LINE_BYTES = 256 * 1024 * 1024
"""A page of 10 MiB is 14 MB of base64; tiny user records of aggregates make several times that."""
FIRST_RESERVED_BYTES = 4 * 1024 * 1024
FINISHED_CHECK_SECONDS = 0.25
CHECKPOINT_SECONDS = 10.0
"""Each checkpoint is a DynamoDB write. It may be a little behind: what the KCL reads again after a
crash is skipped here. Much would be read for longer than the shard stood still."""

log = structlog.get_logger()


class Channel(Protocol):
    """The pipes of one shard's child, as `coordinators.daemon.Pipes` has them."""

    @property
    def reader(self) -> asyncio.StreamReader:
        """What the daemon writes."""

    def write(self, line: bytes) -> None:
        """Send a line; never raises."""


class Host(Protocol):
    """What a lease asks of the coordinator."""

    async def describe(self, shard_id: str) -> Shard | None:
        """The shard as the stream lists it; None when it is past its retention."""

    async def open(self, shard: Shard, void: asyncio.Event) -> StartPosition | None:
        """Ask the owner until it opens the shard; None when `void` was set meanwhile."""

    def close(self, shard: Shard) -> "asyncio.Task[None]":
        """Begin to close and release; the task never fails."""

    def saved(self, shard: Shard) -> str | None:
        """The position the owner saved last; still known after `close`."""

    def spoke(self) -> None:
        """The daemon said something."""

    async def is_sound(self) -> bool:
        """Whether the daemon has left nothing out before what was just received of it."""

    def expect_loss(self, lease: "Lease") -> None:
        """Nothing is worked on though the lease is ours: that must not last."""


class Mode(enum.Enum):
    """What is done with what the daemon delivers."""

    OPENING = "opening"
    WORKING = "working"
    FINISHED = "finished"  # our position is at the end already: only the KCL does not know
    VOID = "void"  # dropped, closed or stopping: statuses are answered, nothing is worked on


class HungUpError(Exception):
    """The daemon closed the pipes."""


class Lease:
    """One connection, from `initialize` to the end of the pipes.

    Attributes:
        shard: Once initialized.
        mode: What is done with what the daemon delivers.
        waiting_since: When we began to wait for the daemon's next line; None while we do not.
    """

    def __init__(
        self,
        channel: Channel,
        host: Host,
        listener: Listener,
        owner: ShardOwner,
        *,
        queue: Outstanding,
        metrics: Metrics,
        max_chunk_bytes: int,
        drain_seconds: float,
        clock: Clock,
    ) -> None:
        self.shard: Shard | None = None
        self.mode = Mode.OPENING
        self.waiting_since: float | None = None
        self._channel = channel
        self._host = host
        self._listener = listener
        self._owner = owner
        self._queue = queue
        self._metrics = metrics
        self._max_chunk_bytes = max_chunk_bytes
        self._drain_seconds = drain_seconds
        self._monotonic = clock.monotonic
        self._sleep = clock.sleep
        self._conversation = Conversation()
        self._start = StartPosition()
        self._last: str | None = None
        self._checkpointed_at = self._monotonic() - CHECKPOINT_SECONDS
        self._rest = b""
        self._reserved_bytes = 0
        self._expected_bytes = FIRST_RESERVED_BYTES
        self._void = asyncio.Event()

    async def run(self) -> None:
        """Answer the daemon until it hangs up.

        Raises:
            ProtocolError: It said what it may not.
            TelemillError: The shard cannot be opened, ever.
        """
        try:
            while True:
                action = self._conversation.receive(await self._line())
                await self._act(action)
                self._release()
                self._channel.write(self._conversation.answer())
        except HungUpError:
            if self._conversation.state is not multilang.State.OVER:
                log.warning("lease.hung_up", shard_id=self._conversation.shard_id)
        finally:
            self._release()
            if self.shard is not None and self.mode is Mode.WORKING:
                self._revoke(self.shard, "lost")
                self._host.close(self.shard)

    def drop(self) -> None:
        """The owner's claim is void: work on nothing any more, and wait for `leaseLost`."""
        if self.shard is not None and self.mode is Mode.WORKING:
            self._metrics.claims_lost.inc()
            self._revoke(self.shard, "lost")
            self._host.expect_loss(self)

    def stop(self) -> None:
        """Nothing is processed any more: withhold no status, so that `shutdownRequested` comes."""
        if self.shard is not None:
            self._queue.discard(self.shard.shard_id)
        self._void.set()

    async def _act(self, action: multilang.Action) -> None:
        # By far the most come first.
        if isinstance(action, ProcessRecords):
            await self._process(action)
        elif isinstance(action, multilang.Initialize):
            await self._initialize(action)
        elif isinstance(action, multilang.LeaseLost):
            self._lose()
        elif isinstance(action, multilang.ShutdownRequested):
            await self._shut_down()
        elif isinstance(action, multilang.ShardEnded):
            await self._end()

    async def _initialize(self, action: multilang.Initialize) -> None:
        shard = self.shard = await self._host.describe(action.shard_id)
        if shard is None:
            self.mode = Mode.FINISHED
            return
        start = await self._host.open(shard, self._void)
        if start is None:
            self.mode = Mode.VOID
            return
        self._start = start
        if start.finished:
            self.mode = Mode.FINISHED
            return
        self._require_not_ahead(shard)
        self._last = start.after
        self.mode = Mode.WORKING
        self._metrics.handovers.labels(way="taken").inc()
        self._listener.assigned(shard)

    def _require_not_ahead(self, shard: Shard) -> None:
        """The KCL's checkpoint follows our position: above it are records nobody processed."""
        stored, after = self._conversation.checkpointed, self._start.after
        if stored is not None and (after is None or int(stored) > int(after)):
            raise errors.ConfigurationError(
                f"the KCL's lease table is at {stored} in {shard.shard_id}, the progress table at"
                f" {after}: they are not of the same run; delete the lease table and start again"
            )

    async def _process(self, action: ProcessRecords) -> None:
        if self.shard is None and action.records:
            raise errors.LeaseLostError(
                f"records came of {self._conversation.shard_id}, which the stream does not list"
            )
        if self.shard is None or self.mode is not Mode.WORKING or not await self._host.is_sound():
            return
        chunks = self._chunks(self.shard, action)
        self._queue.put(chunks)
        self._release()
        self._expect(chunks)
        await self._room()
        if self._monotonic() - self._checkpointed_at >= CHECKPOINT_SECONDS:
            await self._checkpoint()

    def _chunks(self, shard: Shard, action: ProcessRecords) -> list[Chunk]:
        behind = action.millis_behind_latest or 0
        self._metrics.behind(shard.shard_id, behind)
        chunks = []
        for part in reader.split(self._fresh(action, shard), self._max_chunk_bytes):
            chunks.append(Chunk(shard, part, behind, after=self._last))
            self._last = part[-1].sequence_number
        return chunks

    def _fresh(self, action: ProcessRecords, shard: Shard) -> list[Record]:
        fresh = rejoin.rejoin(action.records, shard, self._start.after)
        begin_us = self._start.timestamp_us
        if begin_us is None:
            return fresh
        # The daemon's own initial position is in seconds, and a lease may be older.
        return [record for record in fresh if record.arrival_us >= begin_us]

    def _expect(self, chunks: list[Chunk]) -> None:
        size_bytes = 2 * sum(map(prefetch.memory_of, chunks))
        self._expected_bytes = min(
            reader.MAX_PAGE_BYTES, max(reader.LEAST_RESERVED_BYTES, size_bytes)
        )

    async def _room(self) -> None:
        """Withhold the status until another page like this one fits: that holds the daemon up."""
        if await self._unless_void(self._queue.budget.acquire(self._expected_bytes)):
            self._queue.budget.release(self._expected_bytes)

    async def _checkpoint(self) -> None:
        """Tell the KCL how far we are. A hint: what fails for now is told in the next window."""
        position = None if self.shard is None else self._host.saved(self.shard)
        if position is not None and position != records.SHARD_END:
            self._conversation.want_checkpoint(position)
            self._checkpointed_at = self._monotonic()
        answered = await self._request()
        if answered is not None and answered.error is not None:
            self._say_refused(answered)

    async def _request(self) -> Checkpointed | None:
        request = self._conversation.request()
        if request is None:
            return None
        self._channel.write(request)
        answered = self._conversation.receive(await self._line())
        if not isinstance(answered, Checkpointed):
            raise ProtocolError("a checkpoint request was not answered")
        return answered

    def _say_refused(self, answered: Checkpointed) -> None:
        log.warning(
            "lease.checkpoint_refused",
            shard_id=self._conversation.shard_id,
            error=answered.error,
            retriable=answered.retriable,
        )

    def _lose(self) -> None:
        """No more of it at once. What is in flight is ours to save: the epoch guards it."""
        if self.shard is not None and self.mode is Mode.WORKING:
            self._revoke(self.shard, "lost")
            # Not awaited: the status is not held up, and nothing is checkpointed.
            self._host.close(self.shard)
        self.mode = Mode.VOID

    async def _shut_down(self) -> None:
        """The last window: drain, save, release, checkpoint."""
        if self.shard is None or self.mode is not Mode.WORKING:
            return
        self._queue.discard(self.shard.shard_id)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._drain_seconds):
                await self._unless_void(self._queue.idle(self.shard.shard_id))
        self._revoke(self.shard, "given")
        self._host.expect_loss(self)
        await self._host.close(self.shard)
        await self._checkpoint()

    async def _end(self) -> None:
        """Work off what is left, then let the children begin."""
        if self.shard is not None and self.mode is Mode.WORKING:
            self._queue.put([Chunk(self.shard, [], 0, ends_shard=True, after=self._last)])
            if not await self._unless_void(self._until_finished(self.shard)):
                return
            self._revoke(self.shard, "ended")
            self.mode = Mode.FINISHED
        if self.mode is Mode.FINISHED:
            await self._checkpoint_end()

    async def _until_finished(self, shard: Shard) -> None:
        while True:
            with suppress(errors.TransientError):
                if await self._owner.finished(shard):
                    return
            await self._sleep(FINISHED_CHECK_SECONDS)

    async def _checkpoint_end(self) -> None:
        """Without it the daemon would never begin the children: insist while that may help."""
        while True:
            self._conversation.want_end()
            answered = await self._request()
            if answered is None or answered.error is None:
                return
            self._say_refused(answered)
            if not answered.retriable:
                return
            await self._sleep(1.0)

    def _revoke(self, shard: Shard, way: str) -> None:
        self.mode = Mode.VOID
        log.info("lease.left", shard_id=shard.shard_id, way=way)
        self._metrics.handovers.labels(way=way).inc()
        self._void.set()
        self._queue.discard(shard.shard_id)
        self._metrics.forget_shard(shard.shard_id)
        self._listener.revoked(shard)

    async def _unless_void(self, waiting: Awaitable[object]) -> bool:
        """Wait, but not once the shard is dropped or the worker stops; whether it came."""
        wait, void = asyncio.ensure_future(waiting), asyncio.create_task(self._void.wait())
        try:
            await asyncio.wait((wait, void), return_when=asyncio.FIRST_COMPLETED)
            if wait.done():
                wait.result()
            return wait.done()
        finally:
            for task in (wait, void):
                task.cancel()
            await asyncio.gather(wait, void, return_exceptions=True)

    async def _line(self) -> bytes:
        """The next line; how long it takes is looked at."""
        self.waiting_since = self._monotonic()
        try:
            line = await self._read_line()
        finally:
            self.waiting_since = None
        self._host.spoke()
        return line

    async def _read_line(self) -> bytes:
        """The next line. Room is asked for once it proves large: idle shards hold none."""
        parts, size_bytes = [self._rest], len(self._rest)
        while b"\n" not in parts[-1]:
            piece = await self._channel.reader.read(READ_BYTES)
            if not piece:
                raise HungUpError
            parts.append(piece)
            size_bytes += len(piece)
            if size_bytes > MAX_LINE_BYTES:
                raise ProtocolError(f"a line of more than {MAX_LINE_BYTES} bytes")
            if size_bytes >= READ_BYTES and not self._reserved_bytes:
                await self._reserve()
        last, _, self._rest = parts[-1].partition(b"\n")
        return b"".join([*parts[:-1], last])

    async def _reserve(self) -> None:
        if await self._unless_void(self._queue.budget.acquire(self._expected_bytes)):
            self._reserved_bytes = self._expected_bytes

    def _release(self) -> None:
        held, self._reserved_bytes = self._reserved_bytes, 0
        if held:
            self._queue.budget.release(held)
