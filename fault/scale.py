"""`python -m fault scale`: how long the KCL takes to hand shards over, by what happened."""

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from fault import resharding, scaling
from fault.scaling import Fleet, Handover
from telemill.audit import Report, report
from telemill.testing import faults

SHARDS = 4
AT_REST_SECONDS = 45.0
KCL = {"KINESIS_COORDINATOR": "kcl"}


@dataclass(frozen=True, slots=True)
class Scaled:
    """A run with one KCL.

    Attributes:
        kcl_version: "2" or "3".
        handovers: In the order they happened.
        audited: The tables afterwards.
        calls_at_rest: DynamoDB calls a minute of two workers with nothing to do.
    """

    kcl_version: str
    handovers: list[Handover]
    audited: Report
    calls_at_rest: float


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
    calls = calls_at_rest(directory / "at-rest", {**KCL, **kcl}, ["a", "b"])
    return Scaled(kcl_version, found, audited, calls)


def calls_at_rest(directory: Path, reader: Mapping[str, str], workers: Sequence[str]) -> float:
    """DynamoDB calls a minute of transform workers that hold all shards and have nothing to do.

    Heartbeats of the claims are among them, the same ones under every coordinator.

    Args:
        directory: For logs; made anew.
        reader: KINESIS_* for the workers.
        workers: How many there are, by id.
    """
    shutil.rmtree(directory, ignore_errors=True)
    with (
        resharding.deployed(directory, SHARDS) as deployment,
        faults.running(
            os.environ["AWS_ENDPOINT_URL"], seed=0, log_path=directory / "calls.ndjson"
        ) as proxy,
    ):
        through = {**reader, "AWS_ENDPOINT_URL_DYNAMODB": proxy.url}
        specs = [resharding.transform_spec(each, 5.0, through) for each in workers]
        deployment.start(*specs)
        deployment.wait(
            "every shard is held",
            lambda: sum(deployment.metric(each.name, "open_shards") for each in specs) == SHARDS,
        )
        # Leases may still be balanced.
        time.sleep(AT_REST_SECONDS)
        before = _calls(proxy)
        time.sleep(AT_REST_SECONDS)
        return (_calls(proxy) - before) * 60.0 / AT_REST_SECONDS


def _calls(proxy: faults.Proxy) -> int:
    return sum(count for name, count in proxy.calls().items() if name.startswith("dynamodb:"))


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
        "dynamodb_calls_a_minute_at_rest": scaled.calls_at_rest,
    }
