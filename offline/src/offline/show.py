"""What the commands print: a progress bar, a summary, items of the quarantine."""

import base64
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from offline.backfill import Progress as Run
from offline.core import Outcome, Tally
from offline.items import Item
from offline.options import shown_time

LINE_SECONDS = 5.0
PREVIEW_BYTES = 400

console = Console(highlight=False)
progress_console = Console(stderr=True, highlight=False)


@contextmanager
def run_progress() -> Iterator[Callable[[Run], None]]:
    """A function that shows how far a run is: a bar on a terminal, else a line now and then."""
    if not progress_console.is_terminal:
        yield _lines()
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=progress_console, transient=True) as bar:
        task = bar.add_task("reading", total=1.0)
        yield lambda run: bar.update(task, completed=_share(run), description=_line(run))


def _lines() -> Callable[[Run], None]:
    printed_at = 0.0

    def show(run: Run) -> None:
        nonlocal printed_at
        if time.monotonic() - printed_at >= LINE_SECONDS:
            printed_at = time.monotonic()
            progress_console.print(f"{100 * _share(run):3.0f} %  {_line(run)}", soft_wrap=True)

    return show


def _share(run: Run) -> float:
    return (run.shard_index + run.done) / run.shard_count


def _line(run: Run) -> str:
    where = f"{run.shard.shard_id} ({run.shard_index + 1} of {run.shard_count})"
    return f"{where}  {run.tally.records:,} records  {run.tally.added:,} rows added"


def tally_entries(tally: Tally, *, dry_run: bool, what: str) -> dict[str, int]:
    """The summary's lines, in order.

    Args:
        tally: What was done.
        dry_run: Nothing was written.
        what: "records" or "items".
    """
    outcomes = tally.outcomes
    entries = {
        f"{what} read": tally.records,
        "rows derived": tally.rows,
        "already stored": outcomes[Outcome.STORED],
        "same reading stored already": outcomes[Outcome.SAME],
        "conflicts": outcomes[Outcome.CONFLICT],
        "still rejected": tally.rejected.total(),
        "would be added" if dry_run else "added": tally.added,
    }
    return entries if dry_run else {**entries, "objects created": tally.objects}


def summary(title: str, entries: Mapping[str, int], rejected: Counter[str]) -> None:
    """Print the summary table."""
    table = Table(title=title, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, count in entries.items():
        table.add_row(name, f"{count:,}")
        if name == "still rejected":
            for reason, amount in sorted(rejected.items()):
                table.add_row(f"  {reason}", f"{amount:,}")
    console.print(table)


def counts_table(counts: Iterable[Mapping[str, Any]]) -> Table:
    """What `telemill quarantine list` shows."""
    table = Table()
    for name in ("day", "stream", "reason", "device"):
        table.add_column(name)
    table.add_column("items", justify="right")
    for each in counts:
        device = "-" if each["device"] is None else str(each["device"])
        table.add_row(each["day"], each["stream"], each["reason"], device, f"{each['items']:,}")
    return table


def item_entry(item: Item) -> dict[str, Any]:
    """An item as JSON."""
    encoding, body = readable(item.body)
    return {
        "stream": item.lineage.stream,
        "incarnation": item.incarnation,
        "lineage": str(item.lineage),
        "reason": item.reason,
        "error": item.error,
        "device_id": item.device_id,
        "arrival_time": shown_time(item.arrival_us),
        "body_bytes": len(item.body),
        "body_encoding": encoding,
        "body": body,
    }


def readable(body: bytes) -> tuple[str, str]:
    """A body as text where it is text, else in base64: the encoding and all of it."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return "base64", base64.b64encode(body).decode()
    if text.isprintable() or all(each.isprintable() or each in "\r\n\t" for each in text):
        return "text", text
    return "base64", base64.b64encode(body).decode()


def item_text(item: Item) -> str:
    """An item for people, its body cut short."""
    device = "unknown" if item.device_id is None else item.device_id
    return "\n".join(
        [
            str(item.lineage),
            f"  stream   {item.lineage.stream}",
            f"  arrived  {shown_time(item.arrival_us)}",
            f"  device   {device}",
            f"  reason   {item.reason}: {item.error}",
            f"  body     {_preview(item.body)}",
        ]
    )


def _preview(body: bytes) -> str:
    encoding, text = readable(body[:PREVIEW_BYTES])
    if encoding != "text":
        text = body[: PREVIEW_BYTES // 4].hex(" ")
        return f"{len(body)} bytes, hex: {text}{' …' if len(body) > PREVIEW_BYTES // 4 else ''}"
    rest = f" … ({len(body)} bytes)" if len(body) > PREVIEW_BYTES else ""
    return text.strip().replace("\n", "\n           ") + rest
