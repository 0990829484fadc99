"""`telemill cost`: what a fleet costs a month on AWS, by measured sizes and a dated price list."""

import argparse
import json
import sys
from dataclasses import asdict
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.table import Table

from telemill.cost import load, model, prices
from telemill.slots import DEFAULT_SLOT_COUNT, MAX_SLOT_COUNT

LAST_MONTH = 36


def register(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "cost",
        help="estimate what a fleet costs a month on AWS",
        description="Estimates a month's bill of the deployment in infra/: see docs/cost.md.",
    )
    parser.add_argument(
        "--devices", type=_whole, required=True, metavar="N", help="devices of the fleet"
    )
    parser.add_argument(
        "--interval",
        type=_positive,
        required=True,
        metavar="S",
        help="seconds between two readings of a device",
    )
    parser.add_argument(
        "--shards", type=_whole, default=1, metavar="N", help="fewest a stream (default 1)"
    )
    parser.add_argument(
        "--slots",
        type=_slots,
        default=DEFAULT_SLOT_COUNT,
        metavar="N",
        help=f"of the streams (default {DEFAULT_SLOT_COUNT})",
    )
    parser.add_argument("--on-demand", action="store_true", help="streams without shards to choose")
    parser.add_argument("--fan-out", action="store_true", help="enhanced fan-out for every reader")
    parser.add_argument("--private-link", action="store_true", help="interface endpoints")
    parser.add_argument(
        "--watched-metrics", action="store_true", help="…_EMF_METRICS=watched in every service"
    )
    parser.add_argument("--no-archive", action="store_true", help="no archive of raw records")
    parser.add_argument(
        "--scanned-gb", type=_positive, default=10.0, metavar="GB", help="by Athena (default 10)"
    )
    parser.add_argument(
        "--month", type=_month, default=12, metavar="N", help="storage gathers (default 12)"
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(run=_run)


def _whole(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: takes a whole number from 1 on")
    return value


def _slots(text: str) -> int:
    value = _whole(text)
    if value > MAX_SLOT_COUNT:
        raise argparse.ArgumentTypeError(f"{text}: takes at most {MAX_SLOT_COUNT}")
    return value


def _month(text: str) -> int:
    value = _whole(text)
    if value > LAST_MONTH:
        raise argparse.ArgumentTypeError(f"{text}: takes at most {LAST_MONTH}; then objects go")
    return value


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: takes a number above 0")
    return value


def _run(options: argparse.Namespace) -> int:
    fleet = load.Fleet(options.devices, options.interval, options.shards, options.slots)
    chosen = model.Choices(
        on_demand=options.on_demand,
        fan_out=options.fan_out,
        private_link=options.private_link,
        archive=not options.no_archive,
        watched_metrics=options.watched_metrics,
        scanned_gb=options.scanned_gb,
        month=options.month,
    )
    listed = prices.load()
    lines = model.estimate(fleet, chosen, listed)
    if options.json:
        sys.stdout.write(json.dumps(_document(fleet, lines, listed), indent=2) + "\n")
    else:
        _show(fleet, chosen, lines, listed)
    return 0


def _document(
    fleet: load.Fleet, lines: list[model.Line], listed: prices.Prices
) -> dict[str, object]:
    return {
        "usd_a_month": round(model.total(lines), 2),
        "readings_per_second": fleet.readings_per_second,
        "shards": {name: each.shards for name, each in load.streams(fleet).items()},
        "tasks": load.tasks(fleet),
        "prices": {"region": listed.region, "as_of": listed.as_of},
        "lines": [asdict(line) for line in lines],
    }


def _show(
    fleet: load.Fleet, chosen: model.Choices, lines: list[model.Line], listed: prices.Prices
) -> None:
    console = Console(file=sys.stdout, highlight=False)
    shown = Table(box=None, pad_edge=False)
    for heading, side in (
        ("", "left"),
        ("", "left"),
        ("a month", "right"),
        ("", "left"),
        ("USD", "right"),
    ):
        shown.add_column(heading, justify=side)  # type: ignore[arg-type]
    for service, group in groupby(lines, key=lambda line: line.service):
        for number, line in enumerate(group):
            named = service if number == 0 else ""
            shown.add_row(named, line.what, f"{line.quantity:,.1f}", line.unit, f"{line.usd:,.2f}")
    shown.add_row("total", "", "", "", f"{model.total(lines):,.2f}", style="bold")
    console.print(shown)
    shards = ", ".join(f"{name} {each.shards}" for name, each in load.streams(fleet).items())
    tasks = sum(load.tasks(fleet).values())
    console.print(
        f"{fleet.readings_per_second:,.1f} readings/s; shards: "
        f"{'on demand' if chosen.on_demand else shards}; {tasks} tasks;"
        f" storage of month {chosen.month}.",
        soft_wrap=True,
    )
    console.print(
        f"List prices of {listed.region} as of {listed.as_of} ({listed.note}); no taxes, no free"
        " tier. An estimate: docs/cost.md says what it leaves out.",
        soft_wrap=True,
    )
