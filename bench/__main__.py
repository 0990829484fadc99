"""Runs benches, prints one table, keeps the figures in `bench/results`."""

import argparse
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence

from rich.console import Console
from rich.table import Table

from bench.deployment import BenchError
from bench.measurement import Measurement, amount, keep

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
}
"""What runs under which name."""

COLUMNS = ("bench", "measured", "figure", "unit", "target", "reached", "CPU s")
REACHED = {None: "", True: "yes", False: "NO"}
EXIT_FAILED = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is named, or all; a missed target is a figure, only a failed run is an error."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHES))
    names = parser.parse_args(argv).names or list(BENCHES)
    unknown = [name for name in names if name not in BENCHES]
    if unknown:
        parser.error(f"no bench {', '.join(unknown)}; there are {', '.join(BENCHES)}")
    found: dict[str, list[Measurement]] = {}
    failed: dict[str, BenchError] = {}
    for name in names:
        sys.stderr.write(f"bench: {name} ...\n")
        try:
            found[name] = _find(BENCHES[name])()
        except BenchError as error:
            failed[name] = error
        else:
            keep(name, found[name])
    Console().print(table(found))
    for name, error in failed.items():
        sys.stderr.write(f"bench: {name}: {error}\n")
    return EXIT_FAILED if failed else 0


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
