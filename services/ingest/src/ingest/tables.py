"""Files of readings, NDJSON or CSV, as pieces of lines with their place in the file."""

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec

from ingest import core
from telemill import errors
from telemill.contract import Contract, Field

PIECE_BYTES = 256 * 1024
COMPRESSED = (".gz", ".zst", ".zip", ".bz2", ".xz")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_BOOLEANS = {"true": "true", "1": "true", "false": "false", "0": "false"}

ToItem = Callable[[bytes], bytes]
"""Makes the item of a line; raises RecordError."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive lines of a file.

    Attributes:
        lines: Without blank ones; each with its number in the file, from 1.
        end: Offset of the first byte behind them.
        last_line: Number of the last line, blank or not.
    """

    lines: Sequence[tuple[int, bytes]]
    end: int
    last_line: int


def pieces(file: BinaryIO, line_number: int) -> Iterator[Piece]:
    """The rest of a file, from its current position.

    Args:
        file: At the start of a line.
        line_number: Of the line before.
    """
    while True:
        lines: list[tuple[int, bytes]] = []
        size_bytes = 0
        while size_bytes < PIECE_BYTES and (line := _line(file)):
            line_number += 1
            size_bytes += len(line)
            # A line cut off stays as it is: without its blanks it might look like a reading.
            if item := line if len(line) > core.MAX_ITEM_BYTES else line.strip():
                lines.append((line_number, item))
        if not size_bytes:
            return
        yield Piece(lines, file.tell(), line_number)


def _line(file: BinaryIO) -> bytes:
    """One line; of one that is too long for an item, only as much as shows that it is."""
    line = file.readline(core.MAX_ITEM_BYTES + 2)
    rest = line
    while rest and not rest.endswith(b"\n"):
        rest = file.readline(PIECE_BYTES)
    return line


def opened(file: BinaryIO, path: Path, contract: Contract) -> ToItem:
    """Read what comes before the first reading, and say how to make items of the lines.

    Raises:
        ConfigurationError: Compressed, or CSV whose header does not name the fields a reading
            needs.
    """
    if path.suffix.lower() in COMPRESSED:
        raise errors.ConfigurationError(f"{path}: is compressed; takes plain NDJSON or CSV")
    if path.suffix.lower() == ".csv":
        return _csv_reader(_line(file), path, contract)
    return lambda line: line


def _csv_reader(header: bytes, path: Path, contract: Contract) -> ToItem:
    try:
        names = _row(header.strip().removeprefix(b"\xef\xbb\xbf"))
    except errors.DecodeError as error:
        raise errors.ConfigurationError(f"{path}: its header is {error}") from error
    missing = [each.name for each in contract.fields if each.required and each.name not in names]
    if missing:
        raise errors.ConfigurationError(f"{path}: has no column {', '.join(missing)}")
    fields = {each.name: each for each in contract.fields}
    columns = [fields.get(name) for name in names]

    def to_item(line: bytes) -> bytes:
        row = _row(line)
        if len(row) != len(columns):
            raise errors.DecodeError(f"{len(row)} values, the header has {len(columns)}")
        cells = zip(columns, row, strict=True)
        return msgspec.json.encode({each.name: _json(each, text) for each, text in cells if each})

    return to_item


def _row(line: bytes) -> list[str]:
    try:
        rows = list(csv.reader([line.decode()], strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise errors.DecodeError(f"not CSV: {error}") from error
    return [text.strip() for text in rows[0]] if rows else []


def _json(field: Field, text: str) -> msgspec.Raw | str | None:
    """A cell as JSON. Text that is no value of the field's type stays text, for transform."""
    if field.type in {"float64", "int64"}:
        if not text:
            return None
        return msgspec.Raw(text.encode()) if _NUMBER.fullmatch(text) else text
    if field.type == "bool":
        literal = _BOOLEANS.get(text.lower())
        return msgspec.Raw(literal.encode()) if literal else text or None
    return text or None
