"""What the audit reads, in one place: streams, served bodies, tables and quarantine.

`streams`, `lake` and `athena` hold the work; here are the short forms for a run whose files were
downloaded.
"""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq

from telemill.audit import lake
from telemill.audit.model import Lineage, RawItem, ServedBody, StoredRow
from telemill.audit.streams import (
    RawStream,
    StreamRecord,
    read_raw,
    read_stream,
    split,
)
from telemill.errors import ConfigurationError

__all__ = [
    "RawStream",
    "StreamRecord",
    "download",
    "quarantined",
    "raw_items",
    "read_raw",
    "read_stream",
    "served_bodies",
    "stored_rows",
    "tables",
]


def raw_items(stream: str) -> list[RawItem]:
    """Every item of the raw stream, split as docs/wire-format.md says."""
    return [
        RawItem(Lineage(found.shard.shard_id, found.record.sequence_number, sub), body)
        for found in read_stream(stream)
        for sub, body in split(found.record, found.shard)[0]
    ]


def served_bodies(path: Path) -> list[ServedBody]:
    """The simulator's ground truth.

    Raises:
        ConfigurationError: The file cannot be read, or is not the simulator's.
    """
    try:
        return [_served(line) for line in path.read_bytes().splitlines()]
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{path}: not a simulator's log of answers ({error})") from error


def _served(line: bytes) -> ServedBody:
    entry = json.loads(line)
    body = entry["body"] or ""
    encoded = base64.b64decode(body) if entry.get("body_encoding") else body.encode()
    return ServedBody(
        str(entry["device_id"]), str(entry["scenario"] or ""), int(entry["status"] or 0), encoded
    )


def download(bucket: str, prefix: str, target: Path) -> int:
    """Copy every object under a prefix below `target`; returns how many."""
    objects = lake.S3Objects(bucket, boto3.client("s3"))
    count = 0
    for name in objects.names(prefix):
        path = target / name.removeprefix(prefix)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(objects.read(name))
        count += 1
    return count


def tables(directory: Path) -> Iterator[tuple[str, pa.Table]]:
    """Each Parquet object below a folder with its relative name."""
    for path in sorted(directory.rglob("*.parquet")):
        yield str(path.relative_to(directory)), pq.ParquetFile(path).read()


def stored_rows(directory: Path) -> list[StoredRow]:
    """Every row of a table below a folder, in the order of each object."""
    return [
        StoredRow(
            Lineage(row["shard_id"], row["sequence_number"], row["sub_sequence_number"]),
            name,
            row,
        )
        for name, table in tables(directory)
        for row in table.to_pylist()
    ]


def quarantined(directory: Path) -> list[dict[str, Any]]:
    """Every row of a quarantine below a folder."""
    folder = lake.Folder(directory.parent)
    return list(lake.read_quarantine(folder, prefix=directory.name))
