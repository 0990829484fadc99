"""A hundred machines for three days, with everything labelled; and a few for a month. Seeded.

Machines are of groups, half of each *steady* and half *shift* (`plant`): some have one fault after
another, some are well (until twenty of them fail together), some change for good, some lose values,
readings and hours, some join late. A reading that lacks every field does not arrive at all.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bench.anomaly import faults, plant
from bench.anomaly.faults import Event

INTERVAL_SECONDS = 10.0
HOUR = 360
DAY = 24 * HOUR
SEED = 20251
GROUPS = {"faults": 48, "well": 20, "changing": 12, "patchy": 10, "late": 10}
DAYS = 3
FIRST_FAULT, BETWEEN_FAULTS, LAST_FAULT = 12 * HOUR, 6 * HOUR, 64 * HOUR
FLEET_WIDE_AT = 66 * HOUR
CHANGE_AT, FAULT_AFTER_CHANGE = 30 * HOUR, 60 * HOUR
JOIN_AT, EARLY_FAULT = 36 * HOUR, 150
LONG_DAYS = 30
START_US = 1_751_846_400_000_000
"""Midnight, 2025-07-07."""


class Fleet(NamedTuple):
    """Readings and what is true of them.

    Attributes:
        values: Ticks by devices by fields; NaN where there is no value.
        present: Ticks by devices; whether the reading arrives.
        group: Of each device.
        shift: Of each device: works in shifts.
        events: What happens, in no order.
    """

    values: plant.Floats
    present: npt.NDArray[np.bool_]
    group: list[str]
    shift: npt.NDArray[np.bool_]
    events: list[Event]

    def of_group(self, *names: str) -> npt.NDArray[np.int64]:
        """Devices of some groups."""
        return np.flatnonzero(np.isin(self.group, names))


def three_days(seed: int = SEED) -> Fleet:
    """The fleet of `GROUPS`."""
    random = np.random.default_rng(seed)
    group = [name for name, count in GROUPS.items() for _ in range(count)]
    shift = np.arange(len(group)) % 2 == 1
    normal = plant.run(DAYS * DAY, shift, INTERVAL_SECONDS, random)
    by_group = {name: np.flatnonzero(np.array(group) == name) for name in GROUPS}
    events = [
        *_faulty(by_group["faults"], random),
        *(_step(device, 2, FLEET_WIDE_AT, faults.FLEET_WIDE) for device in by_group["well"]),
        *_changing(by_group["changing"], random),
        *_patchy(by_group["patchy"], random),
        *_late(by_group["late"], random),
    ]
    return _made(normal, group, shift, events, random)


def month(seed: int = SEED) -> Fleet:
    """Eight machines for thirty days: two change for good, two have a fault every third day."""
    random = np.random.default_rng(seed + 1)
    group = ["changing", "changing", "faults", "faults", "well", "well", "well", "well"]
    shift = np.arange(len(group)) % 2 == 1
    normal = plant.run(LONG_DAYS * DAY, shift, INTERVAL_SECONDS, random)
    last = LONG_DAYS * DAY - 1
    events = [Event("set point", device, -1, 10 * DAY + 9 * HOUR, last, False) for device in (0, 1)]
    for day in range(3, LONG_DAYS, 3):
        events += [_step(device, 2, day * DAY + 9 * HOUR) for device in (2, 3)]
    return _made(normal, group, shift, events, random)


def _made(
    normal: plant.Normal,
    group: list[str],
    shift: npt.NDArray[np.bool_],
    events: list[Event],
    random: np.random.Generator,
) -> Fleet:
    for event in events:
        faults.apply(event, normal, random)
    for device in np.flatnonzero(np.array(group) == "late"):
        normal.values[: JOIN_AT + 60 * int(device % 7), device] = np.nan
    present = np.isfinite(normal.values).any(axis=2)
    return Fleet(normal.values, present, group, shift, events)


def _step(device: int, field: int, first: int, kind: str = "step, large") -> Event:
    return Event(kind, int(device), field, first, first + HOUR - 1, True)


def _faulty(devices: npt.NDArray[np.int64], random: np.random.Generator) -> list[Event]:
    """Every kind on every field, equally often, in an order of chance."""
    starts = np.arange(FIRST_FAULT, LAST_FAULT, BETWEEN_FAULTS)
    kinds = [(kind, field) for kind in faults.FAULTS for field in range(len(plant.FIELDS))]
    count = len(devices) * len(starts)
    order = [random.permutation(len(kinds)) for _ in range(-(-count // len(kinds)))]
    chosen = iter(np.concatenate(order))
    events = []
    for device in devices.tolist():
        for start in starts.tolist():
            kind, field = kinds[next(chosen)]
            first = start + int(random.integers(0, 90))
            events.append(Event(kind, device, field, first, first + faults.FAULTS[kind] - 1, True))
    return events


def _changing(devices: npt.NDArray[np.int64], random: np.random.Generator) -> list[Event]:
    events = []
    last = DAYS * DAY - 1
    for number, device in enumerate(devices.tolist()):
        first = CHANGE_AT + 30 * number
        if number % 4 < 2:
            events.append(Event("gap", device, -1, first - HOUR, first - 1, False))
            events.append(Event("maintenance", device, -1, first, last, False))
        else:
            events.append(Event("set point", device, -1, first, last, False))
        field = int(random.integers(len(plant.FIELDS)))
        events.append(_step(device, field, FAULT_AFTER_CHANGE + 30 * number))
    return events


def _patchy(devices: npt.NDArray[np.int64], random: np.random.Generator) -> list[Event]:
    """A tenth of the values missing always; gaps, restarts, and a field that is off for hours."""
    events = []
    for device in devices.tolist():
        events.append(Event("patchy", device, -1, 0, DAYS * DAY - 1, False))
        for hour, length in ((20, 60), (26, HOUR), (34, 8 * HOUR)):
            first = hour * HOUR + int(random.integers(0, HOUR))
            events.append(Event("gap", device, -1, first, first + length - 1, False))
        restart = 50 * HOUR + int(random.integers(0, HOUR))
        events.append(Event("gap", device, -1, restart - 30, restart - 1, False))
        events.append(Event("restart", device, -1, restart, restart + HOUR - 1, False))
        field = int(random.integers(len(plant.FIELDS)))
        off = 60 * HOUR + int(random.integers(0, HOUR))
        events.append(Event("field missing", device, field, off, off + 3 * HOUR - 1, False))
    return events


def _late(devices: npt.NDArray[np.int64], random: np.random.Generator) -> list[Event]:
    """Half of the newcomers have a fault at once, soon after they come."""
    events = []
    for number, device in enumerate(devices.tolist()):
        if number % 4 < 2:
            first = JOIN_AT + 60 * (device % 7) + EARLY_FAULT
            events.append(_step(device, int(random.integers(len(plant.FIELDS))), first))
    return events
