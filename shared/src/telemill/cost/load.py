"""What a fleet makes of the services: records, bytes, shards, tasks, objects. Pure.

Sizes and CPU times are measured ones; each constant says where.
"""

import math
from dataclasses import dataclass

from telemill.slots import DEFAULT_SLOT_COUNT

SECONDS_PER_MONTH = 730 * 3600

RAW_RECORD_BYTES, RAW_READING_BYTES = 100.0, 29.0
"""A raw record of n readings, zstd NDJSON: 128 bytes at 1, 431 at 10, 14,490 at 500 (fms)."""
WIRE_RECORD_BYTES, WIRE_READING_BYTES = 326.0, 24.5
"""A record of `readings`: `python -m bench codec`, wire.size. Scores are taken for the same."""
READINGS_OBJECT_BYTES, READINGS_ROW_BYTES = 8_800.0, 24.5
SCORES_OBJECT_BYTES, SCORES_ROW_BYTES = 7_500.0, 36.5
"""Parquet of n rows: 10.5 KB at 75, 192 KB at 7,500 (readings); 10.1 and 280 KB (scores)."""

CPU_SECONDS_PER_MILLION = {
    "ingest": 6.1,
    "transform": 5.6,
    "sink-readings": 2.9,
    "anomaly": 4.0,
    "sink-scores": 3.7,
}
"""`python -m bench full-path-services`, all services under live load."""
POLL_CPU_SECONDS = 0.00057
"""`python -m bench ingest-poll`."""

POLL_LINGER_SECONDS = 0.25
READS_PER_SECOND = 2.0
"""GetRecords of a shard by one application; a record of `readings` or `scores` is made for each."""
SHARD_BYTES_PER_SECOND = 1024 * 1024
SHARD_RECORDS_PER_SECOND = 1000
FILL = 0.6
"""A shard or task that is fuller has no room for catching up."""
TASK_VCPU = 0.5
TASK_GB = 1.0

STREAMS = ("readings-raw", "readings", "scores")
READERS = {
    "transform": "readings-raw",
    "sink-readings": "readings",
    "anomaly": "readings",
    "sink-scores": "scores",
}


@dataclass(frozen=True, slots=True)
class Fleet:
    """What is to be paid for.

    Attributes:
        devices: Their number.
        interval_seconds: Between two readings of a device.
        min_shards: Fewest shards of a stream.
        slots: Slots of the streams.
        flush_interval_seconds: Age at which the sink writes objects.
        commit_interval_seconds: Longest time between two saved positions.
    """

    devices: int
    interval_seconds: float
    min_shards: int = 1
    slots: int = DEFAULT_SLOT_COUNT
    flush_interval_seconds: float = 15.0
    commit_interval_seconds: float = 5.0

    @property
    def readings_per_second(self) -> float:
        """Of the whole fleet."""
        return self.devices / self.interval_seconds


@dataclass(frozen=True, slots=True)
class StreamLoad:
    """One stream.

    Attributes:
        records_per_second: Written to it.
        bytes_per_second: Written to it.
        shards: That it needs.
    """

    records_per_second: float
    bytes_per_second: float
    shards: int

    @property
    def record_bytes(self) -> float:
        """Mean size of a record."""
        return self.bytes_per_second / self.records_per_second


def streams(fleet: Fleet) -> dict[str, StreamLoad]:
    """Each stream's load, by name."""
    rate = fleet.readings_per_second
    # Readings of a slot wait for one another, so a slot makes so many records at the most.
    raw = _stream(
        fleet,
        min(rate, fleet.slots / POLL_LINGER_SECONDS),
        RAW_RECORD_BYTES,
        RAW_READING_BYTES,
    )
    # One batch a slot for each read of the shard before it.
    derived = _stream(
        fleet, min(rate, fleet.slots * READS_PER_SECOND), WIRE_RECORD_BYTES, WIRE_READING_BYTES
    )
    return {"readings-raw": raw, "readings": derived, "scores": derived}


def _stream(
    fleet: Fleet, records_per_second: float, record_bytes: float, reading_bytes: float
) -> StreamLoad:
    size = records_per_second * record_bytes + fleet.readings_per_second * reading_bytes
    needed = max(
        size / (SHARD_BYTES_PER_SECOND * FILL),
        records_per_second / (SHARD_RECORDS_PER_SECOND * FILL),
    )
    return StreamLoad(records_per_second, size, max(fleet.min_shards, math.ceil(needed)))


def tasks(fleet: Fleet) -> dict[str, int]:
    """Tasks of each deployment, by name."""
    made = {}
    for name, cpu_seconds in CPU_SECONDS_PER_MILLION.items():
        cores = fleet.readings_per_second * cpu_seconds / 1e6
        if name == "ingest":
            cores = max(cores, fleet.readings_per_second * POLL_CPU_SECONDS)
        made[name] = max(1, math.ceil(cores / (TASK_VCPU * FILL)))
    return made


def cuts_per_second(fleet: Fleet, shards: int) -> float:
    """Objects a table gets: one for each shard and flush, and one more where an hour turns."""
    return shards / fleet.flush_interval_seconds + shards / 3600


def table_bytes_per_second(fleet: Fleet) -> dict[str, float]:
    """Growth of each table."""
    by_stream = streams(fleet)
    rate = fleet.readings_per_second
    return {
        "readings": cuts_per_second(fleet, by_stream["readings"].shards) * READINGS_OBJECT_BYTES
        + rate * READINGS_ROW_BYTES,
        "scores": cuts_per_second(fleet, by_stream["scores"].shards) * SCORES_OBJECT_BYTES
        + rate * SCORES_ROW_BYTES,
    }
