"""`telemill backfill` beside live services, on real wire protocols, killed and begun again."""

import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from offline.testing import deployment
from offline.testing.deployment import Deployment
from telemill.testing import processes

RECORDS = 40
SEED = 20261122


@pytest.fixture
def live(aws: str, tmp_path: Path) -> Iterator[Deployment]:
    """Transform and sink, running."""
    with deployment.deployed(tmp_path) as made:
        yield made


def test_a_backfill_beside_live_services_restores_exactly_what_was_lost(live: Deployment) -> None:
    """Lost objects come back row for row while readings flow; once more adds nothing."""
    start = deployment.now_text()
    live.put_readings(RECORDS)
    live.settle()
    end = deployment.now_text()
    before = live.rows()
    assert len(before) == live.put_items
    lost = random.Random(SEED).sample(live.object_keys(), len(live.object_keys()) // 2)
    live.delete(lost)
    missing = len(before) - len(live.rows())
    assert missing > 0
    assert len(live.audit().lost) == missing
    span = (f"--from={start}", f"--to={end}")
    with live.putting():
        dry = live.command("backfill", *span, "--dry-run")
        assert dry.returncode == 0, dry.stderr
        assert deployment.figure(dry.stdout, "would be added") == missing
        done = live.command("backfill", *span)
        assert done.returncode == 0, done.stderr
        again = live.command("backfill", *span)
        assert again.returncode == 0, again.stderr
    assert deployment.figure(done.stdout, "added") == missing
    assert deployment.figure(done.stdout, "already stored") == len(before) - missing
    assert deployment.figure(again.stdout, "added") == 0
    live.settle()
    assert {row.lineage: row.columns for row in before}.items() <= {
        row.lineage: row.columns for row in live.rows()
    }.items()
    report = live.audit()
    assert report.ok
    assert report.stored == live.put_items


def test_a_killed_backfill_is_gone_on_with(live: Deployment) -> None:
    """SIGKILL between its objects, then the same command again: every row once."""
    start = deployment.now_text()
    live.put_readings(RECORDS, hours=RECORDS)
    live.settle()
    end = deployment.now_text()
    live.delete(live.object_keys())
    span = (f"--from={start}", f"--to={end}")
    run = live.begin("backfill", *span)
    seen = processes.wait_until(lambda: _added(live), deployment.PATIENCE_SECONDS, 0.01)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert seen
    assert 0 < len(live.rows()) < live.put_items, "killed too late to prove anything"
    done = live.command("backfill", *span)
    assert done.returncode == 0, done.stderr
    report = live.audit()
    assert report.ok
    assert report.stored == live.put_items


def test_a_range_above_the_live_positions_is_refused(live: Deployment) -> None:
    """With transform down the command names the shard and adds nothing; --wait waits for it."""
    live.put_readings(4)
    live.settle()
    live.running["transform"].ask_to_stop()
    live.running["transform"].wait()
    start = deployment.now_text()
    live.put_readings(4)
    end = deployment.now_text()
    span = (f"--from={start}", f"--to={end}")
    waiting = live.begin("backfill", *span, "--wait")
    log = live.directory / "command.log"
    assert processes.wait_until(
        lambda: "transform on raw-" in log.read_text(), deployment.PATIENCE_SECONDS
    )
    assert not any("backfill-" in key for key in live.object_keys())
    live.start("transform")
    assert waiting.wait(deployment.PATIENCE_SECONDS) == 0
    live.settle()
    assert not any("backfill-" in key for key in live.object_keys())
    assert live.audit().ok


def _added(live: Deployment) -> bool:
    return any("backfill-" in key for key in live.object_keys())
