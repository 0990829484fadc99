"""Raw records to columns of readings.

The fast path decodes a whole document at once, and whole runs of small ones joined together. It is
taken only where it is sure to give what the slow path would: every line one flat object, and as
many double quotes in the document as the decoded rows account for (two a key, two a text). One
more, and some key is unknown or there twice, or a text holds an escaped quote. Then each item is
decoded alone, and those that still do not fit are read by `transform.items`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from telemill import errors
from telemill.codec import raw, trace
from telemill.contract import Contract
from telemill.kinesis.records import Record, Shard
from transform import items
from transform.items import Item, Refusal
from transform.portion import Columns, Int32s, Int64s, Piece, Portion

JOIN_BYTES = 1 << 17
"""Documents are joined up to this size: one bad item costs only so much the fast path."""
MAX_KEPT_BYTES = 1 << 20
"""A document that cannot be split is quarantined decompressed up to this size, else as it came."""

_QUOTE, _NEWLINE, _BRACE = 0x22, 0x0A, 0x7B
_PLAIN = (b"{", b"[")
_BLANK = b" \t\r\n"
_UNDECODABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_TEXT_TYPES = frozenset({"string", "timestamp"})

Row = msgspec.Struct
Rows = Sequence[Row]
Characters = npt.NDArray[np.uint8]


class Decoded(NamedTuple):
    """The rows of a portion, in the order of their lineage."""

    device: pa.Array
    time: pa.Array
    values: list[pa.Array]
    places: Int32s
    rows: Int64s


class Decoder:
    """Decodes raw records of a contract. Holds no state between portions."""

    def __init__(self, contract: Contract) -> None:
        fields = (contract.device, contract.time, *contract.values)
        self._line = msgspec.json.Decoder(contract.reading_struct)
        self._array = msgspec.json.Decoder(list[contract.reading_struct])  # type: ignore[name-defined]
        self._reader = items.ItemReader(contract)
        self._getters = [_getter(each.column) for each in fields]
        self._texts = [each.type in _TEXT_TYPES for each in fields]
        self._types = [
            pa.string() if text else contract.stream_schema.field(each.column).type
            for each, text in zip(fields, self._texts, strict=True)
        ]

    def add(self, portion: Portion, record: Record, shard: Shard) -> None:
        """Take the next record. What cannot be read goes to `portion.refused`."""
        data = record.data
        if data.startswith(_PLAIN):  # neither compressed nor aggregated: no need to ask further
            self._add_document(portion, record, 0, data, data)
            return
        try:
            documents, outside = raw.documents(record, shard)
        except errors.RecordError as error:
            documents, outside = [raw.Document(0, data, data, error)], 0
        portion.outside_shard += outside
        first = len(portion.records)
        for each in documents:
            if each.error is None:
                self._add_document(portion, record, each.index, each.data, each.raw)
            else:
                self._decode_waiting(portion)
                place = portion.place(record, each.index, each.raw, each.raw)
                portion.refuse(place, 0, _refusal(each.error), each.raw)
                portion.nothing_waits()
        if context := trace.of_raw(data):
            portion.traces.append((first, len(portion.records), context))

    def finish(self, portion: Portion) -> Decoded:
        """The columns of all rows taken."""
        self._decode_waiting(portion)
        pieces = portion.pieces
        if not pieces:
            pieces = [Piece(self._columns([]), np.empty(0, np.int32), np.empty(0, np.int64))]
        columns = zip(*(piece.columns.arrays for piece in pieces), strict=True)
        device, time, *values = (pa.concat_arrays(column) for column in columns)
        places = np.concatenate([piece.places for piece in pieces])
        return Decoded(device, time, values, places, np.concatenate([p.rows for p in pieces]))

    def _add_document(
        self, portion: Portion, record: Record, index: int, data: bytes, as_came: bytes
    ) -> None:
        # Two cases: one that can be joined with its neighbours; a JSON array or something
        # strange, which stands alone.
        if data.startswith(b"{"):
            portion.place(record, index, data, as_came)
            if portion.document_bytes - portion.waiting_from_bytes >= JOIN_BYTES:
                self._decode_waiting(portion)
            return
        self._decode_waiting(portion)
        place = portion.place(record, index, data, as_came)
        self._decode_alone(portion, place)
        portion.nothing_waits()

    def _decode_waiting(self, portion: Portion) -> None:
        first, end = portion.waiting_from, len(portion.records)
        portion.nothing_waits()
        if first == end:
            return
        bodies = [data.rstrip(_BLANK) for data in portion.documents[first:end]]
        lines = self._lines(bodies[0] if len(bodies) == 1 else b"\n".join(bodies))
        if lines is None:
            for place in range(first, end):
                self._decode_items(portion, place)
            return
        columns, line_ends = lines
        counts = _line_counts(bodies, line_ends)
        places = np.repeat(np.arange(first, end, dtype=np.int32), counts)
        portion.append(columns, places, _ranges(counts))

    def _decode_alone(self, portion: Portion, place: int) -> None:
        columns = self._elements(portion.documents[place])
        if columns is None:
            self._decode_items(portion, place)
            return
        count = len(columns.arrays[0])
        portion.append(columns, np.full(count, place, np.int32), np.arange(count, dtype=np.int64))

    def _lines(self, body: bytes) -> tuple[Columns, npt.NDArray[np.intp]] | None:
        """NDJSON decoded at once, when every line is one flat object the contract knows.

        Returns:
            The columns, and where the line breaks are.
        """
        if _may_have_too_many_rows(body):
            return None
        try:
            rows = self._line.decode_lines(body)
        except _UNDECODABLE:
            return None
        characters = np.frombuffer(body, np.uint8)
        line_ends = np.flatnonzero(characters == _NEWLINE)
        if len(line_ends) != len(rows) - 1 or (characters[line_ends + 1] != _BRACE).any():
            return None
        columns = self._accounted(rows, characters)
        return None if columns is None else (columns, line_ends)

    def _elements(self, body: bytes) -> Columns | None:
        """A JSON array decoded at once."""
        if not body.startswith(b"[") or _may_have_too_many_rows(body):
            return None
        try:
            rows = self._array.decode(body)
        except _UNDECODABLE:
            return None
        return self._accounted(rows, np.frombuffer(body, np.uint8)) if rows else None

    def _accounted(self, rows: Rows, characters: Characters) -> Columns | None:
        columns = self._columns(rows)
        return columns if _quotes_in(characters) == columns.quotes else None

    def _columns(self, rows: Rows) -> Columns:
        arrays = []
        quotes = 0
        fields = zip(self._getters, self._types, self._texts, strict=True)
        for getter, arrow_type, is_text in fields:
            array, absent = _column(getter(rows), arrow_type)
            arrays.append(array)
            quotes += 2 * (len(rows) - absent)
            if is_text:
                quotes += 2 * (len(rows) - array.null_count)
        return Columns(arrays, quotes)

    def _decode_items(self, portion: Portion, place: int) -> None:
        """The slow path of a document."""
        data = portion.documents[place]
        try:
            lines = raw.lines(data)
        except errors.RecordError as error:
            portion.refuse(place, 0, _refusal(error), portion.as_came[place])
            return
        read = self._read_strictly(lines)
        rows: list[Row] = []
        numbers: list[int] = []
        for number, found in enumerate(read):
            if isinstance(found, Refusal):
                portion.refuse(place, number, found, _kept(portion, place, lines[number]))
                continue
            if isinstance(found, Item):
                portion.note(found, portion.row_count + len(rows))
                found = found.row  # noqa: PLW2901
            rows.append(found)
            numbers.append(number)
        if rows:
            places = np.full(len(rows), place, np.int32)
            portion.append(self._columns(rows), places, np.array(numbers, np.int64))

    def _read_strictly(self, lines: list[bytes]) -> list[Row | Item | Refusal]:
        """Each item as the fast path reads it where that is sure, else leniently."""
        read: list[Row | Item | Refusal | None] = [None] * len(lines)
        decode = self._line.decode
        for number, line in enumerate(lines):
            try:
                row = decode(line)
            except _UNDECODABLE:
                continue
            read[number] = row
        self._drop_unaccounted(lines, read)
        return [
            self._reader.read(line) if row is None else row
            for line, row in zip(lines, read, strict=True)
        ]

    def _drop_unaccounted(self, lines: list[bytes], read: list[Any]) -> None:
        """Set to None what has more quotes than it accounts for; usually none has."""
        rows = [row for row in read if row is not None]
        together = b"".join(line for line, row in zip(lines, read, strict=True) if row is not None)
        if _quotes_in(np.frombuffer(together, np.uint8)) == self._quotes_of(rows):
            return
        for number, row in enumerate(read):
            if row is not None and lines[number].count(b'"') != self._quotes_of([row]):
                read[number] = None

    def _quotes_of(self, rows: Rows) -> int:
        keys = texts = 0
        for row in rows:
            values = msgspec.structs.astuple(row)
            keys += len(values) - values.count(msgspec.UNSET)
            texts += sum(type(value) is str for value in values)
        return 2 * (keys + texts)


def _kept(portion: Portion, place: int, item: bytes) -> bytes:
    """What is quarantined of an item: itself, but of a huge document that is one item, less."""
    whole = portion.documents[place]
    is_huge = len(item) > MAX_KEPT_BYTES and len(item) == len(whole)
    return portion.as_came[place] if is_huge else item


def _refusal(error: errors.RecordError) -> Refusal:
    return Refusal(error.reason, str(error))


def _quotes_in(characters: Characters) -> int:
    return int(np.count_nonzero(characters == _QUOTE))


def _line_counts(bodies: list[bytes], line_ends: npt.NDArray[np.intp]) -> Int64s:
    """Lines of each body, when they were joined by line breaks."""
    if len(line_ends) + 1 == len(bodies):  # none is without a line
        return np.ones(len(bodies), np.int64)
    lengths = np.fromiter(map(len, bodies), np.int64, len(bodies))
    body_ends = np.cumsum(lengths + 1) - 1
    counts: Int64s = np.diff(np.searchsorted(line_ends, body_ends, "left") + 1, prepend=0)
    return counts


def _ranges(counts: Int64s) -> Int64s:
    """0, 1, … up to each count, one after the other."""
    ends = np.cumsum(counts)
    found: Int64s = np.arange(ends[-1], dtype=np.int64) - np.repeat(ends - counts, counts)
    return found


def _may_have_too_many_rows(body: bytes) -> bool:
    """The slow path says what then; asked only where the shortest rows could be too many."""
    return len(body) > 2 * raw.MAX_ROWS and body.count(b"{") > raw.MAX_ROWS


def _column(values: list[Any], arrow_type: pa.DataType) -> tuple[pa.Array, int]:
    """The array of a column and how many of its keys were absent."""
    try:
        return pa.array(values, arrow_type), 0
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # what Arrow says to an UNSET
        present = [None if value is msgspec.UNSET else value for value in values]
        return pa.array(present, arrow_type), sum(value is msgspec.UNSET for value in values)


def _getter(column: str) -> Callable[[Rows], list[Any]]:
    """Reads one attribute of all rows: twice as fast as `map(attrgetter(column), rows)`."""
    if not column.isidentifier():
        raise ValueError(f"not a column name: {column!r}")
    getter: Callable[[Rows], list[Any]] = eval(f"lambda rows: [row.{column} for row in rows]")  # noqa: S307
    return getter
