"""What a record of a raw stream holds: JSON or NDJSON, plain, gzip or zstd, maybe KPL-aggregated.

Nothing here knows the contract: bytes in, bytes out. Bad bytes are kept for the quarantine.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from telemill import errors
from telemill.codec import compression, kpl, trace
from telemill.kinesis.records import Record, Shard

MAX_ROWS = 2**20
"""Rows one user record can hold, so that a sub-sequence number is unique within its record."""

_BLANK = b" \t\r\n"
_ELEMENTS = msgspec.json.Decoder(list[msgspec.Raw])
_ITEM = msgspec.json.Decoder(msgspec.Raw)
_NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


@dataclass(frozen=True, slots=True)
class Document:
    """One user record of a raw record (a record that is no aggregate is its only user record).

    Attributes:
        index: Its place among the user records.
        data: Decompressed; as it came when `error` is set.
        raw: As it came.
        error: Why it could not be decompressed: quarantine `raw` with it. Only inside aggregates,
            so that one bad user record does not take the others with it.
    """

    index: int
    data: bytes
    raw: bytes
    error: errors.RecordError | None = None


def documents(
    record: Record, shard: Shard, *, limit: int = compression.MAX_DECOMPRESSED_BYTES
) -> tuple[list[Document], int]:
    """De-aggregate and decompress a raw record.

    Args:
        record: As read from `shard`.
        shard: Whose hash-key range decides which aggregates count.
        limit: Most bytes of all documents together after decompression.

    Returns:
        The documents, in order, and the number of user records dropped: when one user record
        hashes outside the shard, all of its aggregate are, as the KCL does (so it makes no
        difference which coordinator reads).

    Raises:
        RecordError: The record as a whole is broken or too large.

    Source:
        amazon-kinesis-client, AggregatorUtil.deaggregate.
    """
    if not kpl.is_aggregated(record.data):
        plain = compression.decompress(trace.without(record.data), limit=limit)
        return [Document(0, plain, record.data)], 0
    users = kpl.deaggregate(record.data)
    if not all(shard.holds(kpl.hash_key(user)) for user in users):
        return [], len(users)
    return _decompressed(users, limit), 0


def _decompressed(users: Sequence[kpl.UserRecord], limit: int) -> list[Document]:
    found = []
    for index, user in enumerate(users):
        try:
            document = Document(index, compression.decompress(user.data, limit=limit), user.data)
            limit -= len(document.data)
        except errors.RecordError as error:
            document = Document(index, user.data, user.data, error)
        found.append(document)
    return found


def lines(document: bytes) -> list[bytes]:
    """Split a document that is not clean NDJSON into items: the slow path.

    1. A JSON array: its elements.
    2. One JSON object, on however many lines: itself.
    3. Some line is a JSON object: every line that is not blank.
    4. Anything else (blank, an empty array, not JSON, nested too deep): the document as one item.

    Args:
        document: Decompressed bytes, not necessarily JSON or UTF-8.

    Returns:
        At least one item, so that nothing vanishes. Items need not be JSON.

    Raises:
        RecordTooLargeError: It could have more items than `MAX_ROWS`.
    """
    stripped = document.strip(_BLANK)
    if stripped.startswith(b"["):
        elements = _elements(stripped)
        if elements:
            return elements
    if _is_object(stripped):
        return [document]
    found = _bounded_lines(stripped)
    return found if any(map(_is_object, found)) else [document]


def _elements(document: bytes) -> list[bytes]:
    """A JSON array's elements; none when it is no array. Commas bound them before any is made."""
    if document.count(b",") >= MAX_ROWS:
        raise errors.RecordTooLargeError(f"a JSON array with {MAX_ROWS} commas or more")
    try:
        return [bytes(element) for element in _ELEMENTS.decode(document)]
    except _NOT_JSON:
        return []


def _bounded_lines(document: bytes) -> list[bytes]:
    if document.count(b"\n") >= MAX_ROWS:
        raise errors.RecordTooLargeError(f"more than {MAX_ROWS} lines")
    stripped = (line.strip(_BLANK) for line in document.split(b"\n"))
    return [line for line in stripped if line]


def _is_object(item: bytes) -> bool:
    if not item.startswith(b"{"):
        return False
    try:
        _ITEM.decode(item)
    except _NOT_JSON:
        return False
    return True


def sub_sequence_number(index: int, row: int) -> int:
    """The place of a row in its raw record: with the sequence number, its identity for ever.

    Args:
        index: Of the user record.
        row: Of the item inside the user record, below `MAX_ROWS`.
    """
    return index * MAX_ROWS + row


def encode_ndjson(items: Sequence[bytes]) -> bytes:
    """One zstd frame of NDJSON.

    Args:
        items: JSON texts. A line break inside one can only be white space between its tokens and
            becomes a blank; an empty item will not be seen by a reader.
    """
    flat = [item.replace(b"\n", b" ") if b"\n" in item else item for item in items]
    return compression.zstd_compress(b"\n".join(flat) + b"\n")
