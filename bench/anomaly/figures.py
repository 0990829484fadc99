"""The published figures of NAB and SKAB, from scores and labels.

NAB: Lavin & Ahmad, "Evaluating real-time anomaly detection algorithms", ICMLA 2015, and version 1.1
of its scorer for the borders. SKAB: the outlier leaderboard of version 0.9.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

PROBATION = 0.15
MOST_PROBATION_ROWS = 750
SKAB_WARM_UP_ROWS = 400
PROFILES = {"standard": (0.11, 1.0), "low FP": (0.22, 1.0), "low FN": (0.11, 2.0)}
"""Weights of a false positive and of a missed window; a hit weighs 1."""


class NabFile:
    """Where the rows of one file lie relative to its windows."""

    def __init__(self, event_us: npt.NDArray[np.int64], windows: list[tuple[int, int]]) -> None:
        """Place the rows; a window ends at the first row of its last instant."""
        count = len(event_us)
        self.live = np.arange(count) >= min(int(PROBATION * count), MOST_PROBATION_ROWS)
        self.window = np.full(count, -1)
        self.weight = np.full(count, -1.0)
        self.labelled = len(windows)
        spans = sorted(
            (int(np.flatnonzero(event_us == a)[0]), int(np.flatnonzero(event_us == b)[0]))
            for a, b in windows
        )
        for number, (first, last) in enumerate(spans):
            inside = np.arange(first, last + 1)
            width = last - first + 1
            self.window[inside] = number
            self.weight[inside] = _sigma((inside - last - 1) / width) / _sigma(np.array(-1.0))
            end = spans[number + 1][0] if number + 1 < len(spans) else count
            after = np.arange(last + 1, end)
            if width > 1:
                self.weight[after] = _sigma((after - last) / (width - 1))
        self.scorable = set(self.window[self.live & (self.window >= 0)].tolist())

    def raw(self, flagged: Flags, false_positive: float, miss: float) -> float:
        """The raw score of a set of detections."""
        rows = np.flatnonzero(flagged & self.live)
        outside = rows[self.window[rows] < 0]
        total = false_positive * float(self.weight[outside].sum())
        found, earliest = np.unique(self.window[rows], return_index=True)
        hits = {
            int(window): float(self.weight[rows[first]])
            for window, first in zip(found, earliest, strict=True)
            if window >= 0
        }
        return total + sum(hits.values()) - miss * len(self.scorable - hits.keys())


def _sigma(position: Floats) -> Floats:
    """NAB's scaled sigmoid; positions from −1 (left edge) over 0 (right edge) outwards."""
    squashed = 2.0 / (1.0 + np.exp(5.0 * np.minimum(position, 3.0))) - 1.0
    return np.where(position > 3.0, -1.0, squashed)


def nab(files: list[tuple[NabFile, Floats]], threshold: float) -> dict[str, float]:
    """Normalised scores of a corpus by profile, with one threshold."""
    result = {}
    for profile, (false_positive, miss) in PROFILES.items():
        raw = sum(file.raw(scores >= threshold, false_positive, miss) for file, scores in files)
        null = -miss * sum(len(file.scorable) for file, _ in files)
        perfect = sum(file.labelled for file, _ in files)
        result[profile] = 100.0 * (raw - null) / (perfect - null) if perfect > null else 0.0
    return result


def nab_best(files: list[tuple[NabFile, Floats]], least: float = 0.9) -> float:
    """The threshold above `least` with the best standard score: tuned on the labels."""
    above = np.concatenate([scores[scores >= least] for _, scores in files])
    candidates = np.unique(np.r_[np.round(above, 5), 1.1])
    return float(max(candidates, key=lambda each: nab(files, float(each))["standard"]))


class Detection(NamedTuple):
    """F1 in [0, 1]; false alarms and misses as fractions of normal and of faulty rows."""

    f1: float
    false_alarms: float
    missed: float


def skab(files: list[tuple[Flags, Floats]], threshold: float) -> Detection:
    """Pooled over the files, after their warm-up."""
    truth = np.concatenate([labels[SKAB_WARM_UP_ROWS:] for labels, _ in files])
    said = np.concatenate([scores[SKAB_WARM_UP_ROWS:] >= threshold for _, scores in files])
    hits, wrong = int((truth & said).sum()), int((truth != said).sum())
    false_alarms = int((~truth & said).sum())
    return Detection(
        hits / (hits + wrong / 2) if hits + wrong else 0.0,
        false_alarms / max(int((~truth).sum()), 1),
        1.0 - hits / max(int(truth.sum()), 1),
    )


def skab_best(files: list[tuple[Flags, Floats]]) -> float:
    """The threshold with the best F1: tuned on the labels."""
    truth = np.concatenate([labels[SKAB_WARM_UP_ROWS:] for labels, _ in files])
    scores = np.concatenate([each[SKAB_WARM_UP_ROWS:] for _, each in files])
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(truth[order])
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + max(int(truth.sum()), 1))
    last = np.r_[np.diff(scores[order]) != 0, True]
    return float(scores[order][last][np.argmax(f1[last])])
