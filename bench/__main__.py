"""Runs benches, prints one table, keeps the figures in `bench/results`."""

import argparse
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence

from rich.console import Console
from rich.table import Table

from bench.deployment import BenchError
from bench.measurement import Measurement, amount, core_speed, keep, kept

BENCHES = {
    "codec": "bench.bench_codec:measure",
    "transform-core": "bench.bench_transform_core:measure",
    "sink-core": "bench.bench_sink_core:measure",
    "anomaly-core": "bench.bench_anomaly_core:measure",
    "ingest-push": "bench.bench_ingest_push:measure",
    "ingest-poll": "bench.bench_ingest_poll:measure",
    "full-path": "bench.full_path:batches",
    "full-path-single": "bench.full_path:single",
    "full-path-services": "bench.full_path:services",
    "full-path-memory": "bench.full_path:memory",
    "promise-overhead": "bench.bench_promise_overhead:measure",
    "throttled": "bench.bench_throttled:measure",
    "bridge": "bench.bench_bridge:measure",
    "audit": "bench.bench_audit:measure",
}
"""What runs under which name."""

COLUMNS = ("bench", "measured", "figure", "unit", "target", "reached", "CPU s")
REACHED = {None: "", True: "yes", False: "NO"}
EXIT_FAILED = 1
LEAST_WIDTH = 132


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is named, or all; a missed target is a figure, only a failed run is an error."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHES))
    parser.add_argument(
        "--markdown", action="store_true", help="run nothing, print the targets as last measured"
    )
    chosen = parser.parse_args(argv)
    names = chosen.names or list(BENCHES)
    unknown = [name for name in names if name not in BENCHES]
    if unknown:
        parser.error(f"no bench {', '.join(unknown)}; there are {', '.join(BENCHES)}")
    if chosen.markdown:
        sys.stdout.write(markdown_table(names))
        return 0
    found: dict[str, list[Measurement]] = {}
    failed: dict[str, BenchError] = {}
    for name in names:
        sys.stderr.write(f"bench: {name} ...\n")
        before = core_speed()
        try:
            found[name] = _find(BENCHES[name])()
        except BenchError as error:
            failed[name] = error
        else:
            keep(name, found[name], (before, core_speed()))
    console = Console()
    console.width = max(console.width, LEAST_WIDTH)
    console.print(table(found))
    for name, why in failed.items():
        sys.stderr.write(f"bench: {name}: {why}\n")
    return EXIT_FAILED if failed else 0


def markdown_table(names: Sequence[str]) -> str:
    """The figures with a target, from `bench/results`: the table of docs/performance.md."""
    lines = [
        "| bench | measured | figure | target | reached | core MB/s |",
        "|---|---|---|---|---|---|",
    ]
    for name in names:
        for each, speeds in kept(name):
            if each.reached is not None:
                figure = f"{amount(each.figure)} {each.unit}"
                reached = "yes" if each.reached else "**no**"
                lines.append(
                    f"| `{name}` | {each.name} | {figure} | {each.target} | {reached} | {speeds} |"
                )
    return "\n".join(lines) + "\n"


def table(found: Mapping[str, Sequence[Measurement]]) -> Table:
    """All figures, bench by bench."""
    shown = Table()
    for column in COLUMNS:
        right = column in {"figure", "target", "CPU s"}
        shown.add_column(column, justify="right" if right else "left", overflow="fold")
    for name, measurements in found.items():
        for index, each in enumerate(measurements):
            shown.add_row(
                "" if index else name,
                each.name,
                amount(each.figure),
                each.unit,
                each.target,
                REACHED[each.reached],
                f"{each.cpu_seconds:.2f}" if each.cpu_seconds else "",
                end_section=index == len(measurements) - 1,
            )
    return shown


def _find(place: str) -> Callable[[], list[Measurement]]:
    """Import a bench only when it runs: each brings in what it measures."""
    module, _, function = place.partition(":")
    measure: Callable[[], list[Measurement]] = getattr(importlib.import_module(module), function)
    return measure


if __name__ == "__main__":
    sys.exit(main())
