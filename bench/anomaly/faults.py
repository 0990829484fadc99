"""What goes wrong, and what only changes, in the synthetic fleet; sizes in a field's spread."""

from typing import NamedTuple

import numpy as np

from bench.anomaly import plant
from bench.anomaly.plant import Floats

FAULTS = {
    "stuck-at": 360,
    "drift": 720,
    "spike": 1,
    "step, small": 360,
    "step, large": 360,
    "noise burst": 360,
    "broken correlation": 720,
}
"""Kinds and how many readings they last."""
FLEET_WIDE = "fleet-wide step"
STEP = {"step, small": 2.0, "step, large": 5.0, FLEET_WIDE: 5.0}
SPIKE, DRIFT_TO, BURST = 8.0, 6.0, 2.0
COLD = 3.0


class Event(NamedTuple):
    """Something that happens to one device.

    Attributes:
        kind: Of `FAULTS`, "fleet-wide step", or of what is no fault.
        device: Row of the fleet.
        field: Index of the field; −1 where it is about all.
        first: First tick.
        last: Last tick, inclusive.
        fault: An operator should be told.
    """

    kind: str
    device: int
    field: int
    first: int
    last: int
    fault: bool


def apply(event: Event, normal: plant.Normal, random: np.random.Generator) -> None:
    """Change the values of a device as the event does."""
    rows = slice(event.first, event.last + 1)
    values = normal.values[rows, event.device]
    if event.fault:
        _fault(event, values[:, event.field], normal, random)
    else:
        _change(event, values, random)


def _fault(event: Event, series: Floats, normal: plant.Normal, random: np.random.Generator) -> None:
    spread = plant.SPREAD[event.field]
    sign = random.choice([-1.0, 1.0])
    if event.kind == "stuck-at":
        known = series[np.isfinite(series)]
        series[:] = known[0]
    elif event.kind == "drift":
        series += sign * DRIFT_TO * spread * np.linspace(0.0, 1.0, len(series))
    elif event.kind == "spike":
        middle = normal.level[event.device, event.field]
        series[:] = np.where(np.isfinite(series), series, middle) + sign * SPIKE * spread
    elif event.kind == "noise burst":
        series += random.normal(0.0, BURST * spread, len(series))
    elif event.kind == "broken correlation":
        series += _decoupled(event, normal, random) * spread
    else:
        # All machines of a hall hang on one supply: it moves them all the same way.
        way = 1.0 if event.kind == FLEET_WIDE else sign
        series += way * STEP[event.kind] * spread


def _decoupled(event: Event, normal: plant.Normal, random: np.random.Generator) -> Floats:
    """What a field would do that turns against the load instead of following it."""
    load = normal.load[event.first : event.last + 1, event.device]
    swing = load - load.mean()
    other = random.normal(size=len(load))
    plant.remember(other, 0.99, max(float(swing.std()), 0.3))
    moved: Floats = plant.OF_LOAD[event.field] * (other - 2.0 * swing)
    return moved


def _change(event: Event, values: Floats, random: np.random.Generator) -> None:
    fields = values.shape[1]
    if event.kind == "maintenance":
        values += plant.SPREAD * random.uniform(1.0, 2.5, fields) * random.choice([-1, 1], fields)
    elif event.kind == "set point":
        values += plant.SPREAD * plant.OF_LOAD * random.choice([-2.0, 2.0])
    elif event.kind == "gap":
        values[:] = np.nan
    elif event.kind == "field missing":
        values[:, event.field] = np.nan
    elif event.kind == "restart":
        ticks = np.arange(len(values))
        values[:, 0] -= COLD * plant.SPREAD[0] * np.exp(-ticks / 60.0)
    elif event.kind == "patchy":
        values[random.random(values.shape) < 0.1] = np.nan
