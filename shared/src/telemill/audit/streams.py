"""Streams read whole or by time, beside their consumers: every shard, closed ones too."""

import hashlib
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pyarrow as pa
from botocore.config import Config
from botocore.exceptions import ClientError

from telemill import aws, errors
from telemill.audit.columns import RAW_ITEMS
from telemill.codec import raw
from telemill.kinesis import parsing
from telemill.kinesis.records import Record, Shard

PARALLEL_SHARDS = 8
ATTEMPTS = 12
RECORDS_AT_ONCE = 4096
EARLIER = timedelta(minutes=1)
"""Arrival times of neighbours may be out of order by a little: read on for so long."""
TRIM_HORIZON = {"ShardIteratorType": "TRIM_HORIZON"}

OnRecords = Callable[[int], None]
"""Told how many records came; called from several threads."""


@dataclass(frozen=True, slots=True)
class StreamRecord:
    """One record of a stream, and its shard."""

    shard: Shard
    record: Record


@dataclass(slots=True)
class RawStream:
    """The items of a raw stream.

    Attributes:
        items: As `columns.RAW_ITEMS`, shard by shard, in order of acceptance.
        parents: Of each shard that has any.
        record_count: Records read.
        whole: Items and a digest of each record of several items, by shard and sequence number:
            the quarantine may hold such a record whole.
        outside_count: User records dropped because their aggregate reaches beyond its shard.
    """

    items: pa.Table
    parents: dict[str, tuple[str, ...]] = field(default_factory=dict)
    record_count: int = 0
    whole: dict[tuple[str, str], tuple[list[int], bytes]] = field(default_factory=dict)
    outside_count: int = 0


def client(service: str) -> Any:
    """A client that waits as long as a person would."""
    config = Config(
        retries={"mode": "adaptive", "total_max_attempts": ATTEMPTS},
        max_pool_connections=2 * PARALLEL_SHARDS,
        user_agent=aws.USER_AGENT,
    )
    made = boto3.client(service, config=config)
    if service == "kinesis":
        parsing.install(made)
    return made


def shards_of(kinesis: Any, stream: str) -> list[Shard]:
    """All shards that are listed, closed ones too."""
    with aws.map_exceptions("kinesis:ListShards", stream=stream):
        summary = kinesis.describe_stream_summary(StreamName=stream)["StreamDescriptionSummary"]
        incarnation = int(summary["StreamCreationTimestamp"].timestamp() * 1000)
        listed = [
            each
            for page in kinesis.get_paginator("list_shards").paginate(StreamName=stream)
            for each in page["Shards"]
        ]
    return [
        Shard(
            stream=stream,
            incarnation=incarnation,
            shard_id=each["ShardId"],
            parents=tuple(
                each[name] for name in ("ParentShardId", "AdjacentParentShardId") if each.get(name)
            ),
            first_hash_key=int(each["HashKeyRange"]["StartingHashKey"]),
            last_hash_key=int(each["HashKeyRange"]["EndingHashKey"]),
        )
        for each in listed
    ]


def read_shard(
    kinesis: Any,
    shard: Shard,
    start: dict[str, Any],
    *,
    until_us: int | None = None,
    pause_seconds: float = 0.0,
) -> Iterator[list[Record]]:
    """Pages of a shard up to its tip, or its end when it is closed.

    Args:
        kinesis: A client.
        shard: Which.
        start: Arguments of GetShardIterator.
        until_us: Arrival after which no more is read: the tip of a busy shard runs away.
        pause_seconds: Between two reads; a shard gives five a second to all its readers together.
    """
    iterator = _iterator(kinesis, shard, start)
    while iterator:
        try:
            with aws.map_exceptions("kinesis:GetRecords", stream=shard.stream):
                page = parsing.page_of(kinesis.get_records(ShardIterator=iterator))
        except ClientError as error:
            if error.response["Error"]["Code"] != "ExpiredIteratorException":
                raise
            iterator = _iterator(kinesis, shard, start)
            continue
        if page.records:
            yield page.records
            start = after(page.records[-1].sequence_number)
            if until_us is not None and page.records[-1].arrival_us >= until_us:
                return
        elif page.millis_behind_latest == 0:
            return
        iterator = page.next_iterator
        if iterator and pause_seconds:
            time.sleep(pause_seconds)


def after(position: str | None) -> dict[str, Any]:
    """Behind a position; from the beginning without one."""
    if position is None:
        return TRIM_HORIZON
    return {
        "ShardIteratorType": "AFTER_SEQUENCE_NUMBER",
        "StartingSequenceNumber": position,
    }


def _iterator(kinesis: Any, shard: Shard, start: dict[str, Any]) -> str | None:
    asked = {"StreamName": shard.stream, "ShardId": shard.shard_id}
    with aws.map_exceptions("kinesis:GetShardIterator", stream=shard.stream):
        try:
            answer = kinesis.get_shard_iterator(**asked, **start)
        except ClientError as error:
            # A position that was trimmed away: what is left begins behind it.
            trimmed = error.response["Error"]["Code"] == "InvalidArgumentException"
            if not trimmed or "StartingSequenceNumber" not in start:
                raise
            answer = kinesis.get_shard_iterator(**asked, **TRIM_HORIZON)
    found: str | None = answer.get("ShardIterator")
    return found


def read_stream(stream: str) -> list[StreamRecord]:
    """Every record of a stream, from the trim horizon to the tip, shard by shard."""
    kinesis = client("kinesis")
    return [
        StreamRecord(shard, record)
        for shard in shards_of(kinesis, stream)
        for page in read_shard(kinesis, shard, TRIM_HORIZON)
        for record in page
    ]


def read_raw(
    stream: str,
    start: datetime | None = None,
    end: datetime | None = None,
    *,
    pause_seconds: float = 0.0,
    on_records: OnRecords = lambda _count: None,
) -> RawStream:
    """The items of a raw stream whose records arrived in a range of time.

    Args:
        stream: Its name.
        start: First arrival, inclusive; None from the trim horizon.
        end: Last arrival, exclusive; None up to the tips.
        pause_seconds: Between two reads of a shard.
        on_records: Told of progress.
    """
    kinesis = client("kinesis")
    shards = shards_of(kinesis, stream)
    bounds = _Bounds(start, end)

    def read(shard: Shard) -> RawStream:
        pages = read_shard(
            kinesis,
            shard,
            bounds.iterator(),
            until_us=bounds.until_us,
            pause_seconds=pause_seconds,
        )
        return items_of(shard, bounds.within(pages, on_records))

    with ThreadPoolExecutor(PARALLEL_SHARDS) as threads:
        parts = list(threads.map(read, shards))
    made = RawStream(
        pa.concat_tables([RAW_ITEMS.empty_table(), *(part.items for part in parts)]),
        {shard.shard_id: shard.parents for shard in shards if shard.parents},
    )
    for part in parts:
        made.record_count += part.record_count
        made.outside_count += part.outside_count
        made.whole |= part.whole
    return made


class _Bounds:
    """A range of arrival times.

    What is read of a shard has no holes: it goes from its first record in the range to its last,
    even if one between has another time.

    Attributes:
        until_us: Where reading may stop.
    """

    def __init__(self, start: datetime | None, end: datetime | None) -> None:
        self._start = start
        self._end_us = None if end is None else epoch_us(end)
        self.until_us: int | None = None
        if end is not None:
            # Neighbours may be out of order by a little; but the future is not waited for.
            now = datetime.now(UTC)
            self.until_us = epoch_us(max(end, min(end + EARLIER, now)))

    def iterator(self) -> dict[str, Any]:
        if self._start is None:
            return TRIM_HORIZON
        return {"ShardIteratorType": "AT_TIMESTAMP", "Timestamp": self._start}

    def within(self, pages: Iterable[list[Record]], on_records: OnRecords) -> Iterator[Record]:
        beyond: list[Record] = []
        for page in pages:
            on_records(len(page))
            for record in page:
                beyond.append(record)
                if self._end_us is None or record.arrival_us < self._end_us:
                    yield from beyond
                    beyond.clear()


def items_of(shard: Shard, records: Iterable[Record]) -> RawStream:
    """The items of one shard's records, without parents."""
    made = RawStream(RAW_ITEMS.empty_table())
    chunks = []
    remaining = iter(records)
    # Bodies go into columns chunk by chunk, so that no list of them grows long.
    while chunk := list(itertools.islice(remaining, RECORDS_AT_ONCE)):
        numbers: list[str] = []
        subs: list[int] = []
        bodies: list[bytes] = []
        for record in chunk:
            found, outside = split(record, shard)
            made.outside_count += outside
            numbers += [record.sequence_number] * len(found)
            subs += [sub for sub, _ in found]
            bodies += [body for _, body in found]
            if len(found) > 1:
                key = shard.shard_id, record.sequence_number
                made.whole[key] = [sub for sub, _ in found], digest(record.data)
        made.record_count += len(chunk)
        chunks.append(_table(shard.shard_id, numbers, subs, bodies))
    made.items = pa.concat_tables([made.items, *chunks])
    return made


def _table(
    shard_id: str, numbers: Sequence[str], subs: Sequence[int], bodies: Sequence[bytes]
) -> pa.Table:
    shards = pa.DictionaryArray.from_arrays(
        pa.array([0] * len(numbers), pa.int32()), pa.array([shard_id], pa.string())
    )
    columns = [pa.array(numbers, pa.string()), pa.array(subs, pa.int64())]
    return pa.table([shards, *columns, pa.array(bodies, pa.large_binary())], schema=RAW_ITEMS)


def split(record: Record, shard: Shard) -> tuple[list[tuple[int, bytes]], int]:
    """A raw record's items with their sub-sequence numbers, as docs/wire-format.md says.

    Returns:
        The items, and how many user records are dropped.
    """
    try:
        documents, outside = raw.documents(record, shard)
        return [
            (raw.sub_sequence_number(document.index, row), body)
            for document in documents
            for row, body in enumerate(_lines(document))
        ], outside
    except errors.RecordError:
        return [(0, record.data)], 0


def _lines(document: raw.Document) -> list[bytes]:
    if document.error is not None:
        return [document.raw]
    try:
        return raw.lines(document.data)
    except errors.RecordError:
        return [document.data]


def digest(data: bytes) -> bytes:
    """Stands for the bytes of a record."""
    return hashlib.blake2b(data, digest_size=16).digest()


def epoch_us(instant: datetime) -> int:
    """Microseconds since 1970."""
    return (instant - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
