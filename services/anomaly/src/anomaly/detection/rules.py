"""Rules for what instruments do when they fail: stuck, drifting, jumping. Pure.

The statistics of `monitor` and `novelty` are blind to a value that no longer moves (it is where it
should be), and slow to see a drift. Three rules per field, each a tail probability:

- *stuck-at*: the same value again and again. How long a field repeats itself in normal running is
  learned: with probability q of a repeat, a run of r repeats has probability q^r (geometric), and
  it must be several times longer than any before, because repeats come in bursts.
- *rate of change*: a step larger than any before. The tail of past steps is an exponential above
  their mean, and a field's hint can set a physical limit.
- *drift*: a slow trend that stays, of a field whose hint says that it must hold its level: machines
  drift in normal running, too (they warm up, the weather changes), so without a hint nobody can
  say that a drift is a fault. Page's cumulative sums ("Continuous inspection schemes",
  Biometrika 41, 1954) of standardised deviations from a slowly learned level; the run length of a
  one-sided sum with allowance k is bounded by exp(2·k·h) (Siegmund, "Sequential Analysis", 1985).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

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

TINY = 1e-12
LARGEST = 1e60
MOST_SURPRISE = 700.0
"""Natural log of the rarest probability that a float can hold."""


@dataclass(frozen=True, slots=True)
class Hint:
    """What a plant knows of a field.

    Attributes:
        most_change: Largest physically possible step between two readings; None if unknown.
        may_stand_still: A field that repeats itself in normal running, e.g. a set point.
        must_hold: A field that must hold its level: drift is a fault.
    """

    most_change: float | None = None
    may_stand_still: bool = False
    must_hold: bool = False


@dataclass(frozen=True, slots=True)
class Tuning:
    """Constants of the rules; rows are readings of one device.

    Attributes:
        warm_up_rows: Values of a field before it is judged.
        memory_rows: Of the reference.
        least_stuck_rows: Fewer repeats are never a fault.
        longer: Than the longest run before, by this factor, is stuck.
        allowance: Drift below so many standard deviations is no drift.
        most_sum: Cumulative sums are cut off here, so that they come down again.
        clip: Standard deviations beyond which one value adds no more to a sum.
        decisive: Probability below which a rule speaks; rarer than the statistics' threshold,
            because rules judge every field of every reading.
        hints: By position of the field.
    """

    warm_up_rows: int = 200
    memory_rows: int = 4000
    least_stuck_rows: int = 20
    longer: float = 4.0
    allowance: float = 1.0
    most_sum: float = 40.0
    clip: float = 3.0
    decisive: float = 1e-9
    hints: Mapping[int, Hint] = field(default_factory=dict)


class Rules:
    """See the module; 10 numbers per device and field."""

    def __init__(self, tuning: Tuning | None = None) -> None:
        """Fix what does not change."""
        self._tuning = tuning or Tuning()

    @property
    def identity(self) -> str:
        """Name and version."""
        return "rules/1"

    def begin(self, devices: int, fields: int) -> State:
        """A state that has seen nothing."""
        names = (
            "seen",
            "last",
            "run",
            "longest",
            "repeats",
            "step",
            "level",
            "variance",
            "up",
            "down",
        )
        return {name: np.zeros((devices, fields)) for name in names}

    def score(self, batch: Batch, state: State) -> tuple[Scores, State]:
        """See `interface.Detector`."""
        scores = nothing(batch.values.shape)
        for turn in turns(batch.devices):
            scores.put(turn, self._turn(batch.at(turn), state))
        return scores, state

    def _turn(self, batch: Batch, state: State) -> Scores:
        result = nothing(batch.values.shape)
        rows, fields = np.nonzero(np.isfinite(batch.values))
        devices = batch.devices[rows]
        at = devices * batch.values.shape[1] + fields
        flat = {name: array.reshape(-1) for name, array in state.items()}
        values = np.clip(batch.values[rows, fields], -LARGEST, LARGEST)
        surprise = self._judge(values, at, fields, flat)
        warm = flat["seen"][at] > self._tuning.warm_up_rows
        surprises = np.zeros(batch.values.shape)
        surprises[rows, fields] = np.where(warm, surprise, 0.0)
        total = surprises.max(axis=1)
        speaks = np.bincount(rows, warm, len(total)) > 0
        # Only what is decisive is said: below, the statistics judge better.
        decided = np.where(total > -np.log(self._tuning.decisive), -np.expm1(-total), 0.0)
        result.score[:] = np.where(speaks, decided, np.nan)
        result.contributions[:] = shares(surprises)
        known = (flat["seen"][at] > 1) & self._hinted(fields, "must_hold")
        result.expected[rows, fields] = np.where(known, flat["level"][at], np.nan)
        return result

    def _judge(self, values: Floats, at: Ints, fields: Ints, flat: State) -> Floats:
        seen = flat["seen"][at] + 1
        flat["seen"][at] = seen
        first = seen == 1
        change = np.where(first, 0.0, np.abs(values - flat["last"][at]))
        flat["last"][at] = values
        stuck = self._stuck(change, ~first, at, fields, flat)
        rate = self._rate(change, ~first, at, fields, flat)
        drift = np.zeros(len(values))
        held = np.flatnonzero(self._hinted(fields, "must_hold"))
        drift[held] = self._drift(values[held], at[held], flat)
        surprise = np.maximum(np.maximum(stuck, rate), drift)
        return np.minimum(surprise, MOST_SURPRISE)

    def _weight(self, at: Ints, flat: State) -> Floats:
        return 1.0 / np.clip(flat["seen"][at], 1.0, self._tuning.memory_rows)

    def _stuck(self, change: Floats, known: Flags, at: Ints, fields: Ints, flat: State) -> Floats:
        tuning = self._tuning
        same = (change == 0.0) & known
        before = flat["run"][at]
        run = np.where(same, before + 1, 0.0)
        flat["run"][at] = run
        repeats = flat["repeats"][at]
        # Laplace's rule: a probability that was never seen is not 0.
        chance = np.clip(repeats + 1.0 / (flat["seen"][at] + 2.0), TINY, 1.0)
        longest = flat["longest"][at]
        limit = np.maximum(tuning.least_stuck_rows, tuning.longer * longest)
        # A field that never moved is not judged: it may be a constant.
        stuck = (run > limit) & (flat["step"][at] > 0)
        surprise = np.where(stuck, -run * np.log(chance), 0.0)
        # A run that was stuck does not excuse the next one.
        ended = ~same & (before <= limit)
        flat["longest"][at] = np.where(ended, np.maximum(longest, before), longest)
        # What looks stuck is not learned as normal.
        learns = known & ~stuck
        flat["repeats"][at] += np.where(learns, (same - repeats) * self._weight(at, flat), 0.0)
        return np.where(self._hinted(fields, "may_stand_still"), 0.0, surprise)

    def _hinted(self, fields: Ints, name: str) -> Flags:
        chosen = [index for index, hint in self._tuning.hints.items() if getattr(hint, name)]
        return np.isin(fields, chosen)

    def _rate(self, change: Floats, known: Flags, at: Ints, fields: Ints, flat: State) -> Floats:
        step = flat["step"][at]
        surprise = np.where(step > 0, change / np.maximum(step, TINY), 0.0) * 0.5
        flat["step"][at] += np.where(known, (change - step) * self._weight(at, flat), 0.0)
        for index, hint in self._tuning.hints.items():
            if hint.most_change is not None:
                impossible = (fields == index) & (change > hint.most_change)
                surprise = np.where(impossible, MOST_SURPRISE, surprise)
        return surprise

    def _drift(self, values: Floats, at: Ints, flat: State) -> Floats:
        tuning = self._tuning
        first = flat["seen"][at] == 1
        level = np.where(first, values, flat["level"][at])
        variance = flat["variance"][at]
        standard = (values - level) / np.sqrt(np.maximum(variance, TINY))
        standard = np.where(variance > 0, np.clip(standard, -tuning.clip, tuning.clip), 0.0)
        largest = np.zeros(len(values))
        for name, sign in (("up", 1.0), ("down", -1.0)):
            total = np.maximum(0.0, flat[name][at] + sign * standard - tuning.allowance)
            total = np.minimum(total, tuning.most_sum)
            flat[name][at] = total
            largest = np.maximum(largest, total)
        weight = self._weight(at, flat)
        step = values - level
        flat["level"][at] = level + weight * step
        flat["variance"][at] = (1.0 - weight) * (variance + weight * step**2)
        return 2.0 * tuning.allowance * largest
