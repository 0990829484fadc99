"""Codecs on one core: readings a second and bytes a reading. `python -m bench codec`.

Readings as the factory makes them: 100 devices, second timestamps, six values with two decimals
of which 2 % are null, 56-digit sequence numbers. `rows/record` is how many readings one raw record
held: sequence numbers are most of a row's information when each has its own.
"""

import json
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from bench.measurement import Measurement
from telemill import contract, slots
from telemill.codec import kpl, raw, wire
from telemill.kinesis.records import Record, Shard

FMS = contract.load(Path(__file__).parents[1] / "contracts" / "fms.yaml")
SCHEMA = FMS.stream_schema
SHARD = Shard("readings-raw", 1751876489123, "shardId-000000000012")
HEADER = wire.Header("readings", "fms", 1, 7, "transform", SHARD.stream, 1, SHARD.shard_id)
MEANS = (80, 90, 75, 1200, 850, 1100)
DEVIATIONS = (5, 4, 6, 100, 80, 90)
FIRST_SEQUENCE_NUMBER = 49590338271490256608559692538361571095921575989136588898
RUN_SECONDS = 0.5

# The targets for the clean stream, by rows of a batch.
MOST_BYTES = {500: 30.0, 1: 400.0}


class Result(NamedTuple):
    """One line of the table."""

    name: str
    readings_per_second: float
    bytes_per_reading: float


def readings(row_count: int, rows_per_record: int) -> pa.RecordBatch:
    """A clean batch; the same arguments give the same rows."""
    chance = random.Random(0)  # noqa: S311
    sequence_number, arrival = FIRST_SEQUENCE_NUMBER, datetime(2025, 7, 7, 8, 21, tzinfo=UTC)
    rows = []
    for row in range(row_count):
        if row % rows_per_record == 0:
            sequence_number += chance.randrange(2**60)
            arrival += timedelta(milliseconds=chance.randrange(500))
        lineage = {
            "sequence_number": str(sequence_number),
            "sub_sequence_number": row % rows_per_record,
        }
        rows.append(_reading(chance, row, arrival) | lineage)
    return pa.RecordBatch.from_pylist(rows, schema=SCHEMA)


def _reading(chance: random.Random, row: int, arrival: datetime) -> dict[str, Any]:
    values = [
        None if chance.random() < 0.02 else round(chance.gauss(mean, deviation), 2)
        for mean, deviation in zip(MEANS, DEVIATIONS, strict=True)
    ]
    quality = sum(1 << (5 + 3 * index) for index, value in enumerate(values) if value is None)
    return {
        "device_id": 1 + row % 100,
        "event_time": datetime(2025, 7, 7, 8, 20, row // 100 * 10 + row % 10, tzinfo=UTC),
        "ingest_time": arrival,
        **{field.column: value for field, value in zip(FMS.measures, values, strict=True)},
        "is_fail": chance.random() < 0.01,
        "quality": quality,
    }


def raw_items(row_count: int) -> list[bytes]:
    """Readings as devices send them."""
    names = [field.name for field in FMS.measures]
    return [
        json.dumps(
            {"time": "2025-07-07T08:21:29Z", "DeviceId": row["device_id"]}
            | {name: row[name] for name in names}
            | {"isFail": row["is_fail"]},
            separators=(",", ":"),
        ).encode()
        for row in readings(row_count, row_count).to_pylist()
    ]


def rate(call: Callable[[], object], row_count: int) -> float:
    """Readings a CPU second: the best of five runs, so that other processes count least."""
    best = 0.0
    for _ in range(5):
        calls, start = 0, time.process_time()
        while (elapsed := time.process_time() - start) < RUN_SECONDS / 5:
            call()
            calls += 1
        best = max(best, calls * row_count / elapsed)
    return best


def wire_results(row_count: int, rows_per_record: int) -> list[Result]:
    """Both directions of the internal format."""
    batch = readings(row_count, rows_per_record)
    data = wire.encode(HEADER, batch)
    size = len(data) / row_count
    name = f"{row_count} rows, {rows_per_record} rows/record"
    return [
        Result(f"wire.encode {name}", rate(lambda: wire.encode(HEADER, batch), row_count), size),
        Result(
            f"wire.decode {name}",
            rate(lambda: wire.decode(data, lambda _: SCHEMA), row_count),
            size,
        ),
    ]


def raw_results(row_count: int) -> list[Result]:
    """Both directions of the raw formats, up to items (not parsed)."""
    items = raw_items(row_count)
    user = [kpl.UserRecord("7", slots.hash_key_of(7), item) for item in items]
    made: dict[str, Callable[[], bytes]] = {
        "zstd NDJSON": lambda: raw.encode_ndjson(items),
        "KPL": lambda: kpl.aggregate(user),
    }
    results = []
    for name, encode in made.items():
        data = encode()
        record = Record("1", 0, data, "7")
        size = len(data) / row_count
        results += [
            Result(f"{name} encode {row_count} rows", rate(encode, row_count), size),
            Result(
                f"{name} documents {row_count} rows",
                rate(partial(raw.documents, record, SHARD), row_count),
                size,
            ),
        ]
    document = b"[" + b",".join(items) + b"]"
    lines = rate(lambda: raw.lines(document), row_count)
    return [*results, Result(f"lines (array) {row_count} rows", lines, len(document) / row_count)]


def measure() -> list[Measurement]:
    """Speeds, and the size of the clean stream with its targets."""
    found = []
    for row_count, rows_per_record in ((1, 1), (500, 500), (500, 50), (500, 1)):
        encode, decode = wire_results(row_count, rows_per_record)
        # With a raw record for each reading the lineage is most of a row: no target for that.
        most = None if rows_per_record < min(row_count, 50) else MOST_BYTES[row_count]
        found += [
            _speed(encode),
            _speed(decode),
            Measurement(
                encode.name.replace("encode", "size"),
                encode.bytes_per_reading,
                "bytes/reading",
                at_most=most,
            ),
        ]
    for result in raw_results(500):
        found.append(_speed(result))
        if "encode" in result.name:
            name = result.name.replace("encode", "size")
            found.append(Measurement(name, result.bytes_per_reading, "bytes/reading"))
    return found


def _speed(result: Result) -> Measurement:
    return Measurement(result.name, result.readings_per_second, "readings/s", RUN_SECONDS)
