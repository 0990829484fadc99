"""A prefetch queue that knows of each shard what was taken from it and is not done."""

import asyncio
from collections import Counter
from collections.abc import Sequence

from telemill.kinesis.prefetch import DEFAULT_PREFETCH_BYTES, Prefetch
from telemill.kinesis.records import Chunk


class Outstanding(Prefetch):
    """As `Prefetch`; `idle` waits until nothing of a shard is queued or being processed."""

    def __init__(self, limit_bytes: int = DEFAULT_PREFETCH_BYTES) -> None:
        super().__init__(limit_bytes)
        self._counts: Counter[str] = Counter()
        self._changed = asyncio.Event()

    def put(self, chunks: Sequence[Chunk]) -> None:
        """Queue chunks."""
        super().put(chunks)
        for chunk in chunks:
            self._counts[chunk.shard.shard_id] += 1

    def done(self, chunk: Chunk) -> None:
        """A chunk is processed, or will never be."""
        super().done(chunk)
        shard_id = chunk.shard.shard_id
        self._counts[shard_id] -= 1
        if self._counts[shard_id] <= 0:
            del self._counts[shard_id]
        self._changed.set()

    async def idle(self, shard_id: str) -> None:
        """Wait until every chunk of a shard is done."""
        while shard_id in self._counts:
            self._changed.clear()
            await self._changed.wait()
