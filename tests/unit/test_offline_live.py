"""How far the live services are, and when a command waits or gives up."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from offline.backfill import BehindError, wait_for_live_path
from offline.live import (
    POLL_SECONDS,
    VISIBLE_SECONDS,
    Behind,
    LivePath,
    Source,
    parents_first,
)
from offline.testing import fresh_calls
from telemill.kinesis.records import SHARD_END, Shard
from telemill.progress import rules
from telemill.progress.rules import Progress
from telemill.testing.kinesis import FakeKinesis
from telemill.testing.progress import MemoryProgressStore

RAW, READINGS = "raw", "readings"
TRANSFORM, SINK = "transform", "sink-readings"
START = 1_751_876_490.0


class Live:
    """Two streams, the positions of their readers, and a clock."""

    def __init__(self) -> None:
        self.now = START
        self.kinesis = FakeKinesis(lambda: self.now)
        self.store = MemoryProgressStore()
        self.said: list[list[Behind]] = []
        self.slept = 0.0
        self.on_sleep: list[tuple[str, str, str]] = []

    async def create(self) -> "Live":
        """Make the streams, of one shard each."""
        for stream in (RAW, READINGS):
            await self.kinesis.create_stream(StreamName=stream, ShardCount=1)
        return self

    async def put(self, stream: str) -> str:
        """A record, ten seconds after the one before; its sequence number."""
        self.now += 10.0
        entry = {"Data": b"x", "PartitionKey": "k"}
        answer = await self.kinesis.put_records(StreamName=stream, Records=[entry])
        return str(answer["Records"][0]["SequenceNumber"])

    async def shard(self, stream: str) -> Shard:
        """The stream's first shard."""
        calls = fresh_calls(self.kinesis, stream)
        return (await calls.list_shards(await calls.incarnation()))[0]

    async def move(self, app: str, stream: str, position: str) -> None:
        """Save a position."""
        key = rules.shard_key(await self.shard(stream))
        self.store.table.items[app, key] = Progress(app, key, position=position)

    async def path(self) -> LivePath:
        """What is under test; a position moves at each sleep, if one waits to."""
        return LivePath(
            Source(fresh_calls(self.kinesis, RAW), TRANSFORM),
            Source(fresh_calls(self.kinesis, READINGS), SINK),
            self.store,
            self._sleep,
        )

    async def _sleep(self, seconds: float) -> None:
        self.slept += seconds
        if seconds != VISIBLE_SECONDS and self.on_sleep:
            await self.move(*self.on_sleep.pop(0))

    async def wait(self, to_seconds: float, patience: float | None = 3.0) -> object:
        """As a command does."""
        return await wait_for_live_path(
            await self.path(),
            round(to_seconds * 1_000_000),
            patience_seconds=patience,
            waiting=self.said.append,
            monotonic=lambda: self.slept,
        )


async def test_a_range_both_have_passed_is_free() -> None:
    """With transform past the end and the sink at the tip nothing is waited for."""
    live = await Live().create()
    raw, readings = await live.put(RAW), await live.put(READINGS)
    await live.move(TRANSFORM, RAW, raw)
    await live.move(SINK, READINGS, readings)
    await live.wait(live.now)
    assert not live.said


async def test_what_arrived_after_the_range_does_not_count() -> None:
    """Transform may be behind on records that are not of the range."""
    live = await Live().create()
    await live.move(TRANSFORM, RAW, await live.put(RAW))
    end = live.now + 1
    await live.put(RAW)
    await live.wait(end)
    assert not live.said


async def test_transform_behind_is_named_with_its_shard_and_time() -> None:
    """The error says which application, which shard and by how much."""
    live = await Live().create()
    await live.move(TRANSFORM, RAW, await live.put(RAW))
    await live.put(RAW)
    with pytest.raises(BehindError, match=r"transform on raw shardId-\d+: 2\.0 s behind"):
        await live.wait(live.now + 2)


async def test_a_service_that_never_ran_is_named() -> None:
    """Without any position everything is still to come."""
    live = await Live().create()
    await live.put(RAW)
    with pytest.raises(BehindError, match=r"transform on raw .*: it has saved no position there"):
        await live.wait(live.now + 1)


async def test_the_sink_must_pass_what_stood_in_its_stream() -> None:
    """Rows may come once the sink's position has passed the tip of that moment, not before."""
    live = await Live().create()
    await live.move(TRANSFORM, RAW, await live.put(RAW))
    first, second = await live.put(READINGS), await live.put(READINGS)
    await live.move(SINK, READINGS, first)
    live.on_sleep = [(SINK, READINGS, first), (SINK, READINGS, second)]
    await live.wait(live.now)
    assert len(live.said) == 2
    assert {each.app for each in live.said[0]} == {SINK}


async def test_later_records_of_readings_are_not_waited_for() -> None:
    """Traffic that goes on does not keep a command waiting for ever."""
    live = await Live().create()
    await live.move(TRANSFORM, RAW, await live.put(RAW))
    tip = await live.put(READINGS)
    path = await live.path()
    tips = await path.tips()
    await live.put(READINGS)
    await live.move(SINK, READINGS, tip)
    assert not await path.behind_tips(tips)


async def test_a_sink_that_stands_still_ends_the_patience() -> None:
    """Without --wait it is an error that names the sink."""
    live = await Live().create()
    await live.move(TRANSFORM, RAW, await live.put(RAW))
    await live.put(READINGS)
    with pytest.raises(BehindError, match="sink-readings on readings"):
        await live.wait(live.now)
    assert live.slept == VISIBLE_SECONDS + 3.0


async def test_waiting_has_no_end_of_its_own() -> None:
    """With --wait it goes on as soon as transform has passed."""
    live = await Live().create()
    raw = await live.put(RAW)
    live.on_sleep = [(TRANSFORM, RAW, "1")] * 9 + [(TRANSFORM, RAW, raw)]
    await live.wait(live.now + 1, patience=None)
    assert live.slept == 10 * POLL_SECONDS + VISIBLE_SECONDS


async def test_an_ended_shard_is_passed() -> None:
    """SHARD_END is behind every record; a record of a shard no longer listed is nobody's."""
    live = await Live().create()
    number = await live.put(RAW)
    await live.move(TRANSFORM, RAW, SHARD_END)
    passed = await (await live.path()).transform_positions()
    (shard,) = passed.shards
    assert passed.covers(shard.shard_id, number)
    assert passed.covers("shardId-of-last-year", number)
    assert not replace(passed, positions={shard.shard_id: None}).covers(shard.shard_id, number)


def _ids(shards: Sequence[Shard]) -> list[str]:
    return [shard.shard_id for shard in shards]


def test_parents_come_first() -> None:
    """A child is read after both of its parents, whatever the order of the list."""
    made = [
        Shard("s", 1, "d", ("b", "c")),
        Shard("s", 1, "c", ("a",)),
        Shard("s", 1, "b", ("a",)),
        Shard("s", 1, "a"),
    ]
    assert _ids(parents_first(made)) == ["a", "b", "c", "d"]
