"""Faults that were injected against alerts that were raised. Pure, but for reading the log."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

from telemill.audit import StoredRow

VISIBLE = ("fault", "step", "drift", "stuck", "outliers")
"""Scenarios that change what is measured; the others spoil the answer, not the machine."""

GRACE_SECONDS = 15.0
"""An alert so long after the last faulty reading is still that fault's."""

WARMING_UP = "injected while the device warmed up"
NOT_SEEN = "not unlike what the device did before"


@dataclass(frozen=True, slots=True)
class Injected:
    """A scenario at work on a device.

    Attributes:
        name: Of the scenario.
        device: Its key.
        first: Epoch seconds of the first answer with it.
        last: Of the last.
        readings: Answers with it.
    """

    name: str
    device: str
    first: float
    last: float
    readings: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """A fault and what became of it.

    Attributes:
        fault: The fault.
        alert: The alert's opening row; None when none was raised.
        why: What the alert says, or why there is none.
    """

    fault: Injected
    alert: Mapping[str, Any] | None
    why: str

    @property
    def delay_seconds(self) -> float | None:
        """From the first faulty answer to the arrival of the reading that opened the alert."""
        if self.alert is None:
            return None
        return round(_arrival(self.alert) - self.fault.first, 1)


def injected(answer_log: Path) -> list[Injected]:
    """Runs of one scenario on one device, in the order they began.

    Args:
        answer_log: The simulator's ground truth.
    """
    with answer_log.open("rb") as lines:
        answers = [entry for entry in map(json.loads, lines) if entry["status"] == 200]
    answers.sort(key=lambda entry: (str(entry["device_id"]), entry["served_at"]))
    found = []
    runs = groupby(answers, key=lambda entry: (str(entry["device_id"]), entry["scenario"]))
    for (device, name), run in runs:
        times = [datetime.fromisoformat(entry["served_at"]).timestamp() for entry in run]
        if name in VISIBLE:
            found.append(Injected(name, device, times[0], times[-1], len(times)))
    return sorted(found, key=lambda each: (each.first, each.device))


def judge(
    faults: Sequence[Injected], alerts: Iterable[StoredRow], scores: Iterable[StoredRow]
) -> tuple[list[Verdict], list[Mapping[str, Any]]]:
    """What became of each fault, and the alerts that no fault explains.

    Args:
        faults: As injected, in the order they began.
        alerts: Rows of the alerts table.
        scores: Rows of the scores table: they say when a device was warm.
    """
    opened = sorted((row.columns for row in alerts if row.columns["state"] == "open"), key=_arrival)
    warm = _warm_since(scores)
    first_of: dict[int, Mapping[str, Any]] = {}
    alone = []
    for alert in opened:
        # Several may be at work soon after one another: the newest is the cause.
        causes = [place for place, fault in enumerate(faults) if _is_of(alert, fault)]
        if causes:
            first_of.setdefault(causes[-1], alert)
        else:
            alone.append(alert)
    verdicts = [
        Verdict(fault, first_of.get(place), _why(fault, first_of.get(place), warm))
        for place, fault in enumerate(faults)
    ]
    return verdicts, alone


def figures(verdicts: Sequence[Verdict], alone: Sequence[Any]) -> dict[str, Any]:
    """For summary.json."""
    delays = [each.delay_seconds for each in verdicts if each.delay_seconds is not None]
    return {
        "injected": len(verdicts),
        "found": len(delays),
        "injected_in_warm_up": sum(each.why == WARMING_UP for each in verdicts),
        "not_found": sum(each.why == NOT_SEEN for each in verdicts),
        "median_delay_seconds": round(median(delays), 1) if delays else None,
        "alerts_without_fault": len(alone),
    }


def table(verdicts: Sequence[Verdict], start: float) -> list[list[Any]]:
    """Rows for the page, times in seconds since the start."""
    return [
        [
            each.fault.name,
            each.fault.device,
            round(each.fault.first - start, 1),
            round(_arrival(each.alert) - start, 1) if each.alert else None,
            each.delay_seconds,
            each.alert["severity"] if each.alert else "–",
            each.why,
        ]
        for each in verdicts
    ]


def _is_of(alert: Mapping[str, Any], fault: Injected) -> bool:
    same = str(alert["device_id"]) == fault.device
    return same and fault.first <= _arrival(alert) <= fault.last + GRACE_SECONDS


def _warm_since(scores: Iterable[StoredRow]) -> dict[str, float]:
    warm: dict[str, float] = {}
    for row in scores:
        if row.columns["score"] is not None:
            device = str(row.columns["device_id"])
            warm[device] = min(_arrival(row.columns), warm.get(device, float("inf")))
    return warm


def _why(fault: Injected, alert: Mapping[str, Any] | None, warm: Mapping[str, float]) -> str:
    if alert is None:
        is_warm = warm.get(fault.device, float("inf")) <= fault.first
        return NOT_SEEN if is_warm else WARMING_UP
    shares = [(alert[name] or 0.0, name) for name in alert if name.startswith("contribution_")]
    others = [
        name.removeprefix("contribution_")
        for share, name in sorted(shares, reverse=True)[1:3]
        if share >= 0.1
    ]
    seen, expected = alert["seen"], alert["expected"]
    value = "no value" if seen is None else f"{seen:.4g}"
    usual = "" if expected is None else f" (expected {expected:.4g})"
    also = f"; also {', '.join(others)}" if others else ""
    together = "; together with others" if alert["group_id"] else ""
    return f"{alert['top_field']} {value}{usual}{also}{together}"


def _arrival(row: Mapping[str, Any]) -> float:
    second: float = row["ingest_time"].timestamp()
    return second
