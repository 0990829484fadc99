"""The forecast under any readings: a sound state, intervals in order, cuts that do not show."""

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from anomaly import forecast
from anomaly.detection.interface import Batch

FIRST_US = 1_751_846_400_000_000
DEVICES, FIELDS = 3, 2
VALUE = st.floats(allow_nan=True, allow_infinity=True, width=64)
READING = st.tuples(
    st.integers(0, DEVICES - 1),
    st.lists(st.one_of(VALUE, st.floats(0, 100)), min_size=FIELDS, max_size=FIELDS),
    st.integers(-100_000_000, 400_000_000),
)


def batch_of(readings: list[tuple[int, list[float], int]]) -> Batch:
    """Readings of several devices, event time going forward and sometimes back."""
    devices = np.array([each[0] for each in readings], np.int64)
    values = np.array([each[1] for each in readings], float).reshape(-1, FIELDS)
    return Batch(values, devices, FIRST_US + np.cumsum([each[2] for each in readings]))


ZERO = [0.0, 0.0]
LATE_AMONG_OTHERS = [
    (0, ZERO, 0),
    (1, ZERO, 0),
    (0, ZERO, 2_639_085),
    (0, ZERO, -1),
    *[(0, ZERO, 0)] * 8,
    (0, ZERO, 2_360_916),
    (1, ZERO, 0),
]


@settings(max_examples=60, deadline=None)
@example(LATE_AMONG_OTHERS, 0.1)
@given(st.lists(READING, min_size=1, max_size=80), st.floats(0, 1))
def test_any_readings_leave_a_sound_state(
    readings: list[tuple[int, list[float], int]], share: float
) -> None:
    """However they are cut, the state is the same, without NaN; intervals enclose the median."""
    batch = batch_of(readings)
    model = forecast.Forecast(forecast.Tuning(warm_up_rows=2))
    with np.errstate(all="raise", under="ignore"):
        whole = model.learn(batch, model.begin(DEVICES, FIELDS))
        cut = int(share * len(readings))
        state = model.begin(DEVICES, FIELDS)
        for piece in np.split(np.arange(len(readings)), [cut]):
            state = model.learn(batch.at(piece), state)
        everyone = np.arange(DEVICES)
        found = model.predict(state, everyone, np.array([0.0, 10.0, 100.0, 50_000.0]))
        limits = np.full(FIELDS, 10.0)
        times = model.time_to_limit(state, everyone, limits - 100.0, limits)
    assert all(np.array_equal(whole[name], state[name]) for name in whole)
    assert not any(np.isnan(array).any() for array in state.values())
    known = np.isfinite(found.median)
    assert (found.low <= found.median[..., None])[known].all()
    assert (found.median[..., None] <= found.high)[known].all()
    said = np.isfinite(times.seconds)
    assert (times.earliest <= times.seconds)[said].all()
    assert (times.seconds <= times.latest)[said].all()
    assert (times.earliest >= 0)[said].all()
