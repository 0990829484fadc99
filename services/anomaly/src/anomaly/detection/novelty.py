"""Univariate novelty with tail calibration and refractory, per device and field. Pure.

A value is novel when none like it was seen before: its distance to the nearest value of the past
(nearest-neighbour novelty, Knorr & Ng, "Algorithms for mining distance-based outliers", VLDB 1998).
It is taken at three time scales: the value itself and two exponentially weighted averages, so that
a lasting shift within the usual range is novel, too.

*Calibration*: what matters is how unusual such a distance is for this field. The largest distances
of the past give rank and tail: exceedances of the k-th largest follow a power law whose index is
Hill's estimate (Hill, Annals of Statistics 3, 1975; Siffer et al., "Anomaly detection in streams
with extreme value theory", KDD 2017), shrunk towards a prior because k is small. The result is a
tail probability, the same scale for every field.

*Memory*: the past is a net of at most `points` values per scale. A value nearer to the net than a
third of the k-th largest distance changes nothing that matters and is not stored; a full net
drops the point whose neighbours are nearest to each other.

*Refractory*: after a surprise, a field must surprise more to be heard again; the bar stands for
`hold_rows`, then decays.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from anomaly.detection.interface import (
    Batch,
    Floats,
    Ints,
    Scores,
    State,
    nothing,
    shares,
    turns,
)

Array = npt.NDArray[Any]

NET_FRACTION = 0.35
"""Of the k-th largest distance; 0.25 gives the same figures on NAB, 0.5 costs 0.3 points."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """Constants of the novelty detector.

    Attributes:
        scales: Weight of the newest value in each average; 1 is the value itself.
        points: Values kept per scale.
        extremes: Largest distances kept per scale (k).
        prior_index: Hill's estimate is shrunk towards this,
        prior_weight: as if that many distances had said so.
        warm_up_rows: Values before a field gets scores.
        bar: Surprise, in powers of ten, from which a value silences its field.
        hold_rows: How long the bar stands.
        decay_rows: How fast it decays afterwards.
    """

    scales: tuple[float, ...] = (1.0, 0.2, 0.05)
    points: int = 128
    extremes: int = 22
    prior_index: float = 0.3
    prior_weight: float = 20.0
    warm_up_rows: int = 60
    bar: float = 1.5
    hold_rows: int = 100
    decay_rows: float = 300.0


class Novelty:
    """See the module; the state is some 0.7 KB per device, field and scale."""

    def __init__(self, tuning: Tuning | None = None) -> None:
        """Fix what does not change."""
        self._tuning = tuning or Tuning()
        self._scales = np.asarray(self._tuning.scales)

    @property
    def identity(self) -> str:
        """Name and version."""
        return "novelty/1"

    def begin(self, devices: int, fields: int) -> State:
        """A state that has seen nothing."""
        tuning = self._tuning
        series = (devices, fields, len(self._scales))
        return {
            "net": np.zeros((*series, tuning.points), np.float32),
            "stored": np.zeros(series, np.int64),
            "top": np.zeros((*series, tuning.extremes)),
            "sum": np.zeros(series),
            "weight": np.zeros(series),
            "seen": np.zeros((devices, fields)),
            "held": np.zeros((devices, fields)),
            "age": np.zeros((devices, fields)),
        }

    def score(self, batch: Batch, state: State) -> tuple[Scores, State]:
        """See `interface.Detector`."""
        scores = nothing(batch.values.shape)
        for turn in turns(batch.devices):
            scores.put(turn, self._turn(batch.at(turn), state))
        return scores, state

    def _turn(self, batch: Batch, state: State) -> Scores:
        result = nothing(batch.values.shape)
        rows, fields = np.nonzero(np.isfinite(batch.values))
        if not len(rows):
            return result
        # One flat index per device and field: far cheaper than a pair.
        at = batch.devices[rows] * batch.values.shape[1] + fields
        level = self._level(batch.values[rows, fields], at, state)
        all_seen = state["seen"].reshape(-1)
        seen = all_seen[at]
        surprise = self._learn(level, at, seen, state)
        heard = self._refractory(surprise, at, state)
        surprises = np.zeros(batch.values.shape)
        warm = seen > self._tuning.warm_up_rows
        surprises[rows, fields] = np.where(warm, heard, 0.0)
        all_seen[at] = seen + 1
        result.contributions[:] = shares(surprises)
        # The rarest of several fields: the chance that any of them goes as far (Bonferroni).
        best = surprises.max(axis=1) - np.log10(batch.values.shape[1])
        speaks = np.bincount(rows, warm, len(best)) > 0
        tail = -np.expm1(-np.log(10) * np.maximum(best, 0.0))
        result.score[:] = np.where(speaks, tail, np.nan)
        return result

    def _level(self, values: Floats, at: Ints, state: State) -> Floats:
        """Averages of each series at every scale."""
        keep = 1.0 - self._scales
        sums, weights = (state[name].reshape(-1, len(keep)) for name in ("sum", "weight"))
        total = sums[at] * keep + values[:, None]
        weight = weights[at] * keep + 1.0
        sums[at], weights[at] = total, weight
        # Magnitudes beyond single precision are as far as anything can be.
        return np.clip(total / weight, -1e38, 1e38)

    def _learn(self, level: Floats, at: Ints, seen: Floats, state: State) -> Floats:
        """Surprise of each value at its most surprising scale; and remember it."""
        count = len(self._scales)
        series = (at[:, None] * count + np.arange(count)).ravel()
        value = level.ravel().astype(np.float32)
        place, distance = _nearest(value, series, state)
        tops = state["top"].reshape(-1, self._tuning.extremes)
        threshold = tops[:, 0][series]
        surprise = np.zeros(len(series))
        rare = np.flatnonzero(distance > threshold)
        past = np.repeat(seen, count)[rare]
        surprise[rare] = self._tail(distance[rare], tops[series[rare]], past)
        wanted = (distance > NET_FRACTION * threshold) | (np.repeat(seen, count) == 0)
        chosen = np.flatnonzero(wanted)
        _insert(value[chosen], place[chosen], series[chosen], state)
        _rank(distance[rare], series[rare], tops)
        best: Floats = surprise.reshape(-1, count).max(axis=1)
        return best

    def _tail(self, distance: Floats, top: Floats, seen: Floats) -> Floats:
        """Powers of ten by which a distance beyond the k-th largest is rare."""
        tuning = self._tuning
        known = top[:, 0] > 0
        floor = np.where(known, top[:, 0], 1.0)
        logs = np.log(np.where(known[:, None], top[:, 1:], 1.0) / floor[:, None]).sum(axis=1)
        prior = tuning.prior_index * tuning.prior_weight
        index = (logs + prior) / (tuning.extremes - 1 + tuning.prior_weight)
        rank = np.log10(np.maximum(seen, 1.0) / tuning.extremes)
        return np.where(known, rank + np.log10(distance / floor) / index, 0.0)

    def _refractory(self, surprise: Floats, at: Ints, state: State) -> Floats:
        tuning = self._tuning
        ages, bars = state["age"].reshape(-1), state["held"].reshape(-1)
        age, held = ages[at] + 1, bars[at]
        decay = np.exp(-np.maximum(age - tuning.hold_rows, 0.0) / tuning.decay_rows)
        heard = np.where(surprise > held * decay, surprise, 0.0)
        silences = heard > tuning.bar
        bars[at] = np.where(silences, heard, held)
        ages[at] = np.where(silences, 0.0, age)
        return heard


def _nearest(value: Array, series: Ints, state: State) -> tuple[Ints, Floats]:
    """Place of each value in its net, and its distance to the nearest point (0 in an empty net)."""
    points = state["net"].shape[-1]
    net, stored = state["net"].reshape(-1), state["stored"].reshape(-1)[series]
    base = series * points
    # Binary search of all nets at once; the unused end of a net is infinite.
    place = base.copy()
    step = points // 2
    while step:
        place += step * (net.take(place + (step - 1)) < value)
        step //= 2
    place += net.take(place) < value
    last = base + (points - 1)
    above = net.take(np.minimum(place, last)).astype(float)
    below = net.take(np.maximum(place - 1, base)).astype(float)
    # At either end both are the same point.
    distance = np.minimum(np.abs(above - value), np.abs(below - value))
    place -= base
    empty = np.flatnonzero(stored == 0)
    place[empty] = 0
    distance[empty] = 0.0
    return place, distance


def _insert(value: Array, place: Ints, series: Ints, state: State) -> None:
    """Put values in their nets, in order; a full net gives up a point."""
    if not len(series):
        return
    nets = state["net"].reshape(-1, state["net"].shape[-1])
    counts = state["stored"].reshape(-1)
    nets[series[counts[series] == 0]] = np.inf
    place = _thin(nets, counts, place, series)
    base = series * nets.shape[1] + place
    _shift(nets.reshape(-1), base, counts[series] - place, 1)
    nets.reshape(-1)[base] = value
    counts[series] += 1


def _thin(nets: Array, counts: Ints, place: Ints, series: Ints) -> Ints:
    """Full nets lose the inner point whose neighbours are nearest to each other."""
    points = nets.shape[1]
    full = np.flatnonzero(counts[series] == points)
    if not len(full):
        return place
    part = nets[series[full]]
    drop = np.argmin(part[:, 2:] - part[:, :-2], axis=1) + 1
    base = series[full] * points + drop + 1
    _shift(nets.reshape(-1), base, points - 1 - drop, -1)
    counts[series[full]] -= 1
    place = place.copy()
    place[full] -= place[full] > drop
    return place


def _shift(flat: Array, start: Ints, length: Ints, by: int) -> None:
    """Move runs of a flat array by one place: all runs in one step."""
    ends = np.cumsum(length)
    index = np.arange(ends[-1]) + np.repeat(start - (ends - length), length)
    flat[index + by] = flat[index]


def _rank(distance: Floats, series: Ints, tops: Array) -> None:
    """Keep the largest distances, ascending."""
    if len(series):
        kept = tops[series]
        kept[:, 0] = distance
        tops[series] = np.sort(kept, axis=1)
