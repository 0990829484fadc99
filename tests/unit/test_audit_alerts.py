"""The audit of alerts: a row lost or doubled shows in the table alone."""

import pyarrow as pa

from telemill import audit, contract
from telemill.audit import Lineage, Report, alerts

FMS = contract.load("contracts/fms.yaml")


def table(*rows: tuple[str, int, str]) -> pa.Table:
    """Rows (alert, sequence, state) in this order, each of another reading."""
    count = len(rows)
    times = pa.array([0] * count, pa.timestamp("us", "UTC"))
    given = {
        "event_time": times,
        "ingest_time": times,
        "alert_id": [alert for alert, _, _ in rows],
        "sequence": [number for _, number, _ in rows],
        "state": [state for _, _, state in rows],
        "shard_id": ["s"] * count,
        "sequence_number": [str(place) for place in range(count)],
        "sub_sequence_number": [0] * count,
    }
    schema = alerts.schema(FMS)
    return pa.table([pa.array(given[each.name], each.type) for each in schema], schema=schema)


def audited(*rows: tuple[str, int, str], from_the_beginning: bool = True) -> Report:
    """What is said of some rows."""
    report = Report()
    audit.audit_alerts(report, table(*rows), from_the_beginning=from_the_beginning)
    return report


WHOLE = [("a", 0, "open"), ("b", 0, "open"), ("a", 1, "update"), ("a", 2, "closed")]


def test_whole_episodes_are_well() -> None:
    """Rows of several episodes may be mixed; one that is still open is not wrong."""
    report = audited(*WHOLE)
    assert (report.ok, report.alerts) == (True, 2)
    assert audited().alerts == 0


def test_a_row_that_is_there_twice_is_named() -> None:
    """The second row of one change."""
    report = audited(*WHOLE, ("a", 1, "update"))
    assert len(report.alerted_twice) == 1
    assert report.alert_rows_missing == []
    assert not report.ok


def test_a_row_that_is_missing_is_named() -> None:
    """The row behind the gap, with what is missing in words."""
    report = audited(WHOLE[0], WHOLE[3])
    missing = Lineage("s", "1", 0)
    assert report.alert_rows_missing == [missing]
    assert "row 2 (closed), and not row 1" in report.notes["alert_rows_missing", missing]


def test_a_lost_opening_shows() -> None:
    """Unless only a range was read: then it may lie before."""
    assert audited(WHOLE[2], WHOLE[3]).alert_rows_missing
    assert audited(WHOLE[2], WHOLE[3], from_the_beginning=False).ok
