"""Trace contexts in records: carried, found again, and invisible to readers that know of none."""

import base64
import io
import os

import pytest
import zstandard
from aws_kinesis_agg.deaggregator import deaggregate_records

from telemill import errors
from telemill.codec import compression, kpl, raw, trace, wire
from telemill.contract import Contract
from telemill.kinesis.records import Record, Shard
from telemill.testing import batches
from transform import testing

CONTEXT = trace.context(0x6A21F0C4_0123456789ABCDEF01234567, 0xFEDCBA9876543210)
SHARD = Shard("readings-raw", 1, "shardId-000000000000")
PLANT: Contract = testing.plant()
ITEMS = [b'{"a":1}', b'{"a":2}']
NDJSON = raw.encode_ndjson(ITEMS)
AGGREGATE = kpl.aggregate([kpl.UserRecord("7", 5, item) for item in ITEMS])


def lines(data: bytes) -> list[bytes]:
    """The items of a raw record."""
    documents, dropped = raw.documents(Record("1", 0, data, "7"), SHARD)
    assert dropped == 0
    return [line for each in documents for line in raw.lines(each.data)]


@pytest.mark.parametrize("plain", [NDJSON, AGGREGATE], ids=["ndjson", "kpl"])
def test_a_raw_record_carries_a_context_and_the_same_items(plain: bytes) -> None:
    """The context is found again, and the items are those of the record without it."""
    assert trace.of_record(plain) == b""
    traced = trace.on_raw(plain, CONTEXT)
    assert trace.of_record(traced) == CONTEXT
    assert lines(traced) == lines(plain) == ITEMS


def test_other_readers_skip_it() -> None:
    """A zstd library, Amazon's own de-aggregation and our decoder as it was see no more."""
    traced = trace.on_raw(NDJSON, CONTEXT)
    reader = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(traced), read_across_frames=True)
    assert reader.read() == compression.decompress(NDJSON)
    assert compression.decompress(traced) == compression.decompress(NDJSON)
    aggregate = {"kinesis": {"data": trace.on_raw(AGGREGATE, CONTEXT), "partitionKey": "7"}}
    assert len(deaggregate_records([_as_lambda_gets_it(aggregate)])) == len(ITEMS)


def _as_lambda_gets_it(record: dict[str, dict[str, object]]) -> dict[str, object]:
    data = record["kinesis"]["data"]
    assert isinstance(data, bytes)
    return {
        "eventID": "shardId-000000000000:1",
        "kinesis": {
            "data": base64.b64encode(data),
            "partitionKey": "7",
            "sequenceNumber": "1",
            "approximateArrivalTimestamp": 1.0,
            "kinesisSchemaVersion": "1.0",
        },
    }


@pytest.mark.parametrize(
    "useless",
    [
        CONTEXT[:-1] + b"\x00",
        bytes(16) + CONTEXT[16:],
        CONTEXT[:16] + bytes(8) + CONTEXT[24:],
    ],
    ids=["not sampled", "no trace id", "no span id"],
)
def test_what_nobody_records_is_no_context(useless: bytes) -> None:
    """A context that is not sampled, or has an id of zeros, is as none."""
    assert trace.of_record(trace.on_raw(NDJSON, useless)) == b""
    batch = batches.batch(PLANT.stream_schema, [(0, 0)], [1])
    assert trace.of_record(wire.encode(batches.header(PLANT, trace=useless), batch)) == b""


def test_no_bytes_can_make_it_fail() -> None:
    """Truncated and random records have no context, or 25 bytes of one."""
    batch = batches.batch(PLANT.stream_schema, [(0, 0)], [1])
    whole = wire.encode(batches.header(PLANT, trace=CONTEXT), batch)
    random = [magic + os.urandom(60) for magic in (wire.MAGIC, kpl.MAGIC, compression.ZSTD_MAGIC)]
    for data in [*(whole[:size] for size in range(len(whole))), *random]:
        assert len(trace.of_record(data)) in {0, trace.CONTEXT_BYTES}


def test_an_internal_batch_gets_another_parent() -> None:
    """Only the parent span changes; header and rows are sound and otherwise the same."""
    batch = batches.batch(PLANT.stream_schema, [(0, 0)], [1])
    header = batches.header(PLANT, trace=CONTEXT)
    record = wire.encode(header, batch)
    changed = wire.with_parent(record, b"\x11" * 8)
    found, rows = wire.decode(changed, lambda _: PLANT.stream_schema)
    assert found.trace == CONTEXT[:16] + b"\x11" * 8 + CONTEXT[24:]
    assert rows.equals(batch)
    assert wire.with_parent(changed, CONTEXT[16:24]) == record
    untraced = wire.encode(batches.header(PLANT), batch)
    assert wire.with_parent(untraced, b"\x11" * 8) == untraced


def test_a_damaged_header_is_not_mended() -> None:
    """A record whose header does not fit its checksum has no context that could be replaced."""
    batch = batches.batch(PLANT.stream_schema, [(0, 0)], [1])
    whole = wire.encode(batches.header(PLANT, trace=CONTEXT), batch)
    broken = whole[:5] + b"\xff" + whole[6:]
    with pytest.raises(errors.DecodeError):
        wire.decode(wire.with_parent(broken, b"\x11" * 8), lambda _: PLANT.stream_schema)


def test_traceparent_is_read_as_w3c_writes_it() -> None:
    """A sampled header of HTTP is a context; an unsampled or broken one is none."""
    trace_id, span_id = trace.parts(CONTEXT)
    assert trace.of_traceparent(f"00-{trace_id:032x}-{span_id:016x}-01") == CONTEXT
    for text in ("", "00-1-2-01", f"00-{trace_id:032x}-{span_id:016x}-00", "nonsense"):
        assert trace.of_traceparent(text) == b""
