"""Any stream of replays, any rhythm, any crashes: every row is in the lake once."""

import asyncio
from collections import Counter
from typing import NamedTuple

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from sink import core, parquet, testing
from sink.testing import StoredRow, World
from telemill import contract
from telemill.codec import wire
from telemill.kinesis.records import SHARD_END, Record
from telemill.testing import batches
from telemill.testing.batches import SHARD

NOON = 1_751_889_600_000_000
HOUR_US = 3_600_000_000
FORM = core.form_of(contract.load("contracts/fms.yaml"), "readings")
ROWS_PER_RAW_RECORD = 3


class Producer(NamedTuple):
    """One source, and how often it goes back and puts its rows again."""

    slot: int
    raw_shard_id: str


class Put(NamedTuple):
    """One record a producer puts: rows from `start` up to `end` of all it will ever put."""

    producer: Producer
    start: int
    end: int


@st.composite
def _puts(draw: st.DrawFn) -> list[Put]:
    """What producers put: each advances, and at times starts again at or before where it was."""
    producers = draw(
        st.lists(
            st.builds(Producer, st.integers(0, 3), st.sampled_from(["raw-a", "raw-b"])),
            min_size=1,
            max_size=3,
            unique=True,
        )
    )
    reached = dict.fromkeys(producers, 0)
    puts = []
    for producer in draw(st.lists(st.sampled_from(producers), min_size=1, max_size=14)):
        start = draw(st.integers(max(0, reached[producer] - 6), reached[producer]))
        end = start + draw(st.integers(0, 5))
        puts.append(Put(producer, start, end))
        reached[producer] = max(reached[producer], end)
    return puts


def _lineage(row: int) -> tuple[int, int]:
    return row // ROWS_PER_RAW_RECORD, row % ROWS_PER_RAW_RECORD


def _record(index: int, put: Put) -> Record:
    rows = range(put.start, put.end)
    times = [NOON + (row % 3) * HOUR_US for row in rows]
    batch = batches.batch(FORM.stream_schema, [_lineage(row) for row in rows], times)
    header = batches.header(
        FORM.contract, slot=put.producer.slot, raw_shard_id=put.producer.raw_shard_id
    )
    return batches.record(index, wire.encode(header, batch))


def _expected(puts: list[Put]) -> Counter[StoredRow]:
    """Every row of every producer, once (two slots of a raw shard may use the same lineage)."""
    rows = {(put.producer, row) for put in puts for row in range(put.start, put.end)}
    return Counter(_stored(producer, row) for producer, row in rows)


def _stored(producer: Producer, row: int) -> StoredRow:
    raw, sub = _lineage(row)
    return StoredRow(producer.raw_shard_id, batches.sequence_number(raw), sub)


_RHYTHM = st.lists(st.integers(1, 4), max_size=8)
_CUTS = st.frozensets(st.integers(0, 7), max_size=4)


@settings(max_examples=60, deadline=None)
@given(
    puts=_puts(),
    lives=st.lists(st.tuples(st.integers(0, 25), _RHYTHM, _CUTS), max_size=3),
    last=_RHYTHM,
    cuts=_CUTS,
)
def test_every_row_once(
    puts: list[Put],
    lives: list[tuple[int, list[int], frozenset[int]]],
    last: list[int],
    cuts: frozenset[int],
) -> None:
    """However producers replay and the sink dies, chunks and cuts fall: each row is there once."""

    async def run() -> World:
        world = World(FORM)
        records = [_record(index, put) for index, put in enumerate(puts, 1)]
        for steps, sizes, cut_after in lives:
            world.crash_at = len(world.steps) + steps
            await testing.run_once(world, SHARD, records, sizes, cut_after=cut_after)
        world.crash_at = None
        assert await testing.run_once(world, SHARD, records, last, cut_after=cuts, ends=True)
        return world

    world = asyncio.run(run())
    assert Counter(world.rows()) == _expected(puts)
    assert world.item(SHARD).position == SHARD_END


@given(
    times=st.lists(
        st.one_of(
            st.integers(NOON, NOON + 3 * HOUR_US),
            st.integers(parquet.FIRST_US, parquet.END_US - 1),
        ),
        min_size=1,
        max_size=40,
    )
)
def test_partitions_lose_and_reorder_nothing(times: list[int]) -> None:
    """Split by hour: each row in the hour of its time, once, in order."""
    table = pa.table(
        {"event_time": pa.array(times, pa.timestamp("us", "UTC")), "row": range(len(times))}
    )
    parts = parquet.split(table)
    assert len({part for part, _ in parts}) == len(parts)
    found = [row for _, part in parts for row in part.column("row").to_pylist()]
    assert sorted(found) == list(range(len(times)))
    for partition, part in parts:
        rows = part.column("row").to_pylist()
        assert rows == sorted(rows)
        assert {parquet.partition_of(times[row] // HOUR_US * HOUR_US) for row in rows} == {
            partition
        }


@given(rows=st.lists(st.tuples(st.integers(0, 120), st.integers(0, 3)), min_size=1, max_size=12))
def test_ascends_means_sorted_without_repeats(rows: list[tuple[int, int]]) -> None:
    """The vectorised check says what comparing all neighbours as numbers says."""
    numbers = pa.array([str(number) for number, _ in rows])
    subs = pa.array([sub for _, sub in rows], pa.int64())
    assert core.ascends(numbers, subs) == (rows == sorted(set(rows)))
