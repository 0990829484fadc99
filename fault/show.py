"""What a person sees: the matrix as a live table or lines, and the end of a soak."""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from fault.matrix import Cell, Verdict
from fault.recovery import Recovery
from fault.scale import Scaled
from fault.scaling import Handover
from telemill.audit import report

console = Console(highlight=False)


def _audit(verdict: Verdict) -> str:
    found = [f"{count} {kind}" for kind, count in verdict.audit.items() if count]
    return ", ".join(found) or ("0 of all" if verdict.audit else "–")


def _recovery(verdict: Verdict) -> str:
    seconds = verdict.recovery_seconds
    return "–" if seconds is None else f"{seconds:.1f}"


def _result(verdict: Verdict) -> str:
    return "[green]holds[/green]" if verdict.ok else f"[red]FAILED[/red] {verdict.error}"


def table(verdicts: list[Verdict], running: str, total: int) -> Table:
    """All cells so far."""
    done = f"{len(verdicts)} of {total}" + (f", now {running}" if running else "")
    shown = Table(title=f"Crash matrix: {done}", title_justify="left")
    shown.add_column("service / failpoint")
    shown.add_column("nth", justify="right")
    shown.add_column("readings", justify="right")
    shown.add_column("recovery s", justify="right")
    shown.add_column("lost, doubled, …")
    shown.add_column("verdict")
    for each in verdicts:
        shown.add_row(
            each.cell,
            str(each.nth or ""),
            f"{each.readings:,}",
            _recovery(each),
            _audit(each),
            _result(each),
        )
    return shown


def _line(verdict: Verdict) -> str:
    return (
        f"{verdict.cell:36} {verdict.readings:7,} readings  recovery {_recovery(verdict):>4} s  "
        f"{_audit(verdict):12} {verdict.seconds:5.1f} s  {_result(verdict)}"
    )


@contextmanager
def matrix(total: int) -> Iterator[tuple[Callable[[Cell], None], Callable[[Verdict], None]]]:
    """Two functions: one told of each cell that begins, one of each verdict."""
    if not console.is_terminal:
        yield (lambda _cell: None), (lambda each: console.print(_line(each), soft_wrap=True))
        return
    verdicts: list[Verdict] = []
    with Live(console=console, auto_refresh=False, vertical_overflow="visible") as live:

        def began(cell: Cell) -> None:
            live.update(table(verdicts, cell.name, total), refresh=True)

        def ended(verdict: Verdict) -> None:
            verdicts.append(verdict)
            live.update(table(verdicts, "", total), refresh=True)

        yield began, ended


def soak(made: Mapping[str, Any]) -> None:
    """The figures of a soak, each in a line; the audit last."""
    shown = Table(title=f"Soak of {made['minutes']:g} minutes, seed {made['seed']}")
    shown.add_column("figure")
    shown.add_column("value")
    for name, value in made.items():
        if name not in {"minutes", "seed", "ok"}:
            shown.add_row(name.replace("_", " "), _plain(value))
    console.print(shown)
    verdict = "[green]the promise holds[/green]" if made["ok"] else "[red]THE AUDIT FAILED[/red]"
    console.print(verdict)


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        parts = (f"{key} {_plain(each)}" for key, each in value.items())
        return ", ".join(parts) if not _nested(value) else "\n".join(parts)
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)


def _nested(value: Mapping[str, Any]) -> bool:
    return any(isinstance(each, Mapping) for each in value.values())


def recovered(each: Recovery) -> None:
    """One kill, as it happens."""
    phases = ", ".join(f"{name} {seconds:.1f}" for name, seconds in each.phases.items())
    cpu = "" if each.cpu_seconds is None else f"  {each.cpu_seconds:.1f} CPU-s"
    console.print(f"{each.app:14} {each.kind:18} {each.seconds:5.1f} s  ({phases}){cpu}")


def recoveries(found: Sequence[Recovery]) -> None:
    """Medians and worst cases."""
    shown = Table(title="From SIGKILL to the first new position")
    for column in ("application", "taken over by", "kills", "median s", "worst s"):
        shown.add_column(column)
    for app, kind in dict.fromkeys((each.app, each.kind) for each in found):
        of = sorted(each.seconds for each in found if (each.app, each.kind) == (app, kind))
        shown.add_row(app, kind, str(len(of)), f"{statistics.median(of):.1f}", f"{of[-1]:.1f}")
    console.print(shown)


def handover(each: Handover) -> None:
    """One change of workers, as it happens."""
    console.print(
        f"{each.what:30} {each.shards} shards changed hands, settled after"
        f" {each.settled_seconds:5.1f} s, longest standstill {each.standstill_seconds:5.1f} s"
    )


def handovers(found: Sequence[Scaled]) -> None:
    """All, one KCL beside the other."""
    shown = Table(title="Seconds until every shard moves again, evenly shared (longest standstill)")
    shown.add_column("what happened")
    for each in found:
        shown.add_column(f"KCL {each.kcl_version}", justify="right")
    for row in zip(*(each.handovers for each in found), strict=True):
        times = (f"{each.settled_seconds:.1f} ({each.standstill_seconds:.1f})" for each in row)
        shown.add_row(row[0].what, *times)
    console.print(shown)
    for each in found:
        console.print(
            f"KCL {each.kcl_version}: {report.verdict(each.audited)};"
            f" {each.calls_at_rest:.0f} DynamoDB calls a minute at rest"
        )
