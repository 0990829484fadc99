"""The audit finds each way the promise can break, and nothing where it holds."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest

from telemill import audit, contract
from telemill.audit import InFlight, Lineage, RawItem, ServedBody, StoredRow, columns
from telemill.kinesis.records import SHARD_END

CONTRACT = contract.load("contracts/fms.yaml")
NAME = "readings/dt=2026-01-01/hour=00/sink-readings-17-shardId-000000000000-{}-{}.parquet"
ONE = NAME.format("start", 90)


def body(device: int = 1, second: int = 0, sensor1: object = 80.5, **more: object) -> bytes:
    """A reading as the API serves it."""
    document = {"time": f"2026-01-01T00:00:{second:02}Z", "DeviceId": device, "sensor1": sensor1}
    return json.dumps({**document, **more}).encode()


def item(number: int, data: bytes, shard: str = "shardId-0") -> RawItem:
    """The reading in raw record `number`."""
    return RawItem(Lineage(shard, str(1000 + number), 0), data)


def row(of: RawItem, name: str = ONE, **changes: Any) -> StoredRow:
    """The row the transform should make of it, where all values are valid."""
    document = json.loads(of.body)
    columns = {
        "device_id": document["DeviceId"],
        "event_time": datetime.fromisoformat(document["time"]).astimezone(UTC),
        **{field.column: document.get(field.name) for field in CONTRACT.measures},
        **changes,
    }
    return StoredRow(of.lineage, name, columns)


ITEMS = [item(second, body(second=second)) for second in range(4)]
SERVED = [ServedBody("1", "", 200, each.body) for each in ITEMS]


def run(rows: Sequence[StoredRow], items: Sequence[RawItem] = ITEMS, **more: Any) -> audit.Report:
    """Audit the standard four readings."""
    given = {"served": SERVED, "quarantined": [], **more}
    return audit.audit(CONTRACT, raw_items=items, rows=rows, **given)


def test_a_perfect_run_is_found_perfect() -> None:
    """Every item stored once, in order, unchanged."""
    report = run([row(each) for each in ITEMS])
    assert report.ok
    assert (report.raw_items, report.stored, report.duplicates) == (4, 4, 0)
    assert not report.uncollected


def test_nothing_at_all_is_sound() -> None:
    """No items and no rows are no fault."""
    assert run([], [], served=[]).ok


def test_a_missing_row_is_lost_unless_quarantined() -> None:
    """An item that is neither stored nor quarantined is lost; the report says where it belongs."""
    rows = [row(each) for each in ITEMS[1:]]
    report = run(rows)
    assert report.lost == [ITEMS[0].lineage]
    assert report.notes["lost", ITEMS[0].lineage] == "dt=2026-01-01/hour=00, device 1"
    assert run(rows, quarantined=[ITEMS[0].lineage]).ok


def test_lost_items_that_follow_one_another_are_one_gap() -> None:
    """Ranges of lost items are counted as ranges, shard by shard."""
    other = item(0, body(device=2), "shardId-1")
    report = run([row(ITEMS[0])], [*ITEMS, other])
    assert [gap.size for gap in report.gaps] == [3, 1]
    assert report.gaps[0].first == ITEMS[1].lineage
    assert report.gaps[0].last == ITEMS[3].lineage


def test_the_same_reading_twice_is_a_duplicate_but_other_values_are_not() -> None:
    """An item not stored counts as a duplicate only if an identical reading is stored."""
    again, other = item(9, ITEMS[0].body), item(10, body(second=0, sensor1=81.5))
    assert run([row(each) for each in ITEMS], [*ITEMS, again]).duplicates == 1
    assert run([row(each) for each in ITEMS], [*ITEMS, other]).lost == [other.lineage]


def test_values_that_become_null_still_tell_readings_apart() -> None:
    """-1 and 999 are both stored as null and are not the same reading."""
    first, other = item(0, body(sensor1=-1)), item(1, body(sensor1=999))
    assert run([row(first, sensor1=None)], [first, other]).lost == [other.lineage]


def test_a_duplicate_lies_behind_its_original() -> None:
    """What was accepted before the stored reading is no duplicate of it: it is lost."""
    rows = [row(each) for each in ITEMS[1:]]
    later = item(9, ITEMS[0].body)
    assert run([*rows, row(later)], [*ITEMS, later]).lost == [ITEMS[0].lineage]


def test_an_original_is_in_the_same_raw_shard_or_above() -> None:
    """A reading stored through an unrelated shard excuses nothing; one of an ancestor does."""
    rows = [row(each) for each in ITEMS]
    elsewhere = item(9, ITEMS[0].body, "shardId-2")
    assert run(rows, [*ITEMS, elsewhere]).lost == [elsewhere.lineage]
    parents = {"shardId-2": ("shardId-1",), "shardId-1": ("shardId-0",)}
    assert run(rows, [*ITEMS, elsewhere], parents=parents).duplicates == 1
    below = {"shardId-0": ("shardId-2",)}
    assert run(rows, [*ITEMS, elsewhere], parents=below).lost == [elsewhere.lineage]


def test_an_original_whose_record_was_not_read_is_compared_as_stored() -> None:
    """Before the range audited there are rows without items; later rows are asked for by hour."""
    before, again = item(0, body()), item(1, body())
    other = item(2, body(sensor1=81.5))
    asked: list[datetime] = []

    def find_rows(hours: Sequence[datetime]) -> pa.Table:
        asked.extend(hours)
        return columns.rows_table([row(before)], CONTRACT)

    report = run([], [again, other], complete=False, find_rows=find_rows)
    assert asked == [datetime(2026, 1, 1, tzinfo=UTC)]
    assert (report.duplicates, report.lost) == (1, [other.lineage])


def test_a_row_stored_twice_is_found() -> None:
    """Two rows of one lineage are one duplicated, named with both objects, and not misplaced."""
    rows = [row(each) for each in ITEMS]
    two = NAME.format(90, 99)
    report = run([*rows, row(ITEMS[2], two)])
    assert report.duplicated == [ITEMS[2].lineage]
    assert report.notes["duplicated", ITEMS[2].lineage] == f"{ONE}, {two}"
    assert not report.out_of_order


@pytest.mark.parametrize(
    "changes", [{"sensor1": 80.6}, {"sensor1": None}, {"device_id": 2}, {"event_time": None}]
)
def test_changed_values_are_found(changes: dict[str, Any]) -> None:
    """A row that differs from its item is altered, also where a valid value was nulled."""
    rows = [row(ITEMS[0], **changes), *(row(each) for each in ITEMS[1:])]
    report = run(rows)
    assert report.altered == [ITEMS[0].lineage]
    assert next(iter(changes)) in report.notes["altered", ITEMS[0].lineage]


@pytest.mark.parametrize("received", [-1, 999, None, "warm", [1]])
def test_a_value_that_is_not_valid_has_to_be_null(received: object) -> None:
    """Sentinels, values out of range and of other types are null; as they came they are altered."""
    only = item(0, body(sensor1=received))
    assert run([row(only, sensor1=None)], [only]).ok
    assert run([row(only, sensor1=5.0)], [only]).altered == [only.lineage]


@pytest.mark.parametrize("received", ["85.5", 85.5, "8.55e1"])
def test_a_value_converted_without_loss_is_not_altered(received: object) -> None:
    """The text of a number is that number."""
    only = item(0, body(sensor1=received))
    assert run([row(only, sensor1=85.5)], [only]).ok


def test_the_default_of_a_missing_flag_is_no_alteration() -> None:
    """What the contract fills in is expected; anything else is altered."""
    only = item(0, body())
    assert run([row(only, is_fail=False)], [only]).ok
    assert run([row(only, is_fail=True)], [only]).altered == [only.lineage]


def test_quality_bits_have_to_tell_what_was_wrong() -> None:
    """A row whose bits do not say why a value is null is altered."""
    only = item(0, body(sensor1=-1))
    missing = sum(CONTRACT.missing_bit(each) for each in CONTRACT.values if each.name != "sensor1")
    sentinel = CONTRACT.sentinel_bit(CONTRACT.measures[0])
    assert run([row(only, sensor1=None, quality=missing | sentinel | 3)], [only]).ok
    assert run([row(only, sensor1=None, quality=missing)], [only]).altered == [only.lineage]


def test_a_row_of_nowhere_is_unknown() -> None:
    """A row whose item the raw stream never held; beyond what was read nothing can be said."""
    rows = [row(each) for each in ITEMS]
    assert run(rows, [ITEMS[0], *ITEMS[2:]]).unknown == [ITEMS[1].lineage]
    assert run(rows, [ITEMS[0], *ITEMS[2:]], complete=False).unknown == [ITEMS[1].lineage]
    report = run(rows, ITEMS[1:], complete=False)
    assert report.ok
    assert report.not_compared == 1


def test_order_is_checked_inside_an_object() -> None:
    """A row that stands behind a later one of its device is out of order."""
    swapped = [row(ITEMS[1]), row(ITEMS[0]), row(ITEMS[2]), row(ITEMS[3])]
    assert run(swapped).out_of_order == [ITEMS[0].lineage]
    others = [item(number, body(device=number)) for number in (3, 2, 1)]
    assert run([row(each) for each in others], others).ok


def test_order_is_checked_along_the_cuts() -> None:
    """Later cuts hold later rows of a device, whatever the hour; inside a cut hours are free."""
    first, second = NAME.format("start", 9), NAME.format(9, 90)
    names = [first, second, first, second]
    broken = [row(each, name) for each, name in zip(ITEMS, names, strict=True)]
    assert run(broken).out_of_order == [ITEMS[1].lineage]
    late = second.replace("hour=00", "hour=07")
    assert run([row(ITEMS[0], late), *(row(each, first) for each in ITEMS[1:])]).out_of_order == [
        ITEMS[0].lineage
    ]
    hours = [first, first.replace("hour=00", "hour=07")]
    assert run([row(each, hours[n % 2]) for n, each in enumerate(ITEMS)]).ok
    backfill = [row(each, f"readings/dt=a/hour=0/{n % 2}.parquet") for n, each in enumerate(ITEMS)]
    assert run(backfill).ok


def test_cuts_of_a_child_shard_come_after_those_of_its_parent() -> None:
    """A shard of `readings` with a higher number was made later."""
    child = NAME.replace("shardId-000000000000", "shardId-000000000002").format("start", 5)
    rows = [row(ITEMS[0]), row(ITEMS[1]), row(ITEMS[2], child), row(ITEMS[3], child)]
    assert run(rows).ok
    rows = [row(ITEMS[0], child), row(ITEMS[1]), row(ITEMS[2]), row(ITEMS[3])]
    assert run(rows).out_of_order == [ITEMS[0].lineage]


def test_rows_of_a_raw_child_come_after_those_of_its_parent() -> None:
    """Between raw shards without kinship there is no order; with it there is."""
    parent = item(50, body(second=0), "shardId-1")
    child = item(1, body(second=1), "shardId-2")
    rows = [row(child), row(parent)]
    assert run(rows, [parent, child]).ok
    parents = {"shardId-2": ("shardId-1",)}
    assert run(rows, [parent, child], parents=parents).out_of_order == [parent.lineage]
    assert run(rows[::-1], [parent, child], parents=parents).ok
    cuts = [row(child, NAME.format("start", 5)), row(parent, NAME.format(5, 9))]
    assert run(cuts, [parent, child], parents=parents).out_of_order == [parent.lineage]


def test_what_no_position_has_passed_is_in_flight() -> None:
    """Behind the transform's position, or on `readings` behind the sink's: counted, not lost."""
    on_the_way = columns.rows_table([row(ITEMS[1])], CONTRACT)
    state = InFlight({"shardId-0": "1002"}, on_the_way)
    report = run([row(ITEMS[0])], in_flight=state)
    assert (report.in_flight, report.lost) == (2, [ITEMS[2].lineage])
    assert run([], in_flight=InFlight({"shardId-0": None}, on_the_way)).in_flight == 4
    ended = run([row(ITEMS[0])], in_flight=InFlight({"shardId-0": SHARD_END}, on_the_way))
    assert (ended.in_flight, len(ended.lost)) == (1, 2)


def test_the_original_of_a_duplicate_may_be_in_flight() -> None:
    """A duplicate of a reading that is not committed yet is none the less a duplicate."""
    again = item(9, ITEMS[0].body)
    on_the_way = columns.rows_table([row(ITEMS[0])], CONTRACT)
    state = InFlight({"shardId-0": "1010"}, on_the_way)
    report = run([row(each) for each in ITEMS[1:]], [*ITEMS, again], in_flight=state)
    assert report.ok
    assert (report.in_flight, report.duplicates) == (1, 1)


def test_every_stored_reading_has_one_score() -> None:
    """A reading without a score, with two, and a score without a reading are found."""
    rows = [row(each) for each in ITEMS]
    report = run(rows)
    audit.audit_scores(report, rows, rows, CONTRACT)
    assert report.ok
    assert report.scores == 4
    audit.audit_scores(report, rows[1:], [rows[0], rows[2], rows[2]], CONTRACT)
    assert report.unscored == [ITEMS[1].lineage, ITEMS[3].lineage]
    assert report.scored_twice == [ITEMS[2].lineage]
    assert report.scored_without_reading == [ITEMS[0].lineage]
    assert not report.ok


def test_scores_on_their_way_are_not_missed() -> None:
    """What the detector or its sink has not committed is neither missing nor without a reading."""
    rows = [row(each) for each in ITEMS]
    tables = [columns.rows_table(part, CONTRACT) for part in (rows[:1], rows[1:2], rows[2:3])]
    report = run(rows)
    audit.audit_scores(
        report, rows[:3], [rows[2], rows[3]], CONTRACT,
        pending_rows=tables[0], pending_scores=tables[1],
        find_rows=lambda _: columns.rows_table(rows[3:], CONTRACT),
    )  # fmt: skip
    assert report.ok


def test_served_but_never_taken_is_uncollected_with_its_cause() -> None:
    """What Kinesis never got is counted by scenario, and is no loss; errors are no readings."""
    slow = ServedBody("1", "slow", 200, body(second=30))
    failed = ServedBody("1", "error_5xx", 500, b"oops")
    report = run([row(each) for each in ITEMS], served=[*SERVED, slow, failed])
    assert report.ok
    assert report.uncollected == {"slow": 1}
