"""What Telemill relies on in Kinesis, held against the fake and against the emulator."""

import contextlib
import itertools
import os
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from telemill import aws, slots
from telemill.health import Health
from telemill.kinesis import bodies
from telemill.kinesis.calls import StreamCalls
from telemill.kinesis.parsing import Page
from telemill.kinesis.records import MAX_HASH_KEY, Shard
from telemill.kinesis.writer import Writer
from telemill.metrics import Metrics
from telemill.stages.owner import StartPosition
from telemill.testing.kinesis import FakeKinesis

MIB = 1024 * 1024

_numbers = itertools.count()


@contextlib.asynccontextmanager
async def fake() -> AsyncIterator[Any]:
    """The in-memory one."""
    yield FakeKinesis(time.time)


@contextlib.asynccontextmanager
async def emulator() -> AsyncIterator[Any]:
    """The emulator, through aiobotocore and the wire."""
    async with aws.client("kinesis") as client:
        yield client


@pytest.fixture(params=["fake", "emulator"])
async def client(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    """A Kinesis client."""
    if request.param == "emulator":
        request.getfixturevalue("aws")
    async with fake() if request.param == "fake" else emulator() as opened:
        yield opened


class Stream:
    """A fresh stream and the calls that read it."""

    def __init__(self, client: Any, name: str) -> None:
        self.client = client
        self.name = name
        bodies.install(client)
        self.calls = StreamCalls(
            client, name, metrics=Metrics(CollectorRegistry()), health=Health()
        )

    async def shards(self) -> list[Shard]:
        """All shards, in order of their hash keys."""
        listed = await self.calls.list_shards(await self.calls.incarnation())
        return sorted(listed, key=lambda shard: shard.first_hash_key)

    async def put(self, *data: bytes, key: int = 0) -> list[dict[str, Any]]:
        """Put records at one hash key."""
        entries = [{"Data": one, "PartitionKey": "k", "ExplicitHashKey": str(key)} for one in data]
        answer = await self.client.put_records(StreamName=self.name, Records=entries)
        results: list[dict[str, Any]] = answer["Records"]
        return results

    async def page(self, shard_id: str, start: StartPosition) -> Page:
        """The first page that has records, or the tenth."""
        iterator = await self.calls.shard_iterator(shard_id, start)
        for _ in range(10):
            page = await self.calls.get_records(shard_id, iterator)
            if page.records or page.next_iterator is None:
                break
            iterator = page.next_iterator
        return page


@pytest.fixture
async def stream(client: Any) -> AsyncIterator[Stream]:
    """A stream of four shards."""
    made = Stream(client, f"clients-{os.getpid()}-{next(_numbers)}")
    await client.create_stream(StreamName=made.name, ShardCount=4)
    yield made
    await client.delete_stream(StreamName=made.name)


async def test_shards_cover_the_hash_key_range_without_parents(stream: Stream) -> None:
    """A new stream's shards touch each other, from the lowest key to the highest."""
    shards = await stream.shards()
    assert len(shards) == 4
    borders = [shard.first_hash_key for shard in shards] + [MAX_HASH_KEY + 1]
    assert [shard.last_hash_key + 1 for shard in shards] == borders[1:]
    assert borders[0] == 0
    assert all(shard.parents == () for shard in shards)


async def test_the_incarnation_is_a_time_that_stays(stream: Stream) -> None:
    """Asked twice, a stream was created at the same recent millisecond."""
    first = await stream.calls.incarnation()
    assert first == await stream.calls.incarnation()
    assert abs(first / 1000 - time.time()) < 600


async def test_records_come_back_as_they_were_put(stream: Stream) -> None:
    """Bytes, partition key and order survive; arrival is now, in microseconds."""
    data = [bytes(range(256)), b"", b"\xff" * 1000]
    await stream.put(*data)
    page = await stream.page((await stream.shards())[0].shard_id, StartPosition())
    assert [record.data for record in page.records] == data
    assert {record.partition_key for record in page.records} == {"k"}
    assert all(abs(one.arrival_us / 1_000_000 - time.time()) < 600 for one in page.records)


async def test_an_explicit_hash_key_decides_the_shard(stream: Stream) -> None:
    """Every slot's records land in the shard whose range holds the slot's hash key."""
    for shard in await stream.shards():
        slot = min(slots.slots_in(shard.first_hash_key, shard.last_hash_key, 64))
        (result,) = await stream.put(b"x", key=slots.hash_key_of(slot, 64))
        assert result["ShardId"] == shard.shard_id


async def test_sequence_numbers_rise_inside_a_shard(stream: Stream) -> None:
    """Later records have larger numbers, compared as integers."""
    for _ in range(5):
        await stream.put(b"x", b"y")
    page = await stream.page((await stream.shards())[0].shard_id, StartPosition())
    numbers = [int(record.sequence_number) for record in page.records]
    assert numbers == sorted(set(numbers))


async def test_after_a_sequence_number_starts_at_the_next(stream: Stream) -> None:
    """The record of the number is left out, the following one is not."""
    results = await stream.put(b"a", b"b", b"c")
    shard_id = results[0]["ShardId"]
    page = await stream.page(shard_id, StartPosition(after=results[1]["SequenceNumber"]))
    assert [record.data for record in page.records] == [b"c"]


async def test_at_a_timestamp_starts_with_what_arrived_then(stream: Stream) -> None:
    """A time before everything reads everything, one after everything nothing."""
    results = await stream.put(b"a")
    shard_id = results[0]["ShardId"]
    now_us = round(time.time() * 1_000_000)
    hour_us = 3_600_000_000
    early = await stream.page(shard_id, StartPosition(timestamp_us=now_us - hour_us))
    assert [record.data for record in early.records] == [b"a"]
    iterator = await stream.calls.shard_iterator(
        shard_id, StartPosition(timestamp_us=now_us + 1_000_000)
    )
    assert (await stream.calls.get_records(shard_id, iterator)).records == []


async def test_an_open_shard_always_has_a_next_iterator(stream: Stream) -> None:
    """At the end of an open shard the lag is zero and there is a way on."""
    page = await stream.page((await stream.shards())[0].shard_id, StartPosition())
    assert page.next_iterator is not None
    assert page.millis_behind_latest == 0


async def test_a_request_above_the_limits_is_refused(stream: Stream) -> None:
    """501 records, a record above 1 MiB, a request above 10 MiB: none of them is taken."""
    for data in ([b"x"] * 501, [b"x" * (MIB + 1)], [b"x" * (MIB - 1)] * 11):
        with pytest.raises(Exception, match=r"(?i)valid|exceed|limit|MiB|less than|500"):
            await stream.put(*data)


async def test_large_records_come_back_whole(stream: Stream) -> None:
    """The writer brings ten records of 1 MiB through whatever limit the service has."""
    writer = Writer(stream.client, stream.name, slot_count=16, metrics=Metrics(CollectorRegistry()))
    await writer.start()
    data = [bytes([65 + index]) * (MIB - 1) for index in range(10)]
    for slot, one in enumerate(data):
        await writer.put(slot, one, "k")
    await writer.stop()
    read: list[bytes] = []
    for shard in await stream.shards():
        iterator = await stream.calls.shard_iterator(shard.shard_id, StartPosition())
        while (page := await stream.calls.get_records(shard.shard_id, iterator)).records:
            read.extend(record.data for record in page.records)
            iterator = str(page.next_iterator)
    assert sorted(read) == data


async def test_missing_streams_are_named(client: Any) -> None:
    """Reading from or writing to a stream that is not there raises its name."""
    missing = Stream(client, "clients-no-such-stream")
    with pytest.raises(aws.ResourceError, match="no-such-stream"):
        await missing.calls.incarnation()
    with pytest.raises(aws.ResourceError, match="no-such-stream"):
        await missing.calls.list_shards(1)
    with pytest.raises(aws.ResourceError, match="no-such-stream"):
        await missing.calls.shard_iterator("shardId-000000000000", StartPosition())


async def test_the_writer_keeps_order_per_slot(stream: Stream) -> None:
    """Three hundred records of sixteen slots are all there, each slot's in order."""
    writer = Writer(stream.client, stream.name, slot_count=16, metrics=Metrics(CollectorRegistry()))
    await writer.start()
    for index in range(300):
        await writer.put(index % 16, b"%05d" % index, str(index % 16))
    await writer.stop()
    stored: list[tuple[str, bytes]] = []
    for shard in await stream.shards():
        page = await stream.page(shard.shard_id, StartPosition())
        stored.extend((record.partition_key, record.data) for record in page.records)
    assert sorted(data for _, data in stored) == [b"%05d" % index for index in range(300)]
    for slot in range(16):
        of_slot = [data for key, data in stored if key == str(slot)]
        assert of_slot == sorted(of_slot)
