"""Items that are not stored because a stored reading is the same. Pure.

An item is such a duplicate only if a row has its device, its event time and its values, and the
row's item was accepted before it, by the same raw shard or by an ancestor. (What has the same
device and time but other values is a conflict: the quarantine has to hold it.)
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from telemill.audit import columns
from telemill.audit.columns import LINEAGE, Int64s, Keys
from telemill.audit.model import Lineage
from telemill.audit.readings import Reader, Reading
from telemill.contract import Contract

HOUR_US = 3_600_000_000


class Candidates:
    """Items that are neither stored nor in the quarantine.

    Args:
        reader: Of the contract.
        items: All items.
        rows: Which of them.
    """

    def __init__(self, reader: Reader, items: pa.Table, rows: Int64s) -> None:
        self.rows = rows
        bodies = items.column("body").take(pa.array(rows)).to_pylist()
        self.readings: dict[int, Reading | None] = {
            row: reader.reading(body) for row, body in zip(rows.tolist(), bodies, strict=True)
        }

    def without_originals(
        self,
        originals: "Originals",
        tables: Iterable[pa.Table],
        among: Int64s | None = None,
    ) -> Int64s:
        """Those that are no duplicates of a row of the tables."""
        left = self.rows if among is None else among
        for table in tables:
            wanted = {row: r for row in left.tolist() if (r := self.readings[row]) is not None}
            explained = originals.explain(wanted, table)
            left = np.array([row for row in left.tolist() if row not in explained], np.int64)
        return left

    def hours(self, rows: Int64s) -> list[int]:
        """The hours since 1970 that the originals' event times lie in."""
        found = (self.readings[row] for row in rows.tolist())
        return sorted({each.event_us // HOUR_US for each in found if each is not None})

    def where(self, row: int) -> str:
        """Where the row of an item should be, for people."""
        reading = self.readings[row]
        if reading is None:
            return "no reading: it should be in the quarantine"
        hour = np.datetime64(reading.event_us // HOUR_US, "h").astype(str)
        day, _, clock = hour.partition("T")
        return f"dt={day}/hour={clock}, device {reading.device}"


class Originals:
    """Finds the rows that items repeat.

    Args:
        contract: What a reading is.
        reader: Of the contract.
        items: All items, with their keys.
        item_keys: Keys of the items.
        keys: What they stand for.
        ancestors: Of the raw shards.
        time_step_us: How exact the rows' times are.
    """

    def __init__(
        self,
        contract: Contract,
        reader: Reader,
        items: pa.Table,
        item_keys: Int64s,
        keys: Keys,
        ancestors: Mapping[str, frozenset[str]],
        time_step_us: int,
    ) -> None:
        self._contract = contract
        self._reader = reader
        self._items = items
        self._item_keys = item_keys
        self._keys = keys
        self._ancestors = ancestors
        self._step_us = time_step_us

    def explain(self, wanted: Mapping[int, Reading], table: pa.Table) -> set[int]:
        """Which items repeat a row of a table.

        Args:
            wanted: Reading by index of the item.
            table: Rows, from a source or on their way.
        """
        if not wanted or not table.num_rows:
            return set()
        rows = self._alike(wanted, table)
        bodies = self._bodies(row for alike in rows.values() for row in alike)
        items = list(wanted)
        lineages = self._keys.lineages(self._item_keys[np.array(items, np.int64)])
        return {
            item
            for item, lineage in zip(items, lineages, strict=True)
            if any(
                self._precedes(row, lineage)
                and self._holds(row, bodies.get(_lineage(row)), wanted[item], item)
                for row in self._rows_of(rows, wanted[item])
            )
        }

    def _alike(
        self, wanted: Mapping[int, Reading], table: pa.Table
    ) -> dict[tuple[str, int], list[dict[str, Any]]]:
        """Rows by device and event time: those of the devices and times that are wanted."""
        texts = table.column(self._contract.device.column).cast(pa.string()).fill_null("")
        names, devices = columns.codes(texts)
        code_of = {name: code for code, name in enumerate(names)}
        asked = [
            (code_of[str(reading.device)], step)
            for reading in wanted.values()
            if str(reading.device) in code_of
            for step in self._near(reading)
        ]
        rows: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
        if not asked:
            return rows
        steps = _steps(table.column(self._contract.time.column), self._step_us)
        times = np.unique([step for _, step in asked])
        pairs = [code * len(times) + int(np.searchsorted(times, step)) for code, step in asked]
        timely = np.flatnonzero(np.isin(steps, times))
        found = devices[timely] * len(times) + np.searchsorted(times, steps[timely])
        chosen = timely[np.isin(found, pairs)]
        alike = table.take(pa.array(chosen)).to_pylist()
        for row, step in zip(alike, steps[chosen].tolist(), strict=True):
            rows[str(row[self._contract.device.column]), step].append(row)
        return rows

    def _near(self, reading: Reading) -> list[int]:
        """The steps a time may be stored as: Athena's milliseconds are rounded."""
        step = reading.event_us // self._step_us
        return [step] if self._step_us == 1 else [step, step + 1]

    def _rows_of(
        self, rows: Mapping[tuple[str, int], list[dict[str, Any]]], reading: Reading
    ) -> Iterator[dict[str, Any]]:
        for step in self._near(reading):
            yield from rows.get((str(reading.device), step), ())

    def _bodies(self, rows: Iterable[dict[str, Any]]) -> dict[Lineage, bytes]:
        """The items of rows, as far as they were read."""
        wanted = list({_lineage(row) for row in rows})
        asked = columns.lineage_table(wanted)
        # First by record, so that only a few lineages have to be told apart.
        numbers = asked["sequence_number"].combine_chunks()
        near = pc.is_in(self._items["sequence_number"], value_set=numbers).to_numpy()
        places = np.flatnonzero(near)
        keys = columns.encode(asked, self._items.select(LINEAGE.names).take(pa.array(places)))
        found = columns.first_of(*keys.of)
        known = np.flatnonzero(found >= 0)
        bodies = self._items["body"].take(pa.array(places[found[known]])).to_pylist()
        return {wanted[row]: body for row, body in zip(known.tolist(), bodies, strict=True)}

    def _precedes(self, row: Mapping[str, Any], item: Lineage) -> bool:
        original = _lineage(row)
        if original.shard_id != item.shard_id:
            return original.shard_id in self._ancestors.get(item.shard_id, ())
        return original.order < item.order

    def _holds(
        self, row: Mapping[str, Any], original: bytes | None, reading: Reading, item: int
    ) -> bool:
        """Whether a row is of the same values: by its own item if it was read, else as stored."""
        if original is not None:
            return self._reader.reading(original) == reading
        body = self._items.column("body")[item].as_py()
        return all(
            row[value.field.column] == value.column[0].as_py() or value.field.missing == "carry"
            for value in self._reader.expected([body]).values
            if value.field.column in row
        )


def _lineage(row: Mapping[str, Any]) -> Lineage:
    return Lineage(row["shard_id"], row["sequence_number"], row["sub_sequence_number"])


def _steps(times: pa.ChunkedArray, step_us: int) -> Int64s:
    micros: Int64s = times.cast(pa.int64()).fill_null(-1).to_numpy()
    return micros // step_us
