"""Kinesis, S3, DynamoDB or the FMS API gone for a while: stay up, say so, push back, catch up.

FAULT_OUTAGE_SECONDS makes the outages longer; `python -m fault.outages` does the same by hand.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from fault import outage_site, outages
from fault.outage_site import SIMULATOR, Site
from fault.plant import ANOMALY, INGEST, READERS, SINK_READINGS, SINK_SCORES, TRANSFORM
from telemill.testing import emulator, faults, processes

ROOT = Path(__file__).resolve().parents[2]
SECONDS = float(os.environ.get("FAULT_OUTAGE_SECONDS", "15"))
FOR_LONG_SECONDS = 600.0
"""An outage that the test ends itself."""

NAMING = {
    "kinesis": {INGEST, TRANSFORM, SINK_READINGS, ANOMALY, SINK_SCORES},
    # Ingest has nothing on S3.
    "s3": {TRANSFORM, SINK_READINGS, SINK_SCORES},
    "dynamodb": {INGEST, TRANSFORM, SINK_READINGS, ANOMALY, SINK_SCORES},
}
"""Who has to say that a service is away."""

GROWTH_BYTES = {
    # The buffer and the bodies in work, with what handling them takes.
    INGEST: outage_site.BUFFER_BYTES + 48 * 2**20,
    # Writer's buffer, prefetch and quarantine.
    TRANSFORM: 96 * 2**20,
    ANOMALY: 96 * 2**20,
    # Cuts and prefetch.
    SINK_READINGS: 96 * 2**20,
    SINK_SCORES: 96 * 2**20,
}
"""The bounds that settings and constants promise, added up."""

COMPLAINTS_PER_SECOND = 3.0
"""Of one process: a minute's outage is a page of log lines, not a disk of them."""

BUSY_SHARE = 0.6
"""Of a core: a process that only waits and tries again takes some hundredths."""


@pytest.fixture(autouse=True)
def _emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    if emulator.BINARY_VARIABLE not in os.environ:
        monkeypatch.setenv(emulator.BINARY_VARIABLE, str(ROOT / emulator.DEFAULT_BINARY))
    monkeypatch.chdir(ROOT)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A deployment at work."""
    with outage_site.site(tmp_path) as made:
        yield made


def without_aws(site: Site, *services: str) -> None:
    """Take services away until the test heals the proxy."""
    gone = services or outages.SERVICES
    site.proxy.set_plan(faults.Plan(outages=dict.fromkeys(gone, FOR_LONG_SECONDS)))


def wait_until_ready(site: Site) -> None:
    """All of them."""
    for name, process in site.services.items():
        site.wait(lambda process=process: not outages.reasons(process), f"{name} is ready")  # type: ignore[misc]


def assert_balanced(site: Site) -> None:
    """Nothing lost, doubled, reordered or altered; everybody ended well."""
    finding, statuses = site.finish()
    assert finding.figures() == dict.fromkeys(finding.figures(), 0)
    assert statuses == dict.fromkeys(statuses, 0)


@pytest.mark.parametrize(
    ("kind", "answer"),
    [("kinesis", "close"), ("s3", "503"), ("dynamodb", "close"), (outages.ALL, "503")],
)
def test_an_outage_is_said_borne_and_caught_up(
    kind: str, answer: Literal["close", "503"], tmp_path: Path
) -> None:
    """All stay up and say what is away; memory, CPU and log are bounded; nothing is lost."""
    made = outages.run(tmp_path, kind, SECONDS, answer=answer)
    assert made.figures == dict.fromkeys(made.figures, 0)
    assert made.exit_statuses == dict.fromkeys(made.exit_statuses, 0)
    assert not made.answers.improper
    for name, watched in made.watched.items():
        text = " ".join(watched.reasons.values())
        for service in made.away:
            assert name not in NAMING[service] or kind == outages.ALL or f"{service}:" in text, name
        assert watched.rss_peak_bytes - watched.rss_before_bytes < GROWTH_BYTES[name], name
        assert watched.cpu_share < BUSY_SHARE, name
        assert watched.complaints < COMPLAINTS_PER_SECOND * SECONDS, name
    if "kinesis" in made.away:
        assert made.answers.statuses[503] > 0


def test_aws_that_hangs_is_borne_and_caught_up(tmp_path: Path) -> None:
    """Connections that are taken and never answered end by time-outs; nothing is lost."""
    made = outages.run(tmp_path, outages.HANG, SECONDS)
    assert made.figures == dict.fromkeys(made.figures, 0)
    assert made.exit_statuses == dict.fromkeys(made.exit_statuses, 0)


def test_a_start_without_aws_waits_and_says_for_what(tmp_path: Path) -> None:
    """Started in an outage, every service stays up, says what is away, and begins after it."""
    with outage_site.site(tmp_path, started=False) as site:
        without_aws(site)
        for name in (SIMULATOR, *READERS, INGEST):
            site.start(name)
        for name, process in site.services.items():
            site.wait(
                lambda process=process: any(  # type: ignore[misc]
                    f"{service}:" in why
                    for why in outages.reasons(process).values()
                    for service in outages.SERVICES
                ),
                f"{name} says what is away",
            )
        site.proxy.heal()
        wait_until_ready(site)
        site.clients.start()
        site.wait(lambda: site.metric(SINK_SCORES, "rows_written_total") > 0, "scores are stored")
        assert_balanced(site)


def test_sigterm_in_an_outage_ends_every_service_and_loses_nothing(site: Site) -> None:
    """A drain that cannot succeed ends by itself, with status 1 if anything was left undone."""
    without_aws(site)
    for name, process in site.services.items():
        site.wait(lambda process=process: bool(outages.reasons(process)), f"{name} says so")  # type: ignore[misc]
    stopped = site.services
    for process in stopped.values():
        process.ask_to_stop()
    statuses = {name: process.wait() for name, process in stopped.items()}
    assert set(statuses.values()) <= {0, 1}, statuses
    for name, process in stopped.items():
        (last,) = processes.log_events(process.log_path, "service.stopped")
        assert last["status"] == statuses[name]
    site.proxy.heal()
    for name in stopped:
        site.start(name)
    wait_until_ready(site)
    assert_balanced(site)


def test_a_standby_that_takes_over_in_an_outage_doubles_nothing(site: Site) -> None:
    """Without DynamoDB nobody can beat; whoever is robbed drops its shards and stays up."""
    other = site.plant.add(TRANSFORM, "standby", launcher=False, name=f"{TRANSFORM}-standby")
    site.start(other)
    site.wait(lambda: site.metric(other, "ready") == 1, "the standby is ready")
    without_aws(site, "dynamodb")
    watch = outages.Watch(site)
    watch.until_over(SECONDS)
    site.proxy.heal()
    wait_until_ready(site)
    assert_balanced(site)


def test_the_breaker_opens_and_closes_while_pushes_go_on(site: Site) -> None:
    """The FMS API away: its breaker opens, nothing else suffers; back again, devices resume."""
    site.plant.processes.pop(SIMULATOR).kill()
    site.wait(lambda: site.metric(INGEST, "breaker_state") == 2, "the breaker is open")
    accepted = site.clients.answers.statuses[202]
    site.wait(lambda: site.clients.answers.statuses[202] > accepted, "pushes are taken")
    site.wait(lambda: _probes(site) >= 2, "the breaker probes")
    for name, process in site.services.items():
        assert not outages.reasons(process), name
    written = site.metric(SINK_SCORES, "rows_written_total")
    site.wait(lambda: site.metric(SINK_SCORES, "rows_written_total") > written, "rows are written")
    site.start(SIMULATOR)
    site.wait(lambda: site.metric(INGEST, "breaker_state") == 0, "the breaker is closed")
    taken = _polled(site)
    site.wait(
        lambda: _polled(site) >= taken + outage_site.POLLED_DEVICES, "devices are polled again"
    )
    assert not outages.complaints(site.services[TRANSFORM])
    assert_balanced(site)


def _probes(site: Site) -> int:
    log_path = site.services[INGEST].log_path
    return len(processes.log_events(log_path, "ingest.breaker_half_opened"))


def _polled(site: Site) -> float:
    return site.metric(INGEST, "poll_seconds_count")
