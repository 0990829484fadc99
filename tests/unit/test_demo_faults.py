"""The demo's table of faults: each injected one with the alert it caused, or why there is none."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from demo import faults, report
from telemill.audit import Lineage, StoredRow

START = 1_760_000_000.0


def at(second: float) -> datetime:
    """A moment of the run."""
    return datetime.fromtimestamp(START + second, UTC)


def row(device: int, second: float, **columns: Any) -> StoredRow:
    """A row of scores or alerts."""
    made = {"device_id": device, "ingest_time": at(second), **columns}
    return StoredRow(Lineage("s", str(second), device), "object", made)


def alert(device: int, second: float, group_id: str | None = None) -> StoredRow:
    """An opening row."""
    return row(
        device,
        second,
        alert_id=f"{device}-{second}",
        state="open",
        severity="critical",
        top_field="sensor1",
        seen=95.2,
        expected=80.0,
        group_id=group_id,
        contribution_sensor1=0.8,
        contribution_motor1=0.15,
        contribution_motor2=0.05,
    )


@pytest.fixture
def answer_log(tmp_path: Path) -> Path:
    """Device 1 has a drift and then a fault; 2 a step while it warms up; 3 answers late."""
    scenarios = {
        1: ["healthy"] * 10 + ["drift"] * 10 + ["fault"] * 10 + ["healthy"] * 5,
        2: ["step"] * 5 + ["healthy"] * 30,
        3: ["healthy"] * 10 + ["slow"] * 10 + ["stuck"] * 15,
    }
    entries = [
        {
            "served_at": at(second).isoformat(timespec="milliseconds"),
            "device_id": device,
            "scenario": name,
            "status": 200,
            "body": "{}",
        }
        for device, names in scenarios.items()
        for second, name in enumerate(names)
    ]
    path = tmp_path / "served.ndjson"
    path.write_text("".join(json.dumps(each) + "\n" for each in entries))
    return path


SCORES = [
    row(device, second, score=None if second < 8 else 0.1)
    for device in (1, 2, 3)
    for second in range(20)
]


def test_faults_are_what_the_simulator_did(answer_log: Path) -> None:
    """Runs of scenarios that change measurements, in the order they began."""
    found = faults.injected(answer_log)
    assert [(each.name, each.device, each.readings) for each in found] == [
        ("step", "2", 5),
        ("drift", "1", 10),
        ("fault", "1", 10),
        ("stuck", "3", 15),
    ]
    assert found[1].first == START + 10


def test_each_fault_gets_its_own_alert_or_a_reason(answer_log: Path) -> None:
    """An alert is the newest fault's; what has none was warming up or was not seen."""
    alerts = [alert(1, 23.5, "group"), alert(4, 5)]
    verdicts, alone = faults.judge(faults.injected(answer_log), alerts, SCORES)
    assert [(each.fault.name, each.delay_seconds, each.why) for each in verdicts] == [
        ("step", None, faults.WARMING_UP),
        ("drift", None, faults.NOT_SEEN),
        ("fault", 3.5, "sensor1 95.2 (expected 80); also motor1; together with others"),
        ("stuck", None, faults.NOT_SEEN),
    ]
    assert [each["device_id"] for each in alone] == [4]
    assert faults.figures(verdicts, alone) == {
        "injected": 4,
        "found": 1,
        "injected_in_warm_up": 1,
        "not_found": 2,
        "median_delay_seconds": 3.5,
        "alerts_without_fault": 1,
    }
    table = faults.table(verdicts, START)
    assert all(len(each) == len(report.FAULT_COLUMNS) for each in table)
    assert table[2][:6] == ["fault", "1", 20.0, 23.5, 3.5, "critical"]


def test_an_alert_long_after_a_fault_is_not_its_own(answer_log: Path) -> None:
    """What comes later than the grace has another cause."""
    _, alone = faults.judge(faults.injected(answer_log), [alert(2, 4 + 16)], SCORES)
    assert len(alone) == 1
