"""An in-memory Kinesis with the part of aiobotocore's client that Telemill uses.

Where emulators are kind, this one is strict as the service is: sequence numbers have 56 digits and
gaps, iterators expire, GetRecords stops at 10 MiB, PutRecords refuses what the service refuses.
Faults are injected: `fail`, `lose_answer`, `fail_records`, `expire_iterators`.
"""

import asyncio
import datetime as dt
import hashlib
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError, ReadTimeoutError

from telemill.kinesis.records import MAX_HASH_KEY

FIRST_SEQUENCE_NUMBER = 49_590_338_271_490_256_608_559_692_538_361_571_095_921_575_989_136_588_898
"""One of the Kinesis documentation's own examples: 56 digits."""
SEQUENCE_NUMBER_STEP = 1_208_925_819_614_629_174_706_189
"""Far apart, as real ones are: nothing may count on neighbours."""
ITERATOR_LIFE_SECONDS = 300.0
MAX_GET_RECORDS = 10_000
MAX_GET_BYTES = 10 * 1024 * 1024
MAX_PUT_RECORDS = 500
MAX_PUT_BYTES = 10 * 1024 * 1024
MAX_RECORD_BYTES = 1024 * 1024

Answer = dict[str, Any]


@dataclass(slots=True)
class FakeRecord:
    """A record as stored."""

    sequence_number: int
    arrival_seconds: float
    data: bytes
    partition_key: str


@dataclass(slots=True)
class FakeShard:
    """A shard with all its records; `closed_at` is the last sequence number once it was split."""

    shard_id: str
    first_hash_key: int
    last_hash_key: int
    starting: int
    parent: str | None = None
    adjacent_parent: str | None = None
    closed_at: int | None = None
    children: list[str] = field(default_factory=list)
    records: list[FakeRecord] = field(default_factory=list)


@dataclass(slots=True)
class FakeStream:
    """A stream: shards by id, in order of creation."""

    name: str
    created: dt.datetime
    shards: dict[str, FakeShard] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Iterator:
    stream: str
    shard_id: str
    index: int
    born_seconds: float


class FakeEvents:
    """botocore's event emitter, as far as registering goes: the fake parses nothing."""

    def register(self, event_name: str, handler: object, unique_id: str | None = None) -> None:
        """Accept a handler and never call it."""


class FakeMeta:
    """What `client.meta` offers."""

    def __init__(self) -> None:
        self.events = FakeEvents()


class FakeKinesis:
    """The client.

    Args:
        clock: Epoch seconds; arrival times and iterator ages.
        page_size: Shards a ListShards page holds.

    Attributes:
        calls: Operation and arguments of every call, in order.
        fail_records: Called per record of a PutRecords with its arguments; an error code fails it.
        max_put_bytes: Most bytes a PutRecords takes.
        latency: Awaited at the start of every call, with the operation's name.
    """

    def __init__(self, clock: Callable[[], float], page_size: int = 2) -> None:
        self.meta = FakeMeta()
        self.calls: list[tuple[str, Mapping[str, Any]]] = []
        self.fail_records: Callable[[Mapping[str, Any]], str | None] = lambda _: None
        self.latency: Callable[[str], Awaitable[None]] = _no_latency
        self.max_put_bytes = MAX_PUT_BYTES
        self._clock = clock
        self._page_size = page_size
        self._streams: dict[str, FakeStream] = {}
        self._iterators: dict[str, _Iterator] = {}
        self._faults: defaultdict[str, list[str]] = defaultdict(list)
        self._lost: Counter[str] = Counter()
        self._sequence = FIRST_SEQUENCE_NUMBER

    # Faults.

    def fail(self, operation: str, code: str, times: int = 1) -> None:
        """Let the next calls of `operation` end with an error code, before they do anything."""
        self._faults[operation].extend([code] * times)

    def heal(self) -> None:
        """No call fails any more."""
        self._faults.clear()

    def lose_answer(self, operation: str, times: int = 1) -> None:
        """Let the next calls of `operation` take effect and then time out."""
        self._lost[operation] += times

    def expire_iterators(self) -> None:
        """Make every iterator given out so far too old."""
        self._iterators = {
            name: _Iterator(it.stream, it.shard_id, it.index, float("-inf"))
            for name, it in self._iterators.items()
        }

    def forget_shard(self, stream: str, shard_id: str) -> None:
        """Remove a shard and its records, as the end of retention does."""
        del self._streams[stream].shards[shard_id]

    def called(self, operation: str) -> list[Mapping[str, Any]]:
        """The arguments of every call of one operation."""
        return [arguments for name, arguments in self.calls if name == operation]

    def stored(self, stream: str) -> dict[str, list[bytes]]:
        """The data of every record, by shard."""
        shards = self._streams[stream].shards.values()
        return {shard.shard_id: [record.data for record in shard.records] for shard in shards}

    # Operations, named and shaped as aiobotocore's.

    async def create_stream(self, **arguments: Any) -> Answer:
        """StreamName, ShardCount."""
        await self._begin("CreateStream", arguments)
        name, count = arguments["StreamName"], arguments["ShardCount"]
        if name in self._streams:
            raise _error("ResourceInUseException", "CreateStream", name)
        created = dt.datetime.fromtimestamp(self._clock(), dt.UTC)
        stream = self._streams[name] = FakeStream(name, created)
        width = (MAX_HASH_KEY + 1) // count
        for index in range(count):
            last = MAX_HASH_KEY if index == count - 1 else (index + 1) * width - 1
            self._add_shard(stream, index * width, last)
        return {}

    async def delete_stream(self, **arguments: Any) -> Answer:
        """StreamName."""
        await self._begin("DeleteStream", arguments)
        self._stream("DeleteStream", arguments)
        del self._streams[arguments["StreamName"]]
        return {}

    async def describe_stream_summary(self, **arguments: Any) -> Answer:
        """StreamName."""
        await self._begin("DescribeStreamSummary", arguments)
        stream = self._stream("DescribeStreamSummary", arguments)
        summary = {
            "StreamName": stream.name,
            "StreamStatus": "ACTIVE",
            "StreamCreationTimestamp": stream.created,
            "OpenShardCount": sum(s.closed_at is None for s in stream.shards.values()),
        }
        return {"StreamDescriptionSummary": summary}

    async def list_shards(self, **arguments: Any) -> Answer:
        """StreamName or NextToken."""
        await self._begin("ListShards", arguments)
        name, _, start = arguments.get("NextToken", "").partition("|")
        wanted = {"StreamName": name or arguments.get("StreamName", "")}
        shards = list(self._stream("ListShards", wanted).shards.values())
        first = int(start or 0)
        end = first + self._page_size
        answer: Answer = {"Shards": [_described(shard) for shard in shards[first:end]]}
        if end < len(shards):
            answer["NextToken"] = f"{wanted['StreamName']}|{end}"
        return answer

    async def get_shard_iterator(self, **arguments: Any) -> Answer:
        """StreamName, ShardId, ShardIteratorType, StartingSequenceNumber or Timestamp."""
        await self._begin("GetShardIterator", arguments)
        stream = self._stream("GetShardIterator", arguments)
        shard = stream.shards.get(arguments["ShardId"])
        if shard is None:
            raise _error("ResourceNotFoundException", "GetShardIterator", arguments["ShardId"])
        index = _start_index(shard, arguments)
        return {"ShardIterator": self._new_iterator(stream.name, shard.shard_id, index)}

    async def get_records(self, **arguments: Any) -> Answer:
        """ShardIterator, Limit."""
        await self._begin("GetRecords", arguments)
        iterator = self._iterators.get(arguments["ShardIterator"])
        if iterator is None:
            raise _error("InvalidArgumentException", "GetRecords", "not an iterator of ours")
        if self._clock() - iterator.born_seconds > ITERATOR_LIFE_SECONDS:
            raise _error("ExpiredIteratorException", "GetRecords", "Iterator expired.")
        shard = self._streams[iterator.stream].shards.get(iterator.shard_id)
        if shard is None:
            raise _error("ResourceNotFoundException", "GetRecords", iterator.shard_id)
        limit = arguments.get("Limit", MAX_GET_RECORDS)
        return self._take(iterator, shard, min(limit, MAX_GET_RECORDS))

    async def put_records(self, **arguments: Any) -> Answer:
        """StreamName, Records with Data, PartitionKey and perhaps ExplicitHashKey."""
        await self._begin("PutRecords", arguments)
        stream = self._stream("PutRecords", arguments)
        entries: Sequence[Mapping[str, Any]] = arguments["Records"]
        _check_put(entries, self.max_put_bytes)
        results = [self._put(stream, entry) for entry in entries]
        self._maybe_lose("PutRecords")
        failed = sum("ErrorCode" in result for result in results)
        return {"FailedRecordCount": failed, "Records": results}

    async def split_shard(self, **arguments: Any) -> Answer:
        """StreamName, ShardToSplit, NewStartingHashKey."""
        await self._begin("SplitShard", arguments)
        stream = self._stream("SplitShard", arguments)
        parent = stream.shards[arguments["ShardToSplit"]]
        middle = int(arguments["NewStartingHashKey"])
        self._close(parent)
        for first, last in ((parent.first_hash_key, middle - 1), (middle, parent.last_hash_key)):
            child = self._add_shard(stream, first, last)
            child.parent = parent.shard_id
            parent.children.append(child.shard_id)
        return {}

    async def merge_shards(self, **arguments: Any) -> Answer:
        """StreamName, ShardToMerge, AdjacentShardToMerge."""
        await self._begin("MergeShards", arguments)
        stream = self._stream("MergeShards", arguments)
        names = (arguments["ShardToMerge"], arguments["AdjacentShardToMerge"])
        parents = [stream.shards[name] for name in names]
        child = self._add_shard(
            stream,
            min(parent.first_hash_key for parent in parents),
            max(parent.last_hash_key for parent in parents),
        )
        child.parent, child.adjacent_parent = names
        for parent in parents:
            self._close(parent)
            parent.children.append(child.shard_id)
        return {}

    # Inside.

    async def _begin(self, operation: str, arguments: Mapping[str, Any]) -> None:
        self.calls.append((operation, arguments))
        await self.latency(operation)
        if self._faults[operation]:
            raise _error(self._faults[operation].pop(0), operation, "injected")

    def _maybe_lose(self, operation: str) -> None:
        if self._lost[operation]:
            self._lost[operation] -= 1
            raise ReadTimeoutError(endpoint_url="fake://kinesis")

    def _stream(self, operation: str, arguments: Mapping[str, Any]) -> FakeStream:
        stream = self._streams.get(arguments["StreamName"])
        if stream is None:
            name = arguments["StreamName"]
            raise _error("ResourceNotFoundException", operation, f"Stream {name} not found.")
        return stream

    def _next_sequence_number(self) -> int:
        self._sequence += SEQUENCE_NUMBER_STEP
        return self._sequence

    def _add_shard(self, stream: FakeStream, first: int, last: int) -> FakeShard:
        shard_id = f"shardId-{len(stream.shards):012d}"
        shard = FakeShard(shard_id, first, last, self._next_sequence_number())
        stream.shards[shard_id] = shard
        return shard

    def _close(self, shard: FakeShard) -> None:
        shard.closed_at = self._next_sequence_number()

    def _new_iterator(self, stream: str, shard_id: str, index: int) -> str:
        name = f"AAAA{len(self._iterators):012d}"
        self._iterators[name] = _Iterator(stream, shard_id, index, self._clock())
        return name

    def _take(self, iterator: _Iterator, shard: FakeShard, limit: int) -> Answer:
        taken: list[FakeRecord] = []
        size = 0
        for record in shard.records[iterator.index : iterator.index + limit]:
            size += len(record.data)
            if taken and size > MAX_GET_BYTES:
                break
            taken.append(record)
        following = iterator.index + len(taken)
        answer: Answer = {
            "Records": [_answered(record) for record in taken],
            "MillisBehindLatest": self._behind(shard, following),
        }
        if shard.closed_at is not None and following == len(shard.records):
            answer["ChildShards"] = [{"ShardId": child} for child in shard.children]
        else:
            name = self._new_iterator(iterator.stream, shard.shard_id, following)
            answer["NextShardIterator"] = name
        return answer

    def _behind(self, shard: FakeShard, index: int) -> int:
        if index >= len(shard.records):
            return 0
        return int(max(0.0, self._clock() - shard.records[index].arrival_seconds) * 1000)

    def _put(self, stream: FakeStream, entry: Mapping[str, Any]) -> Answer:
        code = self.fail_records(entry)
        if code is not None:
            return {"ErrorCode": code, "ErrorMessage": "injected"}
        shard = _shard_for(stream, entry)
        number = self._next_sequence_number()
        arrival = round(self._clock(), 3)
        record = FakeRecord(number, arrival, bytes(entry["Data"]), entry["PartitionKey"])
        shard.records.append(record)
        return {"SequenceNumber": str(number), "ShardId": shard.shard_id}


async def _no_latency(_operation: str) -> None:
    await asyncio.sleep(0)


def _error(code: str, operation: str, text: str) -> ClientError:
    status = 500 if code in {"InternalFailure", "InternalFailureException"} else 400
    response: Any = {
        "Error": {"Code": code, "Message": text},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return ClientError(response, operation)


def _described(shard: FakeShard) -> Answer:
    numbers = {"StartingSequenceNumber": str(shard.starting)}
    if shard.closed_at is not None:
        numbers["EndingSequenceNumber"] = str(shard.closed_at)
    hash_keys = {
        "StartingHashKey": str(shard.first_hash_key),
        "EndingHashKey": str(shard.last_hash_key),
    }
    described: Answer = {
        "ShardId": shard.shard_id,
        "HashKeyRange": hash_keys,
        "SequenceNumberRange": numbers,
    }
    if shard.parent is not None:
        described["ParentShardId"] = shard.parent
    if shard.adjacent_parent is not None:
        described["AdjacentParentShardId"] = shard.adjacent_parent
    return described


def _answered(record: FakeRecord) -> Answer:
    return {
        "SequenceNumber": str(record.sequence_number),
        "ApproximateArrivalTimestamp": dt.datetime.fromtimestamp(record.arrival_seconds, dt.UTC),
        "Data": record.data,
        "PartitionKey": record.partition_key,
    }


def _start_index(shard: FakeShard, arguments: Mapping[str, Any]) -> int:
    kind = arguments["ShardIteratorType"]
    if kind == "TRIM_HORIZON":
        return 0
    if kind == "LATEST":
        return len(shard.records)
    if kind == "AT_TIMESTAMP":
        start = arguments["Timestamp"]
        seconds = start.timestamp() if isinstance(start, dt.datetime) else float(start)
        return sum(record.arrival_seconds < seconds for record in shard.records)
    number = int(arguments["StartingSequenceNumber"])
    if kind == "AFTER_SEQUENCE_NUMBER":
        return sum(record.sequence_number <= number for record in shard.records)
    return sum(record.sequence_number < number for record in shard.records)


def _check_put(entries: Sequence[Mapping[str, Any]], max_bytes: int) -> None:
    sizes = [len(entry["Data"]) + len(entry["PartitionKey"].encode()) for entry in entries]
    if not 1 <= len(entries) <= MAX_PUT_RECORDS:
        raise _error("InvalidArgumentException", "PutRecords", "1 to 500 records")
    if sum(sizes) > max_bytes:
        raise _error("InvalidArgumentException", "PutRecords", f"request above {max_bytes} bytes")
    if max(sizes) > MAX_RECORD_BYTES:
        raise _error("InvalidArgumentException", "PutRecords", "record above 1 MiB")


def _shard_for(stream: FakeStream, entry: Mapping[str, Any]) -> FakeShard:
    explicit = entry.get("ExplicitHashKey")
    digest = hashlib.md5(entry["PartitionKey"].encode(), usedforsecurity=False).digest()
    key = int(explicit) if explicit is not None else int.from_bytes(digest, "big")
    for shard in stream.shards.values():
        if shard.closed_at is None and shard.first_hash_key <= key <= shard.last_hash_key:
            return shard
    raise AssertionError("open shards cover the hash-key range")
