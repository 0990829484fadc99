"""What each detector finds, names and learns."""

import numpy as np
import pytest

from anomaly.detection import ensemble, forest, interface, monitor, novelty, rules
from anomaly.detection.interface import Batch, Detector, Scores
from telemill.contract.hints import Hints

FIELDS = 6
INTERVAL_US = 10_000_000
THRESHOLD = ensemble.THRESHOLD


def normal(rows: int, fields: int = FIELDS, seed: int = 5) -> np.ndarray:
    """Correlated readings of a machine that runs well."""
    random = np.random.default_rng(seed)
    common = random.normal(0.0, 1.0, (rows, 1))
    return 50.0 + 2.0 * random.normal(0.0, 1.0, (rows, fields)) + common


def score(detector: Detector, values: np.ndarray, event_us: np.ndarray | None = None) -> Scores:
    """Scores of one device from its first reading on."""
    times = np.arange(len(values)) * INTERVAL_US if event_us is None else event_us
    batch = Batch(values, np.zeros(len(values), np.int64), times)
    return detector.score(batch, detector.begin(1, values.shape[1]))[0]


@pytest.mark.parametrize("channel", range(FIELDS))
@pytest.mark.parametrize("shift", [-8.0, 8.0])
def test_a_fault_of_one_channel_is_found_and_named(channel: int, shift: float) -> None:
    """A lasting shift of one field is an anomaly whose largest contribution is that field."""
    values = normal(700)
    values[500:600, channel] += shift
    scores = score(ensemble.default(FIELDS), values)
    assert scores.score[515:600].min() > THRESHOLD
    assert (scores.contributions[515:600].argmax(axis=1) == channel).all()
    assert scores.expected[550, channel] == pytest.approx(50.0, abs=1.0)


def test_normal_running_is_seldom_an_anomaly() -> None:
    """Over several machines fewer than 2 % of normal readings are above the built-in threshold."""
    flagged = [
        (score(ensemble.default(FIELDS), normal(3000, seed=seed)).score > THRESHOLD).mean()
        for seed in range(5)
    ]
    assert np.mean(flagged) < 0.02


def test_a_broken_correlation_is_found_though_each_field_stays_in_its_range() -> None:
    """Two fields that always moved together and no longer do are an anomaly."""
    random = np.random.default_rng(2)
    load = 5.0 + 4.0 * np.sin(np.arange(900) / 40.0)
    values = np.column_stack([load, 2.0 * load, 3.0 * load]) + random.normal(0, 0.1, (900, 3))
    values[700:800, 1] = 2.0 * (10.0 - load[700:800])
    scores = score(monitor.Monitor(), values)
    assert scores.score[700:800].max() > THRESHOLD
    assert (scores.score[300:700] > THRESHOLD).mean() < 0.05


def test_a_long_fault_is_not_learned_and_normal_running_after_it_is_normal() -> None:
    """600 faulty readings are all anomalous, and the machine is well soon after."""
    values = normal(1500)
    values[500:1100] += 10.0
    scores = score(ensemble.default(FIELDS), values).score
    assert scores[520:1100].min() > THRESHOLD
    assert (scores[1150:] > THRESHOLD).mean() < 0.02


def test_a_regime_that_persists_is_learned() -> None:
    """A new level is an anomaly until `relearn_after_rows`, and normal some hundreds later."""
    values = normal(2500)
    values[500:] += 10.0
    scores = score(ensemble.default(FIELDS), values).score
    assert scores[520 : 500 + monitor.Tuning().relearn_after_rows].min() > THRESHOLD
    assert (scores[1800:] > THRESHOLD).mean() < 0.02


def test_one_outlier_is_no_lasting_fault() -> None:
    """A single wild value moves the monitor for a few readings only."""
    values = normal(800)
    values[500, 3] = 5000.0
    scores = score(monitor.Monitor(), values).score
    assert (scores[500:] > THRESHOLD).sum() <= 5


def test_a_gap_in_time_widens_what_a_wandering_field_may_be() -> None:
    """After a day off a field that wanders may be elsewhere; after a second it may not."""
    random = np.random.default_rng(4)
    values = random.normal(50.0, 1.0, (800, 3))
    values[:, 0] = 50.0 + np.cumsum(random.normal(0.0, 0.05, 800))
    values[600:, 0] += 1.0
    steady = np.arange(800) * INTERVAL_US
    gap = steady + np.where(np.arange(800) >= 600, 86_400_000_000, 0)
    at_once = score(monitor.Monitor(), values, steady).score[600:700]
    after_gap = score(monitor.Monitor(), values, gap).score[600:700]
    assert (at_once > THRESHOLD).mean() > 2 * (after_gap > THRESHOLD).mean()


def test_a_new_device_speaks_early_with_its_fleets_prior() -> None:
    """Beside warmed-up devices a new one is scored after `prior_warm_up_rows`, and well."""
    detector = monitor.Monitor()
    state = detector.begin(5, FIELDS)
    fleet = np.concatenate([normal(400, seed=seed) for seed in range(4)])
    who = np.repeat(np.arange(4), 400)
    times = np.tile(np.arange(400), 4) * INTERVAL_US
    _, state = detector.score(Batch(fleet, who, times), state)
    values = normal(150, seed=9)
    values[100:, 1] += 9.0
    newborn = Batch(values, np.full(150, 4), np.arange(400, 550) * INTERVAL_US)
    scores, _ = detector.score(newborn, state)
    assert np.isnan(scores.score).sum() == monitor.Tuning().prior_warm_up_rows
    assert (scores.score[30:100] > THRESHOLD).mean() < 0.1
    assert scores.score[115:].min() > THRESHOLD
    alone = score(detector, values)
    assert np.isnan(alone.score).all()


def test_novelty_finds_a_value_never_seen_within_the_range() -> None:
    """A value in the gap between two usual levels is novel, though it is no extreme."""
    random = np.random.default_rng(3)
    values = np.where(random.random(2000) < 0.5, 10.0, 90.0) + random.normal(0.0, 1.0, 2000)
    values[1500] = 50.0
    scores = score(novelty.Novelty(), values[:, None]).score
    assert scores[1500] > THRESHOLD
    assert (np.delete(scores, 1500)[400:] > THRESHOLD).sum() <= 6


def test_novelty_is_said_once() -> None:
    """A new state is a surprise when it begins, not for as long as it lasts."""
    values = np.random.default_rng(6).normal(10.0, 1.0, 1500)
    values[1000:1200] += 50.0
    scores = score(novelty.Novelty(), values[:, None]).score
    assert scores[1000] > THRESHOLD
    assert (scores[1001:1200] > THRESHOLD).sum() <= 3


def test_novelty_remembers_with_bounded_memory() -> None:
    """What was seen long ago is not novel, though the net is full many times over."""
    random = np.random.default_rng(8)
    values = random.standard_t(3, 30_000)
    values[0] = 500.0
    values[29_000] = 500.5
    scores = score(novelty.Novelty(novelty.Tuning(scales=(1.0,))), values[:, None]).score
    assert scores[29_000] < THRESHOLD


def test_the_ensemble_says_the_most_anomalous_members_score() -> None:
    """The score is the larger of the members', never an average."""
    values = normal(600)
    values[450:500, 2] += 9.0
    members = [monitor.Monitor(), novelty.Novelty()]  # rules are silent here
    both = score(ensemble.Ensemble(members), values).score
    each = [score(member, values).score for member in (monitor.Monitor(), novelty.Novelty())]
    assert np.array_equal(both, np.fmax(*each), equal_nan=True)


def test_a_stuck_field_is_found_and_named() -> None:
    """A sensor that repeats its usual value is an anomaly, though the value is normal."""
    values = normal(800)
    values[500:600, 4] = values[499, 4]
    scores = score(ensemble.default(FIELDS), values)
    assert scores.score[525:600].min() > THRESHOLD
    assert (scores.contributions[530:600].argmax(axis=1) == 4).all()
    assert (scores.score[625:] > THRESHOLD).mean() < 0.05


def test_a_field_that_often_repeats_itself_is_not_stuck() -> None:
    """A coarse instrument repeats its value; only far longer runs than usual are suspicious."""
    values = np.round(normal(3000, fields=2) / 5.0) * 5.0
    scores = score(rules.Rules(), values).score
    assert (scores[500:] > THRESHOLD).sum() == 0


def test_a_hint_allows_a_field_to_stand_still() -> None:
    """A set point is not stuck."""
    values = normal(600, fields=2)
    values[300:, 0] = 50.0
    plain = score(rules.Rules(), values).score
    hinted = rules.Tuning(hints={0: Hints(may_stand_still=True)})
    assert plain[-1] > THRESHOLD
    assert (score(rules.Rules(hinted), values).score[300:] > THRESHOLD).sum() == 0


def test_an_impossible_step_is_an_anomaly_and_a_usual_one_is_not() -> None:
    """Steps beyond the hint, or dozens of times the usual step, are found at once."""
    values = normal(600, fields=2)
    values[450, 1] = values[449, 1] + 20.0
    values[500:, 0] += 500.0
    hinted = rules.Tuning(hints={1: Hints(most_change=15.0)})
    scores = score(rules.Rules(hinted), values)
    assert scores.score[450] > THRESHOLD
    assert scores.contributions[450].argmax() == 1
    assert scores.score[500] > THRESHOLD
    assert scores.contributions[500].argmax() == 0
    assert (np.delete(scores.score, [450, 451, 500])[250:] > THRESHOLD).sum() == 0


def test_a_drift_of_a_field_that_must_hold_is_found() -> None:
    """A slow trend is found where a hint says that it is a fault, long before it is large."""
    values = normal(3000, fields=2)
    values[2000:, 0] += np.arange(1000) * 0.02
    hinted = rules.Tuning(hints={0: Hints(must_hold=True)})
    scores = score(rules.Rules(hinted), values).score
    assert (scores[300:2000] > THRESHOLD).mean() < 0.01
    first = 2000 + int(np.argmax(scores[2000:] > THRESHOLD))
    assert 2000 < first < 2400
    assert (score(rules.Rules(), values).score[300:] > THRESHOLD).sum() == 0


def test_the_forest_finds_what_stays_in_every_field_s_range() -> None:
    """Two fields that go together and now go apart are found, and one of them is named first."""
    random = np.random.default_rng(8)
    values = normal(1500)
    wave = 8.0 * np.sin(np.arange(1500) / 9.0)
    values[:, 2] = 50.0 + wave + random.normal(0.0, 0.2, 1500)
    values[:, 4] = 50.0 + wave + random.normal(0.0, 0.2, 1500)
    values[1400:, 4] = 100.0 - values[1400:, 4]
    found = score(forest.Forest(), values)
    assert (found.score[300:1400] < THRESHOLD).all()
    assert (found.score[1400:] >= THRESHOLD).any()
    first = 1400 + int(np.argmax(found.score[1400:] >= THRESHOLD))
    assert found.contributions[first].argmax() in {2, 4}


def test_a_forest_does_not_grow() -> None:
    """Its bytes are bounded by trees and samples, however long it runs."""
    detector = forest.Forest()
    state = detector.begin(1, FIELDS)
    sizes = []
    for _ in range(4):
        batch = Batch(normal(1000), np.zeros(1000, np.int64), np.arange(1000) * INTERVAL_US)
        _, state = detector.score(batch, state)
        sizes.append(len(interface.model_bytes(state["model"])[0]))
    assert sizes[-1] < 1.1 * sizes[1] < 1_000_000


@pytest.mark.parametrize("channel", [0, 3])
def test_noise_that_became_louder_is_found_and_named(channel: int) -> None:
    """A field that jumps about as never before is found in some twenty readings, and learned."""
    values = normal(2600)
    values[1000:, channel] += 10.0 * np.random.default_rng(6).normal(size=1600)
    found = score(rules.Rules(), values)
    assert (found.score[210:1000] < THRESHOLD).all()
    first = 1000 + int(np.argmax(found.score[1000:] >= THRESHOLD))
    assert 1000 < first < 1025
    assert found.contributions[first].argmax() == channel
    assert (found.score[2400:] < THRESHOLD).all()


def test_a_missing_field_is_no_broken_correlation() -> None:
    """Fields that go together stay normal while some of their values are missing."""
    random = np.random.default_rng(9)
    common = 8.0 * np.sin(np.arange(3000) / 40.0)
    values = 50.0 + common[:, None] + random.normal(0.0, 0.5, (3000, FIELDS))
    values[1500:][random.random((1500, FIELDS)) < 0.1] = np.nan
    found = score(monitor.Monitor(), values)
    assert (found.score[1500:] >= THRESHOLD).mean() < 0.01
