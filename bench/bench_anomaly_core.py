"""The anomaly core on one core: microseconds a reading. `python -m bench anomaly-core`.

A thousand devices of the published generator in the slots of one of four shards, as the transform
core writes them: chunks of at most 1 MiB of records. Timed is `AnomalyStep.step`: decode,
watermarks, score, alerts, encode; and the detector alone, on the same readings. CPU time of
the process, best of several runs, each after a first pass which warms the detectors up.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.json

from anomaly import alerting
from anomaly.core import AnomalyStep
from anomaly.detection import ensemble, forest, monitor
from anomaly.detection.interface import Batch
from bench import fleet
from bench.measurement import Measurement
from telemill import contract, slots
from telemill.codec import raw
from telemill.kinesis.reader import split
from telemill.kinesis.records import Chunk, Record, Shard
from transform.core import TransformStep

FMS = contract.load(Path(__file__).parents[1] / "contracts" / "fms.yaml")
RAW = Shard("readings-raw", 1751876489123, "shardId-000000000000")
READINGS = Shard("readings", 1751876489123, "shardId-000000000000")
FIRST_SEQUENCE_NUMBER = 49590338271490256608559692538361571095921575989136588898
START = datetime(2025, 7, 7, 8, 0, tzinfo=UTC)
ARRIVAL_US = int(datetime(2025, 7, 8, 8, 0, tzinfo=UTC).timestamp()) * 1_000_000
DEVICES = 1000
SHARD_SLOTS = slots.DEFAULT_SLOT_COUNT // 4
INTERVAL_SECONDS = 10.0
CHUNK_BYTES = 1024 * 1024
READING_COUNT = 400_000
FOREST_READING_COUNT = 100_000
"""Enough that every forest is full and scores."""
RUNS = 5
TUNING = monitor.Tuning(interval_seconds=FMS.interval_seconds)
DETECTOR = ensemble.default(len(FMS.measures), TUNING)
WITH_FOREST = ensemble.default(len(FMS.measures), TUNING, trees=forest.Tuning())


class Case(NamedTuple):
    """How much comes at once: readings of a raw record, raw records of a chunk."""

    name: str
    per_record: int
    records_per_chunk: int


CASES = (
    Case("backlog, chunks of 1 MiB", 500, 100),
    Case("live, 64 readings a chunk and slot", 64, SHARD_SLOTS),
)


def measure() -> list[Measurement]:
    """Both cases, and the detector alone."""
    found = []
    for case in CASES:
        chunks = _readings_stream(case)
        rows, seconds = _best(lambda chunks=chunks: _run(chunks))  # type: ignore[misc]
        name = f"anomaly core, {case.name}"
        found.append(Measurement(name, seconds / rows * 1e6, "us/reading", seconds))
    values, devices = _matrix(DEVICES // 4, READING_COUNT // 4)
    for name, detector, count in (
        ("detector alone", DETECTOR, READING_COUNT // 4),
        ("the same with a Random Cut Forest", WITH_FOREST, FOREST_READING_COUNT),
    ):
        part = (values[:count], devices[:count], detector)
        rows, seconds = _best(lambda part=part: _score(*part))  # type: ignore[misc]
        found.append(Measurement(name, seconds / rows * 1e6, "us/reading", seconds))
    return found


def _best(run: Callable[[], tuple[int, float]]) -> tuple[int, float]:
    return min((run() for _ in range(RUNS)), key=lambda result: result[1])


def _readings_stream(case: Case) -> list[Chunk]:
    """The readings of one shard, through the transform core."""
    source = fleet.Fleet(DEVICES, INTERVAL_SECONDS, START)
    ours = [
        raw.encode_ndjson(items)
        for slot, items in fleet.by_slot(source, READING_COUNT, case.per_record)
        if slot < SHARD_SLOTS
    ]
    step = TransformStep(FMS)
    history = step.restore([], RAW)
    outputs = []
    for first in range(0, len(ours), case.records_per_chunk):
        part = ours[first : first + case.records_per_chunk]
        records = [_record(first + number, data) for number, data in enumerate(part)]
        outputs += step.step(Chunk(RAW, records), history).outputs
    made = [_record(number, output.data) for number, output in enumerate(outputs)]
    if case.records_per_chunk > SHARD_SLOTS:
        return [Chunk(READINGS, part) for part in split(made, CHUNK_BYTES)]
    return [Chunk(READINGS, made[at : at + SHARD_SLOTS]) for at in range(0, len(made), SHARD_SLOTS)]


def _record(number: int, data: bytes) -> Record:
    return Record(str(FIRST_SEQUENCE_NUMBER + number * 2**50), ARRIVAL_US, data, "0")


def _run(chunks: list[Chunk]) -> tuple[int, float]:
    """Step through the second half of the chunks; rows and CPU seconds of that."""
    step = AnomalyStep(
        FMS,
        app_id="anomaly",
        slot_count=slots.DEFAULT_SLOT_COUNT,
        raw_retention_hours=168.0,
        detector=DETECTOR,
        threshold=ensemble.THRESHOLD,
        policy=alerting.Policy(),
    )
    state = step.restore([], READINGS)
    half = len(chunks) // 2
    for chunk in chunks[:half]:
        step.step(chunk, state)
    started = time.process_time()
    rows = sum(step.step(chunk, state).counts["readings_in",] for chunk in chunks[half:])
    return rows, time.process_time() - started


def _matrix(devices: int, rows: int) -> tuple[Any, Any]:
    """Values of some devices in turn, and which row is whose."""
    source = fleet.Fleet(devices, INTERVAL_SECONDS, START)
    lines = b"\n".join(line for tick in source.ticks(rows // devices) for line in tick)
    table = pa.json.read_json(pa.BufferReader(lines))
    columns = [table.column(each.name).to_numpy().astype(np.float64) for each in FMS.measures]
    return np.column_stack(columns), np.arange(len(table)) % devices


def _score(values: Any, devices: Any, detector: ensemble.Ensemble) -> tuple[int, float]:
    count = int(devices.max()) + 1
    event_us = np.arange(len(values)) // count * int(INTERVAL_SECONDS * 1e6)
    batch = Batch(values, devices, event_us)
    half = np.arange(len(values) // 2)
    _, state = detector.score(batch.at(half), detector.begin(count, values.shape[1]))
    rest = batch.at(np.arange(len(half), len(values)))
    started = time.process_time()
    detector.score(rest, state)
    return len(rest.values), time.process_time() - started
