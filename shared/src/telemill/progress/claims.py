"""Claims on shards: what a shard's owner holds, and how it is taken, kept alive and given up."""

import asyncio
from dataclasses import dataclass, replace

import structlog

from telemill.errors import (
    ClaimHeldError,
    ConfigurationError,
    FencedError,
    PositionError,
    TransientError,
)
from telemill.health import Health
from telemill.kinesis.records import Shard
from telemill.progress import rules, suspicion
from telemill.progress.claim import DAY_SECONDS, Claim, Host
from telemill.progress.snapshots import SnapshotStore
from telemill.progress.store import ProgressStore
from telemill.seldom import Seldom
from telemill.stages.owner import StartPosition

__all__ = ["BEAT_SECONDS", "LATEST", "TRIM_HORIZON", "Claim", "Claims", "Host", "Opened"]

BEAT_SECONDS = 3.0
"""Three beats fit into `rules.STALE_SECONDS`: two may be lost."""

HEARTBEATS = "heartbeats"
"""What /readyz calls them."""

TRIM_HORIZON = "TRIM_HORIZON"
LATEST = "LATEST"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Opened:
    """A shard as it was claimed.

    Attributes:
        claim: To save with. When `start.finished` it is not held: nothing can be saved.
        states: To restore from: the own state at `claim.position`; else the final states of the
            parents (in `shard.parents` order, at most two); else none.
        start: Where to read from.
        named: The record that this take-over has called poison.
    """

    claim: Claim
    states: list[bytes]
    start: StartPosition
    named: str | None = None


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
        stale_seconds: float = rules.STALE_SECONDS,
        health: Health | None = None,
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
            stale_seconds: An owner silent for so long is taken for dead; several heartbeats, unless
                somebody else has decided already that the shard is ours.
            health: Told while heartbeats do not get through.
            host: Clocks and the like.
        """
        self._store = store
        self._snapshots = snapshots
        self._app = app
        self._worker_id = worker_id
        self._initial_position = initial_position
        self._retention_seconds = retention_seconds
        self._stale_seconds = stale_seconds
        self._host = host or Host()
        self._starts: dict[tuple[str, int], StartPosition] = {}
        self._sightings: dict[str, rules.Sighting] = {}
        self._held: dict[str, Claim] = {}
        self._left_at: dict[str, str | None] = {}
        self._health = health
        self._seldom = Seldom(monotonic=self._host.monotonic)

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
        if seen is not None and taken.position != seen.position:
            # It moved after we counted: at this position, it is the first.
            taken = replace(taken, crashes=1)
        claim = self._claim(shard, taken)
        named = await _name_poison(claim)
        self._held[key] = claim
        self._left_at.pop(key, None)
        log.info(
            "progress.claimed", shard_id=shard.shard_id, epoch=taken.epoch, crashes=taken.crashes
        )
        return Opened(claim, states, start, named)

    async def finished(self, shard: Shard) -> bool:
        """Whether the shard's position is SHARD_END in the store."""
        item = await self._store.read(self._app, rules.shard_key(shard))
        return item is not None and item.ended

    def saved(self, shard: Shard) -> str | None:
        """The position this process saved last; still known after the claim was given up."""
        key = rules.shard_key(shard)
        claim = self._held.get(key)
        return claim.position if claim is not None else self._left_at.get(key)

    async def run(self) -> None:
        """Beat all live claims every `BEAT_SECONDS`, until cancelled."""
        async with asyncio.TaskGroup() as beats:
            while True:
                await self._host.sleep(BEAT_SECONDS)
                self._forget_ended()
                # A task each: one that waits for its retries does not hold up the others.
                for claim in self._held.values():
                    beats.create_task(self._beat(claim))

    def _forget_ended(self) -> None:
        """Of a claim that ended only its position stays: a state may be large."""
        for key in [key for key, claim in self._held.items() if not claim.live]:
            self._left_at[key] = self._held.pop(key).position

    async def _beat(self, claim: Claim) -> None:
        shard_id = claim.shard.shard_id
        try:
            await claim.beat()
        except FencedError:
            log.warning("progress.fenced", shard_id=shard_id, epoch=claim.epoch)
        except (TransientError, ConfigurationError) as error:
            # The next may get through; if none does, another worker takes over and we are fenced.
            self._say(str(error))
            if times := self._seldom.due("beat"):
                log.warning(
                    "progress.beat_missed", shard_id=shard_id, error=str(error), times=times
                )
        else:
            self._say("")

    def _say(self, trouble: str) -> None:
        if self._health is None:
            return
        if trouble:
            self._health.set(HEARTBEATS, trouble)
        else:
            self._health.clear(HEARTBEATS)

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
        if not rules.may_take(seen, self._worker_id, unchanged_seconds, self._stale_seconds):
            raise ClaimHeldError(f"{key} is owned by {seen.owner if seen else None}")

    async def _beginning(
        self, shard: Shard, seen: rules.Progress | None
    ) -> tuple[StartPosition, list[bytes]]:
        """Start and states of a shard without a position; nothing of use to any other."""
        if seen is not None and seen.position is not None:
            return StartPosition(), []
        parents = {
            parent: await self._store.read(self._app, rules.shard_key(shard, parent))
            for parent in shard.parents
        }
        readable = [parents[each] for each in shard.parents if each not in shard.expired_parents]
        unfinished = rules.unfinished_parents(readable)
        if unfinished:
            raise PositionError(f"{shard.shard_id}: not before its parent {unfinished[0]} ended")
        # What an expired parent left counts as well: this shard may have saved nothing since.
        states = await self._states([each for each in parents.values() if each is not None])
        return await self.first_start(shard.stream, shard.incarnation), states

    async def _states(self, items: list[rules.Progress]) -> list[bytes]:
        states: list[bytes] = []
        for item in items:
            if item.state is not None:
                states.append(item.state)
            elif item.state_key is not None:
                states.append(await self._snapshots.get(item.state_key))
        return states

    async def first_start(self, stream: str, incarnation: int) -> StartPosition:
        """Where this application began to read the stream, the same for ever.

        Children begin there too (as in the KCL): one that came to be after that time holds nothing
        older, so it is read whole, and one that is older is not read from before the start.

        Raises:
            TransientError: The store cannot be reached.
        """
        if (stream, incarnation) not in self._starts:
            wanted = self._initial_position
            if wanted == LATEST:
                wanted = int(self._host.wall() * 1_000_000)
            key = f"start/{self._app}/{stream}/{incarnation}"
            stored = await self._store.fix(key, str(wanted))
            at_us = None if stored == TRIM_HORIZON else int(stored)
            self._starts[stream, incarnation] = StartPosition(timestamp_us=at_us)
        return self._starts[stream, incarnation]


async def _name_poison(claim: Claim) -> str | None:
    named = suspicion.poison(claim.suspects, claim.intent.up_to if claim.intent else None)
    if named is not None:
        await claim.condemn(named)
    return named
