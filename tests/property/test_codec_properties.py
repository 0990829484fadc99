"""The codecs lose nothing, and no bytes whatever make them raise anything but a RecordError."""

import contextlib
import gzip
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from telemill import contract, errors
from telemill.codec import compression, kpl, raw, wire
from telemill.kinesis.records import MAX_HASH_KEY, Record, Shard

SHARD = Shard("readings-raw", 1, "shardId-000000000000")
LIMIT = 2**20
SCHEMA = contract.load(Path(__file__).parents[2] / "contracts" / "fms.yaml").stream_schema
HEADER = wire.Header("readings", "fms", 1, 0, "transform", "readings-raw", 1, SHARD.shard_id)

Edits = list[tuple[int, int]]
Rows = list[tuple[Any, ...]]

contents = st.binary(max_size=2000) | st.binary(max_size=20).map(lambda piece: piece * 500)
hash_keys = st.integers(0, MAX_HASH_KEY)
user_records = st.builds(
    kpl.UserRecord, st.text(max_size=20), st.none() | hash_keys, st.binary(max_size=300)
)
aggregates = st.lists(user_records, min_size=1, max_size=20)
edits = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8)
readings = st.dictionaries(st.text(max_size=5), st.none() | st.integers() | st.text(), max_size=5)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


def edited(data: bytes, changes: Edits) -> bytes:
    """The bytes with some overwritten, and cut where a change asks for it."""
    changed = bytearray(data)
    for position, value in changes:
        changed[position % len(changed)] = value
    return bytes(changed[: changes[0][0] % len(changed)] if changes[0][1] % 8 == 0 else changed)


def sealed(message: bytes) -> bytes:
    """An aggregate around any message, with the right digest."""
    return kpl.MAGIC + message + hashlib.md5(message, usedforsecurity=False).digest()


def put(data: bytes) -> Record:
    """A raw record of these bytes."""
    return Record("1", 0, data, "1")


@pytest.mark.parametrize("compress", [zstandard.compress, gzip.compress])
@given(frames=st.lists(contents, min_size=1, max_size=4))
def test_decompress_inverts_any_frames(
    compress: Callable[[bytes], bytes], frames: list[bytes]
) -> None:
    """Frames or members of any content, one after the other, give the contents joined."""
    joined = b"".join(frames)
    assert compression.decompress(b"".join(map(compress, frames)), limit=len(joined)) == joined


@pytest.mark.parametrize("compress", [zstandard.compress, gzip.compress])
@given(content=contents, changes=edits)
def test_edited_frames_are_record_errors_or_bounded(
    compress: Callable[[bytes], bytes], content: bytes, changes: Edits
) -> None:
    """Changed compressed bytes never escape as another exception, nor past the limit."""
    with contextlib.suppress(errors.RecordError):
        assert len(compression.decompress(edited(compress(content), changes), limit=LIMIT)) <= LIMIT


@pytest.mark.parametrize("magic", [compression.ZSTD_MAGIC, compression.GZIP_MAGIC, kpl.MAGIC, b""])
@given(rest=st.binary(max_size=500))
def test_any_raw_record_is_documents_or_a_record_error(magic: bytes, rest: bytes) -> None:
    """Whatever is put on a raw stream is split or refused."""
    with contextlib.suppress(errors.RecordError):
        documents, _ = raw.documents(put(magic + rest), SHARD, limit=LIMIT)
        assert all(raw.lines(document.data) for document in documents)


@given(aggregates)
def test_deaggregate_inverts_aggregate(records: list[kpl.UserRecord]) -> None:
    """Any user records come back in order."""
    assert kpl.deaggregate(kpl.aggregate(records)) == records


@given(st.binary(min_size=1, max_size=300))
def test_any_sealed_message_is_an_aggregate_or_a_decode_error(message: bytes) -> None:
    """Random protobuf with a right digest is read or refused."""
    with contextlib.suppress(errors.DecodeError):
        kpl.deaggregate(sealed(message))


@given(aggregates, edits)
def test_an_edited_aggregate_is_an_aggregate_or_a_decode_error(
    records: list[kpl.UserRecord], changes: Edits
) -> None:
    """Real protobuf with changed bytes and a right digest is read or refused."""
    message = kpl.aggregate(records)[len(kpl.MAGIC) : -kpl.DIGEST_BYTES]
    with contextlib.suppress(errors.DecodeError):
        for record in kpl.deaggregate(sealed(edited(message, changes))):
            assert 0 <= kpl.hash_key(record) <= MAX_HASH_KEY


@given(aggregates, hash_keys, hash_keys)
def test_an_aggregate_is_taken_whole_or_dropped_whole(
    records: list[kpl.UserRecord], one: int, other: int
) -> None:
    """Whatever the shard's range, documents and dropped together are all user records."""
    shard = Shard("s", 1, "i", first_hash_key=min(one, other), last_hash_key=max(one, other))
    documents, dropped = raw.documents(put(kpl.aggregate(records)), shard)
    inside = all(shard.holds(kpl.hash_key(record)) for record in records)
    assert (len(documents), dropped) == ((len(records), 0) if inside else (0, len(records)))


@given(st.binary(max_size=500))
def test_lines_of_anything_are_pieces_of_it(document: bytes) -> None:
    """At least one item, each cut out of the document."""
    items = raw.lines(document)
    assert items
    assert all(item in document for item in items)


@given(st.lists(readings, min_size=1), st.sampled_from(["\n", "\r\n", "\n\n \n"]))
def test_lines_inverts_ndjson(values: list[Any], separator: str) -> None:
    """The objects of an NDJSON document come back, whatever its line breaks."""
    document = separator.join(json.dumps(value) for value in values).encode()
    assert [json.loads(item) for item in raw.lines(document)] == values


@given(st.lists(json_values, min_size=1), st.sampled_from([None, 2]))
def test_lines_inverts_an_array(values: list[Any], indent: int | None) -> None:
    """The elements of an array come back, however it is printed."""
    document = json.dumps(values, indent=indent).encode()
    assert [json.loads(item) for item in raw.lines(document)] == values


@given(st.lists(readings, min_size=1), st.sampled_from([None, 2]))
def test_encode_ndjson_keeps_the_values(values: list[Any], indent: int | None) -> None:
    """Items are the same JSON after a raw record, pretty-printed or not."""
    data = raw.encode_ndjson([json.dumps(value, indent=indent).encode() for value in values])
    (document,), _ = raw.documents(put(data), SHARD)
    assert [json.loads(item) for item in raw.lines(document.data)] == values


def values_of(field: pa.Field) -> st.SearchStrategy[Any]:
    """Any value an Arrow column can hold."""
    made = {
        pa.int64(): st.integers(-(2**63), 2**63 - 1),
        pa.float64(): st.floats(),
        pa.bool_(): st.booleans(),
        pa.string(): st.text(max_size=60),
    }.get(field.type, st.integers(-(2**63), 2**63 - 1))
    return made | st.none() if field.nullable else made


rows = st.lists(st.tuples(*map(values_of, SCHEMA)), max_size=20)


def batch_of(made: Rows) -> pa.RecordBatch:
    """The rows as a record batch."""
    columns = zip(*made, strict=True) if made else [[]] * len(SCHEMA)
    arrays = [
        pa.array(list(column), field.type) for column, field in zip(columns, SCHEMA, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


@given(rows)
def test_decode_inverts_encode(made: Rows) -> None:
    """Any rows come back bit by bit: NaN, infinities, negative zero and nulls too."""
    batch = batch_of(made)
    header, decoded = wire.decode(wire.encode(HEADER, batch), lambda _: SCHEMA)
    assert header == HEADER
    assert decoded.serialize() == batch.serialize()


@given(rows, edits)
def test_edited_batches_are_record_errors(made: Rows, changes: Edits) -> None:
    """Changed bytes of a record are found by its checksums."""
    data = wire.encode(HEADER, batch_of(made))
    broken = edited(data, changes)
    with contextlib.suppress(errors.RecordError):
        header, decoded = wire.decode(broken, lambda _: SCHEMA)
        assert (header, decoded.serialize()) == (HEADER, batch_of(made).serialize())


@given(rows, edits)
def test_edited_arrow_under_right_checksums_is_safe(made: Rows, changes: Edits) -> None:
    """A record batch message with changed bytes gives a valid batch or a RecordError."""
    batch = batch_of(made)
    data = wire.encode(HEADER, batch)
    start = data[: data.index(compression.ZSTD_MAGIC)]
    frame = compression.zstd_compress(edited(batch.serialize().to_pybytes(), changes))
    with contextlib.suppress(errors.RecordError):
        _, decoded = wire.decode(start + frame, lambda _: SCHEMA)
        assert decoded.num_rows == batch.num_rows
        assert decoded.serialize().size > 0
