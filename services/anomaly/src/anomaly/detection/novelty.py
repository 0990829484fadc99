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

*Memory*: the past is a net of at most `points` values per scale. A value nearer to the net than an
eighth of the k-th largest distance changes nothing that matters and is not stored; a full net drops
the point whose neighbours are nearest to each other.

*Refractory*: after a surprise, a field must surprise more to be heard again; the bar stands for
`hold_rows`, then decays.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

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

Array = npt.NDArray[Any]

NET_FRACTION = 0.125


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
    points: int = 256
    extremes: int = 22
    prior_index: float = 0.3
    prior_weight: float = 20.0
    warm_up_rows: int = 60
    bar: float = 1.5
    hold_rows: int = 100
    decay_rows: float = 300.0


class Novelty:
    """See the module; the state is some 1.2 KB per device, field and scale."""

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
        devices = batch.devices[rows]
        level = self._level(batch.values[rows, fields], devices, fields, state)
        seen = state["seen"][devices, fields]
        surprise = self._learn(level, devices, fields, seen, state)
        heard = self._refractory(surprise, devices, fields, state)
        surprises = np.zeros(batch.values.shape)
        warm = seen > self._tuning.warm_up_rows
        surprises[rows, fields] = np.where(warm, heard, 0.0)
        state["seen"][devices, fields] = seen + 1
        result.contributions[:] = shares(surprises)
        # The rarest of several fields: the chance that any of them goes as far (Bonferroni).
        best = surprises.max(axis=1) - np.log10(batch.values.shape[1])
        speaks = np.bincount(rows, warm, len(best)) > 0
        tail = -np.expm1(-np.log(10) * np.maximum(best, 0.0))
        result.score[:] = np.where(speaks, tail, np.nan)
        return result

    def _level(self, values: Floats, devices: Ints, fields: Ints, state: State) -> Floats:
        keep = 1.0 - self._scales
        total = state["sum"][devices, fields] * keep + values[:, None]
        weight = state["weight"][devices, fields] * keep + 1.0
        state["sum"][devices, fields] = total
        state["weight"][devices, fields] = weight
        # Magnitudes beyond single precision are as far as anything can be.
        return np.clip(total / weight, -1e38, 1e38)

    def _learn(
        self, level: Floats, devices: Ints, fields: Ints, seen: Floats, state: State
    ) -> Floats:
        """Surprise of each value at its most surprising scale; and remember it."""
        count = len(self._scales)
        at = (
            np.repeat(devices, count),
            np.repeat(fields, count),
            np.tile(np.arange(count), len(devices)),
        )
        value = level.ravel().astype(np.float32)
        place, distance = _nearest(value, at, state)
        top = state["top"][at]
        past = np.repeat(seen, count)
        surprise = self._tail(distance, top, past)
        _insert(value, place, distance > NET_FRACTION * top[:, 0], at, state)
        _rank(distance, past > 0, at, top, state)
        best: Floats = surprise.reshape(-1, count).max(axis=1)
        return best

    def _tail(self, distance: Floats, top: Floats, seen: Floats) -> Floats:
        tuning = self._tuning
        threshold = top[:, 0]
        surprise = np.zeros(len(distance))
        rare = np.flatnonzero((distance > threshold) & (threshold > 0))
        if len(rare):
            floor = threshold[rare]
            logs = np.log(top[rare, 1:] / floor[:, None]).sum(axis=1)
            prior = tuning.prior_index * tuning.prior_weight
            index = (logs + prior) / (tuning.extremes - 1 + tuning.prior_weight)
            rank = np.log10(np.maximum(seen[rare], 1.0) / tuning.extremes)
            surprise[rare] = rank + np.log10(distance[rare] / floor) / index
        return surprise

    def _refractory(self, surprise: Floats, devices: Ints, fields: Ints, state: State) -> Floats:
        tuning = self._tuning
        age = state["age"][devices, fields] + 1
        held = state["held"][devices, fields]
        decay = np.exp(-np.maximum(age - tuning.hold_rows, 0.0) / tuning.decay_rows)
        heard = np.where(surprise > held * decay, surprise, 0.0)
        silences = heard > tuning.bar
        state["held"][devices, fields] = np.where(silences, heard, held)
        state["age"][devices, fields] = np.where(silences, 0.0, age)
        return heard


def _nearest(value: Array, at: tuple[Ints, Ints, Ints], state: State) -> tuple[Ints, Floats]:
    """Place of each value in its net, and its distance to the nearest point (0 in an empty net)."""
    net, stored = state["net"], state["stored"][at]
    low, high = np.zeros_like(stored), stored.copy()
    # Binary search of all nets at once; `points` is a power of two.
    for _ in range(int(np.log2(net.shape[-1])) + 1):
        middle = (low + high) // 2
        less = (middle < high) & (net[(*at, np.minimum(middle, net.shape[-1] - 1))] < value)
        low = np.where(less, middle + 1, low)
        high = np.where(less, high, middle)
    above = net[(*at, np.minimum(low, net.shape[-1] - 1))].astype(float)
    below = net[(*at, np.maximum(low - 1, 0))].astype(float)
    wide = value.astype(float)
    distance = np.minimum(
        np.where(low < stored, above - wide, np.inf), np.where(low > 0, wide - below, np.inf)
    )
    return low, np.where(stored > 0, distance, 0.0)


def _insert(
    value: Array, place: Ints, wanted: Flags, at: tuple[Ints, Ints, Ints], state: State
) -> None:
    """Put values in their nets; the first value of a net always."""
    chosen = np.flatnonzero(wanted | (state["stored"][at] == 0))
    if not len(chosen):
        return
    where = tuple(part[chosen] for part in at)
    net, stored, place = state["net"][where], state["stored"][where], place[chosen]
    net, place = _thin(net, stored, place)
    index = np.arange(net.shape[1])
    shifted = np.take_along_axis(net, np.maximum(index - (index > place[:, None]), 0), axis=1)
    state["net"][where] = np.where(index == place[:, None], value[chosen, None], shifted)
    state["stored"][where] = np.minimum(stored + 1, net.shape[1])


def _thin(net: Array, stored: Ints, place: Ints) -> tuple[Array, Ints]:
    """Full nets without the inner point whose neighbours are nearest to each other."""
    full = np.flatnonzero(stored == net.shape[1])
    if not len(full):
        return net, place
    part = net[full]
    drop = np.argmin(part[:, 2:] - part[:, :-2], axis=1) + 1
    index = np.arange(net.shape[1])
    source = np.minimum(index + (index >= drop[:, None]), net.shape[1] - 1)
    net[full] = np.take_along_axis(part, source, axis=1)
    place = place.copy()
    place[full] -= place[full] > drop
    return net, place


def _rank(
    distance: Floats, known: Flags, at: tuple[Ints, Ints, Ints], top: Floats, state: State
) -> None:
    """Keep the largest distances, ascending."""
    larger = np.flatnonzero(known & (distance > top[:, 0]))
    if len(larger):
        kept = top[larger]
        kept[:, 0] = distance[larger]
        where = tuple(part[larger] for part in at)
        state["top"][where] = np.sort(kept, axis=1)
