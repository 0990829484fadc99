"""What a consumer of `readings` or `scores` has already taken, so that a replay is ignored. Pure.

A producer that restarts puts the same rows on the stream again. Rows of one origin ascend in
(sequence number, sub-sequence number), so the highest taken says of every row whether it is new.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
import pyarrow as pa

from telemill import errors
from telemill.codec import wire

SNAPSHOT_VERSION = 1
US_PER_HOUR = 3_600_000_000
EXPIRY_GRACE_HOURS = 24
"""Entries outlive the raw stream's retention by a day: no replay can be older than that."""


class Origin(NamedTuple):
    """Whose rows ascend together: one producer's, of one raw shard, in one slot."""

    producer: str
    raw_stream: str
    raw_incarnation: int
    raw_shard_id: str
    slot: int


class Lineage(NamedTuple):
    """A row's place in its raw shard; compares as rows are ordered.

    Attributes:
        sequence_number: As a number, not as text.
        sub_sequence_number: As in the row.
    """

    sequence_number: int
    sub_sequence_number: int


class Mark(NamedTuple):
    """The highest row taken of an origin, and when its last record arrived (µs)."""

    lineage: Lineage
    arrival_us: int


class _StoredMark(msgspec.Struct, array_like=True):
    producer: str
    raw_stream: str
    raw_incarnation: int
    raw_shard_id: str
    slot: int
    sequence_number: str
    sub_sequence_number: int
    arrival_us: int


class _Snapshot(msgspec.Struct, array_like=True):
    version: int
    marks: list[_StoredMark]


class Watermarks:
    """The highest row taken of each origin.

    Attributes:
        marks: By origin.
    """

    def __init__(self) -> None:
        self.marks: dict[Origin, Mark] = {}

    def take(self, header: wire.Header, batch: pa.RecordBatch, arrival_us: int) -> pa.RecordBatch:
        """The rows of a batch that are new; they count as taken from now on.

        Args:
            header: Of the stream record that held the batch.
            batch: n rows with the lineage columns, ascending in them.
            arrival_us: When the stream took the record.

        Returns:
            The last 0 to n rows, without a copy.
        """
        if batch.num_rows == 0:
            return batch
        origin = _origin(header)
        lineage_of = _lineage_of(batch)
        taken = self.marks.get(origin)
        start = first_new(taken.lineage if taken else None, batch.num_rows, lineage_of)
        if start < batch.num_rows:
            self.marks[origin] = Mark(lineage_of(batch.num_rows - 1), arrival_us)
        return batch.slice(start)

    def expire(self, arrival_us: int, raw_retention_hours: float) -> None:
        """Forget origins that ended longer ago than any replay can reach.

        Args:
            arrival_us: Arrival of the newest record: "now".
            raw_retention_hours: Retention of the raw stream.
        """
        oldest = arrival_us - int((raw_retention_hours + EXPIRY_GRACE_HOURS) * US_PER_HOUR)
        for origin in [o for o, mark in self.marks.items() if mark.arrival_us < oldest]:
            del self.marks[origin]

    def snapshot(self) -> bytes:
        """As bytes; equal watermarks give equal bytes."""
        marks = [
            _StoredMark(
                *origin,
                str(mark.lineage.sequence_number),
                mark.lineage.sub_sequence_number,
                mark.arrival_us,
            )
            for origin, mark in sorted(self.marks.items())
        ]
        return msgspec.msgpack.encode(_Snapshot(SNAPSHOT_VERSION, marks))


def first_new(taken: Lineage | None, count: int, lineage_of: Callable[[int], Lineage]) -> int:
    """How many leading rows of a batch were taken before.

    Sound because a producer restarts at or before its position, makes the same rows again in the
    same order and keeps one batch per slot in flight: what is not above is a repetition, and
    nothing below is still to come.

    Args:
        taken: Highest lineage taken of the batch's origin; None for a new origin.
        count: Rows of the batch, all of one origin, ascending.
        lineage_of: The lineage of the row at an index.
    """
    # The usual case first: a batch that is wholly new.
    if taken is None or count == 0 or lineage_of(0) > taken:
        return 0
    return bisect_right(range(count), taken, key=lineage_of)


def restore(snapshots: Sequence[bytes], keep_slot: Callable[[int], bool]) -> Watermarks:
    """The union of snapshots, for the slots that `keep_slot` says are ours.

    Raises:
        DecodeError: A snapshot is damaged or of another version.
    """
    watermarks = Watermarks()
    for snapshot in snapshots:
        for mark in _decode(snapshot).marks:
            if not keep_slot(mark.slot):
                continue
            origin = Origin(*(getattr(mark, name) for name in Origin._fields))
            lineage = Lineage(int(mark.sequence_number), mark.sub_sequence_number)
            taken = Mark(lineage, mark.arrival_us)
            watermarks.marks[origin] = max(taken, watermarks.marks.get(origin, taken))
    return watermarks


def _decode(snapshot: bytes) -> _Snapshot:
    try:
        decoded = msgspec.msgpack.decode(snapshot, type=_Snapshot)
    except msgspec.MsgspecError as error:
        raise errors.DecodeError(f"watermarks: {error}") from error
    if decoded.version != SNAPSHOT_VERSION:
        raise errors.DecodeError(f"watermarks: version {decoded.version} is not known")
    return decoded


def _origin(header: wire.Header) -> Origin:
    return Origin(
        header.producer, header.raw_stream, header.raw_incarnation, header.raw_shard_id, header.slot
    )


def _lineage_of(batch: pa.RecordBatch) -> Callable[[int], Lineage]:
    sequence_numbers = batch.column("sequence_number")
    sub_sequence_numbers = batch.column("sub_sequence_number")

    def lineage(row: int) -> Lineage:
        return Lineage(int(sequence_numbers[row].as_py()), sub_sequence_numbers[row].as_py())

    return lineage
