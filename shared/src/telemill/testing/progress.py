"""Progress and snapshot stores in memory, which fail as told."""

import asyncio
import enum
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from telemill.errors import PositionError, ServiceUnavailableError
from telemill.progress import rules, snapshots, store
from telemill.progress.retrying import Retry

T = TypeVar("T")


class Fault(enum.Enum):
    """What happens to one call instead of success."""

    LOST = "not done, and the caller gets an error"
    APPLIED = "done, but the caller gets an error"
    LATE = "the caller gets an error, and it is done when `deliver_late` is called"
    HANGING = "done, but the answer never comes: the caller can only be cancelled"


class _Faults:
    """Plans of faults per operation, in order of its calls."""

    def __init__(self) -> None:
        self._planned: defaultdict[str, deque[Fault | None]] = defaultdict(deque)
        self._late: list[Callable[[], object]] = []
        self.calls: list[str] = []

    def plan(self, operation: str, *faults: Fault | None) -> None:
        """What the next calls of an operation meet; None is success."""
        self._planned[operation].extend(faults)

    def deliver_late(self) -> None:
        """Let the calls that were LATE take effect now."""
        late, self._late = self._late, []
        for act in late:
            act()

    async def call(self, operation: str, act: Callable[[], T]) -> T:
        """Carry out one call as planned. It yields once, as every real call does."""
        self.calls.append(operation)
        planned = self._planned[operation]
        fault = planned.popleft() if planned else None
        await asyncio.sleep(0)
        if fault is None:
            return act()
        if fault is Fault.LATE:
            self._late.append(act)
        elif fault is not Fault.LOST:
            act()
        if fault is Fault.HANGING:
            await asyncio.Event().wait()
        raise ServiceUnavailableError(f"{operation}: {fault.value}")


class MemoryProgressTable:
    """A `telemill.progress.store.ProgressTable` in a dictionary.

    Attributes:
        items: By (app, shard).
        faults: Operations are named as the methods: "get", "put_claim", "put_progress", ...
    """

    def __init__(self) -> None:
        self.items: dict[tuple[str, str], rules.Progress] = {}
        self.facts: dict[str, str] = {}
        self.faults = _Faults()

    async def get(self, app: str, shard: str) -> rules.Progress | None:
        """See ProgressTable."""
        return await self.faults.call("get", lambda: self.items.get((app, shard)))

    async def put_claim(
        self, seen: rules.Progress | None, taken: rules.Progress
    ) -> rules.Progress | None:
        """See ProgressTable."""
        return await self.faults.call("put_claim", lambda: self._put_claim(seen, taken))

    async def put_progress(self, progress: rules.Progress, previous: str) -> bool:
        """See ProgressTable."""
        return await self.faults.call(
            "put_progress", lambda: self._put_progress(progress, previous)
        )

    async def put_beat(self, progress: rules.Progress) -> bool:
        """See ProgressTable."""
        return await self.faults.call("put_beat", lambda: self._put_beat(progress))

    async def put_fact(self, key: str, value: str) -> bool:
        """See ProgressTable."""
        return await self.faults.call(
            "put_fact", lambda: self.facts.setdefault(key, value) is value
        )

    async def get_fact(self, key: str) -> str | None:
        """See ProgressTable."""
        return await self.faults.call("get_fact", lambda: self.facts.get(key))

    def _put_claim(
        self, seen: rules.Progress | None, taken: rules.Progress
    ) -> rules.Progress | None:
        item = self.items.get((taken.app, taken.shard))
        if not rules.unchanged(item, seen):
            return None
        return self._put(rules.claimed(item, taken))

    def _put_progress(self, progress: rules.Progress, previous: str) -> bool:
        item = self.items.get((progress.app, progress.shard))
        if item is None or not rules.writable(item, progress.epoch, previous):
            return False
        self._put(rules.moved(item, progress))
        return True

    def _put_beat(self, progress: rules.Progress) -> bool:
        item = self.items.get((progress.app, progress.shard))
        if item is None or not rules.is_live(item, progress.epoch):
            return False
        self._put(replace(item, beat=progress.beat))
        return True

    def _put(self, item: rules.Progress) -> rules.Progress:
        self.items[item.app, item.shard] = item
        return item


async def _no_sleep(_seconds: float) -> None:
    await asyncio.sleep(0)


NO_WAIT = Retry(attempts=3, sleep=_no_sleep)
"""Retries at once; gives up after the third try."""


class MemoryProgressStore(store.ConditionalStore):
    """A ProgressStore in memory.

    Attributes:
        table: What is under it: look into its items, plan its faults.
    """

    def __init__(self, table: MemoryProgressTable | None = None, retry: Retry = NO_WAIT) -> None:
        self.table = table or MemoryProgressTable()
        super().__init__(self.table, retry)


class MemorySnapshotStore:
    """A `telemill.progress.snapshots.SnapshotStore` in a dictionary.

    Attributes:
        objects: By key.
        faults: Operations "put", "get", "delete". Not retried.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.faults = _Faults()

    async def put(self, app: str, shard: str, epoch: int, position: str, state: bytes) -> str:
        """See SnapshotStore."""
        key = snapshots.object_key(app, shard, epoch, position, state)
        await self.faults.call("put", lambda: self.objects.__setitem__(key, state))
        return key

    async def get(self, key: str) -> bytes:
        """See SnapshotStore."""
        state = await self.faults.call("get", lambda: self.objects.get(key))
        if state is None:
            raise PositionError(f"state object {key} is gone")
        return state

    async def delete(self, key: str) -> None:
        """See SnapshotStore."""
        await self.faults.call("delete", lambda: self.objects.pop(key, None))
