"""One suite for every detector: what `anomaly.detection.interface.Detector` promises."""

from collections.abc import Callable

import numpy as np
import pytest

from anomaly.detection import ensemble, forest, interface, monitor, novelty, rules
from anomaly.detection.interface import Batch, Detector, Scores, State
from telemill.contract.hints import Hints

FIELDS = 4
DEVICES = 5
INTERVAL_US = 10_000_000
QUICK = monitor.Tuning(warm_up_rows=40, prior_warm_up_rows=10)
FEW_TREES = forest.Tuning(trees=10, sample_points=32, warm_up_rows=40)

DETECTORS: dict[str, Callable[[], Detector]] = {
    "monitor": lambda: monitor.Monitor(QUICK),
    "novelty": lambda: novelty.Novelty(novelty.Tuning(warm_up_rows=30)),
    "rules": lambda: rules.Rules(
        rules.Tuning(warm_up_rows=30, hints={2: Hints(1.0), 3: Hints(must_hold=True)})
    ),
    "forest": lambda: forest.Forest(FEW_TREES),
    "ensemble": lambda: ensemble.default(FIELDS, QUICK),
    "ensemble with a forest": lambda: ensemble.default(FIELDS, QUICK, trees=FEW_TREES),
}


@pytest.fixture(params=DETECTORS)
def detector(request: pytest.FixtureRequest) -> Detector:
    """Each detector in turn."""
    return DETECTORS[request.param]()


def readings(rows: int, devices: int = DEVICES, seed: int = 3) -> Batch:
    """Devices taking turns; some come late, some values are missing, one field jumps, one gap."""
    random = np.random.default_rng(seed)
    count = rows * devices
    values = random.normal(50.0, 2.0, (count, FIELDS))
    values[:, 1] += 0.5 * values[:, 0]
    values[random.random((count, FIELDS)) < 0.05] = np.nan
    values[count * 2 // 3 :, 2] += 15.0
    who = np.tile(np.arange(devices), rows)
    turn = np.repeat(np.arange(rows), devices)
    event_us = turn * INTERVAL_US + np.where(turn > rows // 2, 3_600_000_000, 0)
    # The last device begins when the others are warm.
    kept = (who < devices - 1) | (turn > rows // 2)
    return Batch(values[kept], who[kept], event_us[kept])


def run(detector: Detector, batch: Batch, cuts: list[int]) -> tuple[Scores, State]:
    """Score a batch in pieces."""
    state = detector.begin(DEVICES, FIELDS)
    pieces = []
    for piece in np.split(np.arange(len(batch.values)), cuts):
        scores, state = detector.score(batch.at(piece), state)
        pieces.append(scores)
    joined = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
    return Scores(*joined), state


def same(left: Scores, right: Scores) -> bool:
    """Equal to the bit; NaN equals NaN."""
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(left, right, strict=True))


def stored(state: State) -> State:
    """The arrays after a way through bytes."""
    models = {name: array for name, array in state.items() if array.dtype == object}
    through = {
        name: np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape).copy()
        for name, array in state.items()
        if name not in models
    }
    for name, array in models.items():
        through[name] = np.array([each or 0 for each in interface.model_bytes(array)], object)
    return through


def same_state(left: State, right: State) -> bool:
    """Equal to the bit."""
    return all(np.array_equal(stored(left)[name], stored(right)[name]) for name in left)


def test_the_same_readings_and_state_give_the_same_scores_and_state(detector: Detector) -> None:
    """There is no clock and no chance in it."""
    batch = readings(150)
    (first, left), (second, right) = run(detector, batch, []), run(detector, batch, [])
    assert same(first, second)
    assert same_state(left, right)


def test_one_row_at_a_time_gives_the_scores_of_all_rows_together(detector: Detector) -> None:
    """Where a stream is cut into batches changes neither scores nor state, to the bit."""
    batch = readings(150)
    together, left = run(detector, batch, [])
    single, right = run(detector, batch, list(range(1, len(batch.values))))
    uneven, _ = run(detector, batch, [1, 2, 77, 300, 301, 500])
    assert same(together, single)
    assert same(together, uneven)
    assert same_state(left, right)


def test_no_look_ahead(detector: Detector) -> None:
    """A prefix of a stream gets the scores it has in the whole stream, whatever follows."""
    batch = readings(150)
    whole, _ = run(detector, batch, [])
    for length in (1, 100, 333, 500):
        prefix, _ = run(detector, batch.at(np.arange(length)), [])
        assert same(Scores(*(part[:length] for part in whole)), prefix)


def test_a_state_that_went_through_bytes_continues_exactly(detector: Detector) -> None:
    """Arrays stored and read again give the same scores, to the bit."""
    batch = readings(150)
    first, second = batch.at(np.arange(300)), batch.at(np.arange(300, len(batch.values)))
    _, state = detector.score(first, detector.begin(DEVICES, FIELDS))
    copy = stored(state)
    assert same(detector.score(second, copy)[0], detector.score(second, state)[0])


def test_readings_are_not_changed(detector: Detector) -> None:
    """What was handed in is as it was."""
    batch = readings(60)
    copy = Batch(*(part.copy() for part in batch))
    run(detector, batch, [])
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(batch, copy, strict=True))


def test_scores_contributions_and_warm_up_are_in_bounds(detector: Detector) -> None:
    """Scores are in [0, 1] or NaN in warm-up; contributions are 0 or sum to 1."""
    batch = readings(200)
    scores, _ = run(detector, batch, [])
    assert np.isnan(scores.score[:DEVICES]).all()
    spoken = ~np.isnan(scores.score)
    assert spoken[len(spoken) // 2]
    assert ((scores.score[spoken] >= 0) & (scores.score[spoken] <= 1)).all()
    assert (scores.contributions >= 0).all()
    totals = scores.contributions.sum(axis=1)
    assert (np.isclose(totals, 1) | (totals == 0)).all()


@pytest.mark.parametrize(
    "odd",
    [
        np.full((120, FIELDS), np.nan),
        np.full((120, FIELDS), 5.0),
        np.zeros((120, FIELDS)),
        np.tile([[np.inf], [-np.inf], [-1.0], [1e300], [-1e300], [1e-300]], (20, FIELDS)),
        np.r_[np.full((60, FIELDS), np.nan), np.full((60, FIELDS), 7.0)],
    ],
    ids=["no values", "constant", "zero", "infinite, sentinel, huge, tiny", "late first values"],
)
def test_any_value_is_tolerated(detector: Detector, odd: np.ndarray) -> None:
    """Missing, constant, infinite, huge and first values give no NaN but that of warm-up."""
    times = np.arange(len(odd)) * INTERVAL_US
    with np.errstate(all="raise", under="ignore"):
        batch = Batch(odd, np.zeros(len(odd), np.int64), times)
        scores, state = run(detector, batch, [])
        after, _ = detector.score(readings(80, devices=1), state)
    assert ((scores.score >= 0) & (scores.score <= 1) | np.isnan(scores.score)).all()
    assert np.isfinite(scores.contributions).all()
    assert not np.isnan(after.score[-1])
    assert not any(np.isnan(array).any() for array in state.values() if array.dtype != object)


def test_constant_values_are_no_anomaly(detector: Detector) -> None:
    """A field that never moves is not suspicious for that."""
    values = np.full((500, FIELDS), 7.0)
    batch = Batch(values, np.zeros(500, np.int64), np.arange(500) * INTERVAL_US)
    scores, _ = run(detector, batch, [])
    assert np.nanmax(scores.score) < ensemble.THRESHOLD


def test_the_state_does_not_grow_and_fits_its_bound(detector: Detector) -> None:
    """The state of a six-field device is at most 64 KB, however long it runs."""
    state = detector.begin(1, 6)
    size = sum(array.nbytes for array in state.values())
    random = np.random.default_rng(1)
    batch = Batch(
        random.standard_cauchy((3000, 6)), np.zeros(3000, np.int64), np.arange(3000) * INTERVAL_US
    )
    _, state = detector.score(batch, state)
    assert sum(array.nbytes for array in state.values()) == size <= 64 * 1024
    assert all(len(array) == 1 for array in state.values())


def test_devices_do_not_see_each_other_once_they_run(detector: Detector) -> None:
    """What one running device reports changes no score of another."""
    batch = readings(200, devices=3)
    other = batch.values.copy()
    mine = batch.devices == 0
    other[(batch.devices == 1) & (np.arange(len(mine)) > 10)] += 1000.0
    left, _ = run(detector, batch, [])
    right, _ = run(detector, batch._replace(values=other), [])
    assert same(Scores(*(part[mine] for part in left)), Scores(*(part[mine] for part in right)))


def test_turns_hold_each_device_once_and_keep_its_order() -> None:
    """Concatenated turns are a permutation in which each device's readings keep their order."""
    devices = np.array([4, 4, 1, 4, 2, 1, 1, 4])
    found = list(interface.turns(devices))
    assert sorted(np.concatenate(found)) == list(range(8))
    for turn in found:
        assert len(set(devices[turn])) == len(turn)
    for device in (1, 2, 4):
        order = [row for turn in found for row in turn if devices[row] == device]
        assert order == sorted(order)
