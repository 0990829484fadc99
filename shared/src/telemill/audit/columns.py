"""Raw items and rows as Arrow columns, and lineages as integers that compare like them. Pure.

A million rows as Python objects would take gigabytes and minutes; here they take columns.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from telemill.audit.model import Lineage, RawItem, StoredRow
from telemill.contract import Contract

Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Parents = Mapping[str, Sequence[str]]

NAMES = pa.dictionary(pa.int32(), pa.string())
LINEAGE = pa.schema(
    [
        ("shard_id", NAMES),
        ("sequence_number", pa.string()),
        ("sub_sequence_number", pa.int64()),
    ]
)
RAW_ITEMS = LINEAGE.append(pa.field("body", pa.large_binary()))
OBJECT, POSITION = "object", "position"
"""Columns that say where a row stands: the object's key, and its place there."""
ABSENT = "absent"
"""Column naming the contract's columns that a row's object does not have, with commas."""


def items_table(items: Iterable[RawItem] | pa.Table) -> pa.Table:
    """Raw items as columns."""
    if isinstance(items, pa.Table):
        return items
    made = list(items)
    bodies = pa.array([item.body for item in made], pa.large_binary())
    return lineage_table([item.lineage for item in made]).append_column("body", bodies)


def lineage_table(lineages: Iterable[Lineage] | pa.Table) -> pa.Table:
    """Lineages as columns."""
    if isinstance(lineages, pa.Table):
        return lineages
    made = list(lineages)
    columns = [
        pa.array([each.shard_id for each in made], pa.string()).dictionary_encode(),
        pa.array([each.sequence_number for each in made], pa.string()),
        pa.array([each.sub_sequence_number for each in made], pa.int64()),
    ]
    return pa.table(columns, schema=LINEAGE)


def rows_table(rows: Iterable[StoredRow] | pa.Table, contract: Contract) -> pa.Table:
    """Stored rows as columns: those of the contract that some row has, object and position."""
    if isinstance(rows, pa.Table):
        return rows
    made = list(rows)
    positions: dict[str, int] = {}
    places = []
    for row in made:
        places.append(positions.get(row.object_key, 0))
        positions[row.object_key] = places[-1] + 1
    table = lineage_table([row.lineage for row in made])
    table = table.append_column(OBJECT, pa.array([row.object_key for row in made], pa.string()))
    table = table.append_column(POSITION, pa.array(places, pa.int64()))
    always = {contract.device.column, contract.time.column}
    for column in contract.table_schema:
        if column.name in LINEAGE.names:
            continue
        if column.name in always or any(column.name in row.columns for row in made):
            values = [row.columns.get(column.name) for row in made]
            table = table.append_column(column.name, pa.array(values, column.type))
    return table


@dataclass(frozen=True, slots=True)
class Keys:
    """Lineages of several tables as integers.

    A key is smaller than another of the same raw shard exactly when its item was accepted before.

    Attributes:
        shards: Raw shards by code.
        of: The key of each row, table by table.
    """

    shards: list[str]
    of: tuple[Int64s, ...]
    _pairs: Int64s
    _numbers: pa.StringArray
    _subs: Int64s

    def shard(self, keys: Int64s) -> Int64s:
        """The code of each key's raw shard."""
        return self._pairs[keys // max(1, len(self._subs))] // max(1, len(self._numbers))

    def record(self, keys: Int64s) -> Int64s:
        """A number of each key's raw record; ascends like the keys."""
        return keys // max(1, len(self._subs))

    def sub(self, keys: Int64s) -> Int64s:
        """Each key's sub-sequence number."""
        return self._subs[keys % max(1, len(self._subs))]

    def lineages(self, keys: Int64s) -> list[Lineage]:
        """What keys stand for."""
        pairs = self._pairs[self.record(keys)]
        numbers = self._numbers.take(pa.array(pairs % max(1, len(self._numbers)))).to_pylist()
        shards = (pairs // max(1, len(self._numbers))).tolist()
        subs = self.sub(keys).tolist()
        return [
            Lineage(self.shards[shard], number, sub)
            for shard, number, sub in zip(shards, numbers, subs, strict=True)
        ]


def encode(*tables: pa.Table) -> Keys:
    """Keys of the lineages of some tables, comparable with one another."""
    joined = pa.concat_tables([table.select(LINEAGE.names).cast(LINEAGE) for table in tables])
    joined = joined.unify_dictionaries().combine_chunks()
    shards, shard_codes = _coded(joined.column("shard_id"))
    numbers, number_codes = _coded(joined.column("sequence_number"))
    # Digits without leading zeros compare like numbers once the longer is the greater.
    order = pc.sort_indices(
        pa.table({"length": pc.utf8_length(numbers), "digits": numbers}),
        sort_keys=[("length", "ascending"), ("digits", "ascending")],
    ).to_numpy()
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))
    subs, sub_codes = np.unique(
        joined.column("sub_sequence_number").to_numpy(), return_inverse=True
    )
    pairs, pair_codes = np.unique(
        shard_codes * max(1, len(numbers)) + ranks[number_codes], return_inverse=True
    )
    keys = pair_codes.astype(np.int64) * max(1, len(subs)) + sub_codes
    bounds = np.cumsum([table.num_rows for table in tables])[:-1]
    return Keys(
        shards=shards.to_pylist(),
        of=tuple(np.split(keys, bounds)),
        _pairs=pairs.astype(np.int64),
        _numbers=numbers.take(pa.array(order)),
        _subs=subs.astype(np.int64),
    )


def _coded(column: pa.ChunkedArray) -> tuple[Any, Int64s]:
    """Distinct texts and the index of each row's."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0) if array.num_chunks else pa.array([], pa.string())
    if not pa.types.is_dictionary(array.type):
        array = array.dictionary_encode()
    return array.dictionary, array.indices.to_numpy(zero_copy_only=False).astype(np.int64)


def codes(column: pa.ChunkedArray) -> tuple[list[Any], Int64s]:
    """Distinct values of a column and the index of each row's."""
    values, found = _coded(column)
    return values.to_pylist(), found


def first_of(keys: Int64s, among: Int64s) -> Int64s:
    """For each key the index of one row of `among` that has it, or -1."""
    if not len(among):
        return np.full(len(keys), -1, np.int64)
    order = np.argsort(among, kind="stable")
    places = np.searchsorted(among, keys, sorter=order)
    found = order[np.minimum(places, len(among) - 1)]
    return np.where(among[found] == keys, found, -1)


def ancestors(parents: Parents) -> dict[str, frozenset[str]]:
    """All ancestors of each shard that has any."""
    found: dict[str, frozenset[str]] = {}

    def of(shard: str, path: frozenset[str]) -> frozenset[str]:
        if shard not in found:
            direct = [each for each in parents.get(shard, ()) if each not in path]
            above = [of(each, path | {each}) for each in direct]
            found[shard] = frozenset(direct).union(*above)
        return found[shard]

    for shard in parents:
        of(shard, frozenset({shard}))
    return found
