"""What the scores of the synthetic fleet are worth: from labels, flags and alerts. Pure."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from anomaly import messages
from bench.anomaly import faults, fleet, plant
from bench.anomaly.fleet import DAY, HOUR, Fleet
from bench.anomaly.service_path import Change, FleetScored

GRACE = 30
"""Readings after a fault in which an alert that it caused may still open."""
RECOVERY = HOUR
"""Readings after a fault in which an alert is about its end: neither found nor false."""
QUIET = 6 * HOUR
"""Readings without an open alert after which a device counts as quiet."""
SETTLED = 12 * HOUR
"""Readings after a device's first before its alerts count as false in normal running."""


PERMANENT = ("maintenance", "set point")
"""Changes that stay."""


class Episode(NamedTuple):
    """One alert of a device.

    Attributes:
        device: Row of the fleet.
        first: Tick of the first anomalous reading.
        opened: Tick of the reading that opened it.
        closed: Tick of the reading that closed it; the last tick if nothing did.
        field: The leading field when it opened.
    """

    device: int
    first: int
    opened: int
    closed: int
    field: int


class Found(NamedTuple):
    """What became of one fault.

    Attributes:
        event: The fault.
        flagged: Readings until the first that was flagged; −1 if none was.
        delay: Readings until the alert opened; −1 if none did.
        named: The leading field was the fault's: of the alert, else of the flagged reading.
    """

    event: faults.Event
    flagged: int
    delay: int
    named: bool


class Settled(NamedTuple):
    """What became of one change that is no fault.

    Attributes:
        event: The change.
        alerts: Alerts of the device from the change on until it was quiet.
        quiet: Readings until it was; −1 if it never was.
    """

    event: faults.Event
    alerts: int
    quiet: int


class Rate(NamedTuple):
    """Alerts without a cause.

    Attributes:
        name: Of which devices and when.
        device_days: How long was looked.
        alerts: How many opened.
        flagged: Share of the readings above the threshold.
    """

    name: str
    device_days: float
    alerts: int
    flagged: float

    @property
    def per_device_day(self) -> float:
        """Alerts a device raises on a day."""
        return self.alerts / self.device_days if self.device_days else 0.0


def episodes_of(scored: FleetScored) -> list[Episode]:
    """The episodes of single devices, from their openings and closings."""
    last = len(scored.flags) - 1
    waiting: dict[str, Episode] = {}
    made = []
    for change in scored.changes:
        if change.state == messages.OPEN:
            waiting[change.alert_id] = _opened(change, last)
        elif change.state == messages.CLOSED and change.alert_id in waiting:
            made.append(waiting.pop(change.alert_id)._replace(closed=_tick(change.event_us)))
    return sorted([*made, *waiting.values()], key=lambda each: (each.device, each.opened))


def _opened(change: Change, last: int) -> Episode:
    field = plant.FIELDS.index(change.top_field)
    device = int(change.device) - 1
    return Episode(device, _tick(change.since_us), _tick(change.event_us), last, field)


def _tick(event_us: int) -> int:
    return int((event_us - fleet.START_US) // int(fleet.INTERVAL_SECONDS * 1e6))


def openings(scored: FleetScored, first: int, last: int) -> tuple[int, int]:
    """Opening messages between two ticks, about devices alone and about groups."""
    opened = [
        each
        for each in scored.messages
        if each.state == messages.OPEN and first <= _tick(_us(each.event_time)) <= last
    ]
    groups = sum(each.kind == messages.GROUP for each in opened)
    return len(opened) - groups, groups


def _us(instant: str) -> int:
    return int(np.datetime64(instant.rstrip("Z"), "us").astype(np.int64))


def judge(event: faults.Event, scored: FleetScored, raised: list[Episode]) -> Found:
    """Whether a fault was found. An alert that was already open is not of this fault."""
    until = event.last + GRACE
    window = scored.flags[event.first : until + 1, event.device]
    flagged = int(window.argmax()) if window.any() else -1
    for each in raised:
        if each.device == event.device and event.first <= each.opened <= until:
            return Found(event, flagged, each.opened - event.first, each.field == event.field)
    named = flagged >= 0 and scored.leading[event.first + flagged, event.device] == event.field
    return Found(event, flagged, -1, bool(named))


def settle(event: faults.Event, raised: list[Episode], last: int) -> Settled:
    """How long a device is in alert after a change."""
    own = [each for each in raised if each.device == event.device and each.closed >= event.first]
    own = [each for each in own if each.opened <= last]
    quiet, alerts = event.first, 0
    for each in own:
        if each.opened > quiet + QUIET:
            break
        quiet, alerts = max(quiet, each.closed), alerts + 1
    return Settled(event, alerts, quiet - event.first if quiet < last else -1)


def affected(made: Fleet) -> npt.NDArray[np.bool_]:
    """Ticks by devices: where something labelled is at work, or was shortly before."""
    found = np.zeros(made.present.shape, bool)
    for event in made.events:
        # What changes for good is new for a while, and then normal; what is always so is normal.
        last = event.first + QUIET if event.kind in PERMANENT else event.last + RECOVERY
        if event.kind != "patchy":
            found[event.first : last + 1, event.device] = True
    return found


def false_alarms(
    name: str,
    devices: Iterable[int],
    made: Fleet,
    scored: FleetScored,
    raised: list[Episode],
    within: npt.NDArray[np.bool_],
) -> Rate:
    """Alerts of some devices that open within some ticks (ticks by devices)."""
    chosen = np.zeros(made.present.shape[1], bool)
    chosen[list(devices)] = True
    looked = within & made.present & chosen
    count = int(looked.sum())
    alerts = sum(bool(looked[each.opened, each.device]) for each in raised)
    flagged = float(scored.flags[looked].mean()) if count else 0.0
    return Rate(name, count / DAY, alerts, flagged)


def settled(made: Fleet) -> npt.NDArray[np.bool_]:
    """Ticks by devices: long enough after the device's first reading."""
    first = made.present.argmax(axis=0)
    ticks = np.arange(len(made.present))[:, None]
    return np.asarray(ticks >= first + SETTLED)


def first_scores(made: Fleet, scored: FleetScored, devices: Iterable[int]) -> list[int]:
    """Readings of each device before its first score."""
    found = []
    for device in devices:
        present = made.present[:, device]
        known = np.isfinite(scored.scores[:, device])
        found.append(int(present[: known.argmax()].sum()) if known.any() else -1)
    return found
