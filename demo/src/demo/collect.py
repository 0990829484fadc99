"""Bring what the run left behind to one folder: streams, tables, quarantine, logs."""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq

from telemill import errors
from telemill.audit import Lineage, RawItem, ServedBody, StoredRow
from telemill.codec import compression, raw
from telemill.kinesis.records import Record, Shard

MAX_EMPTY_READS = 3


@dataclass(frozen=True, slots=True)
class StreamRecord:
    """One record of a stream, and its shard."""

    shard: Shard
    record: Record


def read_stream(stream: str) -> list[StreamRecord]:
    """Every record of a stream, from the trim horizon to the tip, shard by shard."""
    kinesis = boto3.client("kinesis")
    summary = kinesis.describe_stream_summary(StreamName=stream)["StreamDescriptionSummary"]
    incarnation = int(summary["StreamCreationTimestamp"].timestamp() * 1000)
    shards = [
        Shard(
            stream=stream,
            incarnation=incarnation,
            shard_id=each["ShardId"],
            first_hash_key=int(each["HashKeyRange"]["StartingHashKey"]),
            last_hash_key=int(each["HashKeyRange"]["EndingHashKey"]),
        )
        for page in kinesis.get_paginator("list_shards").paginate(StreamName=stream)
        for each in page["Shards"]
    ]
    return [found for shard in shards for found in _read_shard(kinesis, shard)]


def _read_shard(kinesis: Any, shard: Shard) -> Iterator[StreamRecord]:
    iterator = kinesis.get_shard_iterator(
        StreamName=shard.stream, ShardId=shard.shard_id, ShardIteratorType="TRIM_HORIZON"
    )["ShardIterator"]
    empty_reads = 0
    while iterator and empty_reads < MAX_EMPTY_READS:
        answer = kinesis.get_records(ShardIterator=iterator)
        for each in answer["Records"]:
            yield StreamRecord(
                shard,
                Record(
                    each["SequenceNumber"],
                    _epoch_us(each["ApproximateArrivalTimestamp"]),
                    each["Data"],
                    each["PartitionKey"],
                ),
            )
        if answer["Records"] or answer["MillisBehindLatest"] > 0:
            empty_reads = 0
        else:
            empty_reads += 1
        iterator = answer.get("NextShardIterator")


def raw_items(stream: str) -> list[RawItem]:
    """Every item of the raw stream, split as docs/wire-format.md says."""
    return [item for found in read_stream(stream) for item in _items(found)]


def _items(found: StreamRecord) -> Iterator[RawItem]:
    record = found.record
    try:
        documents, _ = raw.documents(record, found.shard)
    except errors.RecordError:
        yield RawItem(_lineage(found, 0, 0), record.data)
        return
    for document in documents:
        for row, body in enumerate(raw.lines(document.data)):
            yield RawItem(_lineage(found, document.index, row), body)


def _lineage(found: StreamRecord, index: int, row: int) -> Lineage:
    sub_sequence_number = raw.sub_sequence_number(index, row)
    return Lineage(found.shard.shard_id, found.record.sequence_number, sub_sequence_number)


def served_bodies(path: Path) -> list[ServedBody]:
    """The simulator's ground truth."""
    answers = []
    for line in path.read_bytes().splitlines():
        entry = json.loads(line)
        body = entry["body"] or ""
        encoded = base64.b64decode(body) if entry.get("body_encoding") else body.encode()
        answers.append(
            ServedBody(
                str(entry["device_id"]),
                str(entry["scenario"] or ""),
                int(entry["status"] or 0),
                encoded,
            )
        )
    return answers


def download(bucket: str, prefix: str, target: Path) -> int:
    """Copy every object under a prefix below `target`; returns how many."""
    s3 = boto3.client("s3")
    count = 0
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for each in page.get("Contents", ()):
            path = target / each["Key"].removeprefix(prefix)
            path.parent.mkdir(parents=True, exist_ok=True)
            s3.download_file(bucket, each["Key"], str(path))
            count += 1
    return count


def tables(directory: Path) -> Iterator[tuple[str, pa.Table]]:
    """Each Parquet object below a folder with its relative name."""
    for path in sorted(directory.rglob("*.parquet")):
        yield str(path.relative_to(directory)), pq.ParquetFile(path).read()


def stored_rows(directory: Path) -> list[StoredRow]:
    """Every row of a table, in the order of each object."""
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
    """Every row of the quarantine."""
    return [
        json.loads(line)
        for path in sorted(directory.rglob("*.ndjson.zst"))
        for line in compression.decompress(path.read_bytes(), limit=1 << 30).splitlines()
    ]


def _epoch_us(instant: datetime) -> int:
    return round(instant.timestamp() * 1_000_000)
