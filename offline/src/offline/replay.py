"""Try quarantined items again, with their original lineage, and add those that are readings now."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import pyarrow as pa

from offline.additions import Additions
from offline.core import Tally, in_order
from offline.derive import UNDECODABLE, Derived, ItemDeriver
from offline.items import Item
from offline.live import Passed
from telemill.kinesis.records import Shard
from transform import reasons

BATCH_ITEMS = 10_000
BATCH_BYTES = 32 * 1024 * 1024


@dataclass(slots=True)
class Left:
    """Items that were not tried.

    Attributes:
        conflicts: Other values than the stored reading of their device and time: only on request.
        above: Above the live positions: the live path may still bring them.
        foreign: Of streams whose records are no readings (scores).
    """

    conflicts: int = 0
    above: list[Item] = field(default_factory=list)
    foreign: int = 0


class Replay:
    """One replay.

    Args:
        deriver: Items to rows.
        additions: Rows into the table.
        passed: Up to where the live path adds nothing any more.
        raw_stream: Whose records are raw.
        readings_stream: Whose records are batches of rows.
        include_conflicts: Try conflicts, too.

    Attributes:
        tally: What was done.
        left: What was not tried.
        undecodable: Records of `readings` that still cannot be read.
    """

    def __init__(
        self,
        deriver: ItemDeriver,
        additions: Additions,
        passed: Passed,
        *,
        raw_stream: str,
        readings_stream: str,
        include_conflicts: bool,
    ) -> None:
        self.tally = Tally()
        self.left = Left()
        self.undecodable: list[Item] = []
        self._deriver = deriver
        self._additions = additions
        self._passed = passed
        self._raw_stream = raw_stream
        self._readings_stream = readings_stream
        self._include_conflicts = include_conflicts
        self._shards = {shard.shard_id: shard for shard in passed.shards}

    async def take(self, found: Iterable[Item]) -> None:
        """Try items, each once, in order of lineage."""
        for batch in _batches(item for item in found if self._is_tried(item)):
            derived = self._derive(batch)
            self.tally.records += len(batch)
            self.tally.rejected.update(derived.rejected)
            await self._additions.add(derived.rows, self.tally)

    def _is_tried(self, item: Item) -> bool:
        stream, shard_id, number, _ = item.lineage
        if stream not in {self._raw_stream, self._readings_stream}:
            self.left.foreign += 1
            return False
        if item.reason == reasons.CONFLICT and not self._include_conflicts:
            self.left.conflicts += 1
            return False
        is_ours = item.incarnation in {None, self._passed.incarnation}
        if stream == self._raw_stream and is_ours and not self._passed.covers(shard_id, number):
            self.left.above.append(item)
            return False
        return True

    def _derive(self, batch: Sequence[Item]) -> Derived:
        stream, shard_id, *_ = batch[0].lineage
        if stream == self._raw_stream:
            return self._deriver.derive(batch, self._shard(shard_id))
        decoded = [self._decode(item) for item in batch]
        rejected = Counter({UNDECODABLE: decoded.count(None)})
        tables = [rows for rows in decoded if rows is not None]
        empty = self._deriver.form.table_schema.empty_table()
        return Derived(in_order(pa.concat_tables([empty, *tables])), +rejected)

    def _decode(self, item: Item) -> pa.Table | None:
        """Rows of an internal record. They name raw records, which count as if they were here."""
        rows = self._deriver.decode(item)
        if rows is None:
            self.undecodable.append(item)
            return None
        lineage = rows.select(["shard_id", "sequence_number"]).to_pydict().values()
        if all(self._passed.covers(*each) for each in zip(*lineage, strict=True)):
            return rows
        self.left.above.append(item)
        return rows.slice(0, 0)

    def _shard(self, shard_id: str) -> Shard:
        """Where an aggregate's user records must hash to; past its retention: anywhere."""
        listed = self._shards.get(shard_id)
        return listed or Shard(self._raw_stream, self._passed.incarnation, shard_id)


def reasons_left(left: Left) -> Counter[str]:
    """What was not tried, by why."""
    return +Counter({"conflict": left.conflicts, "above": len(left.above), "foreign": left.foreign})


def _batches(found: Iterable[Item]) -> Iterator[list[Item]]:
    """Items of one stream and shard at a time, and not too many."""
    for _, of_shard in groupby(found, key=lambda item: item.lineage[:2]):
        batch: list[Item] = []
        size_bytes = 0
        for item in of_shard:
            if batch and (len(batch) >= BATCH_ITEMS or size_bytes >= BATCH_BYTES):
                yield batch
                batch, size_bytes = [], 0
            batch.append(item)
            size_bytes += len(item.body)
        if batch:
            yield batch
