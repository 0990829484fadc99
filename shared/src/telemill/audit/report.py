"""The report for people and for programs: the same for the command and the demo."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from telemill.audit.model import WRONG, Lineage, Report

SHOWN = 20
MEANINGS: Mapping[str, str] = {
    "lost": "in the raw stream and nowhere after",
    "duplicated": "several rows of one lineage",
    "out_of_order": "behind a later row of its device",
    "altered": "not what the raw record says",
    "unknown": "stored, but not in the raw stream",
    "unscored": "stored readings without a score",
    "scored_twice": "readings with several scores",
    "scored_without_reading": "scores of readings that are not stored",
    "alerted_twice": "second rows of one change of an alert",
    "alert_rows_missing": "rows of an alert before which one is missing",
}
_SCORES = frozenset({"unscored", "scored_twice", "scored_without_reading"})
_ALERTS = frozenset({"alerted_twice", "alert_rows_missing"})
_BESIDE_RAW = frozenset({"lost", "altered", "unknown"})


def as_json(report: Report) -> dict[str, Any]:
    """Everything, with every lineage (notes only of the first)."""
    return {
        "ok": report.ok,
        "counts": counts(report),
        "wrong": {
            name: [_entry(report, name, each) for each in found]
            for name, found in report.wrong.items()
        },
        "gaps": [
            {"first": str(gap.first), "last": str(gap.last), "size": gap.size}
            for gap in report.gaps
        ],
        "silent_cuts": [each._asdict() for each in report.silent_cuts],
        "uncollected": dict(sorted(report.uncollected.items())),
        "raw_read": report.raw_read,
        "unchecked": report.unchecked,
    }


def counts(report: Report) -> dict[str, int | None]:
    """How many of everything; None where nobody looked."""
    return {
        "raw_items": report.raw_items if report.raw_read else None,
        "stored": report.stored,
        "quarantined": report.quarantined,
        "duplicates": report.duplicates if report.raw_read else None,
        "in_flight": report.in_flight if report.raw_read else None,
        "not_compared": report.not_compared,
        "scores": report.scores,
        "alerts": report.alerts,
        **{
            name: len(found) if _looked(report, name) else None
            for name, found in report.wrong.items()
        },
        "gaps": len(report.gaps),
        "silent_cuts": len(report.silent_cuts),
        "uncollected": sum(report.uncollected.values()),
    }


def _looked(report: Report, name: str) -> bool:
    if name in _SCORES:
        return report.scores is not None
    if name in _ALERTS:
        return report.alerts is not None
    return report.raw_read or name not in _BESIDE_RAW


def _entry(report: Report, name: str, lineage: Lineage) -> dict[str, Any]:
    note = report.notes.get((name, lineage))
    return {**lineage._asdict(), **({"note": note} if note else {})}


def show(console: Console, report: Report) -> None:
    """Print the figures, what is wrong with examples, and the verdict."""
    console.print(_figures(report))
    for name in WRONG:
        _show_wrong(console, report, name)
    _show_gaps(console, report)
    if report.uncollected:
        causes = ", ".join(f"{cause} {n:,}" for cause, n in sorted(report.uncollected.items()))
        console.print(f"served but never acknowledged by Kinesis (no loss): {escape(causes)}")
    for each in report.unchecked:
        console.print(f"not checked: {escape(each)}")
    console.print(verdict(report))


def _figures(report: Report) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(justify="right")
    table.add_column()
    table.add_column(style="dim")
    found = counts(report)
    for name, meaning in (
        ("raw_items", "items in the raw stream"),
        ("stored", "rows in the table"),
        ("quarantined", "items in the quarantine"),
        ("duplicates", "the same reading as a stored one, left out"),
        ("in_flight", "not committed yet"),
        ("not_compared", "rows without their raw record in what was read"),
        ("scores", "scores"),
        ("alerts", "alerts opened"),
    ):
        if found[name] or name in {"raw_items", "stored"}:
            table.add_row(_number(found[name]), name.replace("_", " "), meaning)
    for name, meaning in MEANINGS.items():
        if name in _SCORES | _ALERTS and not _looked(report, name):
            continue
        style = "[red]" if found[name] else ""
        table.add_row(f"{style}{_number(found[name])}", name.replace("_", " "), meaning)
    return table


def _number(count: int | None) -> str:
    return "–" if count is None else f"{count:,}"


def _show_wrong(console: Console, report: Report, name: str) -> None:
    found = report.wrong[name]
    if not found:
        return
    console.print(f"\n[red]{name.replace('_', ' ')}[/red]: {MEANINGS[name]}")
    for lineage in found[:SHOWN]:
        note = report.notes.get((name, lineage), "")
        console.print(f"  {lineage}  {escape(note)}", soft_wrap=True)
    if len(found) > SHOWN:
        console.print(f"  … and {len(found) - SHOWN:,} more")


def _show_gaps(console: Console, report: Report) -> None:
    if report.gaps:
        title = "lost ranges" if report.raw_read else "places nothing accounts for"
        hint = "" if report.raw_read else " (lost, or duplicates of stored readings)"
        console.print(f"\n{title}{hint}: {len(report.gaps):,}")
        for gap in report.gaps[:SHOWN]:
            console.print(f"  {gap.size:,} from {gap.first} to {gap.last}", soft_wrap=True)
        if len(report.gaps) > SHOWN:
            console.print(f"  … and {len(report.gaps) - SHOWN:,} more")
    if report.silent_cuts:
        console.print("\ncuts without an object (nothing new in them, or their objects are gone):")
        for cut in report.silent_cuts[:SHOWN]:
            console.print(
                f"  {cut.application} {cut.shard_id} {cut.after}-{cut.up_to}", soft_wrap=True
            )


def verdict(report: Report) -> str:
    """One line."""
    if not report.ok:
        wrong = ", ".join(
            f"{len(found):,} {name.replace('_', ' ')}"
            for name, found in report.wrong.items()
            if found
        )
        return f"[red]THE AUDIT FAILED[/red]: {wrong}"
    if report.raw_read:
        return "[green]the audit holds[/green]"
    if report.gaps or report.silent_cuts:
        return "[yellow]nothing is proved wrong[/yellow], but not everything is accounted for"
    return "[green]nothing is wrong that the tables alone can show[/green]"
