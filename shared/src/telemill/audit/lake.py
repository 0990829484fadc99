"""Tables and quarantine as objects: on S3, or below a local folder."""

import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from telemill import aws, quarantine
from telemill.audit.columns import ABSENT, LINEAGE, NAMES, OBJECT, POSITION
from telemill.codec import compression

PARALLEL_OBJECTS = 16
MAX_QUARANTINE_BYTES = 1 << 30
CLOCK_TOLERANCE = timedelta(minutes=15)
"""Clocks of Kinesis and S3 may differ by so much."""

OnObjects = Callable[[int, int], None]
"""Told how many objects are read, of how many; called from several threads."""


class Objects(Protocol):
    """Named bytes."""

    def names(self, prefix: str, written_from: datetime | None = None) -> Iterator[str]:
        """Names below a prefix, ascending; only of what was written from a time on."""

    def folders(self, prefix: str) -> list[str]:
        """Folders right below a prefix, with a slash at their end."""

    def read(self, name: str) -> bytes:
        """The bytes of one."""


@dataclass(frozen=True, slots=True)
class S3Objects:
    """Objects of a bucket."""

    bucket: str
    client: Any

    def names(self, prefix: str, written_from: datetime | None = None) -> Iterator[str]:
        """See Objects."""
        with aws.map_exceptions("s3:ListBucket", bucket=self.bucket):
            for page in self._pages(Prefix=prefix):
                for each in page.get("Contents", ()):
                    if written_from is None or each["LastModified"] >= written_from:
                        yield each["Key"]

    def folders(self, prefix: str) -> list[str]:
        """See Objects."""
        with aws.map_exceptions("s3:ListBucket", bucket=self.bucket):
            pages = self._pages(Prefix=prefix, Delimiter="/")
            return [each["Prefix"] for page in pages for each in page.get("CommonPrefixes", ())]

    def read(self, name: str) -> bytes:
        """See Objects."""
        with aws.map_exceptions("s3:GetObject", bucket=self.bucket, key=name):
            body: bytes = self.client.get_object(Bucket=self.bucket, Key=name)["Body"].read()
        return body

    def _pages(self, **asked: str) -> Iterable[Mapping[str, Any]]:
        pages: Iterable[Mapping[str, Any]] = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, **asked
        )
        return pages


@dataclass(frozen=True, slots=True)
class Folder:
    """Files below a folder, named as objects."""

    path: Path

    def names(self, prefix: str, written_from: datetime | None = None) -> Iterator[str]:
        """See Objects."""
        for path in sorted((self.path / prefix).rglob("*")):
            if not path.is_file():
                continue
            written = datetime.fromtimestamp(path.stat().st_mtime, UTC)
            if written_from is None or written >= written_from:
                yield path.relative_to(self.path).as_posix()

    def folders(self, prefix: str) -> list[str]:
        """See Objects."""
        found = sorted(each for each in (self.path / prefix).glob("*") if each.is_dir())
        return [f"{each.relative_to(self.path).as_posix()}/" for each in found]

    def read(self, name: str) -> bytes:
        """See Objects."""
        return (self.path / name).read_bytes()


@dataclass(frozen=True, slots=True)
class Span:
    """Which rows of a table are wanted: those whose raw record arrived in `[start, end)`.

    Attributes:
        start: None from the beginning.
        end: None to the end.
        oldest_event: Rows with an earlier event time may be left out; partitions are by event time.
    """

    start: datetime | None = None
    end: datetime | None = None
    oldest_event: datetime | None = None


def object_names(objects: Objects, table: str, span: Span | None = None) -> list[str]:
    """The table's objects that may hold rows of a span.

    An object is written after its records arrived, so older ones are left out.
    """
    span = span or Span()
    written_from = None if span.start is None else span.start - CLOCK_TOLERANCE
    return [
        name
        for folder in _days(objects, table, span)
        for name in objects.names(folder, written_from)
        if name.endswith(".parquet")
    ]


def read_rows(
    objects: Objects,
    names: Sequence[str],
    schema: pa.Schema,
    span: Span | None = None,
    *,
    on_objects: OnObjects = lambda _done, _total: None,
) -> pa.Table:
    """The rows of a table, with `object`, `position` and `absent`.

    Args:
        objects: Where they are.
        names: Which of them, as `object_names` gives them.
        schema: Columns wanted, lineage included.
        span: Which rows; all by default.
        on_objects: Told of progress.
    """
    return _within(_read(objects, names, schema, on_objects), span or Span())


def read_hours(
    objects: Objects, table: str, schema: pa.Schema, hours: Sequence[datetime]
) -> pa.Table:
    """All rows whose event time lies in some hours."""
    found = [
        name
        for hour in hours
        for name in objects.names(f"{table}/dt={hour:%Y-%m-%d}/hour={hour:%H}/")
        if name.endswith(".parquet")
    ]
    return _read(objects, found, schema, lambda _done, _total: None)


def _days(objects: Objects, table: str, span: Span) -> list[str]:
    """Prefixes to look below: the days of a span, or the table."""
    if span.oldest_event is None:
        return [f"{table}/"]
    oldest = f"dt={span.oldest_event.astimezone(UTC):%Y-%m-%d}"
    return [each for each in objects.folders(f"{table}/") if each.split("/")[-2] >= oldest]


def _within(rows: pa.Table, span: Span) -> pa.Table:
    arrived = rows.column("ingest_time") if "ingest_time" in rows.column_names else None
    if arrived is None:
        return rows
    for bound, keep in ((span.start, pc.greater_equal), (span.end, pc.less)):
        if bound is not None:
            chosen = keep(rows.column("ingest_time"), pa.scalar(bound, arrived.type))
            rows = rows.filter(chosen)
    return rows


def _read(
    objects: Objects, names: Sequence[str], schema: pa.Schema, on_objects: OnObjects
) -> pa.Table:
    done = 0

    def read(name: str) -> pa.Table:
        nonlocal done
        part = _rows_of(name, objects.read(name), schema)
        done += 1
        on_objects(done, len(names))
        return part

    with ThreadPoolExecutor(PARALLEL_OBJECTS) as threads:
        parts = list(threads.map(read, names))
    return pa.concat_tables([empty(schema), *parts]).unify_dictionaries()


def empty(schema: pa.Schema) -> pa.Table:
    """No rows, in the columns that `read_rows` gives."""
    return _form(schema).empty_table()


def _form(schema: pa.Schema) -> pa.Schema:
    kept = [field.with_nullable(True).remove_metadata() for field in schema]
    fields = [*LINEAGE, *(field for field in kept if field.name not in LINEAGE.names)]
    more = [pa.field(OBJECT, NAMES), pa.field(POSITION, pa.int64()), pa.field(ABSENT, NAMES)]
    return pa.schema([*fields, *more])


def _rows_of(name: str, body: bytes, schema: pa.Schema) -> pa.Table:
    file = pq.ParquetFile(io.BytesIO(body), read_dictionary=["shard_id"])
    there = set(file.schema_arrow.names)
    table = file.read([column for column in schema.names if column in there])
    form = _form(schema)
    absent = ",".join(column for column in schema.names if column not in there)
    count = table.num_rows
    columns = [
        table.column(field.name).cast(field.type)
        if field.name in there
        else pa.nulls(count, field.type)
        for field in form
        if field.name not in {OBJECT, POSITION, ABSENT}
    ]
    more = [_repeated(name, count), pa.array(range(count), pa.int64()), _repeated(absent, count)]
    return pa.table([*columns, *more], schema=form)


def _repeated(text: str, count: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(
        pa.array([0], pa.int32()).take(pa.array([0] * count, pa.int32())),
        pa.array([text], pa.string()),
    )


def read_quarantine(
    objects: Objects, first_day: datetime | None = None, prefix: str = quarantine.PREFIX
) -> Iterator[dict[str, Any]]:
    """Every row of the quarantine, from a day of arrival on."""
    oldest = "" if first_day is None else f"dt={first_day.astimezone(UTC):%Y-%m-%d}"
    for folder in objects.folders(f"{prefix}/"):
        if folder.split("/")[-2] < oldest:
            continue
        for name in objects.names(folder):
            if name.endswith(".ndjson.zst"):
                body = compression.decompress(objects.read(name), limit=MAX_QUARANTINE_BYTES)
                yield from map(json.loads, body.splitlines())
