"""telemill.codec.wire: small, exact, and safe to decode."""

import dataclasses
import random
import struct
import zlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import zstandard

from telemill import contract, errors
from telemill.codec import compression, wire

FMS = contract.load(Path(__file__).parents[2] / "contracts" / "fms.yaml")
SCHEMA = FMS.stream_schema
HEADER = wire.Header(
    kind="readings",
    contract="fms",
    version=1,
    slot=63,
    producer="transform",
    raw_stream="readings-raw",
    raw_incarnation=1751876489123,
    raw_shard_id="shardId-000000000012",
    trace=bytes(range(25)),
)
MEANS = (80, 90, 75, 1200, 850, 1100)
DEVIATIONS = (5.0, 4.0, 6.0, 100, 80, 90)
FIRST_SEQUENCE_NUMBER = 49590338271490256608559692538361571095921575989136588898


def readings(row_count: int, rows_per_record: int = 50) -> pa.RecordBatch:
    """Readings of 100 devices with two decimals, sentinels as nulls and 56-digit lineage."""
    chance = random.Random(row_count)
    return pa.RecordBatch.from_pylist(
        [reading(chance, row, rows_per_record) for row in range(row_count)], schema=SCHEMA
    )


def reading(chance: random.Random, row: int, rows_per_record: int) -> dict[str, object]:
    """One row as a dict."""
    raw_record = row // rows_per_record
    time = datetime(2025, 7, 7, 8, 21, row // 100 * 10, tzinfo=UTC) + timedelta(seconds=row % 10)
    values = [
        None if chance.random() < 0.02 else round(chance.gauss(mean, deviation), 2)
        for mean, deviation in zip(MEANS, DEVIATIONS, strict=True)
    ]
    return {
        "device_id": 1 + row % 100,
        "event_time": time,
        "ingest_time": time.replace(microsecond=raw_record * 7919 % 1000 * 1000),
        **{field.column: value for field, value in zip(FMS.measures, values, strict=True)},
        "is_fail": chance.random() < 0.01,
        "quality": 0 if all(values) else 16,
        "sequence_number": str(FIRST_SEQUENCE_NUMBER + raw_record * 2**60),
        "sub_sequence_number": row % rows_per_record,
    }


def schema_for(header: wire.Header) -> pa.Schema:
    """The schema of every batch here."""
    assert header.contract == "fms"
    return SCHEMA


def parts(data: bytes) -> tuple[bytes, bytes]:
    """The header and the record-batch message of an encoded batch."""
    start = data.index(compression.ZSTD_MAGIC)
    return data[:start], compression.zstd_decompress(data[start:])


@pytest.mark.parametrize("row_count", [0, 1, 2, 500])
def test_decode_inverts_encode(row_count: int) -> None:
    """Header and rows come back exactly, with the contract's own schema."""
    batch = readings(row_count)
    header, decoded = wire.decode(wire.encode(HEADER, batch), schema_for)
    assert header == HEADER
    assert decoded.equals(batch)
    assert decoded.schema.equals(SCHEMA, check_metadata=True)


def test_a_slice_of_a_batch_carries_only_itself() -> None:
    """Cutting a batch into records costs no copy of the rest."""
    batch = readings(500)
    data = wire.encode(HEADER, batch.slice(100, 3))
    assert wire.decode(data, schema_for)[1].equals(batch.slice(100, 3))
    assert len(data) < 700


@pytest.mark.parametrize("kind", ["readings", "scores", "alerts"])
@pytest.mark.parametrize("trace", [b"", bytes(range(25))])
def test_read_header_reads_every_field(kind: wire.Kind, trace: bytes) -> None:
    """The header alone is read without the rows."""
    header = dataclasses.replace(HEADER, kind=kind, trace=trace, raw_shard_id="Ä" * 100)
    assert wire.read_header(wire.encode(header, readings(1))) == header


@pytest.mark.parametrize(
    "wrong",
    [{"trace": b"short"}, {"kind": "forecasts"}, {"producer": "x" * 256}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_header_that_cannot_be_written_is_a_programming_error(wrong: dict[str, Any]) -> None:
    """Nothing is cut to fit."""
    with pytest.raises(ValueError, match=r".+"):
        wire.encode(dataclasses.replace(HEADER, **wrong), readings(1))


def test_one_reading_takes_at_most_400_bytes() -> None:
    """A single traced reading with its lineage is small."""
    assert len(wire.encode(HEADER, readings(1))) <= 400


@pytest.mark.parametrize("rows_per_record", [50, 500])
def test_500_readings_take_at_most_30_bytes_each(rows_per_record: int) -> None:
    """A full batch is a fifth of its JSON."""
    assert len(wire.encode(HEADER, readings(500, rows_per_record))) <= 30 * 500


def test_every_truncation_is_a_decode_error() -> None:
    """Wherever a record is cut, it is refused."""
    data = wire.encode(HEADER, readings(2))
    for size in range(len(data)):
        with pytest.raises(errors.DecodeError):
            wire.decode(data[:size], schema_for)


def test_every_flipped_byte_is_found() -> None:
    """Header and rows are under checksums: no corruption passes as data."""
    data = bytearray(wire.encode(HEADER, readings(2)))
    batch = readings(2)
    for position in range(len(data)):
        data[position] ^= 0x10
        try:
            header, decoded = wire.decode(bytes(data), schema_for)
        except errors.RecordError:
            pass
        else:  # a bit of the zstd frame that means nothing
            assert (header, decoded.equals(batch)) == (HEADER, True)
        data[position] ^= 0x10


@pytest.mark.parametrize("data", [b"", b"{}", b"\xd7TM", b"\xd7TM\x01", bytes(500)])
def test_other_bytes_are_a_decode_error(data: bytes) -> None:
    """What was never such a record is refused."""
    with pytest.raises(errors.DecodeError):
        wire.decode(data, schema_for)


@pytest.mark.parametrize(("position", "value"), [(3, 2), (4, 0x80)])
def test_a_later_format_is_a_decode_error(position: int, value: int) -> None:
    """An unknown format version or flag is not guessed at."""
    data = bytearray(wire.encode(HEADER, readings(1)))
    data[position] = value
    with pytest.raises(errors.DecodeError, match="not known"):
        wire.read_header(bytes(data))


def test_text_that_is_not_utf8_is_a_decode_error() -> None:
    """A header text is UTF-8 even when its checksum is right."""
    data = bytearray(wire.encode(dataclasses.replace(HEADER, trace=b""), readings(1)))
    data[26] = 0xFF
    end = data.index(compression.ZSTD_MAGIC) - 4
    data[end : end + 4] = zlib.crc32(data[:end]).to_bytes(4, "little")
    with pytest.raises(errors.DecodeError, match="UTF-8"):
        wire.decode(bytes(data), schema_for)


def test_rows_of_another_schema_are_a_schema_error() -> None:
    """A batch is never read with columns it was not written with."""
    data = wire.encode(HEADER, readings(3))
    renamed = pa.schema([field.with_name(field.name + "_") for field in SCHEMA])
    retyped = SCHEMA.set(3, pa.field("sensor1", pa.int64()))
    swapped = pa.schema([SCHEMA.field(index) for index in (0, 2, 1, *range(3, len(SCHEMA)))])
    for schema in (renamed, retyped, swapped, FMS.score_stream_schema, pa.schema([])):
        with pytest.raises(errors.SchemaError):
            wire.decode(data, lambda _, schema=schema: schema)


def test_rows_of_an_older_contract_get_nulls_for_new_fields() -> None:
    """A contract may get nullable fields after its last one; older batches stay readable."""
    batch = readings(3)
    place = SCHEMA.get_field_index("is_fail") + 1
    longer = SCHEMA.insert(place, pa.field("vibration", pa.float64()))
    longer = longer.insert(place + 1, pa.field("note", pa.string()))
    _, decoded = wire.decode(wire.encode(HEADER, batch), lambda _: longer)
    assert decoded.schema.equals(longer, check_metadata=True)
    assert decoded.column("vibration").null_count == 3
    assert decoded.select(SCHEMA.names).equals(batch.select(SCHEMA.names))


def test_the_schema_error_of_an_unknown_contract_passes_through() -> None:
    """`schema_for` decides which contracts are known."""

    def unknown(header: wire.Header) -> pa.Schema:
        raise errors.SchemaError(f"contract {header.contract} {header.version} is not known")

    with pytest.raises(errors.SchemaError, match="fms 1"):
        wire.decode(wire.encode(HEADER, readings(1)), unknown)


def test_a_wrong_row_count_is_a_decode_error() -> None:
    """The header's count is held against the rows."""
    one, _ = parts(wire.encode(HEADER, readings(1)))
    _, two = parts(wire.encode(HEADER, readings(2)))
    with pytest.raises(errors.DecodeError, match="2 rows"):
        wire.decode(one + compression.zstd_compress(two), schema_for)


def test_a_bomb_is_refused() -> None:
    """What decompresses to more than the limit is too large."""
    start, _ = parts(wire.encode(HEADER, readings(1)))
    compressor = zstandard.ZstdCompressor().compressobj()
    zeros = b"".join(compressor.compress(bytes(2**20)) for _ in range(65)) + compressor.flush()
    with pytest.raises(errors.RecordTooLargeError):
        wire.decode(start + zeros, schema_for)


def test_buffers_compressed_once_more_are_refused() -> None:
    """Arrow's own buffer compression would escape the limit."""
    batch = readings(500)
    start, _ = parts(wire.encode(HEADER, batch))
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, SCHEMA, options=options) as writer:
        writer.write_batch(batch)
    reader = pa.ipc.MessageReader.open_stream(sink.getvalue())
    reader.read_next_message()
    compressed = reader.read_next_message().serialize().to_pybytes()
    assert pa.ipc.read_record_batch(pa.py_buffer(compressed), SCHEMA).equals(batch)
    with pytest.raises(errors.DecodeError, match="compressed buffers"):
        wire.decode(start + compression.zstd_compress(compressed), schema_for)


def test_text_of_a_row_must_be_utf8() -> None:
    """A sequence number that is no text does not reach the services."""
    start, message = parts(wire.encode(HEADER, readings(1)))
    broken = message.replace(str(FIRST_SEQUENCE_NUMBER).encode(), b"\xff" * 56)
    with pytest.raises(errors.DecodeError, match="UTF8"):
        wire.decode(start + compression.zstd_compress(broken), schema_for)


@pytest.mark.parametrize("message", [b"", b"\xff" * 8, struct.pack("<iiI", -1, 2**31 - 1, 2**31)])
def test_a_frame_that_is_no_record_batch_is_a_decode_error(message: bytes) -> None:
    """Any content with right checksums is safe."""
    start, _ = parts(wire.encode(HEADER, readings(1)))
    with pytest.raises(errors.DecodeError):
        wire.decode(start + compression.zstd_compress(message), schema_for)
