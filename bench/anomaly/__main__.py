"""Score a synthetic fleet, and folders in the public layouts, with the anomaly service's own code.

NAB and SKAB: one CSV per input file goes to RESULTS/{nab,skab}/<same relative path>: timestamp,
anomaly_score, is_anomaly (by the built-in threshold), one row per input row; each file is a new
device. The fleet: a hundred machines with labelled faults for three days; with --month also eight
for thirty days. Its tables and pictures go to RESULTS/fleet.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from anomaly.detection import ensemble
from bench.anomaly import figures, fleet_bench, layout, service_path
from telemill import contract, errors

ROOT = Path(__file__).parents[2]
LEAST_WIDTH = 120
COLUMNS = ("corpus", "threshold", "figures")


def main(argv: Sequence[str] | None = None) -> int:
    """Score what is given; 2 and one line when a folder cannot be read."""
    parser = argparse.ArgumentParser(prog="anomaly-bench", description=__doc__)
    parser.add_argument("--nab", type=Path, help="folder in NAB's layout")
    parser.add_argument("--skab", type=Path, help="folder in SKAB's layout")
    parser.add_argument(
        "--fleet", action="store_true", help="the synthetic fleet, also beside folders"
    )
    parser.add_argument("--month", action="store_true", help="thirty days of it: ten minutes")
    parser.add_argument("--results", type=Path, default=Path("build/anomaly-bench"))
    given = parser.parse_args(argv)
    try:
        rows = [*_nab(given.nab, given.results), *_skab(given.skab, given.results)]
    except errors.ConfigurationError as error:
        sys.stderr.write(f"anomaly-bench: {error}\n")
        return 2
    tables = [fleet_bench.Table("", "", COLUMNS, rows)] if rows else []
    if given.fleet or not (rows or given.month):
        tables += fleet_bench.three_days(given.results / "fleet")
    if given.month:
        tables += fleet_bench.month(given.results / "fleet")
    console = Console()
    console.width = max(console.width, LEAST_WIDTH)
    for each in tables:
        table = Table(*each.head, title=each.title or None)
        for row in each.rows:
            table.add_row(*row)
        console.print(table)
    console.print(f"results in {given.results}")
    return 0


def _nab(folder: Path | None, results: Path) -> Iterator[tuple[str, str, str]]:
    if folder is None:
        return
    windows = layout.nab_windows(folder)
    files = []
    for recording, scored in _scored(
        folder, results / "nab", contract.load(ROOT / "bench" / "anomaly" / "nab.yaml")
    ):
        key = "/".join(recording.path.parts[-2:])
        if key in windows:
            placed = figures.NabFile(recording.event_us, windows[key])
            files.append((placed, np.nan_to_num(scored.scores)))
    if not files:
        yield "NAB", "", "no labels found beside the data"
        return
    tuned = figures.nab_best(files)
    for kind, threshold in (("built-in", ensemble.THRESHOLD), ("tuned on the labels", tuned)):
        found = figures.nab(files, threshold)
        text = "  ".join(f"{profile} {value:.1f}" for profile, value in found.items())
        yield f"NAB, {len(files)} files", f"{kind}: {threshold:.5f}", text


def _skab(folder: Path | None, results: Path) -> Iterator[tuple[str, str, str]]:
    if folder is None:
        return
    files, streams, normal = [], [], []
    for recording, scored in _scored(
        folder, results / "skab", contract.load(ROOT / "contracts" / "skab.yaml")
    ):
        scores = np.nan_to_num(scored.scores)
        if recording.labels is None:
            normal.append((np.zeros(len(scores), bool), scores))
        elif "stream" in recording.path.parts:
            streams.append((recording.labels, scores))
        else:
            files.append((recording.labels, scores))
    yield from _detection(f"SKAB, {len(files)} files", files)
    yield from _detection("SKAB, one device, many faults", streams)
    if normal:
        alarms = figures.skab(normal, ensemble.THRESHOLD).false_alarms
        text = f"false alarms {100 * alarms:.1f} %"
        yield "SKAB, fault-free", f"built-in: {ensemble.THRESHOLD:.5f}", text


def _detection(
    name: str, files: list[tuple[figures.Flags, figures.Floats]]
) -> Iterator[tuple[str, str, str]]:
    if not files:
        return
    tuned = figures.skab_best(files)
    for kind, threshold in (("built-in", ensemble.THRESHOLD), ("tuned on the labels", tuned)):
        found = figures.skab(files, threshold)
        text = f"F1 {found.f1:.3f}  false alarms {100 * found.false_alarms:.1f} %"
        text += f"  missed {100 * found.missed:.1f} %"
        yield name, f"{kind}: {threshold:.5f}", text


def _scored(
    folder: Path, results: Path, readings: contract.Contract
) -> Iterator[tuple[layout.Recording, service_path.Scored]]:
    """Score every recording of a folder and write its result."""
    time, measures = readings.time.name, [field.name for field in readings.measures]
    layout.clear(results)
    for recording in layout.recordings(folder, time, measures):
        scored = service_path.score(recording, readings)
        layout.write(results, recording, scored.scores, scored.flags)
        yield recording, scored
    layout.name_without_data(results)


if __name__ == "__main__":
    sys.exit(main())
