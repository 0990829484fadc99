"""Time to a limit, on machines of the synthetic fleet with fields that drift to their limit."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from anomaly import forecast
from anomaly.detection.interface import Batch
from bench.anomaly import fleet, plant
from bench.anomaly.fleet import DAY, HOUR

SEED = 7
DEVICES = 24
DAYS = 2
LIMIT = 5.0
"""Spreads above the level; normal running stays below 3."""
HOURS = (1, 2, 4, 8)
"""How long a drift takes from the level to the limit."""
DRIFT_AT = 30 * HOUR
EVERY = 6
HALF_HOUR_SECONDS = 1800.0
AVERAGED = 31
"""Readings over which the level is taken that reaches the limit."""
HEAD = (
    "level to limit in",
    "drifts",
    "said before",
    "first said so long before, median",
    "of the last half hour said",
    "said / true time, median (10 % to 90 %)",
    "80 % interval right",
    "before the drift: said a device-day",
)

Floats = npt.NDArray[np.float64]


class Ramps(NamedTuple):
    """Drifting fields and what was said of them; `said` is every `EVERY` ticks.

    Attributes:
        values: Ticks by devices by fields.
        level: Devices by fields.
        field: Which field of each device drifts.
        hours: How long it takes.
        reached: Tick at which each reached its limit; −1 if never.
        said: Said times (seconds, earliest, latest), moments by devices by fields by three.
    """

    values: Floats
    level: Floats
    field: npt.NDArray[np.int64]
    hours: npt.NDArray[np.int64]
    reached: npt.NDArray[np.int64]
    said: Floats


def ramps() -> Ramps:
    """One drift per machine, every speed on every field, steady and shift machines."""
    random = np.random.default_rng(SEED)
    count = len(HOURS) * DEVICES
    shift = np.arange(count) % 2 == 1
    normal = plant.run(DAYS * DAY, shift, fleet.INTERVAL_SECONDS, random)
    hours = np.repeat(HOURS, DEVICES)
    field = np.arange(count) // 2 % len(plant.FIELDS)
    ticks = np.arange(len(normal.values))[:, None]
    along = (ticks - DRIFT_AT) / (hours * HOUR)
    # The drift goes on to a fifth beyond the limit, then the machine is repaired.
    drift = np.where((along > 0) & (along < 1.2), along * LIMIT, 0.0)
    each = np.arange(count)
    normal.values[:, each, field] += drift * plant.SPREAD[field]
    limits = normal.level + LIMIT * plant.SPREAD
    reached = _reached(normal.values[:, each, field], limits[each, field])
    said = _said(normal.values, limits)
    return Ramps(normal.values, normal.level, field, hours, reached, said)


def _reached(values: Floats, limit: Floats) -> npt.NDArray[np.int64]:
    known = np.where(np.isfinite(values), values, 0.0)
    total = np.cumsum(np.vstack([np.zeros(values.shape[1]), known]), axis=0)
    counts = np.cumsum(np.vstack([np.zeros(values.shape[1]), np.isfinite(values)]), axis=0)
    mean = (total[AVERAGED:] - total[:-AVERAGED]) / (counts[AVERAGED:] - counts[:-AVERAGED])
    beyond = mean >= limit
    middle = AVERAGED // 2
    return np.where(beyond.any(axis=0), beyond.argmax(axis=0) + middle, -1)


def _said(values: Floats, limits: Floats) -> Floats:
    model = forecast.Forecast(forecast.Tuning(interval_seconds=fleet.INTERVAL_SECONDS))
    count, devices, fields = values.shape
    state = model.begin(devices, fields)
    everyone = np.arange(devices)
    found = np.full((count // EVERY, devices, fields, 3), np.nan, np.float32)
    none = np.full((devices, fields), np.nan)
    for tick in range(count):
        event_us = np.full(devices, fleet.START_US + tick * int(fleet.INTERVAL_SECONDS * 1e6))
        state = model.learn(Batch(values[tick], everyone, event_us), state)
        if tick % EVERY == EVERY - 1:
            said = model.time_to_limit(state, everyone, none, limits)
            found[tick // EVERY] = np.stack(said[:3], axis=-1)
    return found


def rows(made: Ramps) -> list[list[str]]:
    """The table of `HEAD`."""
    return [*_rows(made)]


def _rows(made: Ramps) -> Iterator[list[str]]:
    moments = np.arange(len(made.said)) * EVERY + EVERY - 1
    quiet = (moments >= 12 * HOUR) & (moments < DRIFT_AT)
    spoken = np.isfinite(made.said[quiet, :, :, 0])
    begun = spoken[1:] & ~spoken[:-1]
    days = quiet.sum() * EVERY / DAY
    for hours in HOURS:
        chosen = np.flatnonzero(made.hours == hours)
        false = begun[:, chosen].sum() / (days * len(chosen))
        leads: list[float] = []
        ratios: list[float] = []
        right: list[bool] = []
        late: list[bool] = []
        for device in chosen.tolist():
            reached = int(made.reached[device])
            before = np.flatnonzero((moments >= DRIFT_AT) & (moments < reached))
            told = made.said[before, device, made.field[device]]
            ahead = (reached - moments[before]) * fleet.INTERVAL_SECONDS
            known = np.isfinite(told[:, 0])
            late += known[ahead <= HALF_HOUR_SECONDS].tolist()
            if known.any():
                leads.append(ahead[known][0] / 60.0)
                # The last minutes say nothing about how good a forecast is.
                known &= ahead >= 300.0
                ratios += (told[known, 0] / ahead[known]).tolist()
                right += (
                    (told[known, 1] <= ahead[known]) & (ahead[known] <= told[known, 2])
                ).tolist()
        spread = np.quantile(ratios, [0.5, 0.1, 0.9]) if ratios else np.full(3, np.nan)
        yield [
            f"{hours} h",
            str(len(chosen)),
            f"{100 * len(leads) / len(chosen):.0f} %",
            f"{np.median(leads):.0f} min" if leads else "-",
            f"{100 * np.mean(late):.0f} %" if late else "-",
            f"{spread[0]:.2f} ({spread[1]:.2f} to {spread[2]:.2f})",
            f"{100 * np.mean(right):.0f} %" if right else "-",
            f"{false:.2f}",
        ]
