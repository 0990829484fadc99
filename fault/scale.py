"""`python -m fault scale`: how long the KCL takes to hand shards over, by what happened."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from fault import scaling
from fault.scaling import Fleet, Handover
from telemill.audit import Report, report

SHARDS = 4


@dataclass(frozen=True, slots=True)
class Scaled:
    """A run with one KCL.

    Attributes:
        kcl_version: "2" or "3".
        handovers: In the order they happened.
        audited: The tables afterwards.
    """

    kcl_version: str
    handovers: list[Handover]
    audited: Report


def measure(directory: Path, kcl_version: str, told: Callable[[Handover], None]) -> Scaled:
    """Let workers come, go and die.

    Args:
        directory: For logs; made anew.
        kcl_version: "2" or "3".
        told: Of each handover.
    """
    found: list[Handover] = []

    def happened(fleet: Fleet, what: str, act: Callable[[], None]) -> None:
        since = time.monotonic()
        act()
        found.append(fleet.settle(what, since))
        told(found[-1])

    kcl = {"KINESIS_KCL_VERSION": kcl_version}
    with scaling.running(directory, ["a", "b"], kcl, shard_count=SHARDS) as fleet:
        with fleet.flowing() as traffic:
            happened(fleet, "a and b begin", _nothing)
            happened(fleet, "c joins", lambda: fleet.join("c"))
            happened(fleet, "SIGKILL of c", lambda: fleet.kill("c"))
            happened(fleet, "SIGKILL of b, back at once", lambda: _kill_and_join(fleet, "b"))
            happened(fleet, "d joins", lambda: fleet.join("d"))
            happened(fleet, "SIGTERM of d", lambda: fleet.leave("d"))
            # The first that started is KCL 3's leader, then the next.
            happened(fleet, "SIGKILL of a, the first", lambda: fleet.kill("a"))
            happened(fleet, "e joins", lambda: fleet.join("e"))
            happened(fleet, "SIGTERM of b, now the first", lambda: fleet.leave("b"))
        audited = fleet.finish(traffic).report
    return Scaled(kcl_version, found, audited)


def _nothing() -> None:
    """They are started already."""


def _kill_and_join(fleet: Fleet, worker: str) -> None:
    fleet.kill(worker)
    fleet.join(worker)


def document(scaled: Scaled) -> dict[str, object]:
    """As JSON."""
    return {
        "kcl": scaled.kcl_version,
        "handovers": [asdict(each) for each in scaled.handovers],
        "audit": report.counts(scaled.audited),
    }
