"""A streaming process monitor per device, vectorised over devices. Pure.

Each measured field is standardised by a running mean and variance of its device, smoothed by a
short exponentially weighted average, and the squares are summed to a T² statistic (Hotelling
1947; on EWMA input: Lowry et al., "A multivariate exponentially weighted moving average control
chart", Technometrics 34, 1992). Its chi-squared tail gives a score that means the same for every
device. The reference learns only from rows it finds normal, so a long fault is not learned; an
abnormal state that persists for `relearn_after` rows is taken for a new regime.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

DETECTOR_ID = "ewma-t2/1"
"""Name and version: rows of another algorithm are another detector's."""

CLIP = 8.0
"""Standard deviations beyond which a single value adds no more: one outlier is not a fault."""
MIN_VARIANCE = 1e-12


@dataclass(frozen=True, slots=True)
class Tuning:
    """How the monitor learns; rows, not seconds, so that it suits any interval.

    Attributes:
        smoothing: Weight of the newest row in the smoothed deviation.
        memory_rows: Length of the running reference.
        warm_up_rows: Rows before a device gets scores above zero.
        threshold: Score from which a row is an anomaly and is not learned.
        relearn_after_rows: Rows in a row above the threshold after which it is the new normal.
    """

    smoothing: float = 0.25
    memory_rows: int = 2000
    warm_up_rows: int = 30
    threshold: float = 0.9999
    relearn_after_rows: int = 720


@dataclass(slots=True)
class Profiles:
    """The running reference of many devices, one row each.

    Attributes:
        mean: devices by fields.
        variance: devices by fields.
        seen: devices by fields; values taken into the reference.
        smoothed: devices by fields; short average of the standardised deviation.
        rows: devices; rows met.
        abnormal_rows: devices; length of the present run of anomalies.
    """

    mean: Floats
    variance: Floats
    seen: Floats
    smoothed: Floats
    rows: Ints
    abnormal_rows: Ints


def empty(device_count: int, field_count: int) -> Profiles:
    """Profiles that have seen nothing."""
    shape = (device_count, field_count)
    return Profiles(
        mean=np.zeros(shape),
        variance=np.zeros(shape),
        seen=np.zeros(shape),
        smoothed=np.zeros(shape),
        rows=np.zeros(device_count, np.int64),
        abnormal_rows=np.zeros(device_count, np.int64),
    )


def score(
    values: Floats, device_rows: Ints, profiles: Profiles, tuning: Tuning
) -> tuple[Floats, Floats]:
    """Score readings in order and learn from them.

    Args:
        values: n readings by fields; NaN where there is no value.
        device_rows: n; which row of `profiles` each reading belongs to.
        profiles: Changed in place.
        tuning: Constants.

    Returns:
        n scores in [0, 1], and n by fields contributions that sum to 1 (or are all 0).
    """
    scores = np.zeros(len(values))
    contributions = np.zeros_like(values)
    for turn in _turns(device_rows):
        scores[turn], contributions[turn] = _score_turn(
            values[turn], device_rows[turn], profiles, tuning
        )
    return scores, contributions


def _turns(device_rows: Ints) -> list[Ints]:
    """Indices of the first reading of every device, of the second, and so on.

    Readings of one turn are of different devices, so a turn is one vectorised step.
    """
    order = np.argsort(device_rows, kind="stable")
    ordered = device_rows[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    lengths = np.diff(np.r_[starts, len(ordered)])
    ranks = np.arange(len(ordered)) - np.repeat(starts, lengths)
    by_rank = np.argsort(ranks, kind="stable")
    borders = np.cumsum(np.bincount(ranks))[:-1]
    return np.split(order[by_rank], borders)


def _score_turn(
    values: Floats, devices: Ints, profiles: Profiles, tuning: Tuning
) -> tuple[Floats, Floats]:
    present = ~np.isnan(values)
    deviation = _deviation(values, present, devices, profiles)
    smoothed = profiles.smoothed[devices]
    smoothed += tuning.smoothing * np.where(present, deviation - smoothed, 0.0)
    profiles.smoothed[devices] = smoothed
    # Variance of an EWMA of independent unit-variance values (Lowry et al., eq. 4, limit).
    squares = smoothed**2 * (2.0 - tuning.smoothing) / tuning.smoothing
    total = squares.sum(axis=1)
    warm = profiles.rows[devices] >= tuning.warm_up_rows
    scores = np.where(warm, _chi_squared_cdf(total, squares.shape[1]), 0.0)
    _learn(values, present, devices, scores, profiles, tuning)
    share = np.divide(squares, total[:, None], out=np.zeros_like(squares), where=total[:, None] > 0)
    return scores, share


def _deviation(
    values: Floats, present: npt.NDArray[np.bool_], devices: Ints, profiles: Profiles
) -> Floats:
    spread = np.sqrt(np.maximum(profiles.variance[devices], MIN_VARIANCE))
    known = present & (profiles.seen[devices] >= 2)
    raw = np.divide(values - profiles.mean[devices], spread, out=np.zeros_like(values), where=known)
    return np.clip(raw, -CLIP, CLIP)


def _learn(
    values: Floats,
    present: npt.NDArray[np.bool_],
    devices: Ints,
    scores: Floats,
    profiles: Profiles,
    tuning: Tuning,
) -> None:
    abnormal = scores >= tuning.threshold
    run = np.where(abnormal, profiles.abnormal_rows[devices] + 1, 0)
    profiles.abnormal_rows[devices] = run
    profiles.rows[devices] += 1
    learns = present & (~abnormal | (run > tuning.relearn_after_rows))[:, None]
    seen = profiles.seen[devices] + learns
    weight = np.where(learns, 1.0 / np.clip(seen, 1.0, tuning.memory_rows), 0.0)
    mean = profiles.mean[devices]
    difference = np.where(learns, values - mean, 0.0)
    profiles.mean[devices] = mean + weight * difference
    variance = profiles.variance[devices]
    profiles.variance[devices] = (1.0 - weight) * (variance + weight * difference**2)
    profiles.seen[devices] = seen


def _chi_squared_cdf(total: Floats, degrees: int) -> Floats:
    """P(chi² ≤ total): Wilson & Hilferty (PNAS 17, 1931) with a logistic normal CDF.

    The logistic approximation is Bowling et al. (JIEM 2, 2009), error below 0.00014.
    """
    spread = 2.0 / (9.0 * degrees)
    normal = (np.cbrt(total / degrees) - (1.0 - spread)) / np.sqrt(spread)
    result: Floats = 1.0 / (1.0 + np.exp(-(0.07056 * normal**3 + 1.5976 * normal)))
    return result
