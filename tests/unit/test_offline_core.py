"""Which rows a table lacks, case by case."""

from typing import Any

import pyarrow as pa
import pytest

from offline.core import COMPARED_COLUMNS, Outcome, Screen, in_order, same_values
from telemill.testing import batches
from transform.testing import plant

PLANT = plant()
MINUTE_US = 60_000_000
SPEED_MISSING = PLANT.missing_bit(PLANT.values[1])
HEAT_SENTINEL = PLANT.sentinel_bit(PLANT.values[0])


def row(number: int, minute: int, **changes: Any) -> dict[str, Any]:
    """A row of raw record `number`, of device 1 unless said otherwise."""
    values = {"heat": 85.5, "speed": 1.5, "count": 3, "mode": "run", "is_fail": False}
    lineage = {
        "shard_id": "shard-a",
        "sequence_number": batches.sequence_number(number),
        "sub_sequence_number": 0,
    }
    time = {"event_time": minute * MINUTE_US, "ingest_time": minute * MINUTE_US}
    return {"device_id": 1, **time, **values, "quality": 0, **lineage, **changes}


def table(*rows: dict[str, Any]) -> pa.Table:
    """Rows in the table's schema."""
    return pa.Table.from_pylist(list(rows), schema=PLANT.table_schema)


def screened(candidates: pa.Table, *stored: pa.Table, **more: Any) -> list[Outcome]:
    """What becomes of each candidate, found out one by one."""
    found = []
    for index in range(candidates.num_rows):
        _, outcomes = _finish(candidates.slice(index, 1), *stored, **more)
        found.append(next(iter(outcomes)))
    return found


def _finish(candidates: pa.Table, *stored: pa.Table, **more: Any) -> Any:
    screen = Screen(candidates, PLANT, **more)
    for each in stored:
        rows, places = screen.match(each.select(COMPARED_COLUMNS))
        if len(rows):
            screen.judge(rows, places, each)
    return screen.finish()


def test_each_outcome() -> None:
    """New, stored, the same reading of another record, and other values."""
    stored = table(row(1, 1), row(2, 2))
    candidates = table(
        row(1, 1), row(3, 2), row(4, 2, heat=10.0), row(5, 3), row(6, 1, device_id=2)
    )
    assert screened(candidates, stored) == [
        Outcome.STORED,
        Outcome.SAME,
        Outcome.CONFLICT,
        Outcome.NEW,
        Outcome.NEW,
    ]


def test_only_what_is_lacking_is_added_in_its_order() -> None:
    """The rows to add keep their order; with the flag conflicts are among them."""
    candidates = table(row(3, 5), row(1, 1), row(4, 2, heat=10.0), row(5, 3))
    stored = table(row(1, 1), row(2, 2))
    lacking, _ = _finish(candidates, stored)
    assert lacking["event_time"].cast(pa.int64()).to_pylist() == [5 * MINUTE_US, 3 * MINUTE_US]
    lacking, _ = _finish(candidates, stored, add_conflicts=True)
    assert lacking.num_rows == 3


def test_a_stored_row_outweighs_a_conflict_of_its_key() -> None:
    """A conflict that was replayed is stored, though another row has its device and time."""
    stored = [table(row(1, 1)), table(row(2, 1, heat=10.0))]
    assert screened(table(row(2, 1, heat=10.0)), *stored) == [Outcome.STORED]
    assert screened(table(row(3, 1, heat=10.0)), *stored) == [Outcome.SAME]
    assert screened(table(row(3, 1, heat=20.0)), *stored) == [Outcome.CONFLICT]


def test_lineage_is_of_shard_and_place_too() -> None:
    """Another shard or another place in the record is another row."""
    stored = table(row(1, 1))
    others = table(row(1, 2, shard_id="shard-b"), row(1, 3, sub_sequence_number=1))
    assert screened(others, stored) == [Outcome.NEW, Outcome.NEW]


def test_candidates_of_one_key_count_as_added_one_by_one() -> None:
    """Of several new rows of one device and time the first is added, whatever a cut holds."""
    candidates = table(row(1, 1), row(2, 1), row(3, 1, heat=10.0), row(4, 1, heat=10.0))
    lacking, outcomes = _finish(candidates)
    assert lacking.num_rows == 1
    assert outcomes == {Outcome.NEW: 1, Outcome.SAME: 1, Outcome.CONFLICT: 2}
    lacking, outcomes = _finish(candidates, add_conflicts=True)
    assert lacking.num_rows == 2
    assert outcomes == {Outcome.NEW: 1, Outcome.SAME: 2, Outcome.CONFLICT: 1}


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ({}, {}, True),
        ({"heat": 10.0}, {}, False),
        ({"mode": None}, {"mode": None}, True),
        ({"speed": 7.0, "quality": SPEED_MISSING}, {"speed": None, "quality": SPEED_MISSING}, True),
        ({"speed": 1.5, "quality": SPEED_MISSING}, {}, False),
        ({"heat": None, "quality": HEAT_SENTINEL}, {"heat": None, "quality": HEAT_SENTINEL}, True),
        ({"quality": 1}, {"quality": 0}, True),
    ],
    ids=["equal", "other", "null", "carried", "imputed to equal", "sentinel", "late"],
)
def test_the_same_reading(ours: dict[str, Any], theirs: dict[str, Any], expected: bool) -> None:
    """Values count as received: neither what was filled in nor how late it came."""
    found = same_values(PLANT, table(row(1, 1, **ours)), table(row(2, 1, **theirs)))
    assert found.tolist() == [expected]


def test_an_object_of_an_older_contract_is_compared_by_what_it_has() -> None:
    """A column that was added later does not make a reading another one."""
    older = table(row(1, 1)).drop_columns(["mode"])
    assert same_values(PLANT, table(row(2, 1, mode="stop")), older).tolist() == [True]


def test_order_of_lineage_is_numeric() -> None:
    """A shorter sequence number comes before a longer one, shard by shard."""
    rows = table(
        row(0, 1, sequence_number="10"),
        row(0, 2, sequence_number="9", sub_sequence_number=1),
        row(0, 3, sequence_number="9"),
        row(0, 4, sequence_number="11", shard_id="shard-0"),
    )
    minutes = [each // MINUTE_US for each in in_order(rows)["event_time"].cast("int64").to_pylist()]
    assert minutes == [4, 3, 2, 1]
