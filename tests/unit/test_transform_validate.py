"""Values against their fields."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from telemill.contract import QUALITY_IMPUTED
from transform import carry, testing, validate
from transform.dedupe import UNTRACKED

PLANT = testing.plant()
HEAT, SPEED, COUNT, MODE, IS_FAIL = PLANT.values
TYPES = {
    "float64": pa.float64(),
    "int64": pa.int64(),
    "string": pa.string(),
    "bool": pa.bool_(),
}


def checked(**given: Any) -> validate.Validated:
    """Check one row; what is not given is valid."""
    usual = {"heat": 85.5, "speed": 1.5, "count": 3, "mode": "run", "is_fail": False} | given
    columns = [
        validate.received(value, pa.array([usual[value.column]], TYPES[value.type]))
        for value in PLANT.values
    ]
    return validate.check(PLANT, columns, None)


def value_of(found: validate.Validated, column: str) -> Any:
    """The one value of a column."""
    index = [value.column for value in PLANT.values].index(column)
    return found.columns[index].array(TYPES[PLANT.values[index].type])[0].as_py()


def test_good_row_is_left_alone() -> None:
    """A row without fault has no quality bit and its values."""
    found = checked()
    assert found.quality.tolist() == [0]
    assert value_of(found, "heat") == 85.5
    assert found.counts["reading", "ok"] == 1
    assert found.counts["field", "heat", "ok"] == 1


@pytest.mark.parametrize(
    ("sent", "bit", "outcome"),
    [
        (None, PLANT.missing_bit(HEAT), "missing"),
        (-1.0, PLANT.sentinel_bit(HEAT), "sentinel"),
        (-0.5, PLANT.range_bit(HEAT), "out_of_range"),
        (200.5, PLANT.range_bit(HEAT), "out_of_range"),
    ],
)
def test_bad_value_is_null_with_its_bit(sent: float | None, bit: int, outcome: str) -> None:
    """Missing, sentinel and out of range give null, one bit each and one count."""
    found = checked(heat=sent)
    assert value_of(found, "heat") is None
    assert found.quality.tolist() == [bit]
    assert found.counts["field", "heat", outcome] == 1
    assert found.counts["field", "heat", "ok"] == 0
    assert found.counts["reading", "problem"] == 1


@pytest.mark.parametrize("bound", [0.0, 200.0])
def test_bounds_are_valid(bound: float) -> None:
    """A range includes its ends."""
    assert checked(heat=bound).quality.tolist() == [0]


@pytest.mark.parametrize("column", ["count", "mode", "is_fail"])
def test_missing_of_every_type(column: str) -> None:
    """Integers, texts and booleans can be missing, too."""
    found = checked(**{column: None})
    value = next(each for each in PLANT.values if each.column == column)
    assert value_of(found, column) is None
    assert found.quality.tolist() == [PLANT.missing_bit(value)]


def test_long_text_is_out_of_range() -> None:
    """A text that could make a row too large for a record is not kept."""
    found = checked(mode="x" * (validate.MAX_TEXT_CHARACTERS + 1))
    assert value_of(found, "mode") is None
    assert found.quality.tolist() == [PLANT.range_bit(MODE)]


def test_wrong_type_is_counted_apart() -> None:
    """A value of another type is null with the missing bit, and counted as what it was."""
    columns = [validate.received(HEAT, pa.array([None, None, 1.0], pa.float64()))]
    columns += [
        validate.received(value, pa.array([None] * 3, TYPES[value.type]))
        for value in PLANT.values[1:]
    ]
    wrong = np.zeros((3, len(columns)), np.bool_)
    wrong[0, 0] = True
    counts = validate.check(PLANT, columns, wrong).counts
    assert counts["field", "heat", "wrong_type"] == 1
    assert counts["field", "heat", "missing"] == 1
    assert counts["field", "heat", "ok"] == 1


def test_default_fills_and_says_so() -> None:
    """The default policy fills a null and sets the imputed bit."""
    column = validate.received(IS_FAIL, pa.array([None, True], pa.bool_()))
    quality = np.zeros(2, np.int64)
    filled = validate.fill_default(IS_FAIL, column, quality)
    assert filled.array(pa.bool_()).to_pylist() == [False, True]
    assert quality.tolist() == [QUALITY_IMPUTED, 0]


def test_null_policy_fills_nothing() -> None:
    """Without a policy a null stays."""
    column = validate.received(HEAT, pa.array([None], pa.float64()))
    quality = np.zeros(1, np.int64)
    assert validate.fill_default(HEAT, column, quality).array(pa.float64()).to_pylist() == [None]
    assert quality.tolist() == [0]


def test_carry_takes_the_devices_own_previous_value() -> None:
    """A null takes the last valid value of its device, of this batch or before; never another's."""
    column = validate.received(SPEED, pa.array([None, 1.0, 2.0, None, None, None], pa.float64()))
    devices = np.array([0, 0, 1, 0, 1, UNTRACKED])
    previous = np.array([9.0, None], np.object_)
    quality = np.zeros(6, np.int64)
    filled = carry.fill_previous(column, quality, devices, previous)
    assert filled.array(pa.float64()).to_pylist() == [9.0, 1.0, 2.0, 1.0, 2.0, None]
    assert quality.tolist() == [QUALITY_IMPUTED, 0, 0, QUALITY_IMPUTED, QUALITY_IMPUTED, 0]
    assert previous.tolist() == [1.0, 2.0]


def test_carry_without_a_previous_value() -> None:
    """The first reading of a device has nothing to carry."""
    column = validate.received(SPEED, pa.array([None], pa.float64()))
    quality = np.zeros(1, np.int64)
    previous = np.array([None], np.object_)
    filled = carry.fill_previous(column, quality, np.array([0]), previous)
    assert filled.null.tolist() == [True]
    assert quality.tolist() == [0]
