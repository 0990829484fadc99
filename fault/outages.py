"""AWS services and the FMS API go away for a while: who says so, what it costs, what is left.

Everything runs behind the fault proxy while readings are pushed by clients who come again and
polled from the simulator. After the outage all has to be ready, caught up and audited.
"""

import argparse
import json
import math
import os
import shutil
import signal
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from fault import outage_site
from fault.outage_site import DEFAULT_SEED, Answers, Site
from telemill.testing import faults
from telemill.testing.processes import EndedEarlyError, Process

ALL = "all"
HANG = "hang"
SERVICES = ("kinesis", "s3", "dynamodb")
KINDS = (*SERVICES, ALL, HANG)
"""One service, all of them, or all of them taking connections and answering nothing."""

DEFAULT_SECONDS = 60.0
LOOK_SECONDS = 0.5
READYZ_TIMEOUT_SECONDS = 5.0
RECOVERY_SECONDS = 90.0
DIRECTORY = Path("build/fault/outages")
EXIT_FAILED = 1
MEGABYTE = 1e6


@dataclass(slots=True)
class Watched:
    """One process during an outage.

    Attributes:
        reasons: Everything its /readyz gave as a reason, by name.
        not_ready_after_seconds: Since the beginning of the outage; None: it stayed ready.
        ready_again_after_seconds: Since the end of the outage.
        rss_before_bytes: Resident memory as the outage began.
        rss_peak_bytes: Its highest until all was caught up.
        cpu_share: Of one core during the outage.
        complaints: Lines of level warning or error logged during the outage.
    """

    reasons: dict[str, str] = field(default_factory=dict)
    not_ready_after_seconds: float | None = None
    ready_again_after_seconds: float | None = None
    rss_before_bytes: int = 0
    rss_peak_bytes: int = 0
    cpu_share: float = 0.0
    complaints: int = 0


@dataclass(slots=True)
class Outcome:
    """How one outage went.

    Attributes:
        away: What was away.
        seconds: For how long.
        watched: By process.
        answers: Of ingest, during the outage.
        readings: Items in the raw stream at the end.
        figures: The audit's counts; all 0 when the promise held.
        exit_statuses: By process, after SIGTERM at the end.
    """

    away: tuple[str, ...]
    seconds: float
    watched: dict[str, Watched] = field(default_factory=dict)
    answers: Answers = field(default_factory=Answers)
    readings: int = 0
    figures: dict[str, int] = field(default_factory=dict)
    exit_statuses: dict[str, int] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether the promise held."""
        held = self.readings > 0 and not any(self.figures.values())
        return held and not any(self.exit_statuses.values()) and not self.answers.improper


def away(kind: str) -> tuple[str, ...]:
    """The services a kind of outage takes."""
    return (kind,) if kind in SERVICES else SERVICES


def run(
    directory: Path,
    kind: str,
    seconds: float,
    *,
    answer: Literal["close", "503"] = "close",
    seed: int = DEFAULT_SEED,
) -> Outcome:
    """One outage, from work to work.

    Args:
        directory: For logs.
        kind: One of `KINDS`.
        seconds: How long.
        answer: How calls fail meanwhile.
        seed: Of the load.

    Raises:
        EndedEarlyError: A process ended, or something did not come back in time.
    """
    with outage_site.site(directory, seed=seed) as site:
        made = Outcome(away(kind), seconds)
        watch = Watch(site)
        before = Counter(site.clients.answers.statuses)
        if kind == HANG:
            with hanging(site.proxy):
                watch.until_over(seconds)
        else:
            planned = dict.fromkeys(away(kind), seconds)
            site.proxy.set_plan(faults.Plan(outages=planned, outage_answer=answer))
            watch.until_over(seconds)
            site.proxy.heal()
        during = site.clients.answers.statuses - before
        made.answers = Answers(during, site.clients.answers.improper)
        watch.until_ready()
        finding, made.exit_statuses = site.finish()
        made.watched, made.readings, made.figures = (
            watch.seen,
            site.books.readings,
            finding.figures(),
        )
    return made


@contextmanager
def hanging(proxy: faults.Proxy) -> Iterator[None]:
    """AWS takes connections and answers nothing: the proxy is stopped in its tracks."""
    os.kill(proxy.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(proxy.process.pid, signal.SIGCONT)


class Watch:
    """Looks at every process again and again, from the beginning of an outage."""

    def __init__(self, site: Site) -> None:
        self.seen = {name: _begin(process) for name, process in site.services.items()}
        self._site = site
        self._began = time.monotonic()
        self._cpu = {name: each.cpu_seconds() for name, each in site.services.items()}
        self._complaints = {name: complaints(each) for name, each in site.services.items()}

    def until_over(self, seconds: float) -> None:
        """Look until the outage ends."""
        while (passed := time.monotonic() - self._began) < seconds:
            self._look(passed)
            time.sleep(LOOK_SECONDS)
        for name, process in self._site.services.items():
            found = self.seen[name]
            found.complaints = complaints(process) - self._complaints[name]
            found.cpu_share = (process.cpu_seconds() - self._cpu[name]) / seconds

    def until_ready(self) -> None:
        """Look until everybody is ready again.

        Raises:
            EndedEarlyError: A process ended, or is not ready in time.
        """
        ended = time.monotonic()
        for found in self.seen.values():
            found.ready_again_after_seconds = None

        def all_ready() -> bool:
            for name, process in self._site.services.items():
                found = self.seen[name]
                found.rss_peak_bytes = max(found.rss_peak_bytes, process.rss_bytes())
                if found.ready_again_after_seconds is None and not reasons(process):
                    found.ready_again_after_seconds = time.monotonic() - ended
            return all(each.ready_again_after_seconds is not None for each in self.seen.values())

        self._site.wait(all_ready, "all are ready again", RECOVERY_SECONDS)

    def _look(self, passed_seconds: float) -> None:
        for name, process in self._site.services.items():
            if not process.is_running():
                raise EndedEarlyError(f"{name} ended in the outage:\n{process.tail()}")
            found = self.seen[name]
            found.rss_peak_bytes = max(found.rss_peak_bytes, process.rss_bytes())
            why = reasons(process)
            found.reasons |= why
            if why and found.not_ready_after_seconds is None:
                found.not_ready_after_seconds = passed_seconds


def reasons(process: Process) -> dict[str, str]:
    """Why a process is not ready, as its /readyz says; empty when it is.

    Raises:
        EndedEarlyError: It answers 503 without a reason.
    """
    try:
        url = f"{process.spec.url}/readyz"
        with urllib.request.urlopen(url, timeout=READYZ_TIMEOUT_SECONDS):  # noqa: S310
            return {}
    except urllib.error.HTTPError as error:
        with error:
            document = json.loads(error.read())
    except (OSError, urllib.error.URLError) as error:
        return {"/readyz": str(error)}
    if not document.get("reasons"):
        raise EndedEarlyError(f"{process.spec.name} is not ready and does not say why")
    return dict(document["reasons"])


def _begin(process: Process) -> Watched:
    now = process.rss_bytes()
    return Watched(rss_before_bytes=now, rss_peak_bytes=now)


def complaints(process: Process) -> int:
    """Lines of level warning or error in a process's log."""
    text = process.log_path.read_bytes()
    return text.count(b'"level": "warning"') + text.count(b'"level": "error"')


def main(argv: Sequence[str] | None = None) -> int:
    """One outage of each kind; the exit status says whether the promise held."""
    parser = argparse.ArgumentParser(prog="fault outages", description=__doc__)
    parser.add_argument("--seconds", type=_positive, default=DEFAULT_SECONDS, help="how long each")
    parser.add_argument("--only", choices=KINDS, action="append", help="what goes away; repeatable")
    parser.add_argument(
        "--answer", choices=("close", "503"), default="close", help="how calls fail"
    )
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED, help="of the load")
    chosen = parser.parse_args(argv)
    held = True
    for kind in chosen.only or KINDS:
        directory = (DIRECTORY / kind).absolute()
        shutil.rmtree(directory, ignore_errors=True)
        made = run(directory, kind, chosen.seconds, answer=chosen.answer, seed=chosen.seed)
        (directory / "outage.json").write_bytes(msgspec.json.format(msgspec.json.encode(made)))
        sys.stdout.write(f"{describe(kind, made)}\n")
        sys.stdout.flush()
        held = held and made.ok
    return 0 if held else EXIT_FAILED


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"got {text}; takes a number above 0")
    return value


def describe(kind: str, made: Outcome) -> str:
    """What a person wants to know, in some lines."""
    answers = ", ".join(f"{count} x {status}" for status, count in made.answers.statuses.items())
    faulty = ", ".join(f"{count} {name}" for name, count in made.figures.items() if count)
    verdict = (
        f"{kind} away for {made.seconds:g} s: {'holds' if made.ok else 'FAILED'};"
        f" {made.readings:,} readings, {faulty or 'nothing lost, doubled, reordered or altered'};"
        f" pushes answered meanwhile: {answers}; exit statuses {made.exit_statuses}"
    )
    lines = [verdict]
    lines += [f"  {name:14} {_row(each)}" for name, each in made.watched.items()]
    lines += [f"  {each}" for each in made.answers.improper[:3]]
    return "\n".join(lines)


def _row(each: Watched) -> str:
    said = _seconds(each.not_ready_after_seconds)
    again = _seconds(each.ready_again_after_seconds)
    rss = f"{each.rss_before_bytes / MEGABYTE:.0f} -> {each.rss_peak_bytes / MEGABYTE:.0f} MB"
    names = ", ".join(each.reasons) or "–"
    return (
        f"not ready after {said}, ready again after {again}, RSS {rss},"
        f" CPU {100 * each.cpu_share:.0f} %, {each.complaints} complaints; {names}"
    )


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} s"


if __name__ == "__main__":
    sys.exit(main())
