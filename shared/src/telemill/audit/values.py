"""Which rows do not hold what their item says. Pure."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from telemill.audit import columns
from telemill.audit.columns import ABSENT, Bools, Int64s
from telemill.audit.readings import Reader, Value
from telemill.contract import QUALITY_IMPUTED, Contract

ITEMS_AT_ONCE = 1 << 16
"""Parsed at once: bounds the memory."""
QUALITY = "quality"


class Comparison:
    """Compares rows with their items.

    Args:
        contract: What a reading is.
        reader: Of the same contract.
        time_step_us: How exact the rows' times are.
    """

    def __init__(self, contract: Contract, reader: Reader, time_step_us: int) -> None:
        self._contract = contract
        self._reader = reader
        self._time_step_us = time_step_us

    def run(
        self,
        items: pa.Table,
        rows: pa.Table,
        of_item: Int64s,
        on_progress: Callable[[int, int], None],
    ) -> tuple[Int64s, dict[int, str]]:
        """Compare all rows that have an item.

        Args:
            items: With their bodies.
            rows: With columns of the contract; one that is absent is not compared.
            of_item: Index of each row's item, or -1.
            on_progress: Told how many items are compared, of how many.

        Returns:
            Indices of the rows that differ, ascending, and in what.
        """
        order = np.argsort(of_item, kind="stable")
        order = order[of_item[order] >= 0]
        why: dict[int, str] = {}
        for start in range(0, items.num_rows, ITEMS_AT_ONCE):
            end = min(start + ITEMS_AT_ONCE, items.num_rows)
            low, high = np.searchsorted(of_item[order], [start, end])
            chosen = order[low:high]
            self._compare(
                items.slice(start, end - start), rows, chosen, of_item[chosen] - start, why
            )
            on_progress(end, items.num_rows)
        return np.array(sorted(why), np.int64), why

    def _compare(
        self, items: pa.Table, rows: pa.Table, chosen: Int64s, places: Int64s, why: dict[int, str]
    ) -> None:
        if not len(chosen):
            return
        bodies = items.column("body").take(pa.array(places)).to_pylist()
        expected = self._reader.expected(bodies)
        mine = rows.take(pa.array(chosen)).combine_chunks()
        devices = mine.column(self._contract.device.column)
        wanted = pa.array(expected.devices, devices.type)
        self._tell(
            why, chosen, self._contract.device.column, devices, wanted, _same(devices, wanted)
        )
        times = mine.column(self._contract.time.column)
        wanted_times = pa.array(expected.event_us, pa.int64()).cast(times.type)
        self._tell(
            why, chosen, self._contract.time.column, times, wanted_times,
            self._same_time(times, expected.event_us),
        )  # fmt: skip
        for value in expected.values:
            if value.field.column in mine.column_names:
                self._compare_value(mine, value, chosen, why)

    def _same_time(self, times: pa.ChunkedArray, expected: Int64s) -> Bools:
        found = times.cast(pa.int64()).fill_null(0).to_numpy()
        same: Bools = (np.abs(found - expected) < self._time_step_us) & times.is_valid().to_numpy()
        return same

    def _compare_value(
        self, rows: pa.Table, value: Value, chosen: Int64s, why: dict[int, str]
    ) -> None:
        column = rows.column(value.field.column)
        same = _same(column, value.column)
        if QUALITY in rows.column_names:
            quality = rows.column(QUALITY).fill_null(0).to_numpy()
            bits = (
                self._contract.missing_bit(value.field)
                | self._contract.sentinel_bit(value.field)
                | self._contract.range_bit(value.field)
            )
            imputed = (quality & QUALITY_IMPUTED) != 0
            marked = (quality & bits) == value.problems
        else:
            imputed = marked = np.ones(len(same), np.bool_)
        if value.field.missing == "carry":
            # What was carried depends on the readings before; that something was, is told.
            same |= value.column.is_null().to_numpy(zero_copy_only=False) & imputed
        excused = _absent(rows, value.field.column)
        self._tell(why, chosen, value.field.column, column, value.column, same | excused)
        for row in chosen[same & ~marked & ~excused].tolist():
            why.setdefault(row, f"the quality bits of {value.field.column}")

    def _tell(
        self,
        why: dict[int, str],
        chosen: Int64s,
        name: str,
        found: pa.ChunkedArray,
        wanted: pa.Array,
        same: Bools,
    ) -> None:
        for place in np.flatnonzero(~same).tolist():
            text = f"{name} is {found[place].as_py()}, should be {wanted[place].as_py()}"
            why.setdefault(int(chosen[place]), text)


def _same(found: pa.ChunkedArray, wanted: pa.Array) -> Bools:
    """Equal, or both null."""
    equal = pc.fill_null(pc.equal(found, wanted), False)
    both_null = pc.and_(pc.is_null(found), pc.is_null(wanted))
    same: Bools = pc.or_(equal, both_null).to_numpy()
    return same


def _absent(rows: pa.Table, name: str) -> Bools:
    """Rows of objects that do not have a column yet: the contract grew since."""
    if ABSENT not in rows.column_names:
        return np.zeros(rows.num_rows, np.bool_)
    values, codes = columns.codes(rows.column(ABSENT))
    return np.array([name in value.split(",") for value in values], np.bool_)[codes]
