"""Multivariate process monitoring per device with gated learning. Pure.

Each field is smoothed (EWMA of winsorised input) and compared with a slowly learned level. The
deviations make a T² statistic with the covariance that deviations had in normal running (Hotelling
1947; on EWMA input: Lowry et al., "A multivariate exponentially weighted moving average control
chart", Technometrics 34, 1992). The covariance is shrunk towards its diagonal (Ledoit & Wolf,
"Honey, I shrunk the sample covariance matrix", 2004) instead of split into principal components
and a residual Q: all directions count, poorly known ones less, and no number of components has to
be chosen.

*Gated learning*: level and covariance learn only from readings found normal, so a long fault is
not absorbed. Meanwhile time passes, and a field that wanders in normal running may have wandered:
its variance grows by what its level was seen to move per row in normal running, as in a local-level
model without observations (Harvey, "Forecasting, Structural Time Series Models and the Kalman
Filter", 1989, ch. 3). A field that always stood still stays suspicious. A gap in time counts as
rows without observations. What stays abnormal for `relearn_after_rows` becomes the new level.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from anomaly.detection.interface import (
    Batch,
    Flags,
    Floats,
    Ints,
    Scores,
    State,
    nothing,
    shares,
    turns,
)

TAIL_RATE = 2.235
"""Of the exponential tail of the smoothed statistic: e times normal is as rare as 1 in 435."""
JITTER = 1e-6
NOISE_SHARE = 1e-4
"""Of the raw variance, added to the level's: keeps nearly constant fields finite."""
RESOLUTION = 3e-4
"""Deviations below this fraction of a field's level are no deviations."""
TINY_VARIANCE = 1e-12
LARGEST = 1e60
"""Values beyond are as far as anything can be: their squares and products stay finite."""
SETTLE_ROWS = 20
"""Rows before values are winsorised."""
RECOVERY = 4.0
"""Rows of lost trust that one normal row restores."""
MIN_PRIOR_DEVICES = 3
PRIOR_ROWS = 100.0
US_PER_SECOND = 1_000_000


@dataclass(frozen=True, slots=True)
class Tuning:
    """How the monitor learns; rows, not seconds, so that it suits any interval.

    Attributes:
        smoothing: Weight of the newest row in a field's smoothed value.
        level_rows: Memory of the levels.
        spread_rows: Memory of the covariance.
        warm_up_rows: Rows before a device without a prior gets scores.
        prior_warm_up_rows: The same for a device that takes its fleet's covariance.
        shrinkage: Of the covariance towards its diagonal.
        statistic_smoothing: Weight of the newest row in the smoothed log statistic.
        gate: Log of the smoothed statistic above which a row is not learned; normal is 0.
        wander: Fraction of the wandering seen in normal running that is allowed meanwhile.
        clip: Standard deviations beyond which one value adds no more.
        near_lag_rows: The nearer lag at which wandering is measured.
        far_lag_rows: The farther one.
        gap_rows: A gap in time counts for at most so many rows.
        relearn_after_rows: Abnormal rows in a row after which the level is learned again.
        relearn_weight: Weight of each such row.
        interval_seconds: Of the device's readings; a gap is five times that.
    """

    smoothing: float = 0.15
    level_rows: int = 2000
    spread_rows: int = 4000
    warm_up_rows: int = 200
    prior_warm_up_rows: int = 30
    shrinkage: float = 0.2
    statistic_smoothing: float = 0.2
    gate: float = 1.0
    wander: float = 0.25
    clip: float = 4.0
    near_lag_rows: int = 25
    far_lag_rows: int = 100
    gap_rows: int = 1000
    relearn_after_rows: int = 720
    relearn_weight: float = 0.01
    interval_seconds: float = 10.0


class _Turn(NamedTuple):
    """One reading of each of some devices, and what is known of them (copies)."""

    devices: Ints
    present: Flags
    deviation: Floats
    covariance: Floats
    variance: Floats


class Monitor:
    """See the module; state per device is 8·(f² + (far_lag_rows + 6)·f + 8) bytes for f fields."""

    def __init__(self, tuning: Tuning | None = None) -> None:
        """Fix what does not change."""
        self._tuning = tuning or Tuning()

    @property
    def identity(self) -> str:
        """Name and version."""
        return "monitor/1"

    def begin(self, devices: int, fields: int) -> State:
        """A state that has seen nothing."""
        by_field = ("smoothed", "level", "noise", "seen", "near", "far")
        by_device = ("rows", "learned", "untrusted", "statistic", "run", "prior", "last_us")
        return {
            "covariance": np.zeros((devices, fields, fields)),
            "past": np.zeros((devices, self._tuning.far_lag_rows, fields)),
            **{name: np.zeros((devices, fields)) for name in by_field},
            **{name: np.zeros(devices) for name in by_device},
        }

    def score(self, batch: Batch, state: State) -> tuple[Scores, State]:
        """See `interface.Detector`."""
        scores = nothing(batch.values.shape)
        for segment in _segments(batch.devices, state["rows"]):
            self._born(batch.devices[segment], state)
            for turn in turns(batch.devices[segment]):
                rows = segment[turn]
                scores.put(rows, self._turn(batch.at(rows), state))
        return scores, state

    def _born(self, devices: Ints, state: State) -> None:
        """Give devices never seen what their fleet knows: the typical covariance."""
        new = np.unique(devices[state["rows"][devices] == 0])
        known = np.flatnonzero(state["learned"] >= self._tuning.warm_up_rows)
        if len(new) and len(known) >= MIN_PRIOR_DEVICES:
            state["covariance"][new] = np.median(state["covariance"][known], axis=0)
            for name in ("near", "far", "noise"):
                state[name][new] = np.median(state[name][known], axis=0)
            state["prior"][new] = 1.0

    def _turn(self, batch: Batch, state: State) -> Scores:
        devices = batch.devices
        present = np.isfinite(batch.values)
        self._pass_time(batch, state)
        values = np.clip(np.where(present, batch.values, 0.0), -LARGEST, LARGEST)
        self._smooth(values, present, devices, state)
        turn = self._deviations(present, devices, state)
        expected = np.where(state["seen"][devices] > 1, state["level"][devices], np.nan)
        standard = turn.deviation / np.sqrt(turn.variance)
        smoothed = self._statistic(standard, turn, state)
        warm = state["rows"][devices] > self._warm_up(devices, state)
        abnormal = warm & (smoothed > self._tuning.gate)
        self._learn(abnormal, turn, state)
        score = np.where(warm, -np.expm1(-TAIL_RATE * np.exp(smoothed)), np.nan)
        return Scores(score, shares(standard**2) * warm[:, None], expected)

    def _warm_up(self, devices: Ints, state: State) -> Floats:
        tuning = self._tuning
        prior = state["prior"][devices] > 0
        return np.where(prior, tuning.prior_warm_up_rows, tuning.warm_up_rows).astype(float)

    def _pass_time(self, batch: Batch, state: State) -> None:
        """A gap in time is rows without observations."""
        devices = batch.devices
        now = batch.event_us / US_PER_SECOND
        gap = (now - state["last_us"][devices]) / self._tuning.interval_seconds
        untrusted = state["untrusted"][devices]
        wider = np.minimum(untrusted + gap, np.maximum(untrusted, self._tuning.gap_rows))
        is_gap = (gap > 5.0) & (state["rows"][devices] > 0)
        state["untrusted"][devices] = np.where(is_gap, wider, untrusted)
        state["last_us"][devices] = now
        state["rows"][devices] += 1

    def _smooth(self, values: Floats, present: Flags, devices: Ints, state: State) -> None:
        tuning = self._tuning
        seen = state["seen"][devices] + present
        first = present & (seen == 1)
        smoothed = np.where(first, values, state["smoothed"][devices])
        state["level"][devices] = np.where(first, values, state["level"][devices])
        noise = state["noise"][devices]
        bound = np.where(seen > SETTLE_ROWS, tuning.clip * np.sqrt(noise), np.inf)
        step = np.where(present, np.clip(values - smoothed, -bound, bound), 0.0)
        weight = 1.0 / np.clip(seen, 1.0, tuning.spread_rows)
        state["noise"][devices] = noise + np.where(present, (step**2 - noise) * weight, 0.0)
        state["smoothed"][devices] = smoothed + tuning.smoothing * step
        state["seen"][devices] = seen

    def _deviations(self, present: Flags, devices: Ints, state: State) -> _Turn:
        tuning = self._tuning
        covariance = state["covariance"][devices]
        level = state["level"][devices]
        lags = tuning.far_lag_rows - tuning.near_lag_rows
        per_row = np.maximum(0.0, state["far"][devices] - state["near"][devices]) / lags
        variance = np.diagonal(covariance, axis1=1, axis2=2).copy()
        variance += per_row * (tuning.wander * state["untrusted"][devices])[:, None]
        variance += (RESOLUTION * np.abs(level)) ** 2
        variance += TINY_VARIANCE + NOISE_SHARE * state["noise"][devices]
        deviation = np.where(present, state["smoothed"][devices] - level, 0.0)
        return _Turn(devices, present, deviation, covariance, variance)

    def _statistic(self, standard: Floats, turn: _Turn, state: State) -> Floats:
        """T² per field with the shrunk correlation; its smoothed log."""
        tuning = self._tuning
        inverse = 1.0 / np.sqrt(turn.variance)
        correlation = turn.covariance * ((1.0 - tuning.shrinkage) * inverse)[:, :, None]
        correlation *= inverse[:, None, :]
        if not turn.present.all():
            # What is missing says nothing; on its level it would look like a broken correlation.
            correlation *= turn.present[:, :, None] & turn.present[:, None, :]
        fields = np.arange(standard.shape[1])
        correlation[:, fields, fields] = 1.0 + JITTER
        solved = np.linalg.solve(correlation, standard[:, :, None])[:, :, 0]
        count = np.maximum(turn.present.sum(axis=1), 1)
        squared = np.maximum((standard * solved).sum(axis=1), 0.0) / count
        before = state["statistic"][turn.devices]
        smoothed: Floats = before + tuning.statistic_smoothing * (np.log(squared + 1e-3) - before)
        state["statistic"][turn.devices] = smoothed
        return smoothed

    def _learn(self, abnormal: Flags, turn: _Turn, state: State) -> None:
        devices, tuning = turn.devices, self._tuning
        run = np.where(abnormal, state["run"][devices] + 1, 0.0)
        untrusted = state["untrusted"][devices]
        state["untrusted"][devices] = np.where(
            abnormal, untrusted + 1, np.maximum(untrusted - RECOVERY, 0)
        )
        state["run"][devices] = run
        learned = state["learned"][devices] + ~abnormal
        state["learned"][devices] = learned
        weight = np.where(abnormal, 0.0, 1.0 / np.minimum(learned + 1, tuning.level_rows))
        weight = np.where(run > tuning.relearn_after_rows, tuning.relearn_weight, weight)
        state["level"][devices] += weight[:, None] * turn.deviation
        self._learn_spread(abnormal, learned, turn, state)
        self._learn_wandering(abnormal, learned, turn.present, devices, state)

    def _learn_spread(self, abnormal: Flags, learned: Floats, turn: _Turn, state: State) -> None:
        rows = learned + 1 + PRIOR_ROWS * state["prior"][turn.devices]
        weight = np.where(abnormal, 0.0, 1.0 / np.minimum(rows, self._tuning.spread_rows))
        step = turn.deviation[:, :, None] * turn.deviation[:, None, :]
        step -= turn.covariance
        step *= weight[:, None, None]
        if not turn.present.all():
            step *= turn.present[:, :, None]
            step *= turn.present[:, None, :]
        step += turn.covariance
        state["covariance"][turn.devices] = step

    def _learn_wandering(
        self, abnormal: Flags, learned: Floats, present: Flags, devices: Ints, state: State
    ) -> None:
        """Mean squared movement of the smoothed values over a near and a far lag."""
        tuning = self._tuning
        at = (state["rows"][devices] - 1).astype(np.int64)
        smoothed = state["smoothed"][devices]
        rows = learned - tuning.far_lag_rows + 1 + PRIOR_ROWS * state["prior"][devices]
        weight = 1.0 / np.clip(rows, 1.0, tuning.spread_rows)
        # A field first seen within the lag has no past to compare with.
        full = state["seen"][devices] > tuning.far_lag_rows
        ready = present & full & ~abnormal[:, None]
        for name, lag in (("far", tuning.far_lag_rows), ("near", tuning.near_lag_rows)):
            past = state["past"][devices, (at - lag) % tuning.far_lag_rows]
            step = (smoothed - past) ** 2 - state[name][devices]
            state[name][devices] += np.where(ready, weight[:, None] * step, 0.0)
        state["past"][devices, at % tuning.far_lag_rows] = smoothed


def _segments(devices: Ints, rows: Floats) -> list[Ints]:
    """Runs of readings between births, and runs of births.

    A newborn looks at its fleet, so everything before its first reading must be done by then, and
    nothing after: else the cut of the stream into batches would show.
    """
    index = np.arange(len(devices))
    firsts = np.zeros(len(devices), bool)
    firsts[np.unique(devices, return_index=True)[1]] = True
    births = firsts & (rows[devices] == 0)
    if not births.any():
        return [index] if len(index) else []
    return np.split(index, np.flatnonzero(births[1:] != births[:-1]) + 1)
