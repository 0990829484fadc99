"""`anomaly.forecast`: what it says, that it says when it does not know, and what it costs."""

import numpy as np
import pytest

from anomaly import daily, forecast, trends
from anomaly.detection.interface import Batch, State

INTERVAL_US = 10_000_000
FIRST_US = 1_751_846_400_000_000
FIELDS = 3
NONE = np.full(FIELDS, np.nan)


def one_device(values: np.ndarray, event_us: np.ndarray | None = None) -> Batch:
    """Readings of device 0, ten seconds apart."""
    if event_us is None:
        event_us = FIRST_US + np.arange(len(values)) * INTERVAL_US
    return Batch(values, np.zeros(len(values), np.int64), event_us)


def learned(batch: Batch, devices: int = 1) -> tuple[forecast.Forecast, State]:
    """A forecast that has seen a batch."""
    model = forecast.Forecast()
    return model, model.learn(batch, model.begin(devices, batch.values.shape[1]))


def several(rows: int = 400, devices: int = 5, seed: int = 3) -> Batch:
    """Devices taking turns, one of them late, with missing values, a gap and jitter."""
    random = np.random.default_rng(seed)
    values = random.normal(50.0, 2.0, (rows * devices, FIELDS))
    values[random.random(values.shape) < 0.05] = np.nan
    who = np.tile(np.arange(devices), rows)
    turn = np.repeat(np.arange(rows), devices)
    event_us = FIRST_US + turn * INTERVAL_US + np.where(turn > rows // 2, 3_600_000_000, 0)
    event_us += random.integers(-1, 2, len(turn)) * 1_000_000
    kept = (who < devices - 1) | (turn > rows // 2)
    return Batch(values[kept], who[kept], event_us[kept])


def test_the_cut_into_batches_changes_no_bit() -> None:
    """One reading at a time, uneven pieces and all at once leave the same state."""
    batch = several()
    model, together = learned(batch, 5)
    for cuts in (range(1, len(batch.values)), [1, 7, 300, 301, 999]):
        state = model.begin(5, FIELDS)
        for piece in np.split(np.arange(len(batch.values)), list(cuts)):
            state = model.learn(batch.at(piece), state)
        assert all(np.array_equal(together[name], state[name]) for name in together)


def test_devices_do_not_influence_one_another() -> None:
    """Each device alone is forecast as among others."""
    batch = several()
    model, together = learned(batch, 5)
    for device in range(5):
        alone = model.learn(
            batch.at(np.flatnonzero(batch.devices == device)), model.begin(5, FIELDS)
        )
        assert all(np.array_equal(together[name][device], alone[name][device]) for name in together)


def test_readings_are_not_changed() -> None:
    """What was handed in is as it was."""
    batch = several(100)
    copy = Batch(*(part.copy() for part in batch))
    learned(batch, 5)
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(batch, copy, strict=True))


@pytest.mark.parametrize("value", [7.0, 0.0, -1e12])
def test_a_constant_stays(value: float) -> None:
    """A field that never moved is forecast to stay, without any doubt."""
    model, state = learned(one_device(np.full((500, FIELDS), value)))
    found = model.predict(state, np.array([0]), np.array([10.0, 3600.0]))
    assert np.allclose(found.median, value)
    assert np.allclose(found.low, value)
    assert np.allclose(found.high, value)


def test_nothing_is_said_before_enough_was_seen() -> None:
    """A device or field hardly seen has no forecast and no time to a limit."""
    values = np.full((19, FIELDS), 5.0)
    model, state = learned(one_device(values), devices=2)
    found = model.predict(state, np.array([0, 1]), np.array([10.0]))
    assert all(np.isnan(part).all() for part in found)
    low, high = np.full(FIELDS, 0.0), np.full(FIELDS, 10.0)
    assert all(
        np.isnan(part).all() for part in model.time_to_limit(state, np.array([0, 1]), low, high)
    )


def test_a_field_never_seen_has_no_forecast_beside_one_that_was() -> None:
    """Fields are forecast each on their own."""
    values = np.random.default_rng(1).normal(size=(300, FIELDS))
    values[:, 1] = np.nan
    model, state = learned(one_device(values))
    found = model.predict(state, np.array([0]), np.array([60.0]))
    assert np.isnan(found.median[0, 0, 1])
    assert np.isfinite(found.median[0, 0, [0, 2]]).all()


def test_a_random_walk_is_forecast_as_its_last_value() -> None:
    """Where the last value is the best there is, the forecast stays near to it."""
    values = np.cumsum(np.random.default_rng(2).normal(size=(6000, FIELDS)), axis=0)
    model, state = learned(one_device(values))
    found = model.predict(state, np.array([0]), np.array([10.0]))
    assert np.abs(found.median[0, 0] - values[-1]).max() < 0.5
    # The 80 % interval of a step of standard deviation 1 is 1.28 wide to each side.
    widths = (found.high - found.low)[0, 0, :, 0] / 2
    assert widths == pytest.approx(np.full(FIELDS, 1.28), rel=0.2)


def test_noise_is_forecast_as_its_mean() -> None:
    """Where the mean is the best there is, the last value does not count for much."""
    values = np.random.default_rng(4).normal(50.0, 2.0, (6000, FIELDS))
    values[-1] += 6.0
    model, state = learned(one_device(values))
    found = model.predict(state, np.array([0]), np.array([600.0]))
    assert np.abs(found.median - 50.0).max() < 1.0


def test_intervals_hold_the_share_of_values_they_promise() -> None:
    """Of the values of a correlated series that came, 80 and 95 % were in the intervals."""
    random = np.random.default_rng(5)
    count, devices = 3000, 40
    values = random.standard_t(4, (count, devices, 1))
    for row in range(1, count):
        values[row] += 0.9 * values[row - 1]
    model = forecast.Forecast()
    state = model.begin(devices, 1)
    everyone = np.arange(devices)
    inside = []
    for row in range(count):
        event_us = np.full(devices, FIRST_US + row * INTERVAL_US)
        state = model.learn(Batch(values[row], everyone, event_us), state)
        if row >= 600 and row % 40 == 0 and row + 60 < count:
            found = model.predict(state, everyone, np.array([10.0, 60.0, 600.0]))
            came = values[row + np.array([1, 6, 60])].transpose(1, 0, 2)[..., None]
            inside.append((found.low <= came) & (came <= found.high))
    shares = np.mean(inside, axis=(0, 1, 3))
    assert shares[:, 0] == pytest.approx(np.full(3, 0.8), abs=0.03)
    assert shares[:, 1] == pytest.approx(np.full(3, 0.95), abs=0.02)


def test_intervals_of_farther_horizons_are_wider_for_a_walk() -> None:
    """Also between and beyond the horizons that are learned."""
    values = np.cumsum(np.random.default_rng(6).normal(size=(8000, FIELDS)), axis=0)
    model, state = learned(one_device(values))
    horizons = np.array([10.0, 30.0, 60.0, 200.0, 600.0, 1800.0, 3600.0, 14400.0])
    found = model.predict(state, np.array([0]), horizons)
    widths = (found.high - found.low)[0, :, :, 1].mean(axis=1)
    assert (np.diff(widths) > 0).all()
    assert (
        (found.low[..., 1] <= found.low[..., 0]) & (found.high[..., 0] <= found.high[..., 1])
    ).all()


def test_a_daily_habit_is_learned() -> None:
    """After some days, what an hour brings is known before it comes."""
    per_day = 288
    rows = np.arange(8 * per_day)
    values = 10.0 + 5.0 * np.sin(2 * np.pi * rows / per_day)[:, None]
    values = values + np.random.default_rng(7).normal(0.0, 0.1, values.shape)
    model = forecast.Forecast(forecast.Tuning(interval_seconds=300.0))
    batch = one_device(values[:-60], FIRST_US + rows[:-60] * 300_000_000)
    state = model.learn(batch, model.begin(1, 1))
    found = model.predict(state, np.array([0]), np.array([60 * 300.0]))
    naive = abs(values[-61, 0] - values[-1, 0])
    assert naive > 4.0
    assert abs(found.median[0, 0, 0] - values[-1, 0]) < 0.2 * naive


def drifting(per_row: float, rows: int = 4000, drift: int = 300) -> np.ndarray:
    """A field in rest that begins to drift, and two in rest."""
    values = np.random.default_rng(8).normal(50.0, 0.5, (rows + drift, FIELDS))
    values[rows:, 0] += per_row * np.arange(drift)
    return values


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_drift_towards_a_limit_is_said_with_its_time(sign: float) -> None:
    """The field, the limit and about the time; the interval holds the truth; others are quiet."""
    values = 50.0 + sign * (drifting(0.05) - 50.0)
    model, state = learned(one_device(values))
    low, high = np.full(FIELDS, 30.0), np.full(FIELDS, 70.0)
    found = model.time_to_limit(state, np.array([0]), low, high)
    truth = (20.0 - 0.05 * 300) / 0.05 * 10.0
    assert found.seconds[0, 0] == pytest.approx(truth, rel=0.2)
    assert found.earliest[0, 0] <= truth <= found.latest[0, 0]
    assert found.limit[0, 0] == (70.0 if sign > 0 else 30.0)
    assert np.isnan(found.seconds[0, 1:]).all()


def test_without_a_trend_a_limit_or_nearness_nothing_is_said() -> None:
    """No limit, a limit on the other side, or one that is hours away: no time."""
    model, state = learned(one_device(drifting(0.05)))
    device = np.array([0])
    for low, high in (
        (NONE, NONE),
        (NONE + 0.0, np.full(FIELDS, 1e4)),
        (np.full(FIELDS, 30.0), NONE),
    ):
        assert np.isnan(model.time_to_limit(state, device, low, high).seconds).all()
    quiet, rest = learned(one_device(drifting(0.0)))
    near = np.full(FIELDS, 52.0)
    assert np.isnan(quiet.time_to_limit(rest, device, NONE, near).seconds).all()


def test_beyond_the_limit_the_time_is_zero() -> None:
    """A level that rises beyond its limit has reached it."""
    model, state = learned(one_device(drifting(0.05)))
    found = model.time_to_limit(state, np.array([0]), NONE, np.full(FIELDS, 60.0))
    assert found.seconds[0, 0] == found.earliest[0, 0] == found.latest[0, 0] == 0.0


def test_one_wild_value_is_no_trend() -> None:
    """A spike of fifty standard deviations announces no limit."""
    values = drifting(0.0)
    values[-3, 0] += 25.0
    model, state = learned(one_device(values))
    found = model.time_to_limit(state, np.array([0]), NONE, np.full(FIELDS, 55.0))
    assert np.isnan(found.seconds).all()


def test_a_habitual_slope_is_no_trend() -> None:
    """A field that goes up and down like that all day announces nothing."""
    rows = np.arange(6000)
    values = 50.0 + 5.0 * np.sin(2 * np.pi * rows / 400)[:, None] + np.zeros(FIELDS)
    values += np.random.default_rng(9).normal(0.0, 0.2, values.shape)
    model = forecast.Forecast()
    state = model.begin(1, FIELDS)
    said = 0
    for row in rows:
        state = model.learn(
            one_device(values[row : row + 1], FIRST_US + rows[row : row + 1] * INTERVAL_US), state
        )
        if row > 1000:
            found = model.time_to_limit(state, np.array([0]), NONE, np.full(FIELDS, 58.0))
            said += int(np.isfinite(found.seconds).any())
    assert said == 0


def test_after_a_gap_or_a_clock_that_went_back_it_goes_on() -> None:
    """Hours without readings and event times that repeat leave a working forecast."""
    values = np.random.default_rng(10).normal(50.0, 1.0, (3000, FIELDS))
    event_us = FIRST_US + np.arange(3000) * INTERVAL_US
    event_us[1000:] += 30 * 3_600_000_000
    event_us[2000:] -= 40 * 3_600_000_000
    model, state = learned(one_device(values, event_us))
    found = model.predict(state, np.array([0]), np.array([10.0, 600.0]))
    assert np.abs(found.median - 50.0).max() < 1.5
    widths = (found.high - found.low)[..., 0] / 2
    assert widths == pytest.approx(np.full(widths.shape, 1.28), rel=0.35)
    judged = state["judged"].copy()
    more = one_device(values[:200], event_us[-1] + (1 + np.arange(200)) * INTERVAL_US)
    state = model.learn(more, state)
    assert (state["judged"][0, :3] > judged[0, :3]).all()


@pytest.mark.parametrize(
    "odd",
    [
        np.full((120, FIELDS), np.nan),
        np.tile([[np.inf], [-np.inf], [-1.0], [1e300], [-1e300], [1e-300]], (20, FIELDS)),
        np.r_[np.full((60, FIELDS), np.nan), np.full((60, FIELDS), 7.0)],
    ],
    ids=["no values", "infinite, sentinel, huge, tiny", "late first values"],
)
def test_any_value_is_tolerated(odd: np.ndarray) -> None:
    """Odd values raise nothing, leave no NaN, and normal ones afterwards are forecast."""
    with np.errstate(all="raise", under="ignore"):
        model, state = learned(one_device(odd))
        after = np.random.default_rng(11).normal(50.0, 1.0, (300, FIELDS))
        later = FIRST_US + (len(odd) + np.arange(300)) * INTERVAL_US
        state = model.learn(one_device(after, later), state)
        found = model.predict(state, np.array([0]), np.array([10.0, 3600.0]))
        model.time_to_limit(state, np.array([0]), NONE, np.full(FIELDS, 90.0))
    assert not any(np.isnan(array).any() for array in state.values())
    assert np.isfinite(found.median).all()


def test_the_state_is_small_and_does_not_grow() -> None:
    """Bytes per device of six fields are bounded, whatever was seen."""
    model = forecast.Forecast()
    state = model.begin(10, 6)
    before = sum(array.nbytes for array in state.values())
    assert before / 10 < 2700
    batch = Batch(np.ones((500, 6)), np.arange(500) % 10, FIRST_US + np.arange(500) * 1_000_000)
    state = model.learn(batch, state)
    assert sum(array.nbytes for array in state.values()) == before
    assert all(len(array) == 10 for array in state.values())


def test_a_profile_is_known_only_between_hours_that_were_seen() -> None:
    """An hour never seen is not made up from its neighbours."""
    profile, visits = np.zeros((1, 24, 1), np.float32), np.zeros((1, 24), np.float32)
    who = np.array([0])
    for hour, value in ((9, 4.0), (10, 8.0)):
        at = np.array([hour * daily.HOUR_US])
        daily.learn(profile, visits, who, at, np.full((1, 1), value), np.ones((1, 1), bool), 100.0)
    assert daily.usual(profile, who, np.array([10 * daily.HOUR_US]))[0, 0] == pytest.approx(6.0)
    assert daily.usual(profile, who, np.array([11 * daily.HOUR_US]))[0, 0] == 0.0


def test_a_gain_of_one_interval_is_the_weight_itself() -> None:
    """Irregular intervals count for more or less, regular ones exactly as they are."""
    weights = np.array([0.3, 0.01], np.float32)
    steps = np.array([1.0, 2.0, 0.0])[:, None, None]
    found = trends.gain(weights, steps)
    assert np.array_equal(found[0, 0], weights)
    assert found[1, 0] == pytest.approx([0.51, 0.0199], rel=1e-5)
    assert np.array_equal(found[2, 0], [0.0, 0.0])
