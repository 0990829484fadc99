"""Trends of fields, and when they lead to a limit. Pure.

Level and slope at several time scales by Brown's double exponential smoothing (Brown, "Smoothing,
Forecasting and Prediction of Discrete Time Series", 1963). A slope counts only when it is several
times what slopes of this field are in its usual running: machines go up and down all day, and no
formula for white noise knows how much.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from anomaly.detection.interface import Floats

Array = npt.NDArray[Any]

YOUNG_WINDOWS = 4.0
"""A slope is judged, and limits its own learning, after so many times its window."""
TINY = 1e-30


@dataclass(frozen=True, slots=True)
class Tuning:
    """When a slope is a trend. A window is 1 / weight readings.

    Attributes:
        slope_rows: Memory of the usual slopes, in readings.
        leak: What a slope that is a trend counts for in the usual one.
        significant: Times the usual slope.
        doubt: Usual slopes by which a slope may be wrong, for an 80 % interval.
        reach: A limit is near within so many windows.
    """

    slope_rows: float = 8640.0
    leak: float = 0.1
    significant: float = 3.0
    doubt: float = 3.0
    reach: float = 6.0


class TimeToLimit(NamedTuple):
    """Devices by fields; NaN where no trend leads to a limit soon. From the last reading on.

    Attributes:
        seconds: Until the level reaches the limit, if the slope stays; 0 when it is beyond.
        earliest: Lower end of an 80 % interval.
        latest: Upper end; infinite where the slope may be none.
        limit: Which limit.
    """

    seconds: Floats
    earliest: Floats
    latest: Floats
    limit: Floats


class Trends(NamedTuple):
    """Devices by fields by scales, the fastest first; per interval.

    Attributes:
        level: Where the field is.
        slope: Where it goes.
        usual: Root mean square of its slopes so far.
        windows: How many windows it was seen.
    """

    level: Array
    slope: Array
    usual: Array
    windows: Array


def gain(weights: Array, steps: Array) -> Array:
    """Weights of a value that comes so many intervals after the one before.

    Source:
        Wright, "Forecasting data published at irregular time intervals", Management Science 32,
        1986.
    """
    # A regular stream must not depend on how exactly logarithms cancel.
    if (steps == 1.0).all():
        return weights
    return np.asarray(np.where(steps == 1.0, weights, -np.expm1(steps * np.log1p(-weights))))


def lines(single: Array, double: Array, weights: Array) -> tuple[Array, Array]:
    """Level and slope from Brown's averages."""
    return 2.0 * single - double, (single - double) * (weights / (1.0 - weights))


def usual_slopes(trends: Trends, weights: Array, rows: float, tuning: Tuning) -> Array:
    """The usual slopes after another so many readings."""
    # Squares of large values need double precision.
    slope, usual = np.abs(trends.slope).astype(float), trends.usual.astype(float)
    known = np.clip((trends.windows - 1.0) / weights, 1.0, tuning.slope_rows)
    rate = np.minimum(rows / known, 1.0)
    # A slope beyond the usual is what is looked for, and learned slowly.
    beyond = (trends.windows >= YOUNG_WINDOWS) & (slope > tuning.significant * usual)
    rate = np.where(beyond, tuning.leak * rate, rate)
    tame = np.where(beyond, np.minimum(slope, tuning.significant * usual), slope)
    square = usual**2 + rate * (tame**2 - usual**2)
    found: Array = np.where(trends.windows >= 1.0, np.sqrt(square), usual)
    return found


def time_to_limit(
    trends: Trends,
    weights: Array,
    low: Floats,
    high: Floats,
    interval_seconds: float,
    tuning: Tuning,
) -> TimeToLimit:
    """When significant trends reach limits (devices by fields, relative like the levels)."""
    found = TimeToLimit(*np.full((4, *trends.level.shape[:-1]), np.nan))
    ready = np.zeros(trends.level.shape[:-1], bool)
    # The fastest slope that is significant is the newest.
    for index, weight in enumerate(weights.tolist()):
        level, slope, usual = (part[..., index].astype(float) for part in trends[:3])
        limit = np.where(slope > 0, high, low)
        way = np.maximum(np.where(slope > 0, limit - level, level - limit), 0.0)
        speed, usual = np.maximum(np.abs(slope), TINY), np.maximum(usual, TINY)
        trend = (trends.windows[..., index] >= YOUNG_WINDOWS) & ~ready
        trend &= speed >= tuning.significant * usual
        ready |= trend
        # Of many slopes the one that stands out is likely to be too steep (Stein).
        likely = np.maximum(speed * (1.0 - np.minimum(usual / speed, 1.0) ** 2), TINY)
        slowest = speed - tuning.doubt * usual
        latest = np.divide(way, slowest, out=np.full_like(way, np.inf), where=slowest > 0)
        steps = (way / likely, way / (speed + tuning.doubt * usual), latest)
        said = trend & (steps[0] <= tuning.reach / weight)
        times = tuple(each * interval_seconds for each in steps)
        for whole, piece in zip(found, (*times, limit), strict=True):
            np.copyto(whole, piece, where=said)
    return found
