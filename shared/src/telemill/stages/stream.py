"""A stage from one stream to another: transform and anomaly.

It drives a pure step with the chunks of each shard, puts what comes out on the output stream and
moves the shard's position only after all output derived up to it is acknowledged. State and
position are saved together, from the same moment, so that a new owner repeats exactly what came
after (docs/delivery.md).
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Generic, Protocol, TypeVar

import structlog

from telemill import errors, tracing
from telemill.health import Health
from telemill.kinesis import backoff, records
from telemill.kinesis.records import Chunk, Record, Shard
from telemill.metrics import Metrics
from telemill.progress.claims import Claim, Claims
from telemill.stages import continuity, internal, spans
from telemill.stages.caution import Caution, Part, Treatment
from telemill.stages.guard import Guard
from telemill.stages.outlet import Outlet
from telemill.stages.owner import StartPosition
from telemill.stages.step import Output, Step, StepResult

State = TypeVar("State")

COMMIT_CHECK_SECONDS = 0.25
"""How often the stage looks whether a shard's position is due, also when no records come."""
MOST_SNAPSHOT_SHARE = 0.02
"""Of the time may be spent on snapshots: a large state is saved less often than the interval."""

log = structlog.get_logger()


class StreamWriter(Protocol):
    """The output stream, as `telemill.kinesis.writer.Writer` serves it."""

    async def put(self, slot: int, data: bytes, partition_key: str) -> "asyncio.Future[str]":
        """Wait for room; the future is done when Kinesis has acknowledged the record."""


@dataclass(slots=True)
class _Run(Generic[State]):
    """One shard in this process.

    Attributes:
        consistent: State and output agree. False while a chunk is between the two: a run that was
            cut off there can commit nothing any more.
        position: Last record whose output is handed to the writer.
        saved: Position last committed.
        snapshot_seconds: What the last snapshot of the state took.
        ending: The shard's end is being committed: no other commit may begin.
    """

    shard: Shard
    claim: Claim
    caution: Caution
    state: State
    position: str | None
    saved: str | None
    committed_at: float
    snapshot_seconds: float = 0.0
    newest_event_us: int | None = None
    consistent: bool = True
    ending: bool = False
    unacknowledged: list["asyncio.Future[str]"] = field(default_factory=list)
    commit: "asyncio.Task[None] | None" = None


@dataclass(frozen=True, slots=True)
class _Moment:
    """What a commit saves: everything captured at once, before anything is awaited."""

    position: str
    state: bytes
    acknowledgements: tuple["asyncio.Future[str]", ...]
    newest_event_us: int | None


class StreamStage(Generic[State]):
    """Owns the shards of a stream-to-stream service; see `telemill.stages.owner.ShardOwner`.

    Attributes:
        on_void: Told of a shard that was found lost while none of its records came: the
            coordinator's `drop`.
        spans: For records with a sampled trace; by default tracing is off.
    """

    def __init__(
        self,
        step: Step[State],
        *,
        claims: Claims,
        writer: StreamWriter,
        outlets: Sequence[Outlet] = (),
        metrics: Metrics,
        health: Health,
        guard: Guard | None = None,
        commit_interval_seconds: float = 5.0,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Wire the stage.

        Args:
            step: The service's pure core.
            claims: Positions and states.
            writer: The output stream.
            outlets: Where by-products go; flushed before a position moves.
            metrics: The service's metrics.
            health: Told while a shard's commit cannot get through.
            guard: Around every step; by default one without a time limit.
            commit_interval_seconds: Longest time between two positions of a busy shard.
            monotonic: Clock for intervals.
            wall: Clock for the lag metric, epoch seconds.
            sleep: Waits between attempts of a commit.
            jitter: A random number in [0, 1).
        """
        self._step = step
        self._claims = claims
        self._writer = writer
        self._outlets = tuple(outlets)
        self._metrics = metrics
        self._health = health
        self._guard = guard or Guard()
        self._commit_interval_seconds = commit_interval_seconds
        self._monotonic = monotonic
        self._wall = wall
        self._sleep = sleep
        self._jitter = jitter
        self._runs: dict[str, _Run[State]] = {}
        self.on_void: Callable[[Shard], None] = _nobody
        self.spans = spans.StageSpans(None)

    async def open(self, shard: Shard) -> StartPosition:
        """Claim the shard and restore its state."""
        opened = await self._claims.open(shard)
        if opened.start.finished:
            return opened.start
        self._runs[shard.shard_id] = _Run(
            shard=shard,
            claim=opened.claim,
            caution=Caution(opened, guard=self._guard, metrics=self._metrics, health=self._health),
            state=self._step.restore(opened.states, shard),
            position=opened.claim.position,
            saved=opened.claim.position,
            # Due at once: how long the last owner's commits have been waiting, nobody knows.
            committed_at=self._monotonic() - self._commit_interval_seconds,
        )
        return opened.start

    async def process(self, chunk: Chunk) -> None:
        """Step through a chunk and hand its output on. Returns before that is durable."""
        run = self._running(chunk.shard)
        try:
            continuity.require_continuous(chunk, run.position)
        except errors.PositionError:
            del self._runs[chunk.shard.shard_id]
            raise
        fresh = _above(chunk, run.position)
        if fresh.records:
            await self._advance(run, fresh)
        if fresh.ends_shard:
            run.ending = True
            await self._settle(run)
            await self._commit(run, self._capture(run, records.SHARD_END))
            # Its state is in the store now, where the children find it.
            del self._runs[chunk.shard.shard_id]

    def states(self) -> list[State]:
        """The states of our shards, to be read only: they change with the next chunk."""
        return [run.state for run in self._runs.values()]

    async def finished(self, shard: Shard) -> bool:
        """Whether the shard's end is committed."""
        return shard.shard_id not in self._runs and await self._claims.finished(shard)

    async def close(self, shard: Shard, *, release: bool) -> None:
        """Wait for the acknowledgements, save the position, give the claim up."""
        run = self._runs.pop(shard.shard_id, None)
        if run is None:
            return
        try:
            await self._settle(run)
            if run.consistent and run.position is not None and run.saved != run.position:
                await self._commit(run, self._capture(run, run.position))
            if release:
                await run.claim.release()
        except errors.PositionError as error:
            log.warning("stage.claim_void", shard_id=shard.shard_id, error=str(error))

    async def run(self) -> None:
        """Commit positions that are due, until cancelled. Ends with what a commit raised."""
        while True:
            await asyncio.sleep(COMMIT_CHECK_SECONDS)
            self.commit_due()

    def commit_due(self) -> None:
        """Start a commit, in the background, of every shard whose interval is over.

        Raises:
            TelemillError: An earlier commit failed for another reason than a void claim.
        """
        now = self._monotonic()
        for run in tuple(self._runs.values()):
            try:
                self._collect(run)
            except errors.PositionError as error:
                log.warning("stage.claim_void", shard_id=run.shard.shard_id, error=str(error))
                self.on_void(run.shard)
                continue
            if run.position is not None and _is_due(run, now, self._commit_interval_seconds):
                moment = self._capture(run, run.position)
                run.commit = asyncio.create_task(self._commit(run, moment))

    def _running(self, shard: Shard) -> _Run[State]:
        run = self._runs.get(shard.shard_id)
        if run is None:
            raise errors.LeaseLostError(f"shard {shard.shard_id} is not ours")
        self._collect(run)
        return run

    def _collect(self, run: _Run[State]) -> None:
        """Take note of a commit that ended: a failed one ends the run."""
        if run.commit is None or not run.commit.done():
            return
        commit, run.commit = run.commit, None
        error = commit.exception()
        if error is None:
            return
        run.consistent = False
        self._runs.pop(run.shard.shard_id, None)
        raise error

    async def _advance(self, run: _Run[State], chunk: Chunk) -> None:
        """Step through new records; after crashes, some of them one by one or not at all."""
        for part in run.caution.parts(chunk.records):
            started = self._monotonic()
            run.consistent = False
            with self.spans.over(run.shard, part.records) as begun:
                for result in await self._results(run, part):
                    await self._hand_on(run, result, begun)
            run.position = part.records[-1].sequence_number
            run.consistent = True
            run.unacknowledged = [ack for ack in run.unacknowledged if not _is_acknowledged(ack)]
            self._metrics.batch_seconds.observe(self._monotonic() - started)

    async def _results(self, run: _Run[State], part: Part) -> list[StepResult]:
        try:
            return await self._work(run, part)
        except errors.ConfigurationError:
            # The records are sound and wait for a newer version: nothing to suspect them of.
            with suppress(errors.TransientError):
                await run.claim.release()
            raise

    async def _work(self, run: _Run[State], part: Part) -> list[StepResult]:
        def step(*records: Record) -> StepResult:
            return self._step.step(Chunk(run.shard, [*records]), run.state)

        insist = partial(self._insist, run)
        if part.treatment is Treatment.ASIDE:
            return [internal.put_aside(record, run.shard) for record in part.records]
        if part.treatment is Treatment.ALONE:
            return await run.caution.try_each(part, step, insist)
        await run.caution.note(run.position, part, insist)
        async with self._guard.together(f"{run.shard.shard_id}: {part}"):
            return [step(*part.records)]

    async def _hand_on(self, run: _Run[State], result: StepResult, begun: spans.Begun) -> None:
        for outlet in self._outlets:
            await outlet.write(run.shard, result)
        for output in result.outputs:
            run.unacknowledged.append(await self._put(output, begun))
        run.newest_event_us = result.newest_event_us or run.newest_event_us
        self._metrics.apply(result.counts)
        self._metrics.readings_out.inc(sum(output.rows for output in result.outputs))

    async def _put(self, output: Output, begun: spans.Begun) -> "asyncio.Future[str]":
        output, span = self.spans.sending(begun, output)
        written = await self._writer.put(output.slot, output.data, output.partition_key)
        if span.context:
            written.add_done_callback(partial(tracing.end_with, span))
        return written

    async def _settle(self, run: _Run[State]) -> None:
        """Wait for a commit under way; what it raised is raised here."""
        if run.commit is not None:
            commit, run.commit = run.commit, None
            await commit

    def _capture(self, run: _Run[State], position: str) -> _Moment:
        run.committed_at = self._monotonic()
        state = self._step.snapshot(run.state)
        run.snapshot_seconds = self._monotonic() - run.committed_at
        return _Moment(
            position=position,
            state=state,
            acknowledgements=tuple(run.unacknowledged),
            newest_event_us=run.newest_event_us,
        )

    async def _commit(self, run: _Run[State], moment: _Moment) -> None:
        if moment.acknowledgements:
            await asyncio.gather(*moment.acknowledgements)
        for outlet in self._outlets:
            await self._insist(run, partial(outlet.flush, run.shard))
        await self._insist(run, partial(run.claim.save, moment.position, moment.state))
        run.saved = moment.position
        self._report(run.shard, moment.newest_event_us)

    async def _insist(self, run: _Run[State], call: Callable[[], Awaitable[None]]) -> None:
        """Repeat a call while it fails with what may heal; /readyz says so meanwhile."""
        name = f"commit of {run.shard.shard_id}"
        failures = 0
        while True:
            try:
                await call()
            except errors.TransientError as error:
                failures += 1
                self._health.set(name, str(error))
                self._metrics.retries.labels(operation="Commit").inc()
                await self._sleep(backoff.full_jitter(failures, self._jitter))
            else:
                self._health.clear(name)
                return

    def _report(self, shard: Shard, newest_event_us: int | None) -> None:
        now = self._wall()
        self._metrics.last_commit_timestamp_seconds.labels(shard=shard.shard_id).set(now)
        if newest_event_us is not None:
            self._metrics.lag_seconds.observe(max(0.0, now - newest_event_us / 1_000_000))


def _nobody(_shard: Shard) -> None:
    """Nobody wants to know."""


def _above(chunk: Chunk, position: str | None) -> Chunk:
    """The chunk without records at or below `position` (a coordinator may deliver them again)."""
    if position is None or not chunk.records:
        return chunk
    reached = int(position)
    if int(chunk.records[0].sequence_number) > reached:
        return chunk
    fresh = [record for record in chunk.records if int(record.sequence_number) > reached]
    return replace(chunk, records=fresh)


def _is_due(run: _Run[State], now: float, interval_seconds: float) -> bool:
    idle = run.commit is None and run.consistent and not run.ending
    interval = max(interval_seconds, run.snapshot_seconds / MOST_SNAPSHOT_SHARE)
    return idle and run.saved != run.position and now - run.committed_at >= interval


def _is_acknowledged(future: "asyncio.Future[str]") -> bool:
    return future.done() and not future.cancelled() and future.exception() is None
