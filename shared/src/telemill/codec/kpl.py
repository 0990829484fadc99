"""The aggregated record format of the Kinesis Producer Library (KPL): many user records in one.

`F3 89 9A C2`, a protobuf message, its MD5. The message (proto2):

    AggregatedRecord: repeated string partition_key_table = 1;
                      repeated string explicit_hash_key_table = 2; repeated Record records = 3;
    Record: required uint64 partition_key_index = 1; optional uint64 explicit_hash_key_index = 2;
            required bytes data = 3; repeated Tag tags = 4;

Source:
    github.com/awslabs/amazon-kinesis-producer, aggregation-format.md; the encoding is
    protobuf.dev/programming-guides/encoding.
"""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from functools import lru_cache
from hashlib import md5
from typing import Any, NamedTuple, TypeVar

from telemill import errors
from telemill.kinesis.records import MAX_HASH_KEY

MAGIC = b"\xf3\x89\x9a\xc2"
DIGEST_BYTES = 16
_MAX_HASH_KEY_DIGITS = 39
_MAX_VARINT_BITS = 64

# Protobuf wire types, the low three bits of a field's tag. Groups (3 and 4) are refused.
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIRST_TAG = 1 << 3

_PARTITION_KEY = 1 << 3 | _BYTES
_EXPLICIT_HASH_KEY = 2 << 3 | _BYTES
_RECORD = 3 << 3 | _BYTES

_PARTITION_KEY_INDEX = 1 << 3 | _VARINT
_EXPLICIT_HASH_KEY_INDEX = 2 << 3 | _VARINT
_DATA = 3 << 3 | _BYTES


_Key = TypeVar("_Key", bound=Hashable)


class UserRecord(NamedTuple):
    """One record inside an aggregate.

    Attributes:
        partition_key: As its producer gave it.
        explicit_hash_key: Overrides the partition key's hash; None when absent.
        data: The bytes as they were put.
    """

    partition_key: str
    explicit_hash_key: int | None
    data: bytes


def is_aggregated(data: bytes) -> bool:
    """Whether a record claims to be an aggregate, by the KCL's rule: magic, and room for more."""
    return data.startswith(MAGIC) and len(data) > len(MAGIC) + DIGEST_BYTES


def hash_key(record: UserRecord) -> int:
    """The hash key Kinesis would route the user record by, had it been put alone."""
    if record.explicit_hash_key is not None:
        return record.explicit_hash_key
    digest = md5(record.partition_key.encode(), usedforsecurity=False).digest()
    return int.from_bytes(digest, "big")


def aggregate(records: Sequence[UserRecord]) -> bytes:
    """One Kinesis record holding all user records, in order.

    Args:
        records: At least one. All must hash into the shard the aggregate is put to: the KCL drops
            the whole aggregate otherwise.
    """
    if not records:
        raise ValueError("an aggregate holds at least one user record")
    partition_keys = _table(record.partition_key for record in records)
    hash_keys = _table(
        record.explicit_hash_key for record in records if record.explicit_hash_key is not None
    )
    indices = {
        keys: _encode_indices(
            partition_keys[keys[0]], None if keys[1] is None else hash_keys[keys[1]]
        )
        for keys in {record[:2] for record in records}
    }
    message = b"".join(
        [
            *(_encode_bytes(_PARTITION_KEY, key.encode()) for key in partition_keys),
            *(_encode_bytes(_EXPLICIT_HASH_KEY, b"%d" % key) for key in hash_keys),
            *(_encode_record(indices[record[:2]], record.data) for record in records),
        ]
    )
    return MAGIC + message + _digest(message)


def with_field(data: bytes, field: bytes) -> bytes:
    """An aggregate with one more field at its end, of a number that other readers skip.

    Args:
        data: As `aggregate` makes it.
        field: Tag, length and content.
    """
    message = data[len(MAGIC) : -DIGEST_BYTES] + field
    return MAGIC + message + _digest(message)


def deaggregate(data: bytes) -> list[UserRecord]:
    """The user records of an aggregate, in order; unknown fields and tags are skipped.

    Args:
        data: A record for which `is_aggregated` holds.

    Raises:
        DecodeError: Bad magic, digest or protobuf, or an index outside its table.
    """
    if not is_aggregated(data):
        raise errors.DecodeError("not a KPL aggregate")
    message = data[len(MAGIC) : -DIGEST_BYTES]
    if _digest(message) != data[-DIGEST_BYTES:]:
        raise errors.DecodeError("KPL aggregate: MD5 does not match")
    partition_keys: list[str] = []
    hash_keys: list[str] = []
    records: list[bytes] = []
    for tag, value in _fields(message):
        if tag == _RECORD:
            records.append(value)
        elif tag == _PARTITION_KEY:
            partition_keys.append(_text(value))
        elif tag == _EXPLICIT_HASH_KEY:
            hash_keys.append(_text(value))
    return [_decode_record(record, partition_keys, hash_keys) for record in records]


def _decode_record(
    record: bytes, partition_keys: Sequence[str], hash_keys: Sequence[str]
) -> UserRecord:
    """One user record. Of a repeated field the last counts, as in every protobuf parser."""
    values = dict(_fields(record))
    data, partition_key = values.get(_DATA), values.get(_PARTITION_KEY_INDEX)
    if data is None or partition_key is None:
        raise errors.DecodeError("KPL aggregate: user record without partition key or data")
    index = values.get(_EXPLICIT_HASH_KEY_INDEX)
    try:
        explicit = None if index is None else _hash_key(hash_keys[index])
        return UserRecord(partition_keys[partition_key], explicit, data)
    except IndexError as error:
        raise errors.DecodeError("KPL aggregate: key index outside its table") from error


@lru_cache(maxsize=4096)
def _hash_key(text: str) -> int:
    digits = text.isascii() and text.isdigit() and len(text) <= _MAX_HASH_KEY_DIGITS
    if not digits or int(text) > MAX_HASH_KEY:
        raise errors.DecodeError("KPL aggregate: explicit hash key is not a 128-bit number")
    return int(text)


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise errors.DecodeError("KPL aggregate: key is not UTF-8") from error


def _digest(message: bytes) -> bytes:
    return md5(message, usedforsecurity=False).digest()


def _table(keys: Iterable[_Key]) -> dict[_Key, int]:
    """Each key once, in order of first use, with its index."""
    return {key: index for index, key in enumerate(dict.fromkeys(keys))}


def _encode_indices(partition_key: int, hash_key: int | None) -> bytes:
    encoded = bytes([_PARTITION_KEY_INDEX]) + _encode_varint(partition_key)
    if hash_key is None:
        return encoded
    return encoded + bytes([_EXPLICIT_HASH_KEY_INDEX]) + _encode_varint(hash_key)


def _encode_record(indices: bytes, data: bytes) -> bytes:
    return _encode_bytes(_RECORD, indices + _encode_bytes(_DATA, data))


def _encode_bytes(tag: int, value: bytes) -> bytes:
    return bytes([tag]) + _encode_varint(len(value)) + value


@lru_cache(maxsize=4096)
def _encode_varint(value: int) -> bytes:
    output = bytearray()
    while value > 0x7F:
        output.append(value & 0x7F | 0x80)
        value >>= 7
    output.append(value)
    return bytes(output)


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Each field as (tag, value): an int for a varint, else its bytes."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        if tag < _FIRST_TAG:
            raise errors.DecodeError("KPL aggregate: field number 0")
        if tag & 7 == _VARINT:
            value, position = _varint(message, position)
            yield tag, value
            continue
        size, position = _size(message, position, tag)
        end = position + size
        if end > len(message):
            raise errors.DecodeError("KPL aggregate: field runs past its end")
        yield tag, message[position:end]
        position = end


def _size(message: bytes, position: int, tag: int) -> tuple[int, int]:
    """How many bytes a field holds, and where they begin."""
    wire_type = tag & 7
    if wire_type == _BYTES:
        return _varint(message, position)
    if wire_type == _FIXED64:
        return 8, position
    if wire_type == _FIXED32:
        return 4, position
    raise errors.DecodeError(f"KPL aggregate: wire type {wire_type}")


def _varint(message: bytes, position: int) -> tuple[int, int]:
    """The number at a position, and where it ends. Most numbers have one byte."""
    try:
        byte = message[position]
        if byte < 0x80:
            return byte, position + 1
        return _long_varint(message, position)
    except IndexError as error:
        raise errors.DecodeError("KPL aggregate: truncated number") from error


def _long_varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while (byte := message[position]) >= 0x80:
        value |= (byte & 0x7F) << shift
        position += 1
        shift += 7
        if shift >= _MAX_VARINT_BITS + 6:
            raise errors.DecodeError("KPL aggregate: number longer than 64 bits")
    value |= byte << shift
    if value >> _MAX_VARINT_BITS:
        raise errors.DecodeError("KPL aggregate: number longer than 64 bits")
    return value, position + 1
