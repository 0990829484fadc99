"""The audit finds each way the promise can break, and nothing where it holds."""

import json
from datetime import UTC, datetime

import pytest

from telemill import audit, contract
from telemill.audit import Lineage, RawItem, ServedBody, StoredRow

CONTRACT = contract.load("contracts/fms.yaml")


def body(device: int = 1, second: int = 0, sensor1: float = 80.5) -> bytes:
    """A reading as the API serves it."""
    document = {"time": f"2026-01-01T00:00:{second:02}Z", "DeviceId": device, "sensor1": sensor1}
    return json.dumps(document).encode()


def item(number: int, data: bytes) -> RawItem:
    """The reading in raw record `number`."""
    return RawItem(Lineage("s0", str(1000 + number), 0), data)


def row(of: RawItem, name: str = "dt=a/hour=0/1.parquet", **changes: object) -> StoredRow:
    """The row the transform should make of it."""
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


def run(
    rows: list[StoredRow],
    items: list[RawItem] = ITEMS,
    quarantined: list[Lineage] | None = None,
    served: list[ServedBody] = SERVED,
) -> audit.Report:
    """Audit the standard four readings."""
    return audit.audit(CONTRACT, served, items, rows, quarantined or [])


def test_a_perfect_run_is_found_perfect() -> None:
    """Every item stored once, in order, unchanged."""
    report = run([row(each) for each in ITEMS])
    assert report.ok
    assert (report.raw_items, report.stored, report.duplicates) == (4, 4, 0)
    assert not report.uncollected


def test_a_missing_row_is_lost_unless_quarantined() -> None:
    """An item that is neither stored nor quarantined is lost."""
    rows = [row(each) for each in ITEMS[1:]]
    assert run(rows).lost == [ITEMS[0].lineage]
    assert run(rows, quarantined=[ITEMS[0].lineage]).ok


def test_the_same_reading_twice_is_a_duplicate_but_other_values_are_not() -> None:
    """An item not stored counts as a duplicate only if an identical reading is stored."""
    again, other = item(9, ITEMS[0].body), item(10, body(second=0, sensor1=81.5))
    assert run([row(each) for each in ITEMS], [*ITEMS, again]).duplicates == 1
    assert run([row(each) for each in ITEMS], [*ITEMS, other]).lost == [other.lineage]


def test_a_row_stored_twice_is_found() -> None:
    """Two rows of one lineage are one duplicated."""
    rows = [row(each) for each in ITEMS]
    assert run([*rows, row(ITEMS[2], "dt=a/hour=0/2.parquet")]).duplicated == [ITEMS[2].lineage]


@pytest.mark.parametrize("changes", [{"sensor1": 80.6}, {"device_id": 2}, {"event_time": None}])
def test_changed_values_are_found(changes: dict[str, object]) -> None:
    """A row that differs from its item is altered; a nulled value is not."""
    rows = [row(ITEMS[0], **changes), *(row(each) for each in ITEMS[1:])]
    assert run(rows).altered == [ITEMS[0].lineage]
    assert run([row(ITEMS[0], sensor1=None), *(row(each) for each in ITEMS[1:])]).ok


def test_order_is_checked_inside_and_between_objects() -> None:
    """A device's rows descend neither in one object nor between objects of a partition."""
    swapped = [row(ITEMS[1]), row(ITEMS[0]), row(ITEMS[2]), row(ITEMS[3])]
    assert run(swapped).out_of_order
    interleaved = [
        row(each, f"dt=a/hour=0/{number % 2}.parquet") for number, each in enumerate(ITEMS)
    ]
    assert run(interleaved).out_of_order
    elsewhere = [
        row(each, f"dt=a/hour={number % 2}/x.parquet") for number, each in enumerate(ITEMS)
    ]
    assert run(elsewhere).ok


def test_served_but_never_taken_is_uncollected_with_its_cause() -> None:
    """What Kinesis never got is counted by scenario, and is no loss; errors are no readings."""
    slow = ServedBody("1", "slow", 200, body(second=30))
    failed = ServedBody("1", "error_5xx", 500, b"oops")
    report = run([row(each) for each in ITEMS], served=[*SERVED, slow, failed])
    assert report.ok
    assert report.uncollected == {"slow": 1}
