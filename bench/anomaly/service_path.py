"""Scores recordings as the service does: records of the readings stream through its core."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from anomaly import settings
from anomaly.__main__ import step_of
from bench.anomaly.layout import Recording
from telemill import contract, slots
from telemill.codec import wire
from telemill.kinesis.records import Chunk, Record, Shard

SHARD = Shard("readings", 1, "shardId-000000000000")
ROWS_PER_RECORD = 500
FIRST_SEQUENCE_NUMBER = 10**55


class Scored(NamedTuple):
    """What the service says of each row; the score of warm-up is NaN."""

    scores: npt.NDArray[np.float64]
    flags: npt.NDArray[np.bool_]


def score(recording: Recording, readings: contract.Contract) -> Scored:
    """Score a recording as one new device of the contract, with the service's default settings."""
    chosen = settings.AnomalySettings()
    step = step_of(chosen, readings)
    state = step.restore([], SHARD)
    schema = readings.score_stream_schema
    made: list[pa.RecordBatch] = []
    for first in range(0, len(recording.stamps), ROWS_PER_RECORD):
        rows = slice(first, first + ROWS_PER_RECORD)
        chunk = Chunk(SHARD, [_record(recording, rows, readings, chosen.slot_count)])
        outputs = step.step(chunk, state).outputs
        made += [wire.decode(each.data, lambda _: schema)[1] for each in outputs]
    table = pa.Table.from_batches(made, schema)
    scores = table["score"].to_numpy().astype(np.float64)
    return Scored(scores, table["is_anomaly"].to_numpy().astype(bool))


def _record(
    recording: Recording, rows: slice, readings: contract.Contract, slot_count: int
) -> Record:
    batch = _batch(recording, rows, readings)
    header = wire.Header(
        kind="readings",
        contract=readings.name,
        version=readings.version,
        slot=slots.slot_of(_device(recording.path), slot_count),
        producer="bench",
        raw_stream="readings-raw",
        raw_incarnation=1,
        raw_shard_id=SHARD.shard_id,
        trace=b"",
    )
    sequence_number = batch.column("sequence_number")[0].as_py()
    arrival_us = int(recording.event_us[rows.start])
    return Record(sequence_number, arrival_us, wire.encode(header, batch), "0")


def _batch(recording: Recording, rows: slice, readings: contract.Contract) -> pa.RecordBatch:
    event_us = recording.event_us[rows]
    count = len(event_us)
    times = pa.array(event_us, pa.timestamp("us", "UTC"))
    numbers = [str(FIRST_SEQUENCE_NUMBER + rows.start + row) for row in range(count)]
    columns = {
        readings.device.column: pa.array([_device(recording.path)] * count),
        readings.time.column: times,
        "ingest_time": times,
        "quality": pa.array(np.zeros(count, np.int64)),
        "sequence_number": pa.array(numbers),
        "sub_sequence_number": pa.array(np.zeros(count, np.int64)),
    }
    for index, field in enumerate(readings.measures):
        values = recording.values[rows, index]
        columns[field.column] = pa.array(values, mask=np.isnan(values))
    schema = readings.stream_schema
    return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)


def _device(path: Path) -> str:
    return path.as_posix()
