"""What Faust was given of one shard, and what came back. Pure.

Faust counts in small consecutive integers; Kinesis has sparse numbers of 56 digits and a chunk
holds many of them. The ledger translates: a *local offset* per chunk handed out, dense and never
used twice, and a watermark below which every chunk is acknowledged.

The life of an entry:

    state      | deliver | ack   | redeliver (not begun)        | redeliver (begun)
    -----------+---------+-------+------------------------------+------------------
    (none)     | PENDING | void  |                              |
    PENDING    |         | ACKED | (none) + PENDING, new offset | PENDING
    ACKED      |         | ACKED | ACKED                        | ACKED
"""

from collections import deque
from collections.abc import Container
from dataclasses import dataclass

from telemill.kinesis import records
from telemill.kinesis.records import Chunk

FIRST_OFFSET = 1
"""Not 0: Faust's consumer takes a falsy offset for none."""


@dataclass(slots=True)
class _Entry:
    offset: int
    chunk: Chunk
    acknowledged: bool = False


class Ledger:
    """Local offsets of one claim of one shard.

    Attributes:
        watermark: Highest offset among the chunks before the first one not acknowledged; 0 when
            there is none.
        position: Sequence number of the last record of those chunks, SHARD_END when they end the
            shard; None when there is none.
    """

    def __init__(self) -> None:
        self.watermark = FIRST_OFFSET - 1
        self.position: str | None = None
        self._next = FIRST_OFFSET
        # In order of the records, which after a redelivery is not the order of the offsets.
        self._entries: deque[_Entry] = deque()
        self._by_offset: dict[int, _Entry] = {}

    @property
    def delivered(self) -> int:
        """The highest offset given out; 0 before the first."""
        return self._next - 1

    def deliver(self, chunk: Chunk) -> int:
        """Take the next chunk of the shard and number it."""
        entry = _Entry(0, chunk)
        self._entries.append(entry)
        return self._number(entry)

    def ack(self, offset: int) -> Chunk | None:
        """Note that a chunk is processed.

        Returns:
            The chunk, the first time; None when the offset is void or was acknowledged before.
        """
        entry = self._by_offset.pop(offset, None)
        if entry is None:
            return None
        entry.acknowledged = True
        while self._entries and self._entries[0].acknowledged:
            self._pass(self._entries.popleft())
        return entry.chunk

    def pending(self) -> list[Chunk]:
        """Chunks given out and not acknowledged, in order."""
        return [entry.chunk for entry in self._entries if not entry.acknowledged]

    def redeliver(self, begun: Container[int] = ()) -> list[tuple[int, Chunk]]:
        """Number again what Faust dropped from its queues.

        Args:
            begun: Offsets an agent works on: it will acknowledge them under their old number.

        Returns:
            The chunks to hand out again, in order, under new offsets; the old ones are void.
        """
        dropped = [
            entry for entry in self._entries if not entry.acknowledged and entry.offset not in begun
        ]
        for entry in dropped:
            del self._by_offset[entry.offset]
        return [(self._number(entry), entry.chunk) for entry in dropped]

    def _number(self, entry: _Entry) -> int:
        entry.offset = self._next
        self._by_offset[entry.offset] = entry
        self._next += 1
        return entry.offset

    def _pass(self, entry: _Entry) -> None:
        self.watermark = max(self.watermark, entry.offset)
        self.position = _end_of(entry.chunk) or self.position


def _end_of(chunk: Chunk) -> str | None:
    if chunk.ends_shard:
        return records.SHARD_END
    return chunk.records[-1].sequence_number if chunk.records else None
