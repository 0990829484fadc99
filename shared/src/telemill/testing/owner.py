"""A shard owner that remembers what it was asked, for tests of coordinators."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping

from telemill import errors
from telemill.kinesis import records
from telemill.kinesis.records import Chunk, Record, Shard
from telemill.stages.owner import StartPosition


class FakeOwner:
    """Keeps positions in memory; everything it processes is durable at once.

    Attributes:
        calls: `("open", shard_id)`, `("process", shard_id)`, `("close", shard_id)` in order.
        records: What was processed, by shard, in order.
        positions: Last processed sequence number or SHARD_END, by shard; survives `close`.
        open_errors: Raised by the next calls of `open` of a shard, first one first.
        close_error: Raised by every `close`.
        on_process: Awaited in `process` before anything is noted; may raise.
        released: Shards whose claim was given up.
    """

    def __init__(
        self,
        positions: Mapping[str, str] | None = None,
        start: StartPosition | None = None,
    ) -> None:
        self.calls: list[tuple[str, str]] = []
        self.records: defaultdict[str, list[Record]] = defaultdict(list)
        self.positions: dict[str, str] = dict(positions or {})
        self.open_errors: defaultdict[str, list[Exception]] = defaultdict(list)
        self.close_error: Exception | None = None
        self.on_process: Callable[[Chunk], Awaitable[None]] = _nothing
        self.released: set[str] = set()
        self._start = start or StartPosition()

    async def open(self, shard: Shard) -> StartPosition:
        """Start after the last position."""
        self.calls.append(("open", shard.shard_id))
        await asyncio.sleep(0)
        if self.open_errors[shard.shard_id]:
            raise self.open_errors[shard.shard_id].pop(0)
        position = self.positions.get(shard.shard_id)
        if position == records.SHARD_END:
            return StartPosition(finished=True)
        return StartPosition(after=position) if position else self._start

    async def process(self, chunk: Chunk) -> None:
        """Take the chunk."""
        self.calls.append(("process", chunk.shard.shard_id))
        await self.on_process(chunk)
        shard_id = chunk.shard.shard_id
        self.records[shard_id].extend(chunk.records)
        if chunk.records:
            self.positions[shard_id] = chunk.records[-1].sequence_number
        if chunk.ends_shard:
            self.positions[shard_id] = records.SHARD_END

    async def finished(self, shard: Shard) -> bool:
        """Whether the shard's end was processed."""
        await asyncio.sleep(0)
        return self.positions.get(shard.shard_id) == records.SHARD_END

    async def close(self, shard: Shard, *, release: bool) -> None:
        """Give the claim up."""
        self.calls.append(("close", shard.shard_id))
        await asyncio.sleep(0)
        if self.close_error is not None:
            raise self.close_error
        if release:
            self.released.add(shard.shard_id)

    def data(self) -> list[bytes]:
        """The data of every record processed, shard after shard."""
        return [record.data for shard in self.records.values() for record in shard]

    def hold(self, shard_id: str, times: int = 1) -> None:
        """Let another worker hold the claim on a shard for the next calls of `open`."""
        held = errors.ClaimHeldError(f"{shard_id} is another worker's")
        self.open_errors[shard_id].extend([held] * times)


async def _nothing(_chunk: Chunk) -> None:
    """Process nothing."""
