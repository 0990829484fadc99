"""Whether the table `alerts` has each change of each episode exactly once.

An episode's rows count 0, 1, 2, ...: a row that is there twice, or a number that is left out, shows
in the table alone. Rows that are still on their way are the last of their episodes, so this can be
asked while the services run.
"""

import pyarrow as pa
import pyarrow.compute as pc

from telemill.audit.columns import LINEAGE
from telemill.audit.model import Lineage, Report
from telemill.contract import Contract

_WANTED = ("alert_id", "sequence", "state")


def schema(contract: Contract) -> pa.Schema:
    """The columns that are needed."""
    wanted = {*LINEAGE.names, *_WANTED, "ingest_time", contract.time.column}
    return pa.schema([each for each in contract.alert_table_schema if each.name in wanted])


def audit_alerts(report: Report, rows: pa.Table, *, from_the_beginning: bool = True) -> None:
    """Add to a report whether every opened alert has all its rows once.

    Args:
        report: Of the readings.
        rows: Of the alerts table, with the columns of `schema`.
        from_the_beginning: Whether rows of every time are there; else an episode's first may lie
            before.
    """
    rows = rows.sort_by([("alert_id", "ascending"), ("sequence", "ascending")])
    ids, numbers, states = (rows.column(name).to_pylist() for name in _WANTED)
    report.alerts = pc.sum(pc.equal(rows.column("state"), "open")).as_py() or 0
    lineages = [
        Lineage(*each)
        for each in zip(*(rows.column(name).to_pylist() for name in LINEAGE.names), strict=True)
    ]
    before: tuple[str, int] | None = None
    for place, (alert_id, number) in enumerate(zip(ids, numbers, strict=True)):
        same = before is not None and before[0] == alert_id
        expected = before[1] + 1 if same and before else 0
        lineage = lineages[place]
        if same and number < expected:
            report.alerted_twice.append(lineage)
        elif number > expected and (same or from_the_beginning):
            report.alert_rows_missing.append(lineage)
            what = f"alert {alert_id}: row {number} ({states[place]}), and not row {expected}"
            report.notes["alert_rows_missing", lineage] = what
        before = (alert_id, number)
