"""`telemill quarantine` on what a live transform put aside."""

import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from offline.testing import deployment
from offline.testing.deployment import Deployment, figure, reading

BROKEN = b'{"time": \xff'
AHEAD = timedelta(hours=5)


@pytest.fixture
def live(aws: str, tmp_path: Path) -> Iterator[Deployment]:
    """Transform and sink, running; transform has put aside two of each kind."""
    with deployment.deployed(tmp_path) as made:
        for device in (1, 2):
            twice = datetime.now(UTC).isoformat()
            made.put(
                reading(device),
                _early(device),
                BROKEN,
                reading(device, time=twice, sensor1=50.5),
                reading(device, time=twice, sensor1=51.5),
            )
        made.settle()
        yield made


def _early(device: int) -> bytes:
    return reading(device, time=(datetime.now(UTC) + AHEAD).isoformat())


@pytest.fixture
def lenient(tmp_path: Path) -> str:
    """The flag that names a contract which takes what was too early."""
    text = deployment.CONTRACT.read_text()
    mended = text.replace("future_tolerance_seconds: 60", "future_tolerance_seconds: 86400")
    assert mended != text
    path = tmp_path / "lenient.yaml"
    path.write_text(mended)
    return f"--contract={path}"


def _listed(live: Deployment, *filters: str) -> Counter[tuple[str, str | None]]:
    found = live.ask("quarantine", "list", "--json", *filters)
    assert found.returncode == 0, found.stderr
    entries = [json.loads(line) for line in found.stdout.splitlines()]
    return Counter({(each["reason"], each["device"]): each["items"] for each in entries})


def _shown(live: Deployment, *filters: str) -> list[dict[str, Any]]:
    found = live.ask("quarantine", "show", "--json", *filters)
    assert found.returncode == 0, found.stderr
    return [json.loads(line) for line in found.stdout.splitlines()]


def test_items_are_counted_and_shown_with_their_bytes(live: Deployment) -> None:
    """`list` counts by reason and device, `show` gives reason and body, --raw the exact bytes."""
    assert _listed(live) == {
        ("future", "1"): 1,
        ("future", "2"): 1,
        ("conflict", "1"): 1,
        ("conflict", "2"): 1,
        ("not_json", None): 2,
    }
    assert _listed(live, "--device=2", "--reason=future") == {("future", "2"): 1}
    assert not _listed(live, f"--from={deployment.now_text()}")
    first, second = _shown(live, "--reason=not_json")
    assert "UTF-8" in first["error"]
    assert first["lineage"] != second["lineage"]
    raw = live.ask(
        "quarantine",
        "show",
        "--raw",
        f"--lineage={_shown(live, '--reason=conflict', '--device=1')[0]['lineage']}",
    )
    assert json.loads(raw.stdout)["sensor1"] == 51.5
    assert live.ask("quarantine", "show", "--raw").returncode == 2


def test_a_replay_adds_what_passes_now_once(live: Deployment, lenient: str) -> None:
    """Nothing without --yes; then each with its own lineage; a second time nothing."""
    before = live.rows()
    dry = live.command("quarantine", "replay", lenient)
    assert dry.returncode == 0, dry.stderr
    assert figure(dry.stdout, "would be added") == 2
    assert figure(dry.stdout, "not_json") == 2
    assert len(live.rows()) == len(before)
    done = live.command("quarantine", "replay", lenient, "--yes")
    assert done.returncode == 0, done.stderr
    assert figure(done.stdout, "added") == 2
    added = [row for row in live.rows() if row.lineage not in {each.lineage for each in before}]
    # The second item of its record, and so it stays.
    assert [row.lineage.sub_sequence_number for row in added] == [1, 1]
    assert {row.lineage for row in added} <= live.quarantined()
    again = live.command("quarantine", "replay", lenient, "--yes")
    assert figure(again.stdout, "added") == 0
    assert figure(again.stdout, "already stored") == 2


def test_conflicts_need_their_flag(live: Deployment) -> None:
    """Without it they are not tried; with it each becomes a further row beside the stored one."""
    before = len(live.rows())
    left = live.command("quarantine", "replay", "--reason=conflict", "--yes")
    assert figure(left.stdout, "conflicts not tried (--include-conflicts)") == 2
    assert len(live.rows()) == before
    flags = ("quarantine", "replay", "--reason=conflict", "--include-conflicts", "--yes")
    assert figure(live.command(*flags).stdout, "added") == 2
    assert figure(live.command(*flags).stdout, "added") == 0
    values = sorted(row.columns["sensor1"] for row in live.rows())
    assert {50.5, 51.5} <= set(values)
    assert len(values) == before + 2
