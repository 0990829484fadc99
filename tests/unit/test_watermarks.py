"""Watermarks: what was taken is ignored when it comes again, nothing else is."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemill import errors
from telemill.codec import wire
from telemill.stages import watermarks

SCHEMA = pa.schema([("sequence_number", pa.string()), ("sub_sequence_number", pa.int64())])
HOUR_US = 3_600_000_000


def header(slot: int = 3, producer: str = "transform", shard_id: str = "s0") -> wire.Header:
    """Of a batch of one origin."""
    return wire.Header(
        kind="readings",
        contract="fms",
        version=1,
        slot=slot,
        producer=producer,
        raw_stream="readings-raw",
        raw_incarnation=1,
        raw_shard_id=shard_id,
        trace=b"",
    )


def batch(lineages: list[tuple[int, int]]) -> pa.RecordBatch:
    """Rows with these lineages."""
    return pa.RecordBatch.from_arrays(
        [
            pa.array([str(sequence) for sequence, _ in lineages], pa.string()),
            pa.array([sub for _, sub in lineages], pa.int64()),
        ],
        schema=SCHEMA,
    )


def rows_of(taken: pa.RecordBatch) -> list[tuple[int, int]]:
    """Lineages of a batch."""
    sequences, subs = taken.column(0).to_pylist(), taken.column(1).to_pylist()
    return [(int(sequence), sub) for sequence, sub in zip(sequences, subs, strict=True)]


def test_sequence_numbers_compare_as_numbers() -> None:
    """A longer sequence number is larger, whatever its first digit."""
    marks = watermarks.Watermarks()
    marks.take(header(), batch([(999, 0)]), 0)
    assert rows_of(marks.take(header(), batch([(998, 9), (1000, 0)]), 0)) == [(1000, 0)]


@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(0, 3)), unique=True, min_size=1).map(sorted),
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 10)), max_size=12),
)
def test_restarts_of_a_producer_double_and_lose_nothing(
    rows: list[tuple[int, int]], restarts: list[tuple[int, int]]
) -> None:
    """However often a producer goes back and however it cuts batches, each row is taken once."""
    marks, taken, reached = watermarks.Watermarks(), [], 0
    for back, size in [*restarts, (0, len(rows))]:
        # A restart goes back to any place already put, never ahead of it.
        start = max(0, reached - back)
        taken += rows_of(marks.take(header(), batch(rows[start : start + size]), 0))
        reached = max(reached, min(len(rows), start + size))
    assert taken == rows


def test_origins_do_not_touch_each_other() -> None:
    """Another slot, producer or raw shard has a watermark of its own."""
    marks = watermarks.Watermarks()
    for each in (header(), header(slot=4), header(producer="other"), header(shard_id="s1")):
        assert marks.take(each, batch([(5, 0)]), 0).num_rows == 1
        assert marks.take(each, batch([(5, 0)]), 0).num_rows == 0


def test_union_keeps_the_highest_and_only_our_slots() -> None:
    """A merged shard continues above both parents; a split shard forgets foreign slots."""
    low, high = watermarks.Watermarks(), watermarks.Watermarks()
    low.take(header(), batch([(5, 0)]), 0)
    high.take(header(), batch([(7, 1)]), 0)
    high.take(header(slot=9), batch([(1, 0)]), 0)
    union = watermarks.restore([low.snapshot(), high.snapshot()], lambda slot: slot == 3)
    assert rows_of(union.take(header(), batch([(5, 1), (7, 1), (7, 2)]), 0)) == [(7, 2)]
    assert len(union.marks) == 1


def test_snapshots_are_equal_for_equal_watermarks() -> None:
    """A snapshot does not depend on the order in which origins were met."""
    one, other = watermarks.Watermarks(), watermarks.Watermarks()
    one.take(header(1), batch([(5, 0)]), 0)
    one.take(header(2), batch([(6, 0)]), 0)
    other.take(header(2), batch([(6, 0)]), 0)
    other.take(header(1), batch([(5, 0)]), 0)
    assert one.snapshot() == other.snapshot()
    assert watermarks.restore([one.snapshot()], lambda _: True).snapshot() == one.snapshot()


def test_entries_expire_a_day_after_the_raw_retention() -> None:
    """An origin is forgotten when no replay of it can be left, not earlier."""
    marks = watermarks.Watermarks()
    marks.take(header(), batch([(5, 0)]), 0)
    marks.expire(47 * HOUR_US, 24)
    assert marks.marks
    marks.expire(49 * HOUR_US, 24)
    assert not marks.marks


@pytest.mark.parametrize("data", [b"", b"junk", b"\x92\x02\x90"])
def test_a_damaged_snapshot_is_said_to_be_one(data: bytes) -> None:
    """Unreadable state is an error, never an empty state."""
    with pytest.raises(errors.DecodeError):
        watermarks.restore([data], lambda _: True)
