"""The audit's comparison: rows a second. `python -m bench audit`.

A million readings of the published mix (see `bench_transform_core`), through the transform's core,
with its rows as the table: compared are order, values, duplicates and what is missing. Reading from
Kinesis and S3 is not timed.

- 500 a record: zstd NDJSON as ingest writes it.
- one JSON a record: as many raw records as readings.
"""

import time
from collections.abc import Sequence

import pyarrow as pa

from bench import bench_transform_core as transform_core
from bench.bench_transform_core import FMS, SHARD
from bench.measurement import Measurement
from telemill import audit
from telemill.audit import Lineage, columns, streams
from telemill.codec import wire
from telemill.kinesis.records import Chunk
from telemill.stages.step import StepResult
from transform.core import TransformStep

READINGS = 1_000_000
RUNS = 3


def measure() -> list[Measurement]:
    """Both kinds of records."""
    return [
        _measured(f"{READINGS:,} readings, {per_record} a record", per_record)
        for per_record in (500, 1)
    ]


def _measured(name: str, per_record: int) -> Measurement:
    chunks = transform_core.chunks(transform_core.records(READINGS, per_record, faulty=True))
    items = streams.items_of(SHARD, (record for chunk in chunks for record in chunk.records)).items
    rows, rejected = _transformed(chunks)
    seconds = []
    for _ in range(RUNS):
        start = time.process_time()
        report = audit.audit(FMS, [], items, rows, rejected)
        seconds.append(time.process_time() - start)
        if not report.ok:
            raise AssertionError(f"the audit finds faults where none are: {report.wrong}")
    best = min(seconds)
    return Measurement(name, rows.num_rows / best, "rows/s", best)


def _transformed(chunks: Sequence[Chunk]) -> tuple[pa.Table, list[Lineage]]:
    """The transform's rows as a table, one object a slot, and what it rejects."""
    step = TransformStep(FMS)
    state = step.restore([], SHARD)
    parts, rejected = [], []
    for chunk in chunks:
        result = step.step(chunk, state)
        parts += _rows(result)
        rejected += [
            Lineage(each.shard_id, each.sequence_number, each.sub_sequence_number)
            for each in result.rejected
        ]
    table = pa.concat_tables(parts).combine_chunks()
    place = pa.array(range(table.num_rows), pa.int64())
    return table.append_column(columns.POSITION, place), rejected


def _rows(result: StepResult) -> list[pa.Table]:
    parts = []
    for output in result.outputs:
        header, batch = wire.decode(output.data, lambda _: FMS.stream_schema)
        shards = pa.array([header.raw_shard_id] * batch.num_rows).dictionary_encode()
        names = pa.array([f"slot-{header.slot}"] * batch.num_rows).dictionary_encode()
        part = pa.Table.from_batches([batch]).append_column("shard_id", shards)
        parts.append(part.append_column(columns.OBJECT, names))
    return [part.unify_dictionaries() for part in parts]
