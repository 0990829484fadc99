"""The reader of one shard: in order, at its pace, through every trouble the service makes."""

import asyncio
import datetime as dt
from typing import Any

import msgspec
import pytest
from botocore.exceptions import ClientError
from prometheus_client import CollectorRegistry

from telemill.health import Health
from telemill.kinesis import parsing, reader
from telemill.kinesis.calls import StreamCalls
from telemill.kinesis.prefetch import Prefetch
from telemill.kinesis.reader import ShardReader
from telemill.kinesis.records import Chunk, Record, Shard
from telemill.metrics import Metrics
from telemill.stages.owner import StartPosition
from telemill.testing.kinesis import FakeKinesis
from telemill.testing.virtual_time import VirtualTime

STREAM = "readings"
SHARD = Shard(STREAM, 1, "shardId-000000000000")
THROTTLED = "ProvisionedThroughputExceededException"


class Bench:
    """One shard, a reader of it, and virtual time."""

    def __init__(self, **settings: Any) -> None:
        self.time = VirtualTime()
        self.kinesis = FakeKinesis(self.time.clock)
        self.registry = CollectorRegistry()
        self.health = Health()
        self.prefetch = Prefetch()
        self.settings = settings
        self.calls = StreamCalls(
            self.kinesis,
            STREAM,
            metrics=Metrics(self.registry),
            health=self.health,
            sleep=self.sleep,
            jitter=lambda: 0.5,
        )
        self.waits: list[float] = []

    async def sleep(self, seconds: float) -> None:
        """Time passes at once: nobody else is here."""
        self.waits.append(seconds)
        self.time.now_seconds += seconds

    async def stream(self, *data: bytes) -> None:
        """Create the stream and put records."""
        await self.kinesis.create_stream(StreamName=STREAM, ShardCount=1)
        await self.put(*data)

    async def put(self, *data: bytes) -> None:
        """Put records."""
        entries = [{"Data": one, "PartitionKey": "k"} for one in data]
        await self.kinesis.put_records(StreamName=STREAM, Records=entries)

    def reader(self, start: StartPosition | None = None) -> ShardReader:
        """A reader of the shard."""
        return ShardReader(
            self.calls,
            SHARD,
            start or StartPosition(),
            prefetch=self.prefetch,
            monotonic=self.time.clock,
            **self.settings,
        )

    async def take(self) -> list[Chunk]:
        """What is queued."""
        return await self.prefetch.take(0.001, 1000)

    async def data(self) -> list[bytes]:
        """The data of what is queued."""
        return [record.data for chunk in await self.take() for record in chunk.records]

    def count(self, name: str, **labels: str) -> float | None:
        """A metric's value."""
        return self.registry.get_sample_value(f"telemill_{name}", labels)


async def test_reads_from_the_trim_horizon_in_order() -> None:
    """Without a position every record comes, first one first."""
    bench = Bench()
    await bench.stream(b"a", b"b", b"c")
    await bench.reader().fetch()
    assert await bench.data() == [b"a", b"b", b"c"]


async def test_reads_after_a_sequence_number() -> None:
    """The record at the position is not read again, the one after it is."""
    bench = Bench()
    await bench.stream(b"a", b"b", b"c")
    await bench.reader().fetch()
    (chunk,) = await bench.take()
    await bench.reader(StartPosition(after=chunk.records[1].sequence_number)).fetch()
    assert await bench.data() == [b"c"]


async def test_reads_from_a_timestamp() -> None:
    """Only records that arrived at that moment or later come."""
    bench = Bench()
    await bench.stream(b"old")
    bench.time.now_seconds += 100
    start = StartPosition(timestamp_us=round(bench.time.clock() * 1_000_000))
    await bench.put(b"new")
    await bench.reader(start).fetch()
    assert await bench.data() == [b"new"]


async def test_keeps_its_pace_also_when_far_behind() -> None:
    """Two requests a second, the first at once, however much there is to read."""
    bench = Bench()
    await bench.stream(*[b"x" * 1_000_000] * 10)
    await bench.put(*[b"x" * 1_000_000] * 10)
    one = bench.reader()
    started = bench.time.clock()
    count = 0
    for _ in range(4):
        await one.fetch()
        for chunk in await bench.take():
            count += len(chunk.records)
            bench.prefetch.done(chunk)
    assert bench.time.clock() - started == pytest.approx(1.5)
    assert count == 20


async def test_a_slow_request_is_followed_at_once_by_the_next() -> None:
    """Time spent in a request or waiting for room counts: the reader does not sleep on top."""
    bench = Bench()
    await bench.stream(b"a")
    one = bench.reader()
    await one.fetch()
    bench.time.now_seconds += 5
    bench.waits.clear()
    await one.fetch()
    assert bench.waits == []


async def test_an_expired_iterator_is_renewed_after_the_last_record() -> None:
    """Nothing is read twice and nothing is missed when an iterator outlives its five minutes."""
    bench = Bench()
    await bench.stream(b"a", b"b")
    one = bench.reader()
    await one.fetch()
    await bench.put(b"c")
    bench.time.now_seconds += 301
    await one.fetch()
    assert await bench.data() == [b"a", b"b", b"c"]
    kinds = [call["ShardIteratorType"] for call in bench.kinesis.called("GetShardIterator")]
    assert kinds == ["TRIM_HORIZON", "AFTER_SEQUENCE_NUMBER"]


async def test_an_iterator_that_expires_before_the_first_record_starts_as_before() -> None:
    """Without a record read, renewal goes to the start position again."""
    bench = Bench()
    await bench.kinesis.create_stream(StreamName=STREAM, ShardCount=1)
    one = bench.reader()
    await one.fetch()
    bench.kinesis.expire_iterators()
    await bench.put(b"a")
    await one.fetch()
    assert await bench.data() == [b"a"]


@pytest.mark.parametrize("code", [THROTTLED, "InternalFailure", "LimitExceededException"])
async def test_trouble_that_heals_is_waited_for(code: str) -> None:
    """Throttling and 5xx never end the reader; they are counted and backed off from."""
    bench = Bench()
    await bench.stream(b"a")
    bench.kinesis.fail("GetRecords", code, times=7)
    await bench.reader().fetch()
    assert await bench.data() == [b"a"]
    assert bench.count("retries_total", operation="GetRecords") == 7
    throttles = 0 if code == "InternalFailure" else 7
    assert (bench.count("throttles_total", operation="GetRecords") or 0) == throttles


async def test_a_lost_answer_loses_no_record() -> None:
    """A time-out repeats the request from where the reader stands."""
    bench = Bench()
    await bench.stream(b"a", b"b")
    bench.kinesis.latency = Timeouts(2)
    await bench.reader().fetch()
    assert await bench.data() == [b"a", b"b"]


class Timeouts:
    """Lets the first calls of GetRecords time out."""

    def __init__(self, times: int) -> None:
        self.times = times

    async def __call__(self, operation: str) -> None:
        if operation == "GetRecords" and self.times:
            self.times -= 1
            raise TimeoutError


async def test_a_missing_stream_is_named_in_health_until_it_is_there() -> None:
    """The reader waits for its stream and says which one it waits for."""
    bench = Bench()
    said: list[object] = []

    async def sleep(seconds: float) -> None:
        bench.time.now_seconds += seconds
        said.append(bench.health.ready())
        if len(said) == 5:
            await bench.stream(b"a")

    bench.calls.sleep = sleep
    await bench.reader().fetch()
    assert "stream readings" in str(said[1])
    assert bench.health.is_ready
    assert await bench.data() == [b"a"]


async def test_a_bug_is_not_retried() -> None:
    """An answer that no waiting heals is raised."""
    bench = Bench()
    await bench.stream(b"a")
    bench.kinesis.fail("GetRecords", "InvalidArgumentException")
    with pytest.raises(ClientError):
        await bench.reader().fetch()


async def test_the_last_chunk_of_a_closed_shard_says_so() -> None:
    """A split shard ends with its last records, or with an empty chunk."""
    bench = Bench()
    await bench.stream(b"a")
    await bench.kinesis.split_shard(
        StreamName=STREAM, ShardToSplit=SHARD.shard_id, NewStartingHashKey=str(2**127)
    )
    one = bench.reader()
    await one.fetch()
    (chunk,) = await bench.take()
    assert (len(chunk.records), chunk.ends_shard, one.ended) == (1, True, True)
    last = chunk.records[-1].sequence_number
    again = bench.reader(StartPosition(after=last))
    await again.fetch()
    (chunk,) = await bench.take()
    assert (len(chunk.records), chunk.ends_shard, again.ended) == (0, True, True)


async def test_a_shard_past_its_retention_ends() -> None:
    """Not found and no longer listed means there will never be anything to read."""
    bench = Bench(is_gone=lambda: True)
    await bench.stream(b"a")
    one = bench.reader()
    bench.kinesis.forget_shard(STREAM, SHARD.shard_id)
    await one.fetch()
    (chunk,) = await bench.take()
    assert (chunk.ends_shard, one.ended) == (True, True)


async def test_a_page_is_cut_into_chunks() -> None:
    """Chunks hold at most the given data, in order, and only the last one ends the shard."""
    bench = Bench(max_chunk_bytes=1000)
    await bench.stream(*[bytes([65 + index]) * 400 for index in range(5)])
    await bench.reader().fetch()
    assert [chunk.size_bytes for chunk in await bench.take()] == [800, 800, 400]


async def test_room_is_asked_for_before_a_page_is_fetched() -> None:
    """With a full queue no request leaves; room given back lets it go."""
    bench = Bench()
    await bench.stream(b"a")
    bench.prefetch.budget.force(bench.prefetch.budget.limit_bytes)
    fetching = asyncio.ensure_future(bench.reader().fetch())
    await bench.time.settle()
    assert bench.kinesis.called("GetRecords") == []
    bench.prefetch.budget.release(bench.prefetch.budget.limit_bytes)
    await fetching
    assert await bench.data() == [b"a"]


async def test_room_is_given_back_chunk_by_chunk() -> None:
    """After everything fetched is processed, nothing is held."""
    bench = Bench(max_chunk_bytes=10)
    await bench.stream(b"a" * 8, b"b" * 8)
    await bench.reader().fetch()
    chunks = await bench.take()
    assert bench.prefetch.budget.held_bytes > 16
    for chunk in chunks:
        bench.prefetch.done(chunk)
    assert bench.prefetch.budget.held_bytes == 0


def test_a_record_larger_than_a_chunk_is_a_chunk() -> None:
    """Splitting never drops or blocks on a large record."""
    held = [Record("1", 0, b"x" * 50, "k"), Record("2", 0, b"y", "k")]
    assert [len(part) for part in reader.split(held, 10)] == [1, 1]


async def test_the_lag_is_a_metric_of_the_shard() -> None:
    """MillisBehindLatest is what Kinesis answered last."""
    bench = Bench()
    await bench.stream(*[b"x" * 1_000_000] * 10)
    await bench.put(b"x" * 1_000_000)
    bench.time.now_seconds += 2
    await bench.reader().fetch()
    assert bench.count("millis_behind_latest", shard=SHARD.shard_id) == 2000


def wire_answer() -> dict[str, Any]:
    """A GetRecords body as the service sends it."""
    return {
        "Records": [
            {
                "SequenceNumber": "4959",
                "ApproximateArrivalTimestamp": 1700000000.123,
                "Data": "AAH/",
                "PartitionKey": "k",
                "EncryptionType": "NONE",
            }
        ],
        "NextShardIterator": "AAAA",
        "MillisBehindLatest": 5,
    }


def test_an_answer_is_parsed_without_botocore() -> None:
    """The body is read here, to the microsecond, and botocore gets an empty one."""
    response = {"status_code": 200, "body": msgspec.json.encode(wire_answer())}
    parsed: dict[str, Any] = {}
    parsing.before_parse(response_dict=response, customized_response_dict=parsed)
    record = Record("4959", 1_700_000_000_123_000, b"\x00\x01\xff", "k")
    assert parsing.page_of(parsed) == ([record], "AAAA", 5)
    assert response["body"] == b"{}"


@pytest.mark.parametrize(
    "response",
    [
        {"status_code": 400, "body": b'{"__type":"ExpiredIteratorException"}'},
        {"status_code": 200, "body": b"\xbfgRecords\x80\xff"},
        {"status_code": 200, "body": b'{"Records":[{"Data":"***"}]}'},
    ],
)
def test_what_is_not_a_plain_answer_is_left_to_botocore(response: dict[str, Any]) -> None:
    """Errors and bodies of another shape reach the stock parser untouched."""
    before = dict(response)
    parsed: dict[str, Any] = {}
    parsing.before_parse(response_dict=response, customized_response_dict=parsed)
    assert (response, parsed) == (before, {})


def test_an_answer_botocore_parsed_reads_the_same() -> None:
    """Whoever parsed it, the page is equal."""
    moment = dt.datetime(2023, 11, 14, 22, 13, 20, 123000, dt.UTC)
    parsed = {
        "Records": [
            {
                "SequenceNumber": "4959",
                "ApproximateArrivalTimestamp": moment,
                "Data": b"\x00\x01\xff",
                "PartitionKey": "k",
            }
        ],
        "MillisBehindLatest": 5,
    }
    record = Record("4959", 1_700_000_000_123_000, b"\x00\x01\xff", "k")
    assert parsing.page_of(parsed) == ([record], None, 5)
