"""From anomalous readings to alerts: one alert per episode, with hysteresis and cool-down. Pure."""

import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

ALERT_NAMESPACE = uuid.UUID("6f1c3c0e-53a5-5f0e-9d1b-6b0b6d2c0a11")
US_PER_SECOND = 1_000_000
CRITICAL_SCORE = 0.999999


class Alert(msgspec.Struct, frozen=True):
    """What an operator is told; `alert_id` is the same whenever the same rows are read again.

    Attributes:
        alert_id: Derived from detector, device and the lineage of the opening reading.
        state: "open" or "closed".
        severity: "warning" or "critical".
        device_id: Canonical device key.
        since: Event time of the first anomalous reading, ISO 8601 UTC.
        event_time: Event time of the reading that opened or closed the episode.
        score: Score of that reading.
        fields: Share of each field in the score, largest first.
        detector: Name and version.
        lineage: Shard, sequence number, sub-sequence number of that reading.
        seen: That reading's values, in the order of `fields`; null where there was none.
        expected: What would have been normal; null where that is not known.
    """

    alert_id: str
    state: str
    severity: str
    device_id: str
    since: str
    event_time: str
    score: float
    fields: dict[str, float]
    detector: str
    lineage: tuple[str, str, int]
    seen: dict[str, float | None] = {}
    expected: dict[str, float | None] = {}


@dataclass(frozen=True, slots=True)
class Hysteresis:
    """When an episode opens and closes.

    Attributes:
        open_after_rows: Anomalous rows in a row that open an episode.
        close_after_rows: Normal rows in a row that close it.
        cool_down_seconds: Event time after a close during which no new episode is announced.
    """

    open_after_rows: int = 3
    close_after_rows: int = 10
    cool_down_seconds: float = 60.0


@dataclass(slots=True)
class Episodes:
    """The episode of each device, one row each.

    Attributes:
        streak: Length of the present run: anomalous rows while quiet, normal rows while open.
        opened_us: Event time of the first row of the open episode; 0 when there is none.
        closed_us: Event time of the last close; 0 when there was none.
        first_us: Event time of the first row of the present run of anomalies.
        alert_id: 16 bytes of the open episode's alert.
    """

    streak: npt.NDArray[np.int64]
    opened_us: npt.NDArray[np.int64]
    closed_us: npt.NDArray[np.int64]
    first_us: npt.NDArray[np.int64]
    alert_id: npt.NDArray[np.bytes_]


def empty(device_count: int) -> Episodes:
    """Devices without an episode."""
    return Episodes(
        streak=np.zeros(device_count, np.int64),
        opened_us=np.zeros(device_count, np.int64),
        closed_us=np.zeros(device_count, np.int64),
        first_us=np.zeros(device_count, np.int64),
        alert_id=np.zeros(device_count, "V16"),
    )


def concerns(
    anomalous: npt.NDArray[np.bool_], device_rows: npt.NDArray[np.int64], episodes: Episodes
) -> npt.NDArray[np.int64]:
    """Indices of the readings that can change an episode: few in normal running.

    Those are the readings of devices that have an anomalous reading here, a run or an episode.
    """
    active = (episodes.streak != 0) | (episodes.opened_us != 0)
    active[device_rows[anomalous]] = True
    return np.flatnonzero(active[device_rows])


def advance(
    episodes: Episodes, device: int, anomalous: bool, event_us: int, hysteresis: Hysteresis
) -> str | None:
    """Take one reading of one device.

    Returns:
        "open" or "closed" when this reading opens or closes an episode, else None.
    """
    if episodes.opened_us[device]:
        return _advance_open(episodes, device, anomalous, event_us, hysteresis)
    return _advance_quiet(episodes, device, anomalous, event_us, hysteresis)


def _advance_open(
    episodes: Episodes, device: int, anomalous: bool, event_us: int, hysteresis: Hysteresis
) -> str | None:
    episodes.streak[device] = 0 if anomalous else episodes.streak[device] + 1
    if episodes.streak[device] < hysteresis.close_after_rows:
        return None
    episodes.streak[device] = 0
    episodes.closed_us[device] = event_us
    return "closed"


def _advance_quiet(
    episodes: Episodes, device: int, anomalous: bool, event_us: int, hysteresis: Hysteresis
) -> str | None:
    if not anomalous:
        episodes.streak[device] = 0
        return None
    if episodes.streak[device] == 0:
        episodes.first_us[device] = event_us
    episodes.streak[device] += 1
    if episodes.streak[device] < hysteresis.open_after_rows:
        return None
    if episodes.closed_us[device] and event_us < _quiet_until(episodes, device, hysteresis):
        return None
    episodes.streak[device] = 0
    episodes.opened_us[device] = episodes.first_us[device]
    return "open"


def _quiet_until(episodes: Episodes, device: int, hysteresis: Hysteresis) -> int:
    return int(episodes.closed_us[device]) + int(hysteresis.cool_down_seconds * US_PER_SECOND)


class Observation(NamedTuple):
    """The reading that opened or closed an episode.

    Attributes:
        event_us: Its event time.
        score: Its score.
        fields: Share of each field in the score.
        lineage: Shard, sequence number, sub-sequence number.
        seen: Its value of each field; NaN where there was none.
        expected: The normal value of each field; NaN where that is not known.
    """

    event_us: int
    score: float
    fields: dict[str, float]
    lineage: tuple[str, str, int]
    seen: Mapping[str, float] = {}
    expected: Mapping[str, float] = {}


def announce(
    episodes: Episodes,
    device: int,
    device_id: str,
    state: str,
    observation: Observation,
    detector: str,
) -> Alert:
    """The alert of a change that `advance` reported; ends the bookkeeping of a closed episode."""
    since_us = int(episodes.opened_us[device])
    if state == "open":
        alert_id = _alert_id(detector, device_id, observation.lineage)
        episodes.alert_id[device] = np.void(alert_id.bytes)
    else:
        alert_id = uuid.UUID(bytes=episodes.alert_id[device].tobytes())
        episodes.opened_us[device] = 0
        episodes.alert_id[device] = np.void(bytes(16))
    fields = dict(sorted(observation.fields.items(), key=lambda item: -item[1]))
    return Alert(
        alert_id=str(alert_id),
        state=state,
        severity="critical" if observation.score >= CRITICAL_SCORE else "warning",
        device_id=device_id,
        since=_iso(since_us),
        event_time=_iso(observation.event_us),
        score=observation.score,
        fields=fields,
        detector=detector,
        lineage=observation.lineage,
        seen=_known(fields, observation.seen),
        expected=_known(fields, observation.expected),
    )


def _known(fields: Mapping[str, float], values: Mapping[str, float]) -> dict[str, float | None]:
    """Values in the order of the fields; what is no number, JSON cannot hold."""
    return {
        name: values[name] if math.isfinite(values[name]) else None
        for name in fields
        if name in values
    }


def _alert_id(detector: str, device_id: str, lineage: tuple[str, str, int]) -> uuid.UUID:
    return uuid.uuid5(ALERT_NAMESPACE, "/".join((detector, device_id, *map(str, lineage))))


def _iso(epoch_us: int) -> str:
    instant = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=epoch_us)
    return instant.isoformat().replace("+00:00", "Z")
