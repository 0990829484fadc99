"""What the audit can say when the raw stream has forgotten the records."""

from typing import Any

from telemill import contract
from telemill.audit import Lineage, Report, StoredRow, alone
from telemill.codec.raw import MAX_ROWS

CONTRACT = contract.load("contracts/fms.yaml")
NAME = "readings/dt=a/hour=0/sink-readings-17-shardId-000000000000-{}-{}.parquet"


def row(number: int, sub: int, name: str = NAME.format("start", 9)) -> StoredRow:
    """A row of one device."""
    return StoredRow(Lineage("shardId-0", str(1000 + number), sub), name, {"device_id": 1})


def run(rows: list[StoredRow], quarantined: list[Lineage] | None = None, **more: Any) -> Report:
    """Audit rows alone."""
    return alone.audit_tables(CONTRACT, rows, quarantined or [], **more)


def test_places_between_others_are_gaps_unless_in_the_quarantine() -> None:
    """Rows of a raw record are numbered from 0: what is left out is a gap, and no proof."""
    rows = [row(1, 1), row(1, 4), row(2, 0), row(3, 2)]
    report = run(rows, [Lineage("shardId-0", "1001", 2)])
    assert [(gap.first[1:], gap.last[1:], gap.size) for gap in report.gaps] == [
        (("1001", 0), ("1001", 0), 1),
        (("1001", 3), ("1001", 3), 1),
        (("1003", 0), ("1003", 1), 2),
    ]
    assert report.ok
    assert report.unchecked


def test_a_record_without_rows_is_no_gap() -> None:
    """The quarantine is read by days: its record may lie outside the range."""
    assert not run([row(1, 0)], [Lineage("shardId-0", "1005", 3)]).gaps


def test_each_user_record_is_numbered_by_itself() -> None:
    """The second user record of an aggregate begins at its own 0."""
    assert not run([row(1, 0), row(1, 1), row(1, MAX_ROWS), row(1, MAX_ROWS + 1)]).gaps
    [gap] = run([row(1, 0), row(1, MAX_ROWS + 1)]).gaps
    assert gap.first == gap.last == Lineage("shardId-0", "1001", MAX_ROWS)


def test_doubled_and_misplaced_rows_are_proved() -> None:
    """For these the tables are enough."""
    report = run([row(1, 0), row(3, 0), row(2, 0), row(1, 0, NAME.format(9, 12))])
    assert report.duplicated == [Lineage("shardId-0", "1001", 0)]
    assert report.out_of_order == [Lineage("shardId-0", "1002", 0)]
    assert not report.ok


def test_cuts_that_do_not_meet_are_told() -> None:
    """Between two cuts of a shard a range without an object is a hint."""
    names = [NAME.format("start", 9), NAME.format(9, 12), NAME.format(20, 30)]
    [silent] = run([], object_names=[*names, names[0].replace("hour=0", "hour=1")]).silent_cuts
    assert (silent.shard_id, silent.after, silent.up_to) == ("shardId-000000000000", "12", "20")
    other = NAME.replace("shardId-000000000000", "shardId-000000000001").format(77, 80)
    assert not alone.silent_cuts([*names[:2], other])


def test_no_rows_are_no_fault() -> None:
    """An empty table is sound."""
    assert run([]).ok
