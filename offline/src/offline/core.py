"""Which of some rows a table lacks: an anti-join on lineage and on the contract's key. Pure.

A row is added only if the table holds neither its lineage (it is there) nor its device and event
time (another raw record brought that reading). The table is looked at one object at a time, so
memory is bounded by the candidates and one object's key columns.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from telemill.contract import Contract

LINEAGE_COLUMNS = ("shard_id", "sequence_number", "sub_sequence_number")
KEY_COLUMNS = ("device_id", "event_time")
COMPARED_COLUMNS = (*LINEAGE_COLUMNS, *KEY_COLUMNS)
"""What is read of every object looked at."""

Bools = npt.NDArray[np.bool_]
Int64s = npt.NDArray[np.int64]


class Outcome(IntEnum):
    """What the table says of a row. A higher one wins over a lower one."""

    NEW = 0
    CONFLICT = 1  # another reading of its device and time is stored, with other values
    SAME = 2  # the same reading is stored, from another raw record
    STORED = 3  # the row itself is stored


@dataclass(slots=True)
class Tally:
    """What a run did, for people.

    Attributes:
        records: Raw records, or quarantined items, read.
        rows: Rows derived from them.
        outcomes: What the table said of the rows.
        rejected: Items that are no readings, by reason.
        added: Rows added; with a dry run, rows that would be.
        objects: Objects created.
    """

    records: int = 0
    rows: int = 0
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    added: int = 0
    objects: int = 0


class Screen:
    """Rows of one partition against what that partition holds.

    Args:
        rows: Candidates in the table's schema, in order of acceptance.
        contract: Whose values are compared.
        add_conflicts: Whether a conflict counts as lacking, too.
    """

    def __init__(self, rows: pa.Table, contract: Contract, *, add_conflicts: bool = False) -> None:
        self._rows = rows
        self._contract = contract
        self._add_conflicts = add_conflicts
        self._keys = _comparable(rows.select(COMPARED_COLUMNS), "row")
        self._outcomes = np.full(rows.num_rows, Outcome.NEW, np.int8)

    def match(self, stored: pa.Table) -> tuple[Int64s, Int64s]:
        """Look at an object of the partition.

        Args:
            stored: Its `COMPARED_COLUMNS`.

        Returns:
            Candidates (by row) and stored rows (by place) of one device and time but of different
            lineage: pass them to `judge`, with the object's values.
        """
        compared = _comparable(stored, "place")
        same = self._keys.join(
            compared.drop_columns(["place", *KEY_COLUMNS]), list(LINEAGE_COLUMNS), join_type="inner"
        )
        self._raise_to(_integers(same, "row"), Outcome.STORED)
        pairs = self._keys.join(
            compared, list(KEY_COLUMNS), join_type="inner", right_suffix="_stored"
        )
        other = np.zeros(pairs.num_rows, np.bool_)
        for name in LINEAGE_COLUMNS:
            differs = pc.not_equal(pairs[name], pairs[f"{name}_stored"])
            other |= differs.to_numpy()
        return _integers(pairs, "row")[other], _integers(pairs, "place")[other]

    def judge(self, rows: Int64s, places: Int64s, stored: pa.Table) -> None:
        """Tell the same reading from a conflict.

        Args:
            rows: From `match`.
            places: From `match`.
            stored: The object that was matched, with quality and values.
        """
        ours = self._rows.take(pa.array(rows))
        same = same_values(self._contract, ours, stored.take(pa.array(places)))
        self._raise_to(rows, Outcome.CONFLICT)
        self._raise_to(rows[same], Outcome.SAME)

    def finish(self) -> tuple[pa.Table, Counter[Outcome]]:
        """After all objects: the rows to add, in their order, and what became of every one."""
        self._compare_among_themselves()
        added = self._outcomes == Outcome.NEW
        if self._add_conflicts:
            added |= self._outcomes == Outcome.CONFLICT
        counts = Counter({each: int((self._outcomes == each).sum()) for each in Outcome})
        return self._rows.filter(pa.array(added)), +counts

    def _raise_to(self, rows: Int64s, outcome: Outcome) -> None:
        self._outcomes[rows] = np.maximum(self._outcomes[rows], outcome)

    def _compare_among_themselves(self) -> None:
        """Of candidates with one key the first is taken, as if each were added on its own."""
        for group in self._repeated_keys():
            kept: list[int] = []
            for row in group:
                outcome = self._outcomes[row]
                if outcome > Outcome.CONFLICT:
                    continue
                if self._is_among(row, kept):
                    self._outcomes[row] = Outcome.SAME
                    continue
                if kept:
                    self._outcomes[row] = Outcome.CONFLICT
                if self._add_conflicts or self._outcomes[row] == Outcome.NEW:
                    kept.append(row)

    def _is_among(self, row: int, kept: Sequence[int]) -> bool:
        if not kept:
            return False
        one = self._rows.take(pa.array([row] * len(kept)))
        return bool(same_values(self._contract, one, self._rows.take(pa.array(kept))).any())

    def _repeated_keys(self) -> list[list[int]]:
        """Rows that share device and time with another one, by key, in their order."""
        open_rows = np.flatnonzero(self._outcomes <= Outcome.CONFLICT)
        keys = self._keys.take(pa.array(open_rows))
        grouped = keys.group_by(list(KEY_COLUMNS)).aggregate([("row", "count")])
        repeated = grouped.filter(pc.greater(grouped["row_count"], 1))
        if not repeated.num_rows:
            return []
        found = keys.join(repeated.select(KEY_COLUMNS), list(KEY_COLUMNS), join_type="inner")
        groups: dict[tuple[object, ...], list[int]] = {}
        for entry in sorted(found.to_pylist(), key=lambda each: each["row"]):
            groups.setdefault(tuple(entry[name] for name in KEY_COLUMNS), []).append(entry["row"])
        return list(groups.values())


def same_values(contract: Contract, ours: pa.Table, theirs: pa.Table) -> Bools:
    """Of each pair of rows, whether they are the same reading.

    A field counts by what was received: where either row says that nothing valid was, both must
    say so alike, and what was filled in (`carry`, `default`) does not count. A column that the
    other table was written without is left out.

    Args:
        contract: The fields.
        ours: n rows with quality and values.
        theirs: n rows with quality and the values they have.
    """
    same = np.ones(ours.num_rows, np.bool_)
    our_quality, their_quality = _integers(ours, "quality"), _integers(theirs, "quality")
    for value in contract.values:
        if value.column not in theirs.column_names:
            continue
        mask = contract.missing_bit(value) | contract.sentinel_bit(value)
        mask |= contract.range_bit(value)
        absent = (our_quality & mask) != 0
        alike = (our_quality & mask) == (their_quality & mask)
        one, other = ours[value.column], theirs[value.column]
        equal = pc.fill_null(pc.equal(one, other), False)
        both_null = pc.and_(pc.is_null(one), pc.is_null(other))
        same &= alike & (absent | pc.or_(equal, both_null).to_numpy())
    return same


def in_order(rows: pa.Table) -> pa.Table:
    """Rows in order of lineage: shard by shard, as each accepted them."""
    numbers = rows["sequence_number"]
    # Digits compare like numbers once the longer is the greater.
    keys = pa.table(
        {
            "shard_id": rows["shard_id"],
            "digits": pc.utf8_length(numbers),
            "number": numbers,
            "sub": rows["sub_sequence_number"],
        }
    )
    order = pc.sort_indices(keys, sort_keys=[(name, "ascending") for name in keys.column_names])
    return rows.take(order)


def _comparable(keys: pa.Table, index: str) -> pa.Table:
    """Key columns with each row's number; times as integers, which every join takes."""
    times = keys["event_time"].cast(pa.timestamp("us", "UTC")).cast(pa.int64())
    place = keys.column_names.index("event_time")
    return (
        keys.set_column(place, "event_time", times)
        .select(COMPARED_COLUMNS)
        .append_column(index, pa.array(np.arange(keys.num_rows, dtype=np.int64)))
    )


def _integers(table: pa.Table, column: str) -> Int64s:
    found: Int64s = table[column].to_numpy()
    return found
