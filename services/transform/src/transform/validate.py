"""Values against their fields: what is missing, a sentinel or out of range becomes null and a bit.

Then the field's policy for missing values fills the nulls: nothing, a default, or the previous
value of the device. Everything is vectorised; a float's null is NaN, which JSON cannot spell.
"""

from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from telemill.contract import QUALITY_IMPUTED, Contract, Field
from telemill.stages.step import CountKey

MAX_TEXT_CHARACTERS = 4096
"""A longer text is out of range: one row must fit into one Kinesis record."""

Bools = npt.NDArray[np.bool_]
Int64s = npt.NDArray[np.int64]

_EMPTY: dict[str, Any] = {"int64": 0, "bool": False, "string": ""}


class Column(NamedTuple):
    """Values of a field. Where `null`, the value is a filler (NaN in floats)."""

    values: npt.NDArray[Any]
    null: Bools

    def take(self, rows: npt.NDArray[Any]) -> "Column":
        """Some rows, by index or mask."""
        return Column(self.values[rows], self.null[rows])

    def array(self, arrow_type: pa.DataType) -> pa.Array:
        """As an Arrow array."""
        return pa.array(self.values, arrow_type, mask=self.null if self.null.any() else None)


class Validated(NamedTuple):
    """What checking gave: columns in the order of `contract.values`, and the quality bits."""

    columns: list[Column]
    quality: Int64s
    counts: Counter[CountKey]


def received(value: Field, array: pa.Array) -> Column:
    """A decoded column as numpy holds it."""
    if value.type == "float64":
        null = np.zeros(len(array), np.bool_)
        values = array.to_numpy(zero_copy_only=False)
        return Column(values, np.isnan(values) if array.null_count else null)
    null = np.asarray(array.is_null().to_numpy(zero_copy_only=False), np.bool_)
    filled = array.fill_null(_EMPTY[value.type]) if array.null_count else array
    return Column(filled.to_numpy(zero_copy_only=False), null)


def check(contract: Contract, columns: list[Column], wrong_types: Bools | None) -> Validated:
    """Null what is not valid, say so in the quality bits, and count.

    Args:
        contract: What is valid.
        columns: As received, in the order of `contract.values`.
        wrong_types: By row and column, which nulls had a value of another type; None: none had.
    """
    row_count = len(columns[0].values) if columns else 0
    quality = np.zeros(row_count, np.int64)
    counts: Counter[CountKey] = Counter()
    checked = []
    wrong_counts = [0] * len(columns) if wrong_types is None else wrong_types.sum(axis=0).tolist()
    for value, column, wrong in zip(contract.values, columns, wrong_counts, strict=True):
        sentinel = _is_sentinel(value, column)
        outside = _is_outside(value, column) & ~sentinel
        _mark(quality, column.null, contract.missing_bit(value))
        _mark(quality, sentinel, contract.sentinel_bit(value))
        _mark(quality, outside, contract.range_bit(value))
        checked.append(_nulled(value, column, sentinel | outside))
        counts += _outcomes(value, column.null, sentinel, outside, wrong)
    problems = int(np.count_nonzero(quality))
    counts += Counter({("reading", "problem"): problems, ("reading", "ok"): row_count - problems})
    return Validated(checked, quality, counts)


def fill_default(value: Field, column: Column, quality: Int64s) -> Column:
    """The `default` policy; sets the imputed bit in `quality` where it fills."""
    if value.missing != "default" or not column.null.any():
        return column
    _mark(quality, column.null, QUALITY_IMPUTED)
    values = column.values.copy()
    values[column.null] = value.default
    return Column(values, np.zeros_like(column.null))


def _is_sentinel(value: Field, column: Column) -> Bools:
    found = np.zeros(len(column.null), np.bool_)
    for sentinel in value.sentinels:
        found |= (column.values == sentinel) & ~column.null
    return found


def _is_outside(value: Field, column: Column) -> Bools:
    found = np.zeros(len(column.null), np.bool_)
    if value.type == "string":
        lengths = np.fromiter(map(len, column.values), np.int64, len(column.values))
        found |= lengths > MAX_TEXT_CHARACTERS
    if value.low is not None:
        found |= column.values < value.low
    if value.high is not None:
        found |= column.values > value.high
    return found & ~column.null


def _nulled(value: Field, column: Column, invalid: Bools) -> Column:
    if not invalid.any():
        return column
    filler = _EMPTY.get(value.type, np.nan)
    values = column.values.copy()
    values[invalid] = filler
    return Column(values, column.null | invalid)


def _mark(quality: Int64s, rows: Bools, bit: int) -> None:
    if rows.any():
        quality[rows] |= bit


def _outcomes(
    value: Field, missing: Bools, sentinel: Bools, outside: Bools, wrong: int
) -> Counter[CountKey]:
    amounts = {
        "missing": int(np.count_nonzero(missing)) - wrong,
        "wrong_type": wrong,
        "sentinel": int(np.count_nonzero(sentinel)),
        "out_of_range": int(np.count_nonzero(outside)),
    }
    amounts["ok"] = len(missing) - sum(amounts.values())
    return Counter({("field", value.column, name): n for name, n in amounts.items() if n})
