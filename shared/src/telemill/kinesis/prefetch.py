"""Chunks fetched and not yet processed, bounded in bytes across all shards."""

import asyncio
from collections import deque
from collections.abc import Sequence

from telemill.kinesis.budget import ByteBudget
from telemill.kinesis.records import Chunk

DEFAULT_PREFETCH_BYTES = 16 * 1024 * 1024
RECORD_OVERHEAD_BYTES = 256
"""What a record costs beside its data: tuple, strings, bytes header (CPython 3.11, 64 bit)."""


def memory_of(chunk: Chunk) -> int:
    """Bytes a chunk takes in memory, about."""
    return chunk.size_bytes + RECORD_OVERHEAD_BYTES * len(chunk.records)


class Prefetch:
    """The queue between the readers of all shards and whoever processes their chunks.

    A chunk counts from `put` until `done`, so what a consumer has taken and not processed is
    bounded too.
    """

    def __init__(self, limit_bytes: int = DEFAULT_PREFETCH_BYTES) -> None:
        self.budget = ByteBudget(limit_bytes)
        self._queues: dict[str, deque[Chunk]] = {}
        self._filled = asyncio.Event()

    def put(self, chunks: Sequence[Chunk]) -> None:
        """Queue consecutive chunks of one shard. Room was asked of `budget` before the fetch."""
        for chunk in chunks:
            self.budget.force(memory_of(chunk))
            self._queues.setdefault(chunk.shard.shard_id, deque()).append(chunk)
        if chunks:
            self._filled.set()

    async def take(self, timeout_seconds: float, limit: int) -> list[Chunk]:
        """Up to `limit` chunks, one of each shard in turn; [] when none came in time."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._filled.wait()
        except TimeoutError:
            return []
        taken: list[Chunk] = []
        while self._queues and len(taken) < limit:
            taken.append(self._next())
        if not self._queues:
            self._filled.clear()
        return taken

    def done(self, chunk: Chunk) -> None:
        """A chunk is processed, or will never be: its room is free."""
        self.budget.release(memory_of(chunk))

    def discard(self, shard_id: str) -> None:
        """Forget what is queued of one shard."""
        for chunk in self._queues.pop(shard_id, ()):
            self.done(chunk)
        if not self._queues:
            self._filled.clear()

    def _next(self) -> Chunk:
        shard_id, queue = next(iter(self._queues.items()))
        chunk = queue.popleft()
        del self._queues[shard_id]
        if queue:
            self._queues[shard_id] = queue  # to the end: the other shards come first
        return chunk
