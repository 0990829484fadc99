"""Records of the internal streams, made up from a contract."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from telemill.codec import wire
from telemill.contract import Contract
from telemill.kinesis.records import Record, Shard

US_PER_SECOND = 1_000_000
RAW_SHARD_ID = "shardId-000000000007"
SHARD = Shard("readings", 1_751_876_489_000, "shardId-000000000000")
FIRST_SEQUENCE_NUMBER = 49_653_000_000_000_000_000_000_000_000_000_000_000_000_000_000_000_000_000
SEQUENCE_NUMBER_STEP = 1_208_925_819_614_629_174_706_189
"""Real ones have 56 digits and gaps."""

_ZEROS = {
    pa.float64(): 1.5,
    pa.float32(): 0.25,
    pa.int64(): 7,
    pa.bool_(): False,
    pa.timestamp("us", "UTC"): 1_751_889_600_000_000,
}


def sequence_number(index: int) -> str:
    """The index-th sequence number of a shard: 56 digits, sparse."""
    return str(FIRST_SEQUENCE_NUMBER + index * SEQUENCE_NUMBER_STEP)


def header(of: Contract, kind: wire.Kind = "readings", **changes: Any) -> wire.Header:
    """A header of slot 0 of the raw stream's first shard; `changes` name its fields."""
    fields: dict[str, Any] = {
        "kind": kind,
        "contract": of.name,
        "version": of.version,
        "slot": 0,
        "producer": "transform",
        "raw_stream": "readings-raw",
        "raw_incarnation": 1_751_000_000_000,
        "raw_shard_id": RAW_SHARD_ID,
    }
    return wire.Header(**(fields | changes))


def batch(
    schema: pa.Schema, lineage: Sequence[tuple[int, int]], event_us: Sequence[int]
) -> pa.RecordBatch:
    """Rows with these lineages and event times; the other columns hold a constant.

    Args:
        schema: A stream schema of a contract.
        lineage: (index of the raw record, sub-sequence number) of each row.
        event_us: Event time of each row, epoch microseconds.
    """
    given: dict[str, Sequence[Any]] = {
        "sequence_number": [sequence_number(index) for index, _ in lineage],
        "sub_sequence_number": [sub for _, sub in lineage],
        "event_time": event_us,
        "ingest_time": [each + US_PER_SECOND for each in event_us],
    }
    columns = [
        pa.array(given.get(field.name, [_ZEROS.get(field.type, "x")] * len(lineage)), field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def record(index: int, data: bytes, arrival_us: int = 0) -> Record:
    """A record of the internal stream."""
    return Record(sequence_number(index), arrival_us, data, "0")
