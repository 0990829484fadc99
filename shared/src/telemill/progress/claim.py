"""What a shard's owner holds: the right to move its position."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import structlog

from telemill.errors import ConfigurationError, FencedError, TransientError
from telemill.kinesis.records import Shard
from telemill.progress import rules
from telemill.progress.snapshots import SnapshotStore
from telemill.progress.store import ProgressStore
from telemill.progress.suspicion import Suspects

DAY_SECONDS = 86_400.0

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

    `save`, `declare`, `suspect` and `release` wait for one another; `beat` runs beside them. After
    a TransientError or a cancellation the write's outcome is unknown; the owner may simply go on:
    before anything else is written, that write is repeated.

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
    def crashes(self) -> int:
        """Owners in a row that died at this position; 0 after one that gave up in good order."""
        return self._progress.crashes

    @property
    def suspects(self) -> Suspects | None:
        """What those died of, as far as is noted."""
        return self._progress.suspects

    @property
    def poison(self) -> tuple[str, ...]:
        """Records that end whoever touches them."""
        return self._progress.poison

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

    async def suspect(self, suspects: Suspects | None) -> None:
        """Note what is about to be tried, before it is, or that it came through.

        Raises:
            FencedError: The claim is void.
            TransientError: Not known to be noted; may be called again.
        """
        async with self._lock:
            self._require_held()
            await self._settle()
            if self._progress.suspects == suspects:
                return
            noted = rules.suspect(self._progress, suspects, write_id=self._host.new_id())
            await self._write(noted)

    async def condemn(self, sequence_number: str) -> None:
        """Call a record poison, before any other is touched.

        Raises:
            FencedError: The claim is void.
            PositionError: Too late for that (see `rules.condemn`).
            TransientError: Not known to be noted.
        """
        async with self._lock:
            self._require_held()
            await self._settle()
            if sequence_number in self._progress.poison:
                return
            new_id = self._host.new_id()
            await self._write(rules.condemn(self._progress, sequence_number, write_id=new_id))

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
