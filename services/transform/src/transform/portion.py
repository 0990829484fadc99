"""Consecutive records on their way to columns: what a decoder fills."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from telemill.codec import raw
from telemill.kinesis.records import Record
from transform.items import Item, Refusal

PORTION_BYTES = 1 << 23
PORTION_ROWS = 1 << 15
"""A portion is closed when it has so much: bounds memory when records decompress well."""

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]


class Refused(NamedTuple):
    """An item that is not a reading: where it is, and what is kept of it."""

    place: int
    row: int
    refusal: Refusal
    data: bytes


class WrongType(NamedTuple):
    """A value left out: row of the portion and index into `contract.values`."""

    row: int
    value: int


@dataclass(slots=True)
class Columns:
    """Rows as columns: device, time (as text), then `contract.values`.

    Attributes:
        arrays: One per field.
        quotes: Double quotes the rows account for in their document.
    """

    arrays: list[pa.Array]
    quotes: int


@dataclass(slots=True)
class Piece:
    """Rows decoded together: their columns, and for each its place and its number there."""

    columns: Columns
    places: Int32s
    rows: Int64s


@dataclass(slots=True)
class Portion:
    """What a decoder has of some records.

    A document's place is its index in `records`, `indexes`, `documents` and `as_came`, which are
    lists apart because most records hold one small document. From `waiting_from` on they are not
    decoded yet.

    Attributes:
        records: The record of each document.
        indexes: Its place among the record's user records.
        documents: Its bytes, decompressed.
        as_came: Its bytes as they were in the record.
        traces: Of records with a sampled trace: first place, the place behind the last, context.
    """

    records: list[Record] = field(default_factory=list)
    indexes: list[int] = field(default_factory=list)
    documents: list[bytes] = field(default_factory=list)
    as_came: list[bytes] = field(default_factory=list)
    traces: list[tuple[int, int, bytes]] = field(default_factory=list)
    document_bytes: int = 0
    waiting_from: int = 0
    waiting_from_bytes: int = 0
    pieces: list[Piece] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    wrong_types: list[WrongType] = field(default_factory=list)
    row_count: int = 0
    unknown_fields: int = 0
    outside_shard: int = 0
    _split_place: int = -1
    _split_items: list[bytes] = field(default_factory=list)

    @property
    def is_full(self) -> bool:
        """Whether it is time to process it."""
        return self.document_bytes >= PORTION_BYTES or self.row_count >= PORTION_ROWS

    def place(self, record: Record, index: int, data: bytes, as_came: bytes) -> int:
        """Take the next document; returns its place."""
        self.records.append(record)
        self.indexes.append(index)
        self.documents.append(data)
        self.as_came.append(as_came)
        self.document_bytes += len(data)
        return len(self.records) - 1

    def nothing_waits(self) -> None:
        """All documents up to here are decoded."""
        self.waiting_from = len(self.records)
        self.waiting_from_bytes = self.document_bytes

    def append(self, columns: Columns, places: Int32s, rows: Int64s) -> None:
        """Take decoded rows."""
        self.pieces.append(Piece(columns, places, rows))
        self.row_count += len(rows)

    def refuse(self, place: int, row: int, refusal: Refusal, data: bytes) -> None:
        """Take an item that cannot be decoded."""
        self.refused.append(Refused(place, row, refusal, data))

    def note(self, item: Item, row: int) -> None:
        """Count what the slow path found in a row of the portion."""
        self.wrong_types += [WrongType(row, value) for value in item.wrong_types]
        self.unknown_fields += item.unknown_fields

    def sub_sequence_number(self, place: int, row: int) -> int:
        """Of an item: with its record's sequence number, its identity."""
        return raw.sub_sequence_number(self.indexes[place], row)

    def item_bytes(self, place: int, row: int) -> bytes:
        """The original bytes of a decoded row."""
        if place != self._split_place:  # asked in order: the last document split is enough
            self._split_items = raw.lines(self.documents[place])
            self._split_place = place
        return self._split_items[row]
