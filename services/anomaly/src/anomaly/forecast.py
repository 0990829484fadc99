"""Where each field is going: median, intervals, and when it reaches a limit. Pure.

Five simple forecasts per device and field, all vectorised over devices:

- *last*: the last value (naive);
- *fast*, *slow*: exponential averages, about three and two hundred readings old;
- *trend*: the damped trend (Gardner & McKenzie, "Forecasting trends in time series", Management
  Science 31, 1985) with level and slope by Brown's double exponential smoothing (Brown,
  "Smoothing, Forecasting and Prediction of Discrete Time Series", 1963), for irregular intervals as
  Wright ("Forecasting data published at irregular time intervals", Management Science 32, 1986);
- *day*: what the hours ahead usually are, by a profile of 24 hours.

*Combination*: at four horizons each of them is kept until its time has come, and its mean absolute
error is learned. What is said is their average with weights error^−8 (Bates & Granger, "The
combination of forecasts", Operational Research Quarterly 20, 1969): where the last value is the
best there is, it leads.

*Intervals* come from the errors that forecasts of this field really had, not from a model's
variance: half-widths are multiples of the mean absolute error, and the multiples follow the share
of the values that fell outside (Gibbs & Candès, "Adaptive conformal inference under distribution
shift", NeurIPS 2021).

*Time to a limit* is said only when the slope is several times what this field's slopes are in its
usual running, and the limit is near compared with the time over which the slope was seen.

Values are kept, and computed with, relative to the field's first one in single precision.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from anomaly import daily, trends
from anomaly.detection.interface import Batch, Flags, Floats, Ints, State, turns

Array = npt.NDArray[Any]

US_PER_SECOND = 1_000_000
LEVELS = (0.8, 0.95)
"""Of the intervals."""
GAUSSIAN = np.array([1.606, 2.456], np.float32)
"""Half-widths of those intervals in mean absolute errors, if errors were normal."""
FAST, SINGLE = 0, slice(1, 4)
"""Where the averages are."""
MEMBERS = ("last", "fast", "slow", "trend", "day")
OUTSIDE = 1.0 - np.array(LEVELS, np.float32)
MULTIPLES = (0.2, 50.0)
FULL_TRUST = 8.0
"""Forecasts judged after which only their own errors count."""
SCALE_ROWS = 1000.0
YOUNG_ROWS = 8.0
"""A forecast rests for at most this fraction of the device's readings."""
MOST_STEPS = 1e6
LARGEST = 1e30
"""Values beyond are as far as anything can be."""
TINY = 1e-30


@dataclass(frozen=True, slots=True)
class Tuning:
    """Constants; rows are readings of one device.

    Attributes:
        interval_seconds: Of the device's readings.
        anchors: Horizons at which forecasts are compared with what came, in intervals.
        fast: Weight of the newest value in the fast average.
        trend: In the fastest slope, which is the damped trend's.
        middle: In the next.
        slow: In the slow average and the slowest slope.
        damping: Of the slope, per interval.
        power: Of the errors in the weights.
        error_rows: Memory of the errors, in forecasts judged.
        pace: Of the multiples: step per forecast judged.
        every: Nearer horizons are judged only so often; prime, to be in step with nothing.
        profile_days: Memory of the profile.
        clip: A value farther from its average than so many usual errors counts as so far away.
        warm_up_rows: Values of a field before anything is said.
        trending: When a slope is a trend.
    """

    interval_seconds: float = 10.0
    anchors: tuple[int, ...] = (1, 6, 60, 360)
    fast: float = 0.3
    trend: float = 1.0 / 30.0
    middle: float = 1.0 / 90.0
    slow: float = 1.0 / 270.0
    damping: float = 0.98
    power: float = 8.0
    error_rows: float = 200.0
    pace: float = 0.05
    every: int = 11
    profile_days: float = 7.0
    clip: float = 6.0
    warm_up_rows: int = 20
    trending: trends.Tuning = field(default_factory=trends.Tuning)


class Prediction(NamedTuple):
    """Devices by horizons by fields (intervals: by levels, too); NaN where nothing is known.

    Attributes:
        median: The forecast.
        low: Lower ends of the intervals of `LEVELS`.
        high: Upper ends.
    """

    median: Floats
    low: Floats
    high: Floats


class Forecast:
    """See the module; the state is 2.5 KB per device of six fields."""

    def __init__(self, tuning: Tuning | None = None) -> None:
        """Fix what does not change."""
        self._tuning = tuning = tuning or Tuning()
        self._interval_us = tuning.interval_seconds * US_PER_SECOND
        self._steps = np.asarray(tuning.anchors, float)
        self._rest = np.maximum(0.0, tuning.every - self._steps)
        self._every = float(max(tuning.every, tuning.anchors[0]))
        self._gains = np.array([tuning.fast, tuning.trend, tuning.middle, tuning.slow], np.float32)
        self._weights = self._gains[SINGLE]
        self._hour_rows = max(tuning.profile_days * daily.HOUR_US / self._interval_us, 1.0)

    @property
    def identity(self) -> str:
        """Name and version."""
        return "forecast/1"

    def begin(self, devices: int, fields: int) -> State:
        """A state that has seen nothing: all zeros is a device never seen."""
        anchors, members = len(self._tuning.anchors), len(MEMBERS)
        single: dict[str, tuple[int, ...]] = {
            "seen": (fields,),
            "last": (fields,),
            "scale": (fields,),
            # Fast, and Brown's single and double averages, and the usual slopes, at three scales.
            "average": (fields, 4),
            "double": (fields, 3),
            "slope": (fields, 3),
            # What was said at each anchor: all members and their combination, and how it went.
            "said": (anchors, fields, members + 1),
            "error": (anchors, fields, members + 1),
            "multiple": (anchors, fields, len(LEVELS)),
            "judged": (anchors, fields),
            "profile": (daily.HOURS, fields),
            "visits": (daily.HOURS,),
            "rows": (),
        }
        state: State = {
            name: np.zeros((devices, *shape), np.float32) for name, shape in single.items()
        }
        state["origin"] = np.zeros((devices, fields))
        state["last_us"] = np.zeros(devices, np.int64)
        state["said_us"] = np.zeros((devices, anchors), np.int64)
        state["due_us"] = np.zeros((devices, anchors), np.int64)
        return state

    def learn(self, batch: Batch, state: State) -> State:
        """Take readings in order of arrival; the state is taken over, as by a detector."""
        for turn in turns(batch.devices):
            self._turn(batch.at(turn), state)
        return state

    def predict(self, state: State, devices: Ints, horizons_seconds: Floats) -> Prediction:
        """What comes so many seconds after each device's last reading.

        Args:
            state: What was learned.
            devices: n rows of the state.
            horizons_seconds: h horizons; beyond the last anchor intervals widen with the root of
                the horizon.
        """
        interval_seconds = self._tuning.interval_seconds
        origin, seen = state["origin"][devices], state["seen"][devices]
        horizons = np.maximum(horizons_seconds, 0.0) / interval_seconds
        shape = (len(devices), len(horizons), seen.shape[1])
        found = Prediction(np.full(shape, np.nan), *np.full((2, *shape, len(LEVELS)), np.nan))
        known = seen >= self._tuning.warm_up_rows
        for index, steps in enumerate(horizons.tolist()):
            members = self._members(state, devices, steps)
            error, multiple = self._errors(state, devices, *self._between(steps))
            middle = origin + _combined(members, error, self._tuning.power)
            beyond = np.sqrt(max(steps / self._steps[-1], 1.0))
            width = error[..., -1:] * multiple * beyond
            found.median[:, index] = np.where(known, middle, np.nan)
            ends = np.where(known, middle, np.nan)[..., None]
            found.low[:, index], found.high[:, index] = ends - width, ends + width
        return found

    def time_to_limit(
        self, state: State, devices: Ints, low: Floats, high: Floats
    ) -> trends.TimeToLimit:
        """When fields with a significant trend reach a limit.

        Args:
            state: What was learned.
            devices: n rows of the state.
            low: Per field; NaN where there is none.
            high: The same.
        """
        origin = state["origin"][devices]
        said = trends.time_to_limit(
            self._trends(state, devices),
            self._weights,
            low - origin,
            high - origin,
            self._tuning.interval_seconds,
            self._tuning.trending,
        )
        return said._replace(limit=said.limit + origin)

    def _turn(self, batch: Batch, state: State) -> None:
        devices = batch.devices
        present = np.isfinite(batch.values)
        seen = state["seen"].take(devices, axis=0)
        first = present & (seen == 0)
        values = np.clip(np.where(present, batch.values, 0.0), -LARGEST, LARGEST)
        origin = state["origin"].take(devices, axis=0)
        if first.any():
            origin = np.where(first, values, origin)
            state["origin"][devices] = origin
        values = (values - origin).astype(np.float32)
        seen += present
        state["seen"][devices] = seen
        self._smooth(values, present, first, seen, batch, state)
        days = (state["profile"], state["visits"])
        daily.learn(*days, devices, batch.event_us, values, present, self._hour_rows)
        state["last_us"][devices] = batch.event_us
        state["rows"][devices] += 1
        due = batch.event_us[:, None] >= state["due_us"].take(devices, axis=0)
        if due.any():
            self._due(due, values, present & ~first, batch, state)

    def _due(self, due: Flags, values: Array, known: Flags, batch: Batch, state: State) -> None:
        """Compare what was said for about now with what came, and say what comes next."""
        for anchor in np.flatnonzero(due.any(axis=0)).tolist():
            rows = np.flatnonzero(due[:, anchor])
            devices, now_us = batch.devices[rows], batch.event_us[rows]
            said_us = state["said_us"][devices, anchor]
            pending = said_us > 0
            # After a gap it is too late to tell.
            waited = (now_us - said_us) / self._interval_us
            told = pending & (waited < 1.2 * self._steps[anchor] + 1.0)
            if told.any():
                self._weigh(anchor, devices, values[rows], known[rows] & told[:, None], state)
            # Young devices learn from every forecast.
            rest = np.minimum(self._rest[anchor], state["rows"][devices] // YOUNG_ROWS)
            rests = pending & (rest >= 1.0)
            says = devices[~rests]
            if len(says):
                self._say(anchor, says, state)
            wait = np.where(rests, rest, self._steps[anchor]) - 0.5
            state["said_us"][devices, anchor] = np.where(rests, 0, now_us)
            state["due_us"][devices, anchor] = now_us + (wait * self._interval_us).astype(np.int64)

    def _weigh(self, anchor: int, devices: Ints, values: Array, known: Flags, state: State) -> None:
        tuning, at = self._tuning, (devices, anchor)
        judged = state["judged"][at] + known
        before = state["error"][at]
        missed = np.abs(values[..., None] - state["said"][at])
        weight = np.where(known, 1.0 / np.clip(judged, 1.0, tuning.error_rows), 0.0)
        state["judged"][at] = judged
        state["error"][at] = before + weight[..., None] * (missed - before)
        multiple = np.where((judged <= 1)[..., None], GAUSSIAN, state["multiple"][at])
        outside = missed[..., -1:] > before[..., -1:] * multiple
        step = tuning.pace * (outside - OUTSIDE) * multiple
        learns = known & (judged > 3)
        learned = np.clip(multiple + learns[..., None] * step, *MULTIPLES)
        # Who only happens to be looked at beside others has learned nothing.
        state["multiple"][at] = np.where(known[..., None], learned, state["multiple"][at])

    def _smooth(
        self,
        values: Array,
        present: Flags,
        first: Flags,
        seen: Array,
        batch: Batch,
        state: State,
    ) -> None:
        tuning, devices = self._tuning, batch.devices
        last_us = state["last_us"].take(devices)
        steps = np.where(last_us > 0, (batch.event_us - last_us) / self._interval_us, 1.0)
        if (steps < 0).any():
            # The clock went back: whatever was said, nobody knows for when.
            back = devices[steps < 0]
            state["said_us"][back] = 0
            state["due_us"][back] = 0
        average = state["average"].take(devices, axis=0)
        scale = state["scale"].take(devices, axis=0)
        surprise = values - average[..., FAST]
        bound = np.where(seen > tuning.warm_up_rows, tuning.clip * scale, np.inf)
        # One wild value is no trend.
        tame = average[..., FAST] + np.clip(surprise, -bound, bound)
        young = 1.0 / np.maximum(seen, 1.0)
        weight = np.maximum(young, 1.0 / SCALE_ROWS)
        scale += np.where(present & ~first, weight, 0.0) * (np.abs(surprise) - scale)
        gains = np.empty_like(average)
        gains[:] = trends.gain(self._gains, np.clip(steps, 0.0, MOST_STEPS)[:, None, None])
        # Young averages are plain means, so that the first value is not all.
        np.maximum(gains, young[..., None], out=gains)
        gains *= present[..., None]
        average += gains * (tame[..., None] - average)
        double = state["double"].take(devices, axis=0)
        double += gains[..., SINGLE] * (average[..., SINGLE] - double)
        last = state["last"].take(devices, axis=0)
        state["last"][devices] = np.where(present, values, last)
        for name, array in (("average", average), ("scale", scale), ("double", double)):
            state[name][devices] = array

    def _trends(self, state: State, devices: Ints) -> trends.Trends:
        single = state["average"].take(devices, axis=0)[..., SINGLE]
        level, slope = trends.lines(single, state["double"].take(devices, axis=0), self._weights)
        windows = state["seen"].take(devices, axis=0)[..., None] * self._weights
        return trends.Trends(level, slope, state["slope"].take(devices, axis=0), windows)

    def _members(self, state: State, devices: Ints, steps: float) -> Array:
        """Devices by fields by members: the forecasts so many intervals ahead."""
        line = self._trends(state, devices)
        damping = self._tuning.damping
        run = damping * (1.0 - damping**steps) / (1.0 - damping)
        average = state["average"].take(devices, axis=0)
        fast = average[..., FAST]
        now_us = state["last_us"][devices]
        ahead_us = int(steps * self._interval_us)
        now = daily.usual(state["profile"], devices, now_us)
        then = daily.usual(state["profile"], devices, now_us + ahead_us)
        members = np.empty((*fast.shape, len(MEMBERS)), np.float32)
        members[..., 0] = state["last"][devices]
        members[..., 1] = fast
        members[..., 2] = average[..., -1]
        members[..., 3] = line.level[..., 0] + line.slope[..., 0] * run
        members[..., 4] = fast + np.where((now != 0) & (then != 0), then - now, 0.0)
        return members

    def _say(self, anchor: int, devices: Ints, state: State) -> None:
        """Make a forecast that is to be judged later."""
        members = self._members(state, devices, float(self._steps[anchor]))
        error = self._error_at(state, devices, anchor)
        state["said"][devices, anchor, :, :-1] = members
        state["said"][devices, anchor, :, -1] = _combined(members, error, self._tuning.power)
        if anchor == 0:
            state["slope"][devices] = trends.usual_slopes(
                self._trends(state, devices), self._weights, self._every, self._tuning.trending
            )

    def _between(self, steps: float) -> tuple[int, int, float]:
        """The anchors around a horizon, and how far it is from the first to the second (log)."""
        anchors = self._steps
        far = int(np.searchsorted(anchors, steps))
        if far == 0:
            return 0, 0, 0.0
        if far == len(anchors):
            return far - 1, far - 1, 0.0
        share = np.log(steps / anchors[far - 1]) / np.log(anchors[far] / anchors[far - 1])
        return far - 1, far, float(share)

    def _errors(
        self, state: State, devices: Ints, near: int, far: int, share: float
    ) -> tuple[Array, Array]:
        """Mean absolute errors (…, members and combination) and multiples between two anchors."""
        error = self._error_at(state, devices, near) ** (1.0 - share)
        error *= self._error_at(state, devices, far) ** share
        multiple = (1.0 - share) * self._multiple_at(state, devices, near)
        return error, multiple + share * self._multiple_at(state, devices, far)

    def _error_at(self, state: State, devices: Ints, anchor: int) -> Array:
        """Errors at an anchor; while few are known, the nearer one's, as of a random walk."""
        error: Array = np.maximum(state["error"][devices, anchor], TINY)
        trust = np.minimum(state["judged"][devices, anchor] / FULL_TRUST, 1.0)[..., None]
        if anchor == 0 or (trust == 1.0).all():
            return error
        # A NumPy scalar would make doubles of these, and other bits of what is said.
        ratio = float(np.sqrt(self._steps[anchor] / self._steps[anchor - 1]))
        guess = self._error_at(state, devices, anchor - 1) * ratio
        return np.asarray(np.where(trust == 1.0, error, error**trust * guess ** (1.0 - trust)))

    def _multiple_at(self, state: State, devices: Ints, anchor: int) -> Array:
        unknown = state["judged"][devices, anchor][..., None] < 1
        return np.asarray(np.where(unknown, GAUSSIAN, state["multiple"][devices, anchor]))


def _combined(members: Array, error: Array, power: float) -> Array:
    """The average of the members, weighted by their errors; the sum in a fixed order."""
    best = error[..., 0]
    for index in range(1, len(MEMBERS)):
        best = np.minimum(best, error[..., index])
    total, weights = np.zeros_like(best), np.zeros_like(best)
    for index in range(len(MEMBERS)):
        weight = (best / error[..., index]) ** power
        total = total + weight * members[..., index]
        weights = weights + weight
    combined: Array = total / weights
    return combined
