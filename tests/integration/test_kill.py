"""The promise under crashes: real processes, SIGKILL in mid-flow, audited at the end."""

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo import status, topology
from demo.__main__ import Demo
from demo.settings import DemoSettings
from telemill.testing import processes
from telemill.testing.processes import Process

KILLED = (
    topology.TRANSFORM,
    topology.SINK_READINGS,
    topology.ANOMALY,
    topology.SINK_SCORES,
)
KILLS_EACH = 2
SEED = 20260101
MOVED_SINCE_START = 60.0


class CrashingDemo(Demo):
    """The demo, but its services are killed while readings flow."""

    def _flow(self) -> None:
        stages = {name: status.Stage(process) for name, process in self.services.items()}
        self._wait_until_ready([stages[each.spec.name] for each in self._pipeline()])
        order = random.Random(SEED).sample(KILLED * KILLS_EACH, len(KILLED) * KILLS_EACH)
        for name in order:
            self._wait_for_work(name)
            killed = self.services[name]
            killed.kill()
            self.services[name] = Process(killed.spec, self.logs)
        self._wait_until_ready([status.Stage(each) for each in self._pipeline()])

    def _wait_for_work(self, name: str) -> None:
        """Until the service works again and is in the middle of something."""
        stage = status.Stage(self.services[name])

        def is_working() -> bool:
            stage.update(time.monotonic())
            return stage.value("readings_in_total") >= MOVED_SINCE_START

        assert processes.wait_until(is_working, 120.0), f"{name} does not come back"


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """Where the run leaves its results."""
    return tmp_path / "demo"


def test_kill_nine_loses_and_doubles_nothing(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After SIGKILLs of every reading service, the audit finds each reading exactly once."""
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "set by the demo")
    settings = DemoSettings(directory=directory, flush_interval_seconds=2.0, shards=2)
    exit_status = CrashingDemo(settings).run()
    summary = json.loads((directory / "summary.json").read_text())
    found = {key: summary[key] for key in ("lost", "duplicated", "out_of_order", "altered")}
    assert found == dict.fromkeys(found, 0)
    assert summary["counts"]["scores"] == summary["counts"]["stored"] > 0
    assert exit_status == 0
