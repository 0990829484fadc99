"""Rules for what instruments do when they fail: stuck, drifting, jumping, noisy. Pure.

The statistics of `monitor` and `novelty` are blind to a value that no longer moves (it is where it
should be), and slow to see a drift. Four rules per field, each a tail probability:

- *stuck-at*: the same value again and again. How long a field repeats itself in normal running is
  learned: with probability q of a repeat, a run of r repeats has probability q^r (geometric), and
  it must be several times longer than any before, because repeats come in bursts.
- *rate of change*: a step larger than any before. The tail of past steps is an exponential above
  their mean, and a field's hint can set a physical limit.
- *noise*: changes from reading to reading that became far larger, wherever the value is. Their
  squares are averaged over about 20 readings and over the whole memory (von Neumann, "Distribution
  of the ratio of the mean square successive difference to the variance", 1941, for the idea); the
  ratio of the two has the tail of a chi-squared mean (Chernoff's bound: (d/2)·(r − 1 − ln r) for
  d degrees of freedom). One wild reading is bounded, so that it is no noise.
- *drift*: a slow trend that stays, of a field whose hint says that it must hold its level: machines
  drift in normal running, too (they warm up, the weather changes), so without a hint nobody can
  say that a drift is a fault. Page's cumulative sums ("Continuous inspection schemes",
  Biometrika 41, 1954) of standardised deviations from a slowly learned level; the run length of a
  one-sided sum with allowance k is bounded by exp(2·k·h) (Siegmund, "Sequential Analysis", 1985).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
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
from telemill.contract.hints import NO_HINTS, Hints

TINY = 1e-12
LARGEST = 1e60
LEAST_STEPS = 10.0
"""Times the usual step below which a change is not worth a closer look."""
MOST_SURPRISE = 700.0
"""Natural log of the rarest probability that a float can hold."""


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
        noise_recent: Weight of the newest squared change in the recent noise.
        noise_clip: Times the usual noise above which one squared change adds no more.
        noise_freedom: Degrees of freedom of the recent noise; neighbours are correlated.
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
    noise_recent: float = 0.1
    noise_clip: float = 16.0
    noise_freedom: float = 13.0
    decisive: float = 1e-9
    hints: Mapping[int, Hints] = field(default_factory=dict)


class Rules:
    """See the module; 13 numbers per device and field."""

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
            "recent",
            "usual",
            "measured",
        )
        return {name: np.zeros((devices, fields)) for name in names}

    def score(self, batch: Batch, state: State) -> tuple[Scores, State]:
        """See `interface.Detector`."""
        scores = nothing(batch.values.shape)
        hints = _ByField.of(self._tuning.hints, batch.values.shape[1])
        for turn in turns(batch.devices):
            scores.put(turn, self._turn(batch.at(turn), state, hints))
        return scores, state

    def _turn(self, batch: Batch, state: State, hints: "_ByField") -> Scores:
        result = nothing(batch.values.shape)
        rows, fields = np.nonzero(np.isfinite(batch.values))
        devices = batch.devices[rows]
        at = devices * batch.values.shape[1] + fields
        flat = {name: array.reshape(-1) for name, array in state.items()}
        values = np.clip(batch.values[rows, fields], -LARGEST, LARGEST)
        seen = flat["seen"][at] + 1
        flat["seen"][at] = seen
        warm = seen > self._tuning.warm_up_rows
        surprises = np.zeros(batch.values.shape)
        surprises[rows, fields] = self._judge(values, at, fields, flat, hints) * warm
        total = surprises.max(axis=1)
        speaks = np.bincount(rows, warm, len(total)) > 0
        # Only what is decisive is said: below, the statistics judge better.
        decided = np.where(total > -np.log(self._tuning.decisive), -np.expm1(-total), 0.0)
        result.score[:] = np.where(speaks, decided, np.nan)
        if total.any():
            result.contributions[:] = shares(surprises)
        if hints.any_holds:
            known = (seen > 1) & hints.must_hold[fields]
            result.expected[rows, fields] = np.where(known, flat["level"][at], np.nan)
        return result

    def _judge(
        self, values: Floats, at: Ints, fields: Ints, flat: State, hints: "_ByField"
    ) -> Floats:
        """How surprising each value is by the rule it breaks worst, as −ln of a probability."""
        seen = flat["seen"][at]
        known = seen > 1
        change = np.abs(values - flat["last"][at]) * known
        flat["last"][at] = values
        weight = known / np.minimum(seen, self._tuning.memory_rows)
        surprise = np.zeros(len(values))
        self._stuck(change, known, weight, at, flat, surprise)
        surprise[hints.may_stand_still[fields]] = 0.0
        self._rate(change, weight, at, flat, surprise)
        self._noise(change, at, flat, surprise)
        surprise[change > hints.most_change[fields]] = MOST_SURPRISE
        if hints.any_holds:
            held = np.flatnonzero(hints.must_hold[fields])
            drift = self._drift(values[held], at[held], flat)
            surprise[held] = np.maximum(surprise[held], drift)
        return np.minimum(surprise, MOST_SURPRISE)

    def _stuck(
        self,
        change: Floats,
        known: Flags,
        weight: Floats,
        at: Ints,
        flat: State,
        surprise: Floats,
    ) -> None:
        tuning = self._tuning
        same = (change == 0.0) & known
        before = flat["run"][at]
        run = (before + 1) * same
        flat["run"][at] = run
        repeats = flat["repeats"][at]
        learned = repeats + (same - repeats) * weight
        # Long runs are few: only they are looked at closely. Shorter ones change no limit.
        noted = tuning.least_stuck_rows / tuning.longer
        long = np.flatnonzero(np.maximum(run, before) > noted)
        if len(long):
            places = at[long]
            longest = flat["longest"][places]
            limit = np.maximum(tuning.least_stuck_rows, tuning.longer * longest)
            # A field that never moved is not judged: it may be a constant.
            stuck = (run[long] > limit) & (flat["step"][places] > 0)
            # Laplace's rule: a probability that was never seen is not 0.
            chance = np.clip(repeats[long] + 1.0 / (flat["seen"][places] + 1.0), TINY, 1.0)
            surprise[long] = np.where(stuck, -run[long] * np.log(chance), 0.0)
            # What looks stuck is not learned as normal,
            learned[long] = np.where(stuck, repeats[long], learned[long])
            # and a run that was stuck does not excuse the next one.
            ended = ~same[long] & (before[long] <= limit)
            flat["longest"][places] = np.where(ended, np.maximum(longest, before[long]), longest)
        flat["repeats"][at] = learned

    def _rate(
        self, change: Floats, weight: Floats, at: Ints, flat: State, surprise: Floats
    ) -> None:
        step = flat["step"][at]
        large = np.flatnonzero((change > LEAST_STEPS * step) & (step > 0))
        excess = 0.5 * change[large] / np.maximum(step[large], TINY)
        surprise[large] = np.maximum(surprise[large], excess)
        flat["step"][at] = step + (change - step) * weight

    def _noise(self, change: Floats, at: Ints, flat: State, surprise: Floats) -> None:
        tuning = self._tuning
        measured = flat["measured"][at] + 1
        flat["measured"][at] = measured
        usual = flat["usual"][at]
        old = measured > tuning.warm_up_rows
        squared = np.where(old, np.minimum(change**2, tuning.noise_clip * usual), change**2)
        weight = 1.0 / np.minimum(measured, tuning.memory_rows)
        recent = flat["recent"][at]
        recent += np.maximum(weight, tuning.noise_recent) * (squared - recent)
        flat["recent"][at] = recent
        flat["usual"][at] = usual + weight * (squared - usual)
        loud = np.flatnonzero(old & (recent > 2.0 * usual) & (usual > 0))
        ratio = recent[loud] / usual[loud]
        rare = 0.5 * tuning.noise_freedom * (ratio - 1.0 - np.log(ratio))
        surprise[loud] = np.maximum(surprise[loud], rare)

    def _drift(self, values: Floats, at: Ints, flat: State) -> Floats:
        tuning = self._tuning
        seen = flat["seen"][at]
        level = np.where(seen == 1, values, flat["level"][at])
        variance = flat["variance"][at]
        standard = (values - level) / np.sqrt(np.maximum(variance, TINY))
        standard = np.where(variance > 0, np.clip(standard, -tuning.clip, tuning.clip), 0.0)
        largest = np.zeros(len(values))
        for name, sign in (("up", 1.0), ("down", -1.0)):
            total = np.maximum(0.0, flat[name][at] + sign * standard - tuning.allowance)
            total = np.minimum(total, tuning.most_sum)
            flat[name][at] = total
            largest = np.maximum(largest, total)
        weight = 1.0 / np.minimum(seen, tuning.memory_rows)
        step = values - level
        flat["level"][at] = level + weight * step
        flat["variance"][at] = (1.0 - weight) * (variance + weight * step**2)
        return 2.0 * tuning.allowance * largest


class _ByField(NamedTuple):
    """The hints as arrays by field."""

    most_change: Floats
    may_stand_still: Flags
    must_hold: Flags
    any_holds: bool

    @classmethod
    def of(cls, hints: Mapping[int, Hints], fields: int) -> "_ByField":
        each = [hints.get(index, NO_HINTS) for index in range(fields)]
        limits = [np.inf if one.most_change is None else one.most_change for one in each]
        holds = np.array([one.must_hold for one in each], bool)
        still = np.array([one.may_stand_still for one in each], bool)
        return cls(np.array(limits), still, holds, bool(holds.any()))
