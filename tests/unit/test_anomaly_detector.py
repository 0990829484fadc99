"""The detector: pure, vectorised, the same whether rows come one by one or together."""

import numpy as np
import pytest

from anomaly import detector

TUNING = detector.Tuning()


def stream(rows: int, devices: int, fields: int, seed: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Normal readings of several devices, taking turns."""
    random = np.random.default_rng(seed)
    values = random.normal(50.0, 2.0, (rows * devices, fields))
    return values, np.tile(np.arange(devices), rows)


def test_one_row_at_a_time_gives_the_scores_of_all_rows_together() -> None:
    """Where a chunk is cut does not change a score."""
    values, devices = stream(200, 3, 4)
    together = detector.score(values, devices, detector.empty(3, 4), TUNING)
    profiles = detector.empty(3, 4)
    single = [
        detector.score(values[row : row + 1], devices[row : row + 1], profiles, TUNING)
        for row in range(len(values))
    ]
    assert np.array_equal(together[0], np.concatenate([scores for scores, _ in single]))
    assert np.array_equal(together[1], np.concatenate([shares for _, shares in single]))


def test_no_look_ahead() -> None:
    """A prefix of a stream gets the same scores as in the whole stream."""
    values, devices = stream(300, 2, 3)
    whole, _ = detector.score(values, devices, detector.empty(2, 3), TUNING)
    prefix, _ = detector.score(values[:250], devices[:250], detector.empty(2, 3), TUNING)
    assert np.array_equal(whole[:250], prefix)


def test_a_sustained_shift_of_one_field_is_found_and_named() -> None:
    """A fault in one channel gives high scores whose largest contribution is that channel."""
    values, devices = stream(400, 1, 6)
    values[300:, 2] += 12.0
    scores, shares = detector.score(values, devices, detector.empty(1, 6), TUNING)
    assert scores[310:].min() > TUNING.threshold
    assert set(shares[310:].argmax(axis=1)) == {2}
    assert (scores[100:300] > TUNING.threshold).mean() < 0.01


def test_a_fault_is_not_learned_but_a_new_regime_is() -> None:
    """The reference ignores anomalous rows until they have lasted for `relearn_after_rows`."""
    tuning = detector.Tuning(relearn_after_rows=100, memory_rows=200)
    values, devices = stream(3000, 1, 2)
    values[300:] += 20.0
    scores, _ = detector.score(values, devices, detector.empty(1, 2), tuning)
    assert scores[310:395].min() > tuning.threshold
    assert scores[-500:].max() < tuning.threshold or (scores[-500:] > 0.9999).mean() < 0.02


def test_missing_constant_and_first_values_never_make_nan() -> None:
    """Missing, constant and never-seen fields give finite scores."""
    values = np.full((100, 3), 5.0)
    values[:, 1] = np.nan
    values[::2, 2] = np.nan
    scores, shares = detector.score(values, np.zeros(100, np.int64), detector.empty(1, 3), TUNING)
    assert np.isfinite(scores).all()
    assert np.isfinite(shares).all()
    assert scores.max() < TUNING.threshold


@pytest.mark.parametrize("degrees", [1, 6])
def test_scores_are_tail_probabilities(degrees: int) -> None:
    """On standard normal input, the share of scores above p is about 1 − p."""
    total = (np.random.default_rng(1).normal(size=(200_000, degrees)) ** 2).sum(axis=1)
    scores = detector._chi_squared_cdf(total, degrees)
    for p in (0.5, 0.9, 0.99):
        assert (scores > p).mean() == pytest.approx(1 - p, rel=0.12)
