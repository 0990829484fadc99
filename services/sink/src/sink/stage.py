"""All shards of one sink process: who gathers, when a cut ends, how much may wait.

Records are gathered as they come; a cut that is over becomes durable in the background, one per
shard, while the next one fills. What waits in memory is bounded over all shards together.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import structlog

from sink.core import Form
from sink.cutting import Cutter
from sink.intake import Intake
from sink.lane import Lane, SealedCut
from telemill import aws, errors, slots
from telemill.health import Health
from telemill.kinesis.records import SHARD_END, Chunk, Record, Shard
from telemill.metrics import Metrics
from telemill.progress import rules
from telemill.progress.claims import Claim, Opened
from telemill.seldom import Seldom
from telemill.stages import continuity, watermarks
from telemill.stages.caution import Caution
from telemill.stages.guard import Guard
from telemill.stages.owner import StartPosition
from telemill.tracing import Tracer

TICK_SECONDS = 0.25
"""How often ages are looked at."""

LONGEST_PAUSE_SECONDS = 5.0
"""Between two tries of a cut; a drain has 10 s and must not wait longer for the next try."""

MAX_CREDIT = 0.25
"""Share of the flush interval that a record's way here may count as its age. More, and catching
up on old records would make a tiny cut of each chunk."""

FIRST_CUT_SECONDS = 0.25
"""The first cut after a take-over lasts at least so long, and its records' wait counts whole: a
restart does not begin the flush interval anew."""

log = structlog.get_logger()


class ClaimSource(Protocol):
    """What the stage needs of `telemill.progress.claims.Claims`."""

    async def open(self, shard: Shard) -> Opened:
        """Claim a shard."""

    async def finished(self, shard: Shard) -> bool:
        """Whether the shard's end is saved in the store."""


@dataclass(frozen=True, slots=True)
class Limits:
    """When cuts end and how much waits.

    Attributes:
        flush_interval_seconds: Age of the oldest record at which a cut ends.
        max_cut_bytes: Arrow bytes of all open and unfinished cuts together; half of it in open
            cuts ends the largest.
        raw_retention_hours: Of the raw stream: how old a producer's replay can be.
        slot_count: Slots of the input stream.
    """

    flush_interval_seconds: float = 15.0
    max_cut_bytes: int = 64 * 1024 * 1024
    raw_retention_hours: float = 168.0
    slot_count: int = slots.DEFAULT_SLOT_COUNT


@dataclass(slots=True)
class _Held:
    """One shard in this process.

    Attributes:
        caution: What to beware of after crashes.
        unfinished: The task that makes the last sealed cut durable.
        unfinished_bytes: What that cut holds.
        failure: Why this shard can go no further.
        closing: No more records come; failures are not waited out.
    """

    lane: Lane
    claim: Claim
    caution: Caution
    unfinished: "asyncio.Task[None] | None" = None
    unfinished_bytes: int = 0
    failure: Exception | None = None
    closing: bool = False

    @property
    def size_bytes(self) -> int:
        return self.lane.size_bytes + self.unfinished_bytes


class TableStage:
    """Owns the shards of a stream-to-table service; see `telemill.stages.owner.ShardOwner`.

    Args:
        form: The table.
        claims: Positions and states.
        cutter: Makes cuts durable.
        limits: Age and size.
        metrics: The service's metrics.
        health: Told when a cut cannot be made durable.
        guard: Around every step; the cutter's too. By default one without a time limit.
        monotonic: Clock for ages.
        wall: Epoch seconds, to compare with arrival times.
        sleep: Waits some seconds.
        jitter: 0 to 1, for pauses between tries.
    """

    def __init__(
        self,
        form: Form,
        *,
        claims: ClaimSource,
        cutter: Cutter,
        limits: Limits,
        metrics: Metrics,
        health: Health,
        guard: Guard | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._form = form
        self._claims = claims
        self._cutter = cutter
        self._limits = limits
        self._metrics = metrics
        self._health = health
        self._guard = guard or Guard()
        self.tracer: Tracer | None = None  # set by who wires it, when tracing is on
        self._monotonic = monotonic
        self._wall = wall
        self._sleep = sleep
        self._jitter = jitter
        self._shards: dict[str, _Held] = {}
        self._seldom = Seldom(monotonic=monotonic)
        self._freed = asyncio.Event()
        self._fatal: Exception | None = None

    # --- telemill.stages.owner.ShardOwner ----------------------------------------------------

    async def open(self, shard: Shard) -> StartPosition:
        """Claim the shard; with an intent, its cut is read again and finished first."""
        before = self._shards.get(shard.shard_id)
        if before is not None:
            await self._forget(before)
        opened = await self._claims.open(shard)
        if opened.start.finished:
            return opened.start
        claim = opened.claim
        marks = watermarks.restore(opened.states, self._keep_slot(shard, claim))
        gathering = rules.resume(claim.position, claim.intent)
        lane = Lane(shard, self._form, gathering, marks, self._limits.raw_retention_hours)
        caution = Caution(opened, guard=self._guard, metrics=self._metrics, health=self._health)
        self._shards[shard.shard_id] = _Held(lane, claim, caution)
        self._metrics.open_shards.set(len(self._shards))
        return opened.start

    async def process(self, chunk: Chunk) -> None:
        """Gather a chunk. Returns before it is durable; waits while too much is waiting."""
        held = self._of(chunk.shard)
        gathering = held.lane.gathering
        continuity.require_continuous(chunk, gathering.last or gathering.after)
        started = self._monotonic()
        await self._gather(held, chunk.records)
        held.lane.ends = held.lane.ends or chunk.ends_shard
        self._advance(held)
        self._metrics.batch_seconds.observe(self._monotonic() - started)

    async def finished(self, shard: Shard) -> bool:
        """Whether the shard's end is saved."""
        held = self._shards.get(shard.shard_id)
        if held is None or held.failure is not None:
            return await self._claims.finished(shard)
        if held.claim.position != SHARD_END:
            return False
        # Nobody closes a finished shard.
        await self._forget(held)
        return True

    async def close(self, shard: Shard, *, release: bool) -> None:
        """Make everything gathered durable, save the position, give the claim up."""
        held = self._shards.get(shard.shard_id)
        if held is None:
            return
        held.closing = True
        try:
            await self._drain(held)
            if release:
                await held.claim.release()
        except errors.PositionError as error:
            log.warning("sink.claim_void", shard_id=shard.shard_id, error=str(error))
        finally:
            await self._forget(held)

    # --- the timer ---------------------------------------------------------------------------

    async def run(self) -> None:
        """End cuts by age, until cancelled. Raises what made a cut fail for good."""
        while True:
            self.tick()
            await self._sleep(TICK_SECONDS)

    def tick(self) -> None:
        """Look at every shard's age."""
        if self._fatal is not None:
            raise self._fatal
        for held in tuple(self._shards.values()):
            self._advance(held)
        self._metrics.buffered_bytes.set(self._size_bytes())
        hours: set[int] = set().union(*(held.lane.hours for held in self._shards.values()))
        self._metrics.open_partitions.set(len(hours))

    async def settle(self) -> None:
        """Wait until no cut is under way: each is durable or has failed."""
        while under_way := {held.unfinished for held in self._shards.values() if held.unfinished}:
            await asyncio.wait(under_way)

    # --- gathering ---------------------------------------------------------------------------

    def _of(self, shard: Shard) -> _Held:
        held = self._shards.get(shard.shard_id)
        if held is None:
            raise errors.LeaseLostError(f"shard {shard.shard_id} is not ours")
        self._raise_failure(held)
        return held

    def _raise_failure(self, held: _Held) -> None:
        if held.failure is None:
            return
        self._shards.pop(held.lane.shard.shard_id, None)
        self._metrics.open_shards.set(len(self._shards))
        raise held.failure

    async def _gather(self, held: _Held, records: Sequence[Record]) -> None:
        while records:
            numbers = [record.sequence_number for record in records]
            skip, count = rules.admit(held.lane.gathering, numbers)
            await self._take(held, records[skip : skip + count])
            records = records[skip + count :]
            if records:
                # Only a repeated cut leaves some over: it ends here, they belong to the next.
                self._start(held, held.lane.seal(full=True, passed=True))

    async def _take(self, held: _Held, records: Sequence[Record]) -> None:
        if not records:
            return
        intake = Intake(
            held.lane,
            held.claim,
            held.caution,
            guard=self._guard,
            since=self._since(records[0], is_first=not held.lane.cuts),
            turn=partial(self._turn, held),
            insist=partial(self._insist, held),
            tracer=self.tracer,
        )
        try:
            await intake.take(records)
        finally:
            self._metrics.apply(intake.counts)

    def _since(self, record: Record, *, is_first: bool) -> float:
        """When a record began to wait: on its arrival in the stream, within limits."""
        waited = self._wall() - record.arrival_us / 1_000_000
        interval = self._limits.flush_interval_seconds
        most = max(0.0, interval - FIRST_CUT_SECONDS) if is_first else interval * MAX_CREDIT
        credit = min(max(0.0, waited), most)
        return self._monotonic() - credit

    async def _turn(self, held: _Held) -> None:
        """Let others run, and wait until there is room for more rows.

        A repeated cut does not wait: nothing but its own records can end it, so waiting for its
        memory would be for ever. Each is bounded by what one process could gather.
        """
        await asyncio.sleep(0)
        self._relieve()
        while self._size_bytes() >= self._limits.max_cut_bytes and not held.lane.repeats:
            self._freed.clear()
            await self._freed.wait()
            self._relieve()
        self._raise_failure(held)

    def _size_bytes(self) -> int:
        return sum(held.size_bytes for held in self._shards.values())

    def _relieve(self) -> None:
        """Size ends a cut: the largest open one, when the open ones fill half of the room."""
        waiting = sum(held.lane.size_bytes for held in self._shards.values())
        if waiting < self._limits.max_cut_bytes // 2:
            return
        free = [
            held
            for held in self._shards.values()
            if held.unfinished is None and held.failure is None and not held.lane.repeats
        ]
        if free:
            self._advance(max(free, key=lambda held: held.lane.size_bytes), full=True)

    # --- cuts --------------------------------------------------------------------------------

    def _advance(self, held: _Held, *, full: bool = False) -> None:
        """End the open cut if it is time, unless the one before is still unfinished."""
        if held.unfinished is not None or held.failure is not None:
            return
        lane = held.lane
        full = full or held.closing
        full = full or lane.due(self._monotonic(), self._limits.flush_interval_seconds)
        self._start(held, lane.seal(full=full, passed=lane.ends))

    def _start(self, held: _Held, sealed: SealedCut | None) -> None:
        if sealed is not None:
            held.unfinished_bytes = sealed.size_bytes
            held.unfinished = asyncio.create_task(self._finish(held, sealed))

    async def _finish(self, held: _Held, sealed: SealedCut) -> None:
        """Make a cut durable, then see whether the next is due."""
        try:
            await self._cutter.commit(held.claim, sealed, partial(self._insist, held))
        except Exception as error:
            self._fail(held, error)
        finally:
            held.unfinished, held.unfinished_bytes = None, 0
            self._freed.set()
        self._advance(held)

    async def _insist(self, held: _Held, call: Callable[[], Awaitable[None]]) -> None:
        """Repeat a step of a cut while it may heal; while the process drains, not at all."""
        shard_id = held.lane.shard.shard_id
        name = f"commit {shard_id}"
        pause = 0.1
        while True:
            try:
                await call()
            except (errors.TransientError, aws.ResourceError) as error:
                if held.closing:
                    raise
                self._health.set(name, str(error))
                self._metrics.retries.labels(operation="commit").inc()
                if times := self._seldom.due(name):
                    log.warning(
                        "sink.commit_failed", shard_id=shard_id, error=str(error), times=times
                    )
                await self._sleep(pause * self._jitter())
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            else:
                self._health.clear(name)
                return

    def _fail(self, held: _Held, error: Exception) -> None:
        """Nothing more is committed for this shard; what it gathered is the next owner's."""
        held.failure = error
        held.lane.discard()
        if isinstance(error, errors.PositionError):
            self._metrics.claims_lost.inc()
        elif not held.closing:
            self._fatal = error

    async def _drain(self, held: _Held) -> None:
        """Finish the cut under way, then what was gathered behind it."""
        self._advance(held)
        while held.unfinished is not None:
            await asyncio.wait({held.unfinished})
        if held.failure is not None:
            raise held.failure

    async def _forget(self, held: _Held) -> None:
        """Drop a shard; a cut still under way was cut off and is the next owner's."""
        held.lane.discard()
        if held.unfinished is not None:
            held.unfinished.cancel()
            await asyncio.wait({held.unfinished})
        shard_id = held.lane.shard.shard_id
        self._shards.pop(shard_id, None)
        self._health.clear(f"commit {shard_id}")
        self._metrics.open_shards.set(len(self._shards))
        self._freed.set()

    def _keep_slot(self, shard: Shard, claim: Claim) -> Callable[[int], bool]:
        """Which marks to restore: all of our own, of our parents' those of our slots."""
        if claim.position is not None:
            return lambda _slot: True
        first, last = shard.first_hash_key, shard.last_hash_key
        ours = slots.slots_in(first, last, self._limits.slot_count)
        return ours.__contains__
