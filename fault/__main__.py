"""`python -m fault matrix`: the crash matrix. `python -m fault soak`: random SIGKILLs."""

import argparse
import json
import math
import shutil
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from fault import matrix, recovery, scale, show, soak
from fault.plant import Pace
from telemill import errors
from telemill.testing.processes import EndedEarlyError

DIRECTORY = Path("build/fault")
DEFAULT_SEED = 20260101
EXIT_FAILED = 1
EXIT_CONFIGURATION = 2
EXIT_INTERRUPTED = 130
"""128 + SIGINT, as shells count."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit status says whether the promise held."""
    chosen = _arguments(sys.argv[1:] if argv is None else argv)
    # SIGTERM as Ctrl-C: the children are ended, not left behind.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    try:
        return int(chosen.run(chosen))
    except errors.ConfigurationError as error:
        sys.stderr.write(f"fault: {error}\n")
        return EXIT_CONFIGURATION
    except EndedEarlyError as error:
        sys.stderr.write(f"fault: {error}\n")
        return EXIT_FAILED
    except KeyboardInterrupt:
        sys.stderr.write("fault: interrupted; everything it started is ended\n")
        return EXIT_INTERRUPTED


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="fault", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    crash = commands.add_parser("matrix", help="each service dies at each of its failpoints")
    crash.add_argument("--seed", type=int, default=DEFAULT_SEED, help="of the load and arrivals")
    crash.add_argument("--only", default="", metavar="NAME", help="cells whose name begins so")
    crash.add_argument("--list", action="store_true", help="the cells, and what they interrupt")
    crash.set_defaults(run=_matrix)
    random = commands.add_parser("soak", help="random SIGKILLs under load and faults")
    random.add_argument("--minutes", type=_positive, default=5.0)
    random.add_argument("--seed", type=int, default=DEFAULT_SEED, help="of kills, load and faults")
    random.add_argument("--readings-per-second", type=_positive, default=2000.0)
    random.add_argument("--no-reshard", action="store_true", help="without the slower Kinesis")
    random.set_defaults(run=_soak)
    times = commands.add_parser("recovery", help="how long a SIGKILL stops the path")
    times.add_argument("--rounds", type=int, default=3, help="kills of each application and kind")
    times.add_argument("--commit-interval-seconds", type=_positive, default=0.5)
    times.add_argument("--flush-interval-seconds", type=_positive, default=1.0)
    times.add_argument("--seed", type=int, default=DEFAULT_SEED, help="of the load")
    times.set_defaults(run=_recovery)
    scaled = commands.add_parser("scale", help="how the KCL hands shards over between workers")
    scaled.add_argument("--kcl", choices=["2", "3"], action="append", help="both by default")
    scaled.set_defaults(run=_scale)
    return parser.parse_args(argv)


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"got {text}; takes a number above 0")
    return value


def _soak(chosen: argparse.Namespace) -> int:
    directory = (DIRECTORY / f"soak-{chosen.seed}").absolute()
    made = soak.run(
        directory,
        minutes=chosen.minutes,
        seed=chosen.seed,
        readings_per_second=chosen.readings_per_second,
        show=lambda line: show.console.print(line, soft_wrap=True),
        reshards=not chosen.no_reshard,
    )
    show.soak(made)
    show.console.print(f"{directory}/summary.json, events.ndjson, faults.ndjson and logs")
    return 0 if made["ok"] else EXIT_FAILED


def _matrix(chosen: argparse.Namespace) -> int:
    cells = matrix.cells(chosen.seed, chosen.only)
    if not cells:
        raise errors.ConfigurationError(f"--only: no cell begins with {chosen.only!r}")
    if chosen.list:
        for cell in cells:
            show.console.print(f"{cell.name:36} {cell.failpoint.interrupts}", soft_wrap=True)
        return 0
    directory = (DIRECTORY / "matrix").absolute()
    shutil.rmtree(directory, ignore_errors=True)
    with show.matrix(len(cells)) as (began, ended):
        verdicts = matrix.run(directory, cells, seed=chosen.seed, began=began, ended=ended)
    failed = [each.cell for each in verdicts if not each.ok]
    document = {
        "seed": chosen.seed,
        "ok": not failed,
        "cells": [each.document() for each in verdicts],
    }
    written = DIRECTORY / "matrix.json"
    written.write_text(json.dumps(document, indent=2) + "\n")
    show.console.print(f"{len(cells)} cells, {len(failed)} failed; {written}, logs in {directory}")
    return EXIT_FAILED if failed else 0


def _recovery(chosen: argparse.Namespace) -> int:
    directory = (DIRECTORY / "recovery").absolute()
    shutil.rmtree(directory, ignore_errors=True)
    found = recovery.measure(
        directory,
        rounds=chosen.rounds,
        pace=Pace(chosen.commit_interval_seconds, chosen.flush_interval_seconds),
        seed=chosen.seed,
        told=show.recovered,
    )
    written = DIRECTORY / "recovery.json"
    written.write_text(json.dumps([asdict(each) for each in found], indent=2) + "\n")
    show.recoveries(found)
    return 0


def _scale(chosen: argparse.Namespace) -> int:
    found = []
    for version in chosen.kcl or ["2", "3"]:
        show.console.print(f"KCL {version}")
        directory = (DIRECTORY / f"scale-{version}").absolute()
        found.append(scale.measure(directory, version, show.handover))
    written = DIRECTORY / "scale.json"
    written.write_text(json.dumps([scale.document(each) for each in found], indent=2) + "\n")
    show.handovers(found)
    return 0 if all(each.audited.ok for each in found) else EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
