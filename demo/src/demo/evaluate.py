"""What the run comes to: the audit, the latencies, the figures, the closing words."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from demo import collect, faults, summary, topology
from demo.queries import Answer
from demo.report import Figures
from demo.settings import DemoSettings
from telemill import audit, contract, names
from telemill.audit import Report, lake
from telemill.audit import alerts as audit_of_alerts
from telemill.audit import report as audit_report
from telemill.audit.aside import aside
from telemill.testing.processes import Process, log_events

COMMITTED = "sink.cut_committed"
WRITTEN = "sink.object_written"
STATUS_NAMES = {"200": "200 ok", "499": "client gave up"}
"""499 is what the simulator notes when its client hung up before the answer came."""


@dataclass(slots=True)
class Evaluation:
    """Summary, charts and audit of one run."""

    summary: dict[str, Any]
    figures: Figures
    report: Report


def evaluate(
    settings: DemoSettings, directory: Path, services: Mapping[str, Process]
) -> Evaluation:
    """Audit the downloaded files against the ground truth and the raw stream."""
    fms = contract.load(topology.CONTRACT)
    served = collect.served_bodies(directory / "served.ndjson")
    rows = collect.stored_rows(directory / "parquet" / "readings")
    scores = collect.stored_rows(directory / "parquet" / "scores")
    alerts = collect.stored_rows(directory / "parquet" / "alerts")
    raw = collect.read_raw(names.RAW_STREAM)
    bad = aside(collect.quarantined(directory / "quarantine"), names.RAW_STREAM, fms, raw)
    # The services have used everything up and stopped: nothing is in flight.
    found = audit.audit(fms, served, raw.items, rows, bad.lineages, raw.parents)
    audit.audit_scores(found, rows, scores, fms)
    audit.audit_alerts(found, _changes(directory / "parquet", fms))
    injected = faults.injected(directory / "served.ndjson")
    verdicts, unexplained = faults.judge(injected, alerts, scores)
    committed = _committed_at(services[topology.SINK_READINGS].log_path)
    ordered = summary.latencies(rows, committed)
    made = {
        **summary.audit_figures(found),
        "devices": settings.devices,
        "counts": {
            "served": len(served),
            "raw_items": found.raw_items,
            "stored": found.stored,
            "quarantined": found.quarantined,
            "duplicates": found.duplicates,
            "scores": len(scores),
            "alert_rows": len(alerts),
        },
        "faults": faults.figures(verdicts, unexplained),
        "served_by_status": {
            str(status): count
            for status, count in sorted(Counter(a.status for a in served).items())
        },
        "quarantined_by_reason": bad.reasons,
        "latency_seconds": summary.quantiles(ordered),
        "flush_interval_seconds": settings.flush_interval_seconds,
        "exit_statuses": {name: process.exit_status for name, process in services.items()},
        "clean_exit": all(process.exit_status == 0 for process in services.values()),
    }
    charted = summary.figures(fms, rows, scores, ordered)
    if rows:
        start = min(row.columns["ingest_time"].timestamp() for row in rows)
        charted.faults = faults.table(verdicts, start)
    return Evaluation(made, charted, found)


def _changes(parquet: Path, of: contract.Contract) -> pa.Table:
    """The alerts table as the audit takes it."""
    folder = lake.Folder(parquet)
    return lake.read_rows(folder, lake.object_names(folder, "alerts"), audit_of_alerts.schema(of))


def _committed_at(sink_log: Path) -> dict[str, float]:
    """Object (relative to its table) → when its cut was committed, epoch seconds."""
    committed = {
        str(entry["cut_id"]): float(str(entry["committed_at"])) / 1000
        for entry in log_events(sink_log, COMMITTED)
    }
    keys = [str(entry["key"]) for entry in log_events(sink_log, WRITTEN)]
    return {
        key.partition("/")[2]: committed[PurePosixPath(key).stem]
        for key in keys
        if PurePosixPath(key).stem in committed
    }


def show(
    console: Console,
    made: Mapping[str, Any],
    answers: Sequence[Answer],
    report: Report,
    directory: Path,
) -> None:
    """Print what a person wants to know at the end."""
    for answer in answers:
        table = Table(title=answer.title, title_justify="left", min_width=len(answer.title) + 4)
        for column in answer.columns:
            table.add_column(column, justify="right")
        for row in answer.rows:
            table.add_row(*("–" if cell is None else str(cell) for cell in row))
        console.print(table)
    counts, latency = made["counts"], made["latency_seconds"]
    statuses = ", ".join(
        f"{STATUS_NAMES.get(status, status)} {count:,}"
        for status, count in made["served_by_status"].items()
    )
    console.print(
        f"\n{counts['served']:,} answers served ({statuses}); event time →"
        f" committed Parquet: p50 {latency['p50']:.1f} s, p99 {latency['p99']:.1f} s"
        f" (flush interval {made['flush_interval_seconds']:g} s)\n"
    )
    console.print(_found(made) + "\n")
    audit_report.show(console, report)
    if not made["athena_and_duckdb_agree"]:
        console.print("[red]Athena and DuckDB disagree[/red]")
    for name, exit_status in made["exit_statuses"].items():
        if exit_status != 0:
            console.print(f"[red]{name} ended with status {exit_status}[/red]")
    console.print(f"{directory}/report.html, summary.json, parquet/, quarantine/", soft_wrap=True)


def _found(made: Mapping[str, Any]) -> str:
    faults_found, alerts = made["faults"], made["alerts"]
    return (
        f"{faults_found['injected']} faults injected: {faults_found['found']} found"
        f" (median {faults_found['median_delay_seconds'] or 0:.1f} s after the first faulty"
        " reading),"
        f" {faults_found['injected_in_warm_up']} while the device warmed up,"
        f" {faults_found['not_found']} not; alerts sent: {alerts['device']} of devices,"
        f" {alerts['group']} of groups; {faults_found['alerts_without_fault']} episodes without an"
        " injected fault"
    )
