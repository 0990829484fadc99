"""`make compose-test`: containers bring readings through, also while they are scaled and killed.

The tests are one story and run in order. What is right says the audit (`telemill audit`, inside the
network). They need Docker with Compose and the images; the log is left in build/compose.log.
They wait for conditions; how long at most is for a machine of two busy cores.
"""

import json
import os
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SERVICES = ("ingest", "transform", "sink-readings", "anomaly", "sink-scores", "prometheus")
UP_SECONDS = "900"
FLEET = {"DEVICES": "50", "INTERVAL_SECONDS": "1"}
ROWS = 300
DEADLINE_SECONDS = 600.0
POLL_SECONDS = 3.0

Audit = dict[str, Any]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **FLEET},
        capture_output=True,
        text=True,
        check=False,
    )


def compose(*arguments: str, check: bool = True) -> str:
    """Run a Compose command; its output."""
    done = run(*os.environ.get("COMPOSE", "docker compose").split(), "--profile", "kcl", *arguments)
    if check and done.returncode:
        raise AssertionError(f"compose {' '.join(arguments)}: {done.stderr or done.stdout}")
    return done.stdout


@pytest.fixture(scope="module", autouse=True)
def deployment() -> Iterator[None]:
    """Everything up and alive, and down again whatever happened."""
    try:
        compose("up", "--detach", "--wait", "--wait-timeout", UP_SECONDS, *SERVICES)
        yield
    finally:
        (ROOT / "build").mkdir(exist_ok=True)
        (ROOT / "build" / "compose.log").write_text(compose("logs", "--no-color", check=False))
        compose("down", "--volumes", "--timeout", "90", check=False)


def alone(*arguments: str) -> None:
    """Bring a service up as it is, without asking how those it needed at the start are now."""
    compose("up", "--detach", "--no-recreate", "--no-deps", *arguments)


def audit() -> Audit:
    """What the audit finds now; what is on its way is not lost."""
    arguments = ("audit", "--scores", "--json")
    told = compose(
        "run", "--rm", "--no-deps", "--entrypoint", "telemill", "transform", *arguments, check=False
    )
    assert "{" in told, f"the audit could not be run: {told}"
    found: Audit = json.loads(told[told.index("{") :])
    return found


def audit_until(holds: Callable[[dict[str, int]], bool]) -> dict[str, int]:
    """Audit until the counts are as wanted; nothing may be wrong at any time."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        found = audit()
        counts: dict[str, int] = found["counts"]
        assert found["ok"], found["wrong"]
        if holds(counts):
            return counts
        assert time.monotonic() < deadline, counts
        time.sleep(POLL_SECONDS)


def more_rows() -> dict[str, int]:
    """Wait until so many further readings and scores are in the tables."""
    before = audit()["counts"]
    return audit_until(
        lambda counts: (
            counts["stored"] >= before["stored"] + ROWS
            and counts["scores"] >= before["scores"] + ROWS
        )
    )


def until(holds: Callable[[], bool], what: str) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(POLL_SECONDS)


def prometheus(path: str, **query: str) -> dict[str, Any]:
    """What Prometheus' API answers."""
    address = compose("port", "prometheus", "9090").strip()
    asked = f"http://{address}/api/v1/{path}?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(asked, timeout=60) as answer:
        found: dict[str, Any] = json.load(answer)["data"]
    return found


def series(query: str) -> list[dict[str, Any]]:
    """The time series of a query, as they are now."""
    found: list[dict[str, Any]] = prometheus("query", query=query)["result"]
    return found


def rules_health() -> set[str]:
    """What became of our rules when they were evaluated."""
    groups = prometheus("rules")["groups"]
    return {rule["health"] for group in groups for rule in group["rules"]}


def states(service: str) -> list[str]:
    """State of each container of a service."""
    listed = compose("ps", "--all", "--format", "json", service)
    return [json.loads(line)["State"] for line in listed.splitlines()]


def test_readings_come_through() -> None:
    """Polled readings and their scores get into the tables, and the audit finds nothing wrong."""
    assert more_rows()["stored"] >= ROWS


def test_containers_are_shut_in() -> None:
    """Not root, and nothing can be written but /tmp."""
    attempt = "import os; print(os.getuid()); open('/app/x', 'w')"
    told = compose("exec", "-T", "transform", "id", "-u")
    assert told.strip() == "10001"
    with pytest.raises(AssertionError, match="Read-only file system"):
        compose("exec", "-T", "transform", "python", "-c", attempt)


def test_prometheus_sees_every_deployment() -> None:
    """Each is scraped under its name, and our rules are loaded and evaluated."""

    def scraped() -> bool:
        found = series('up{job="telemill"} == 1')
        return {each["metric"]["service"] for each in found} == {*SERVICES} - {"prometheus"}

    until(scraped, "Prometheus does not reach every deployment")
    until(lambda: rules_health() == {"ok"}, "Prometheus does not evaluate the rules")


def test_transform_to_three_and_back() -> None:
    """Two more workers come and go, and no reading is lost or doubled."""
    alone("--scale", "transform=3", "transform")
    assert states("transform") == ["running"] * 3
    more_rows()
    alone("--scale", "transform=1", "transform")
    assert states("transform") == ["running"]
    more_rows()


@pytest.mark.parametrize("service", ["transform", "sink-readings"])
def test_a_killed_container_goes_on_where_it_was(service: str) -> None:
    """SIGKILL, and up again: the rest comes, each row once."""
    compose("kill", "--signal", "SIGKILL", service)
    alone(service)
    more_rows()


def test_two_workers_share_the_shards_by_the_kcl() -> None:
    """The KCL takes over where the single worker was; each has a shard, and readings flow."""
    compose("stop", "--timeout", "90", "transform")
    alone("transform-kcl")
    assert states("transform-kcl") == ["running"] * 2
    until(
        lambda: (
            [each["value"][1] for each in series('telemill_open_shards{service="transform"}')]
            == ["1", "1"]
        ),
        "the two workers do not share the two shards",
    )
    more_rows()
    assert states("transform-kcl") == ["running"] * 2


def test_sigterm_drains_and_everything_arrives() -> None:
    """Ingest ends with status 0, and what it took gets into the tables to the last reading."""
    compose("stop", "--timeout", "90", "ingest")
    (ended,) = (
        json.loads(line)
        for line in compose("ps", "--all", "--format", "json", "ingest").splitlines()
    )
    assert (ended["State"], ended["ExitCode"]) == ("exited", 0)
    counts = audit_until(lambda now: now["in_flight"] == 0 and now["scores"] == now["stored"])
    assert counts["stored"] + counts["quarantined"] + counts["duplicates"] == counts["raw_items"]
