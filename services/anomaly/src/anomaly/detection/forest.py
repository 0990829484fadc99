"""Random Cut Forest per device, with calibrated tails, gated learning and attribution.

A forest of random cuts over recent points scores a point by how much it would change the trees
(Guha et al., "Robust random cut forest based anomaly detection on streams", ICML 2016), by the
library `krcf` (bindings of AWS's own Rust implementation). It finds combinations of values that
the other members of the ensemble miss, at several times their cost and state, so it is not in the
default ensemble: `ANOMALY_FOREST` adds it.

Around the library: fields are standardised, because the forest cuts wide fields more often;
missing values stand at their level (the library takes NaN and corrupts itself); a point is two
readings in a row; scores are smoothed, and calibrated by an exponential tail through the largest
ones (peaks over threshold: Balkema & de Haan 1974, Pickands 1975); what is found abnormal is
learned only after it has lasted. The library has no batches: one call per reading, in Python.
"""

import bisect
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from krcf import RandomCutForest, RandomCutForestOptions

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

TINY_VARIANCE = 1e-12
LARGEST = 1e60
READINGS_PER_POINT = 2


@dataclass(frozen=True, slots=True)
class Tuning:
    """Constants of the forest; rows are readings of one device.

    Attributes:
        trees: Of each forest.
        sample_points: Points kept per tree.
        learn_every_rows: Every so many readings one is learned: samples need not be dense.
        doubt_every_rows: The same while readings are abnormal: a new normal is learned slowly.
        warm_up_rows: Readings before a device gets scores.
        memory_rows: Of level and spread of each field.
        smoothing: Weight of the newest score.
        clip: Standard deviations beyond which a value is no farther.
        extremes: Largest scores kept (k).
        gate: Tail probability below which a reading is not learned.
        decisive: Tail probability below which the forest speaks: its scores follow every slow
            change of a machine, so that rarer is not yet unusual.
        relearn_after_rows: Abnormal readings in a row after which they are learned.
        seed: Of the random cuts, the same for every device.
    """

    trees: int = 20
    sample_points: int = 64
    learn_every_rows: int = 2
    doubt_every_rows: int = 6
    warm_up_rows: int = 200
    memory_rows: int = 4000
    smoothing: float = 0.2
    clip: float = 8.0
    extremes: int = 20
    gate: float = 0.0023
    relearn_after_rows: int = 720
    decisive: float = 1e-12
    seed: int = 20160619


class Forest:
    """See the module; some 0.25 MB per device of six fields."""

    def __init__(self, tuning: Tuning | None = None) -> None:
        """Fix what does not change."""
        self._tuning = tuning or Tuning()

    @property
    def identity(self) -> str:
        """Name and version."""
        return "forest/1"

    def begin(self, devices: int, fields: int) -> State:
        """A state that has seen nothing; `model` holds forests, or their bytes until used."""
        by_field = ("seen", "level", "variance", "past")
        by_device = ("rows", "judged", "smoothed", "run")
        return {
            "model": np.zeros(devices, object),
            "top": np.zeros((devices, self._tuning.extremes)),
            **{name: np.zeros((devices, fields)) for name in by_field},
            **{name: np.zeros(devices) for name in by_device},
        }

    def score(self, batch: Batch, state: State) -> tuple[Scores, State]:
        """See `interface.Detector`."""
        scores = nothing(batch.values.shape)
        points = np.empty((len(batch.values), READINGS_PER_POINT * batch.values.shape[1]))
        for turn in turns(batch.devices):
            points[turn] = self._points(batch.at(turn), state)
        order = np.argsort(batch.devices, kind="stable")
        # Device by device: forests are too large for a processor's caches to hold them all.
        for rows in np.split(order, np.flatnonzero(np.diff(batch.devices[order])) + 1):
            if len(rows):
                self._follow(int(batch.devices[rows[0]]), rows, points, state, scores)
        return scores, state

    def _points(self, batch: Batch, state: State) -> Floats:
        devices = batch.devices
        standard = self._standardise(batch.values, devices, state)
        points = np.concatenate([state["past"][devices], standard], axis=1)
        state["past"][devices] = standard
        return points

    def _follow(
        self, device: int, rows: Ints, points: Floats, state: State, scores: Scores
    ) -> None:
        """Score one device's readings in order and learn from them."""
        tuning = self._tuning
        model = self._model(device, points.shape[1], state)
        peaks = _Peaks.of(state, device)
        for row in rows:
            peaks.rows += 1
            point = points[row]
            raw = model.score(point) if peaks.rows > tuning.extremes else 0.0
            tail = peaks.tail(raw, tuning)
            warm = peaks.rows > tuning.warm_up_rows
            if warm:
                scores.score[row] = 0.0
            if warm and tail < tuning.decisive:
                scores.score[row] = 1.0 - tail
                scores.contributions[row] = _shares_of_fields(model, point)
            every = peaks.learn(warm and tail < tuning.gate, tuning)
            if peaks.rows % every == 0:
                model.update(point)
        peaks.put(state, device)

    def _standardise(self, values: Floats, devices: Ints, state: State) -> Floats:
        """Deviations from the level in standard deviations; 0 where there is no value."""
        tuning = self._tuning
        present = np.isfinite(values)
        known = np.clip(np.where(present, values, 0.0), -LARGEST, LARGEST)
        seen = state["seen"][devices] + present
        level = np.where(present & (seen == 1), known, state["level"][devices])
        variance = state["variance"][devices]
        step = np.where(present, known - level, 0.0)
        spread = np.sqrt(variance + TINY_VARIANCE * np.maximum(1.0, level**2))
        standard: Floats = np.where(
            seen > 1, np.clip(step / spread, -tuning.clip, tuning.clip), 0.0
        )
        weight = present / np.clip(seen, 1.0, tuning.memory_rows)
        # A value far outside counts as one at the clip: one outlier must not hide the next.
        bound = np.where(seen > tuning.extremes, tuning.clip * spread, np.inf)
        step = np.clip(step, -bound, bound)
        state["level"][devices] = level + weight * step
        state["variance"][devices] = (1.0 - weight) * (variance + weight * step**2)
        state["seen"][devices] = seen
        return standard

    def _model(self, device: int, dimensions: int, state: State) -> RandomCutForest:
        found: Any = state["model"][device]
        if isinstance(found, bytes):
            found = RandomCutForest.from_msgpack(found)
        elif not found:
            found = RandomCutForest(self._options(dimensions))
        state["model"][device] = found
        return found

    def _options(self, dimensions: int) -> RandomCutForestOptions:
        return {
            "dimensions": dimensions,
            "shingle_size": 1,
            "num_trees": self._tuning.trees,
            "sample_size": self._tuning.sample_points,
            "output_after": 1,
            "random_seed": self._tuning.seed,
            "parallel_execution_enabled": False,
            "bounding_box_cache_fraction": 1.0,
        }


@dataclass(slots=True)
class _Peaks:
    """One device's scores: their smoothed value and their largest, ascending."""

    rows: int
    judged: int
    run: int
    smoothed: float
    top: list[float]

    @classmethod
    def of(cls, state: State, device: int) -> "_Peaks":
        rows, judged, run = (int(state[name][device]) for name in ("rows", "judged", "run"))
        return cls(
            rows, judged, run, float(state["smoothed"][device]), state["top"][device].tolist()
        )

    def put(self, state: State, device: int) -> None:
        for name in ("rows", "judged", "run", "smoothed", "top"):
            state[name][device] = getattr(self, name)

    def tail(self, raw: float, tuning: Tuning) -> float:
        """Probability that a normal reading's smoothed score is as large; 1 if it is no peak."""
        self.smoothed += tuning.smoothing * (raw - self.smoothed)
        threshold = self.top[0]
        excess = sum(self.top) / tuning.extremes - threshold
        if self.smoothed <= threshold or threshold <= 0.0 or excess <= 0.0:
            return 1.0
        rate = tuning.extremes / max(self.judged, tuning.extremes)
        return rate * math.exp(-min((self.smoothed - threshold) / excess, 700.0))

    def learn(self, abnormal: bool, tuning: Tuning) -> int:
        """Take note of a reading; returns at which interval readings like it are learned."""
        self.run = self.run + 1 if abnormal else 0
        if abnormal and self.run <= tuning.relearn_after_rows:
            return tuning.doubt_every_rows
        if self.rows > tuning.extremes:
            self.judged += 1
            if self.smoothed > self.top[0]:
                del self.top[0]
                bisect.insort(self.top, self.smoothed)
        return tuning.learn_every_rows


def _shares_of_fields(model: RandomCutForest, point: Floats) -> Floats:
    """Each field's share of a point's score; costs as much as the score."""
    parts = model.attribution(point)
    by_value = np.add(parts["high"], parts["low"]).reshape(READINGS_PER_POINT, -1)
    found: Floats = shares(by_value.sum(axis=0)[None])[0]
    return found
