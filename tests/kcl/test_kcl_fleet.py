"""Several transform workers on the real KCL, in the middle of a whole deployment with readings.

Kinesis is kinesis-local, which reshards as Kinesis does; DynamoDB and S3 are the other emulator.
Needs Java, the jars (`make kcl-jars`) and Node.js (`make setup-fault`). After each, the audit of
every reading that was pushed.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fault import scaling, shards
from fault.scaling import Fleet
from telemill import names
from telemill.testing import emulator

ROOT = Path(__file__).resolve().parents[2]
SLOW_SECONDS = 20.0


@pytest.fixture(autouse=True)
def _emulator_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    if emulator.BINARY_VARIABLE not in os.environ:
        monkeypatch.setenv(emulator.BINARY_VARIABLE, str(ROOT / emulator.DEFAULT_BINARY))


@contextmanager
def fleet_of(directory: Path, *workers: str, shard_count: int = 4) -> Iterator[Fleet]:
    """Workers that share the shards evenly and move them; audited at the end."""
    with scaling.running(directory, workers, {}, shard_count=shard_count) as fleet:
        with fleet.flowing() as traffic:
            fleet.settle("start", time.monotonic())
            yield fleet
        remains = fleet.finish(traffic)
        assert remains.report.ok, remains.report
        assert len(remains.readings) == sum(map(len, traffic.sent)) > 0


def since(act: Callable[[], None]) -> float:
    """Do it; when that was."""
    began = time.monotonic()
    act()
    return began


def test_three_workers_share_eight_shards(tmp_path: Path) -> None:
    """Two have four each; a third that joins gets its share, and nothing is lost or doubled."""
    with fleet_of(tmp_path / "run", "a", "b", shard_count=8) as fleet:
        joined = since(lambda: fleet.join("c"))
        fleet.settle("c joins", joined)
        held = sorted(fleet.observer.owners(joined).values())
        assert [held.count(worker) for worker in "abc"].count(2) == 1
        assert fleet.metric("c", "handovers_total") >= 2
        assert fleet.metric("c", "open_shards") == held.count("c")


def test_a_worker_that_is_stopped_leaves_its_shards(tmp_path: Path) -> None:
    """SIGTERM: it drains and ends with status 0, the others go on where it stopped."""
    with fleet_of(tmp_path / "run", "a", "b") as fleet:
        left = since(lambda: fleet.leave("a"))
        fleet.settle("SIGTERM of a", left)
        assert fleet.exit_status("a") == 0


def test_a_worker_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    """SIGKILL: its JVM and relays die with it, the others take its shards over."""
    with fleet_of(tmp_path / "run", "a", "b") as fleet:
        children = fleet.children("a")
        killed = since(lambda: fleet.kill("a"))
        fleet.settle("SIGKILL of a", killed)
        assert len(children) >= 2
        assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]


def test_a_worker_that_comes_back_has_its_shards(tmp_path: Path) -> None:
    """SIGKILL, and the same worker id at once: it goes on, nothing is lost or doubled."""
    with fleet_of(tmp_path / "run", "a", "b") as fleet:
        killed = since(lambda: fleet.kill("a"))
        fleet.join("a")
        fleet.settle("a is back", killed)


def test_shards_that_split_and_merge_are_followed(tmp_path: Path) -> None:
    """Children only after their parents, in order per device.

    Not evenly at first: KCL 2 counts leases of ended shards until it deletes them, minutes later.
    """
    with fleet_of(tmp_path / "run", "a", "b", shard_count=2) as fleet:
        split = since(lambda: shards.resize(names.RAW_STREAM, 4))
        fleet.settle("split", split, evenly=False)
        merged = since(lambda: _merge_two(names.RAW_STREAM))
        fleet.settle("merge", merged, evenly=False)
        assert len(shards.open_shards(names.RAW_STREAM)) == 3


def test_a_slow_worker_holds_nobody_up(tmp_path: Path) -> None:
    """It runs a fifth of the time: the daemon waits for it, its shards come through whole."""
    with fleet_of(tmp_path / "run", "a", "b") as fleet:
        began = time.monotonic()
        with fleet.slowed("a"):
            time.sleep(SLOW_SECONDS)
        fleet.settle("a is slow", began)


def _merge_two(stream: str) -> None:
    first, second, *_ = shards.open_shards(stream)
    shards.merge(stream, first, second)
