"""A lake, a catalogue and an outlet in memory, for the table stage.

Each calls `before` and `after` around its effect: a test raises there, or waits, to stop a stage
with the effect not done, or done and not known.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterable

from telemill.kinesis.records import Shard
from telemill.stages.step import Rejected, StepResult

Hook = Callable[[str], Awaitable[None]]


async def _go_on(_name: str) -> None:
    """Yield once, as every real call does."""
    await asyncio.sleep(0)


class MemoryLake:
    """Objects that are created whole or not at all (S3 with If-None-Match: *).

    Attributes:
        objects: Body by key.
        refused: Keys somebody tried to create again, in order.
        before: Called with the key before an object is created.
        after: Called with the key when it is there, before the caller knows.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.refused: list[str] = []
        self.before: Hook = _go_on
        self.after: Hook = _go_on

    async def create(self, key: str, body: bytes) -> bool:
        """Create an object; False when its key is taken."""
        await self.before(key)
        created = self.objects.setdefault(key, body) is body
        if not created:
            self.refused.append(key)
        await self.after(key)
        return created


class MemoryCatalog:
    """Partitions known to readers.

    Attributes:
        partitions: All that were ensured.
        before: Called with "partitions" before they are.
        after: Called with "partitions" when they are.
    """

    def __init__(self) -> None:
        self.partitions: set[Hashable] = set()
        self.before: Hook = _go_on
        self.after: Hook = _go_on

    async def ensure_partitions(self, partitions: Iterable[Hashable]) -> None:
        """Note them."""
        await self.before("partitions")
        self.partitions.update(partitions)
        await self.after("partitions")


class MemoryOutlet:
    """An Outlet which keeps what was rejected: written first, durable when flushed.

    Attributes:
        durable: What a crash leaves.
        before: Called with "flush" before what was written is durable.
        after: Called with "flush" when it is.
    """

    def __init__(self) -> None:
        self.durable: list[Rejected] = []
        self.before: Hook = _go_on
        self.after: Hook = _go_on
        self._written: list[Rejected] = []

    async def write(self, _shard: Shard, result: StepResult) -> None:
        """Take what was rejected."""
        self._written += result.rejected

    async def flush(self, _shard: Shard) -> None:
        """Make it durable."""
        await self.before("flush")
        self.durable += self._written
        self._written = []
        await self.after("flush")
