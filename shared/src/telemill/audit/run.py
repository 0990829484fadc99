"""One audit from its sources to its report: what is read, in which order.

The order matters while the services run; see `committed`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import pyarrow as pa

from telemill.audit import alerts, alone, committed, compare, lake, sources, streams
from telemill.audit.aside import Aside, aside
from telemill.audit.athena import TIME_STEP_US, Athena
from telemill.audit.columns import LINEAGE
from telemill.audit.lake import Span
from telemill.audit.model import Report
from telemill.audit.streams import RawStream
from telemill.contract import Contract, Table
from telemill.kinesis.records import Shard

PAUSE_SECONDS = 0.5
"""Two of a shard's five reads a second: the services need the others."""
ARRIVAL_TOLERANCE = timedelta(minutes=5)

Tell = Callable[[str, int, int | None], None]
"""Told (what, done, of how many)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to audit; the names are those of the command's options."""

    contract: Contract
    start: datetime | None = None
    end: datetime | None = None
    oldest_event: datetime | None = None
    served: Path | None = None
    read_raw: bool = True
    settled: bool = False
    tables: Literal["s3", "athena"] = "s3"
    with_scores: bool = False
    raw_stream: str
    readings_stream: str
    scores_stream: str
    progress_table: str
    transform_app: str
    sink_app: str
    anomaly_app: str
    scores_sink_app: str
    bucket: str
    database: str
    workgroup: str | None = None
    results: str | None = None


def run(plan: Plan, tell: Tell = lambda _what, _done, _total: None) -> Report:
    """Read everything and compare it."""
    return _Run(plan, tell).report()


class _Run:
    def __init__(self, plan: Plan, tell: Tell) -> None:
        self._plan = plan
        self._tell = tell
        self._kinesis = streams.client("kinesis")
        self._dynamodb = streams.client("dynamodb")
        self._objects = lake.S3Objects(plan.bucket, streams.client("s3"))
        self._athena = Athena(
            streams.client("athena"), self._objects.client, plan.database, plan.workgroup,
            plan.results,
        )  # fmt: skip

    def report(self) -> Report:
        plan = self._plan
        served = sources.served_bodies(plan.served) if plan.served else []
        if not plan.read_raw:
            rows, object_names = self._rows("readings", self._span())
            held = self._quarantine(None)
            found = alone.audit_tables(
                plan.contract, rows, held.lineages, object_names=object_names
            )
        else:
            raw = self._raw()
            in_flight = None if plan.settled else self._in_flight()
            rows, _ = self._rows("readings", self._span())
            held = self._quarantine(raw)
            found = compare.audit(
                plan.contract, served, raw.items, rows, held.lineages, raw.parents,
                in_flight=in_flight,
                complete=False,
                find_rows=self._find_rows,
                time_step_us=1 if plan.tables == "s3" else TIME_STEP_US,
                on_progress=lambda done, total: self._tell("items compared", done, total),
            )  # fmt: skip
            if raw.outside_count:
                found.unchecked.append(
                    f"{raw.outside_count:,} user records whose aggregate reaches beyond its shard:"
                    " every consumer drops them"
                )
        if held.unreadable:
            found.unchecked.append(
                f"{held.unreadable:,} records of internal streams in the quarantine that cannot be"
                " read: their readings count as lost"
            )
        if plan.with_scores:
            self._add_scores(found, rows)
            changes, _ = self._rows("alerts", self._span())
            alerts.audit_alerts(found, changes, from_the_beginning=plan.start is None)
        return found

    def _span(self) -> Span:
        plan = self._plan
        # The transform may have seen another arrival time than we do: rows beyond the range are
        # not compared, missing ones would count as lost.
        return Span(
            plan.start and plan.start - ARRIVAL_TOLERANCE,
            plan.end and plan.end + ARRIVAL_TOLERANCE,
            plan.oldest_event,
        )

    def _raw(self) -> RawStream:
        records = 0

        def on_records(count: int) -> None:
            nonlocal records
            records += count
            self._tell("raw records read", records, None)

        plan = self._plan
        end = plan.end or datetime.now(UTC)
        return streams.read_raw(
            plan.raw_stream, plan.start, end, pause_seconds=PAUSE_SECONDS, on_records=on_records
        )

    def _in_flight(self) -> compare.InFlight:
        plan = self._plan
        shards = streams.shards_of(self._kinesis, plan.raw_stream)
        reached = self._positions(plan.transform_app, shards)
        rows = self._behind(plan.readings_stream, plan.sink_app, "readings")
        return compare.InFlight(reached, rows)

    def _positions(self, app: str, shards: list[Shard]) -> committed.Positions:
        return committed.positions(self._dynamodb, self._plan.progress_table, app, shards)

    def _behind(self, stream: str, app: str, kind: Literal["readings", "scores"]) -> pa.Table:
        shards = streams.shards_of(self._kinesis, stream)
        saved = self._positions(app, shards)
        return committed.rows_behind(self._kinesis, shards, saved, self._plan.contract, kind)

    def _rows(self, table: Table, span: Span) -> tuple[pa.Table, list[str]]:
        plan = self._plan
        schema = _wanted(plan.contract, table)
        if plan.tables == "athena":
            self._tell(f"{table}: asking Athena", 0, None)
            return self._athena.read_rows(table, schema, span), []
        object_names = lake.object_names(self._objects, table, span)
        rows = lake.read_rows(
            self._objects, object_names, schema, span,
            on_objects=lambda done, total: self._tell(f"objects of {table} read", done, total),
        )  # fmt: skip
        return rows, object_names

    def _find_rows(self, hours: Sequence[datetime]) -> pa.Table:
        schema = self._plan.contract.table_schema
        if self._plan.tables == "athena":
            return self._athena.read_hours("readings", schema, hours)
        return lake.read_hours(self._objects, "readings", schema, hours)

    def _quarantine(self, raw: RawStream | None) -> Aside:
        plan = self._plan
        rows = lake.read_quarantine(self._objects, self._span().start)
        return aside(rows, plan.raw_stream, plan.contract, raw)

    def _add_scores(self, found: Report, rows: pa.Table) -> None:
        """Also while the services run: what is behind a position is looked at before the table."""
        plan = self._plan
        waiting: list[pa.Table] = []
        pending_scores = None
        live = plan.read_raw and not plan.settled
        if live:
            waiting.append(self._behind(plan.readings_stream, plan.anomaly_app, "readings"))
            pending_scores = self._behind(plan.scores_stream, plan.scores_sink_app, "scores")
        scores, _ = self._rows("scores", self._span())
        if live:
            # A reading may be scored before it is stored.
            waiting.append(self._behind(plan.readings_stream, plan.sink_app, "readings"))
        compare.audit_scores(
            found, rows, scores, plan.contract,
            pending_rows=pa.concat_tables(waiting) if waiting else None,
            pending_scores=pending_scores,
            find_rows=self._find_rows,
        )  # fmt: skip


def _wanted(contract: Contract, table: Table) -> pa.Schema:
    """What is needed of a table's rows."""
    if table == "readings":
        return contract.table_schema
    if table == "alerts":
        return alerts.schema(contract)
    wanted = {*LINEAGE.names, "ingest_time", contract.time.column}
    return pa.schema([each for each in contract.score_table_schema if each.name in wanted])
