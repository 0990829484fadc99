"""Rows of a cut as Parquet objects: Hive partitions by event time, bytes for Athena. Pure.

The same rows give the same bytes, so that whoever repeats a cut makes the same objects.
"""

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

ROW_GROUP_ROWS = 128 * 1024
"""Athena reads row groups in parallel: not too small to compress, not too large to hold."""

SMALL_OBJECT_ROWS = 16 * 1024
"""Below, the dictionary of a float column weighs more than it saves (bench/bench_sink_core.py)."""

ZSTD_LEVEL = 1
"""Level 3 is slower and saves nothing on dictionary-encoded columns."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST_US = (datetime.min.replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)
END_US = (datetime.max.replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1) + 1
"""Times that have a partition: microseconds since 1970, from the first to before the last."""


class Partition(NamedTuple):
    """One hour of event time, UTC, as Hive and Athena name it."""

    dt: str
    hour: str

    @property
    def path(self) -> str:
        """`dt=2025-07-07/hour=08`."""
        return f"dt={self.dt}/hour={self.hour}"


def partition_of(hour_us: int) -> Partition:
    """The partition of an hour that starts `hour_us` microseconds after 1970."""
    start = EPOCH + timedelta(microseconds=hour_us)
    return Partition(start.date().isoformat(), f"{start.hour:02d}")


def split(table: pa.Table) -> list[tuple[Partition, pa.Table]]:
    """The rows of each hour of event time, in their order of acceptance.

    Args:
        table: Rows in order of acceptance, `event_time` without nulls.

    Returns:
        Each hour once, ascending. One hour, the usual case, is the table itself.
    """
    hours = _hours(table.column("event_time"))
    counts = _counts(hours)
    if len(counts) == 1:
        return [(partition_of(hour), table) for hour, _ in counts]
    # The sort is stable: inside an hour the order stays.
    rows = pc.sort_indices(pa.table({"hour": hours}), sort_keys=[("hour", "ascending")])
    ordered = table.combine_chunks().take(rows)
    parts, start = [], 0
    for hour, count in counts:
        parts.append((partition_of(hour), ordered.slice(start, count)))
        start += count
    return parts


def encode(table: pa.Table) -> pa.Buffer:
    """One Parquet object: zstd, statistics, dictionaries, row groups of at most 128 k rows.

    Args:
        table: At least one row; its schema, with units and descriptions, goes into the file. Equal
            tables with equal chunks give equal bytes (pages end with chunks).
    """
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        row_group_size=ROW_GROUP_ROWS,
        compression="zstd",
        compression_level=ZSTD_LEVEL,
        use_dictionary=_dictionary_columns(table),
        write_statistics=True,
        version="2.6",
    )
    return sink.getvalue()


def _dictionary_columns(table: pa.Table) -> bool | list[str]:
    if table.num_rows >= SMALL_OBJECT_ROWS:
        return True
    return [field.name for field in table.schema if not pa.types.is_floating(field.type)]


def _hours(times: Any) -> Any:
    """The start of each time's hour, microseconds since 1970 (rounded down before 1970 too)."""
    # Without the zone, which is UTC: Arrow would look every value up in the zone database.
    return pc.floor_temporal(times.cast(pa.timestamp("us")), unit="hour").cast(pa.int64())


def _counts(hours: Any) -> list[tuple[int, int]]:
    """(hour, rows), ascending."""
    return sorted((each["values"], each["counts"]) for each in pc.value_counts(hours).to_pylist())
