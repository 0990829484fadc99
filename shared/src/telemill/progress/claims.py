"""Claims on shards: what a shard's owner holds, and how it is taken, kept alive and given up."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import structlog

from telemill.errors import (
    ClaimHeldError,
    ConfigurationError,
    FencedError,
    PositionError,
    TransientError,
)
from telemill.kinesis.records import Shard
from telemill.progress import rules
from telemill.progress.snapshots import SnapshotStore
from telemill.progress.store import ProgressStore
from telemill.stages.owner import StartPosition

BEAT_SECONDS = 3.0
"""Three beats fit into `rules.STALE_SECONDS`: two may be lost."""

DAY_SECONDS = 86_400.0
TRIM_HORIZON = "TRIM_HORIZON"
LATEST = "LATEST"

log = structlog.get_logger()


def _new_id() -> str:
    return uuid.uuid4().hex


@dataclass(frozen=True, slots=True)
class Host:
    """What claims take from the process they run in; tests give their own.

    Attributes:
        monotonic: Clock for intervals, in seconds.
        wall: Epoch seconds: for expiry and for what LATEST means, never for who may take.
        sleep: Waits some seconds.
        new_id: A name nobody else uses.
    """

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    new_id: Callable[[], str] = field(default=_new_id)


class Claim:
    """The right to move one shard's position, until it is released or void.

    One task at a time may call `save`, `declare` and `release` (they wait for one another); `beat`
    runs beside them. After a TransientError or a cancellation the write's outcome is unknown; the
    owner may simply go on: before anything else is written, that write is repeated.

    Attributes:
        shard: What is claimed.
    """

    def __init__(
        self,
        shard: Shard,
        progress: rules.Progress,
        store: ProgressStore,
        snapshots: SnapshotStore,
        *,
        retention_seconds: float = DAY_SECONDS,
        host: Host | None = None,
    ) -> None:
        self.shard = shard
        self._progress = progress
        self._store = store
        self._snapshots = snapshots
        self._retention_seconds = retention_seconds
        self._host = host or Host()
        self._lock = asyncio.Lock()
        self._beats = progress.beat
        self._beating = False
        self._void = False
        self._given_up = False
        self._superseded: set[str] = set()
        self._doubtful: rules.Progress | None = None

    @property
    def position(self) -> str | None:
        """The last saved position: a sequence number, SHARD_END, or None before the first."""
        return self._progress.position

    @property
    def intent(self) -> rules.Cut | None:
        """The cut declared and not yet saved; on open: the one to make again."""
        return self._progress.intent

    @property
    def epoch(self) -> int:
        """The fencing token."""
        return self._progress.epoch

    @property
    def void(self) -> bool:
        """Another worker has taken the shard: drop it, commit nothing."""
        return self._void

    @property
    def live(self) -> bool:
        """Neither void nor given up nor at the shard's end: it has to beat."""
        return not (self._void or self._given_up or self._progress.ended)

    async def save(self, position: str, state: bytes, *, intent: rules.Cut | None = None) -> None:
        """Move position and state together, once all output up to it is durable.

        Args:
            position: Sequence number or SHARD_END.
            state: The state after the record at `position`.
            intent: The sink may declare its next cut in the same write.

        Raises:
            FencedError: The claim is void.
            PositionError: The caller broke the protocol (see `rules.advance`).
            TransientError: Not known to be saved; may be called again.
        """
        async with self._lock:
            self._require_held()
            settled = await self._settle()
            # The state at a position is always the same: it was this very call, made before.
            if settled is None or (settled.position, settled.intent) != (position, intent):
                moved = self._moved(position, intent)
                await self._write(await self._with_state(moved, state))
            await self._delete_superseded()

    async def declare(self, cut: rules.Cut) -> None:
        """Write the sink's intent, before the first of its objects is put.

        Raises:
            FencedError: The claim is void.
            PositionError: The caller broke the protocol (see `rules.declare`).
            TransientError: Not known to be declared: no object may be put; may be called again.
        """
        async with self._lock:
            self._require_held()
            await self._settle()
            if self._progress.intent == cut:
                return
            await self._write(rules.declare(self._progress, cut, write_id=self._host.new_id()))

    async def beat(self) -> None:
        """Show that the owner lives. Nothing when the claim is given up or a beat is under way.

        Raises:
            FencedError: The claim is void.
            TransientError: Not known to have been written.
        """
        if self._void:
            raise self._void_error()
        if self._beating or not self.live:
            return
        self._beating = True
        self._beats += 1
        try:
            await self._store.beat(replace(self._progress, beat=self._beats))
        except FencedError:
            # A beat that arrives after our own release is no news.
            if self.live:
                self._void = True
                raise
        finally:
            self._beating = False

    async def release(self) -> None:
        """Give the shard up, so that another worker may take it at once. Idempotent.

        Quiet on a void claim.

        Raises:
            TransientError: Not known to be released; nobody beats for it any more.
        """
        self._given_up = True
        async with self._lock:
            if self._void:
                return
            try:
                await self._settle()
                if self._progress.released or self._progress.ended:
                    return
                await self._write(rules.release(self._progress, write_id=self._host.new_id()))
            except FencedError:
                log.info("progress.release_fenced", shard_id=self.shard.shard_id)

    def _moved(self, position: str, intent: rules.Cut | None) -> rules.Progress:
        moved = rules.advance(self._progress, position, write_id=self._host.new_id(), intent=intent)
        if not moved.ended:
            return moved
        expiry = self._host.wall() + self._retention_seconds + DAY_SECONDS
        return replace(moved, expires_at=int(expiry))

    def _require_held(self) -> None:
        if self._void or self._given_up:
            raise self._void_error()

    def _void_error(self) -> FencedError:
        return FencedError(f"the claim of epoch {self.epoch} on {self.shard.shard_id} is void")

    async def _with_state(self, moved: rules.Progress, state: bytes) -> rules.Progress:
        if len(state) <= rules.MAX_INLINE_BYTES:
            return replace(moved, state=state)
        key = await self._snapshots.put(
            moved.app, moved.shard, moved.epoch, str(moved.position), state
        )
        self._superseded.add(key)
        return replace(moved, state_key=key)

    async def _settle(self) -> rules.Progress | None:
        """Repeat a write of unknown outcome; it, now that it is known to have taken effect.

        Reading the item back would not do: the first try may still be on its way.
        """
        doubtful = self._doubtful
        if doubtful is not None:
            await self._write(doubtful)
        return doubtful

    async def _write(self, progress: rules.Progress) -> None:
        self._doubtful = progress
        try:
            await self._store.save(progress, self._progress.write_id)
        except FencedError:
            self._void = True
            raise
        self._doubtful = None
        if self._progress.state_key is not None:
            self._superseded.add(self._progress.state_key)
        self._progress = progress

    async def _delete_superseded(self) -> None:
        """Delete states the item no longer refers to. One that stays behind harms nobody."""
        superseded = self._superseded - {self._progress.state_key}
        self._superseded.clear()
        for key in superseded:
            try:
                await self._snapshots.delete(key)
            except (TransientError, ConfigurationError) as error:
                log.warning("progress.state_left_behind", state_key=key, error=str(error))


@dataclass(frozen=True, slots=True)
class Opened:
    """A shard as it was claimed.

    Attributes:
        claim: To save with. When `start.finished` it is not held: nothing can be saved.
        states: To restore from: the own state at `claim.position`; else the final states of the
            parents (in `shard.parents` order, at most two); else none.
        start: Where to read from.
    """

    claim: Claim
    states: list[bytes]
    start: StartPosition


class Claims:
    """All claims of one process for one application."""

    def __init__(
        self,
        store: ProgressStore,
        snapshots: SnapshotStore,
        app: str,
        worker_id: str,
        *,
        initial_position: str | int = TRIM_HORIZON,
        retention_seconds: float = DAY_SECONDS,
        host: Host | None = None,
    ) -> None:
        """Wire the claims.

        Args:
            store: Progress items.
            snapshots: Large states.
            app: Application id.
            worker_id: Unique per live process, kept over a restart.
            initial_position: Where shards without progress begin: "TRIM_HORIZON", "LATEST", or a
                time in epoch microseconds. The first answer for a stream is stored and holds for
                the application from then on; LATEST is stored as the time it was first asked.
            retention_seconds: Of the stream: items of ended shards expire a day after it.
            host: Clocks and the like.
        """
        self._store = store
        self._snapshots = snapshots
        self._app = app
        self._worker_id = worker_id
        self._initial_position = initial_position
        self._retention_seconds = retention_seconds
        self._host = host or Host()
        self._starts: dict[tuple[str, int], StartPosition] = {}
        self._sightings: dict[str, rules.Sighting] = {}
        self._held: dict[str, Claim] = {}

    async def open(self, shard: Shard) -> Opened:
        """Claim a shard.

        Until its first position is saved, every open finds the same start and the same states:
        whoever repeats the first records makes the same output.

        Raises:
            ClaimHeldError: Another live worker owns it: ask again in a second.
            PositionError: A parent was begun and is not finished (a coordinator's fault), or a
                state object is gone.
            TransientError: The store cannot be reached.
        """
        key = rules.shard_key(shard)
        seen = await self._store.read(self._app, key)
        if seen is not None and seen.ended:
            return self._finished(shard, seen)
        self._require_takeable(key, seen)
        start, states = await self._beginning(shard, seen)
        wanted = rules.take(seen, self._app, key, self._worker_id, self._host.new_id())
        taken = await self._store.take(seen, wanted)
        self._sightings.pop(key, None)
        # The last owner may have moved on after we read: what counts is the item as taken.
        if taken.ended:
            return self._finished(shard, taken)
        if taken.position is not None:
            start, states = StartPosition(after=taken.position), await self._states([taken])
        claim = self._held[key] = self._claim(shard, taken)
        log.info("progress.claimed", shard_id=shard.shard_id, epoch=taken.epoch)
        return Opened(claim, states, start)

    async def finished(self, shard: Shard) -> bool:
        """Whether the shard's position is SHARD_END in the store."""
        item = await self._store.read(self._app, rules.shard_key(shard))
        return item is not None and item.ended

    async def run(self) -> None:
        """Beat all live claims every `BEAT_SECONDS`, until cancelled."""
        async with asyncio.TaskGroup() as beats:
            while True:
                await self._host.sleep(BEAT_SECONDS)
                self._held = {key: claim for key, claim in self._held.items() if claim.live}
                # A task each: one that waits for its retries does not hold up the others.
                for claim in self._held.values():
                    beats.create_task(_beat(claim))

    def _claim(self, shard: Shard, progress: rules.Progress) -> Claim:
        return Claim(
            shard,
            progress,
            self._store,
            self._snapshots,
            retention_seconds=self._retention_seconds,
            host=self._host,
        )

    def _finished(self, shard: Shard, progress: rules.Progress) -> Opened:
        return Opened(self._claim(shard, progress), [], StartPosition(finished=True))

    def _require_takeable(self, key: str, seen: rules.Progress | None) -> None:
        unchanged_seconds = 0.0
        if seen is not None:
            now = self._host.monotonic()
            sighting = rules.sight(self._sightings.get(key), seen, now)
            self._sightings[key] = sighting
            unchanged_seconds = now - sighting.since
        if not rules.may_take(seen, self._worker_id, unchanged_seconds):
            raise ClaimHeldError(f"{key} is owned by {seen.owner if seen else None}")

    async def _beginning(
        self, shard: Shard, seen: rules.Progress | None
    ) -> tuple[StartPosition, list[bytes]]:
        """Start and states of a shard without a position; nothing of use to any other."""
        if seen is not None and seen.position is not None:
            return StartPosition(), []
        parents = [
            await self._store.read(self._app, rules.shard_key(shard, parent))
            for parent in shard.parents
        ]
        unfinished = rules.unfinished_parents(parents)
        if unfinished:
            raise PositionError(f"{shard.shard_id}: not before its parent {unfinished[0]} ended")
        states = await self._states([parent for parent in parents if parent is not None])
        return await self._first_start(shard), states

    async def _states(self, items: list[rules.Progress]) -> list[bytes]:
        states: list[bytes] = []
        for item in items:
            if item.state is not None:
                states.append(item.state)
            elif item.state_key is not None:
                states.append(await self._snapshots.get(item.state_key))
        return states

    async def _first_start(self, shard: Shard) -> StartPosition:
        """Where this application began to read the stream, the same for ever.

        Children begin there too (as in the KCL): one that came to be after that time holds nothing
        older, so it is read whole, and one that is older is not read from before the start.
        """
        stream = (shard.stream, shard.incarnation)
        if stream not in self._starts:
            wanted = self._initial_position
            if wanted == LATEST:
                wanted = int(self._host.wall() * 1_000_000)
            key = f"start/{self._app}/{shard.stream}/{shard.incarnation}"
            stored = await self._store.fix(key, str(wanted))
            at_us = None if stored == TRIM_HORIZON else int(stored)
            self._starts[stream] = StartPosition(timestamp_us=at_us)
        return self._starts[stream]


async def _beat(claim: Claim) -> None:
    try:
        await claim.beat()
    except FencedError:
        log.warning("progress.fenced", shard_id=claim.shard.shard_id, epoch=claim.epoch)
    except (TransientError, ConfigurationError) as error:
        # The next one may get through; if none does, another worker takes over and we are fenced.
        log.warning("progress.beat_missed", shard_id=claim.shard.shard_id, error=str(error))
