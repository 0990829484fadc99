"""The audit names exactly what was tampered with, and agrees with the transform on rows."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from telemill import audit
from telemill.audit import Lineage, RawItem, StoredRow, columns
from telemill.audit.readings import Reader
from telemill.audit.streams import split
from telemill.kinesis.records import Chunk, Record
from telemill.stages.step import StepResult
from telemill.testing import batches
from transform import testing
from transform.core import TransformStep

PLANT = testing.plant()
FIRST = datetime(2025, 7, 7, 8, 0, tzinfo=UTC)
PARENTS = {"shardId-000000000002": ("shardId-000000000000",)}
SHARDS = ("shardId-000000000000", "shardId-000000000001", "shardId-000000000002")


@dataclass(frozen=True)
class World:
    """Items and the sound table of them: one row list an object."""

    items: list[RawItem]
    rows: list[StoredRow]
    quarantined: list[Lineage]
    duplicates: int


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """A few devices, three raw shards (one the child of another), cuts and hours."""
    items, rows, quarantined = [], [], []
    taken: dict[int, list[RawItem]] = {}
    cut, duplicates = 0, 0
    for number in range(draw(st.integers(1, 25))):
        device = draw(st.integers(1, 3))
        # Device 1 stays in shard 0, device 2 in shard 1, device 3 moves from 0 to its child.
        shard = SHARDS[{1: 0, 2: 1, 3: 0 if number < 8 else 2}[device]]
        lineage = Lineage(shard, batches.sequence_number(number // 3), number)
        choice = draw(st.integers(0, 9))
        if choice == 0 and taken.get(device):
            items.append(RawItem(lineage, draw(st.sampled_from(taken[device])).body))
            duplicates += 1
            continue
        time = FIRST + timedelta(minutes=draw(st.sampled_from([0, 90])), seconds=number)
        heat = draw(st.sampled_from([85.5, 20.0]))
        document = testing.reading(device, time.isoformat(), heat=heat)
        item = RawItem(lineage, json.dumps(document).encode())
        items.append(item)
        if choice == 1:
            quarantined.append(lineage)
            continue
        taken.setdefault(device, []).append(item)
        cut += draw(st.integers(0, 1))
        rows.append(stored(item, document, time, cut))
    return World(items, rows, quarantined, duplicates)


def stored(item: RawItem, document: dict[str, Any], time: datetime, cut: int) -> StoredRow:
    """The row of a sound reading, in a cut's object of its hour."""
    name = f"sink-readings-17-{SHARDS[0]}-{cut or 'start'}-{cut + 1}.parquet"
    columns = {
        "device_id": document["DeviceId"],
        "event_time": time,
        "heat": document["heat"],
        "speed": document["speed"],
        "count": document["count"],
        "mode": document["mode"],
        "is_fail": document["isFail"],
        "quality": 0,
    }
    return StoredRow(item.lineage, f"readings/dt=2025-07-07/hour={time.hour:02}/{name}", columns)


def run(world: World, rows: Sequence[StoredRow]) -> audit.Report:
    """Audit the world with these rows in place of its own."""
    return audit.audit(PLANT, [], world.items, rows, world.quarantined, PARENTS)


def wrong(report: audit.Report) -> set[str]:
    """The kinds of faults found."""
    return {name for name, found in report.wrong.items() if found}


def unexcused(world: World, originals: set[Lineage]) -> set[Lineage]:
    """Duplicates of readings that are no longer there."""
    gone = {item.body for item in world.items if item.lineage in originals}
    known = {row.lineage for row in world.rows} | set(world.quarantined)
    return {item.lineage for item in world.items if item.body in gone} - known


@given(worlds())
@settings(deadline=None)
def test_a_sound_world_is_found_sound(world: World) -> None:
    """Nothing is reported where nothing is wrong, and duplicates are counted."""
    report = run(world, world.rows)
    assert report.ok, report
    assert report.duplicates == world.duplicates


@given(worlds(), st.data())
@settings(deadline=None)
def test_dropped_rows_are_the_lost_ones(world: World, data: st.DataObject) -> None:
    """Exactly the rows taken out are lost, and with them the duplicates they were originals of."""
    if not world.rows:
        return
    drop = data.draw(st.sets(st.sampled_from([row.lineage for row in world.rows])))
    report = run(world, [row for row in world.rows if row.lineage not in drop])
    assert set(report.lost) == drop | unexcused(world, drop)
    assert wrong(report) <= {"lost"}


@given(worlds(), st.data())
@settings(deadline=None)
def test_doubled_rows_are_the_duplicated_ones(world: World, data: st.DataObject) -> None:
    """Exactly the rows there twice are duplicated, wherever the copy lies."""
    if not world.rows:
        return
    chosen = data.draw(st.lists(st.sampled_from(world.rows), unique_by=lambda row: row.lineage))
    names = [row.object_key for row in world.rows] + ["readings/dt=a/hour=0/copy.parquet"]
    copies = [row._replace(object_key=data.draw(st.sampled_from(names))) for row in chosen]
    report = run(world, [*world.rows, *copies])
    assert set(report.duplicated) == {row.lineage for row in chosen}
    assert wrong(report) <= {"duplicated"}


@given(worlds(), st.data())
@settings(deadline=None)
def test_swapped_neighbours_are_out_of_order(world: World, data: st.DataObject) -> None:
    """Of two neighbours of a device that changed places the earlier one is named."""
    by_device: dict[tuple[Any, str], list[int]] = {}
    for place, row in enumerate(world.rows):
        by_device.setdefault((row.columns["device_id"], row.object_key), []).append(place)
    pairs = [pair for places in by_device.values() for pair in itertools.pairwise(places)]
    if not pairs:
        return
    left, right = data.draw(st.sampled_from(pairs))
    rows = list(world.rows)
    rows[left], rows[right] = rows[right], rows[left]
    report = run(world, rows)
    assert report.out_of_order == [world.rows[left].lineage]
    assert wrong(report) <= {"out_of_order"}


@given(worlds(), st.data())
@settings(deadline=None)
def test_changed_values_are_the_altered_ones(world: World, data: st.DataObject) -> None:
    """Exactly the rows with another value than their item are altered.

    With its time changed a row is no original any more: then its duplicates are lost.
    """
    changes: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
        [
            {"heat": 85.6},
            {"heat": None},
            {"count": 4},
            {"mode": "stop"},
            {"is_fail": True},
            {"event_time": FIRST - timedelta(microseconds=1)},
            {"quality": 16},
        ]
    )
    rows, changed, moved = [], set(), set()
    for row in world.rows:
        if data.draw(st.booleans()):
            change = data.draw(changes)
            rows.append(row._replace(columns={**row.columns, **change}))
            changed.add(row.lineage)
            moved |= {row.lineage} if "event_time" in change else set()
        else:
            rows.append(row)
    report = run(world, rows)
    assert set(report.altered) == changed
    assert set(report.lost) == unexcused(world, moved)
    assert wrong(report) <= {"altered", "lost"}


ODD_VALUES = st.sampled_from(
    [None, -1, 0, -0.0, 5.0, 999, 1e300, 2**70, "85.2", "5", "true", "", 'a"b', "é", [1], {"a": 1}]
)


@st.composite
def documents(draw: st.DrawFn) -> bytes:
    """Readings with what they should not have."""
    seconds = draw(st.integers(0, 29))
    document = testing.reading(draw(st.integers(1, 3)), f"2025-07-07T08:21:{seconds:02}Z")
    for name in draw(st.lists(st.sampled_from([f.name for f in PLANT.fields]), max_size=3)):
        document[name] = draw(ODD_VALUES)
    if draw(st.integers(0, 3)) == 0:
        document["time"] = draw(
            st.sampled_from(["2025-07-07 08:21:05", "2025-07-07T10:21:05.1234567+02:00", "soon"])
        )
    if draw(st.booleans()):
        document["heat"] = draw(st.sampled_from([85.5, -1, 999]))
    text = json.dumps(document).encode()
    return text if draw(st.integers(0, 9)) else text[:-1] + b', "heat": 1}'


@given(st.lists(st.lists(documents(), min_size=1, max_size=5), max_size=6))
@settings(deadline=None, max_examples=200)
def test_what_the_transform_makes_is_sound(bodies: list[list[bytes]]) -> None:
    """Whatever comes, the transform's rows, rejections and duplicates satisfy the audit."""
    records = [testing.record(index, b"\n".join(lines)) for index, lines in enumerate(bodies)]
    step = TransformStep(PLANT)
    result = step.step(Chunk(testing.SHARD, records), step.restore([], testing.SHARD))
    report = audit.audit(
        PLANT, [], items_of(records), rows_of(result), [lineage_of(r) for r in result.rejected]
    )
    assert report.ok, report
    assert report.duplicates == result.counts["duplicate",]


def items_of(records: Sequence[Record]) -> list[RawItem]:
    """As the audit splits records."""
    return [
        RawItem(Lineage(testing.SHARD.shard_id, record.sequence_number, sub), body)
        for record in records
        for sub, body in split(record, testing.SHARD)[0]
    ]


def rows_of(result: StepResult) -> list[StoredRow]:
    """What the step put out; each device lies in one batch after the other."""
    return [
        StoredRow(
            Lineage(testing.SHARD.shard_id, row["sequence_number"], row["sub_sequence_number"]),
            "one.parquet",
            row,
        )
        for row in testing.rows([result], PLANT)
    ]


def lineage_of(rejected: Any) -> Lineage:
    """Of a rejected item."""
    return Lineage(rejected.shard_id, rejected.sequence_number, rejected.sub_sequence_number)


@given(st.lists(documents(), min_size=1, max_size=8))
@settings(deadline=None)
def test_many_at_once_are_read_as_one_by_one(bodies: list[bytes]) -> None:
    """The columns of many items hold what each alone has."""
    reader = Reader(PLANT)
    together = reader.expected(bodies)
    for place, body in enumerate(bodies):
        alone = reader.expected([body])
        assert together.devices[place] == alone.devices[0]
        assert together.event_us[place] == alone.event_us[0]
        for left, right in zip(together.values, alone.values, strict=True):
            assert left.column[place].equals(right.column[0])
            assert left.problems[place] == right.problems[0]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 10**20), st.integers(0, 2**40))))
def test_keys_compare_like_lineages(parts: list[tuple[int, int, int]]) -> None:
    """Within a raw shard keys ascend as items were accepted, and give their lineages back."""
    lineages = [Lineage(f"s{shard}", str(number), sub) for shard, number, sub in parts]
    half = len(lineages) // 2
    made = columns.encode(
        columns.lineage_table(lineages[:half]), columns.lineage_table(lineages[half:])
    )
    keys = np.concatenate(made.of)
    assert made.lineages(keys) == lineages
    for left, left_key in zip(lineages, keys, strict=True):
        for right, right_key in zip(lineages, keys, strict=True):
            if left.shard_id == right.shard_id:
                assert (left.order < right.order) == (left_key < right_key)
