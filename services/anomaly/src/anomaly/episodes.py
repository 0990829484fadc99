"""From anomalous readings to episodes, with hysteresis and cool-down. Pure."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

US_PER_SECOND = 1_000_000

RECENT_ROWS = 5
"""Readings of each device that a message can show."""


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
        rows: Readings so far.
        recent_us: Event times of the last `RECENT_ROWS` readings: reading n is at n modulo that.
        recent_score: Their scores.
        recent_values: Their values, by field.
    """

    streak: npt.NDArray[np.int64]
    opened_us: npt.NDArray[np.int64]
    closed_us: npt.NDArray[np.int64]
    first_us: npt.NDArray[np.int64]
    alert_id: npt.NDArray[np.bytes_]
    rows: npt.NDArray[np.int64]
    recent_us: npt.NDArray[np.int64]
    recent_score: npt.NDArray[np.float64]
    recent_values: npt.NDArray[np.float64]


def empty(device_count: int, fields: int = 0) -> Episodes:
    """Devices without an episode."""
    return Episodes(
        streak=np.zeros(device_count, np.int64),
        opened_us=np.zeros(device_count, np.int64),
        closed_us=np.zeros(device_count, np.int64),
        first_us=np.zeros(device_count, np.int64),
        alert_id=np.zeros(device_count, "V16"),
        rows=np.zeros(device_count, np.int64),
        recent_us=np.zeros((device_count, RECENT_ROWS), np.int64),
        recent_score=np.zeros((device_count, RECENT_ROWS)),
        recent_values=np.zeros((device_count, RECENT_ROWS, fields)),
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
