"""The KCL coordinator: what the daemon delivers, how far it is told, and how it is held up."""

import asyncio

from telemill import errors
from telemill.codec import kpl
from telemill.kinesis.multilang import ProtocolError
from telemill.stages.owner import StartPosition
from telemill.testing.kcl import (
    FIRST,
    NUMBERS,
    SECOND,
    KclBench,
    wire,
)
from telemill.testing.owner import FakeOwner


async def test_a_lease_becomes_an_open_shard() -> None:
    """Initialize opens the owner and assigns; records come out in order, in chunks."""
    bench = KclBench(max_chunk_bytes=2)
    async with bench.running():
        channel = bench.engine.connect()
        await channel.initialize()
        await channel.process(*NUMBERS[:5])
        await bench.until(lambda: bench.processed() == NUMBERS[:5])
    assert bench.owner.calls.count(("process", FIRST)) == 3
    assert bench.told[0] == ("assigned", FIRST)


async def test_the_checkpoint_follows_the_saved_position() -> None:
    """What is saved is checkpointed in the next window, also on an idle shard; never more."""
    bench = KclBench()
    async with bench.running():
        channel = bench.engine.connect()
        await channel.initialize()
        bench.gate.clear()
        await channel.process(*NUMBERS[:3])
        assert channel.checkpoints == []
        bench.gate.set()
        await bench.until(lambda: len(bench.processed()) == 3)
        await channel.process()
        assert channel.checkpoints == [NUMBERS[2]]
        await channel.process()
        assert channel.checkpoints == [NUMBERS[2]]


async def test_our_position_is_ahead_of_the_kcls() -> None:
    """Records at or below it are not processed again, nor is it checkpointed before it came."""
    bench = KclBench(FakeOwner({FIRST: NUMBERS[4]}))
    async with bench.running():
        channel = bench.engine.connect()
        await channel.initialize(checkpoint=NUMBERS[1])
        await channel.process(*NUMBERS[1:4])
        await channel.process(*NUMBERS[4:7])
        await bench.until(lambda: bench.processed() == NUMBERS[5:7])
    # The daemon refuses what it has not delivered.
    assert channel.checkpoints[0] == NUMBERS[3]


async def test_a_lease_table_ahead_of_the_progress_is_an_error() -> None:
    """Records between the two would be lost in silence: the process ends and says why."""
    bench = KclBench(FakeOwner({FIRST: NUMBERS[1]}))
    async with bench.running():
        bench.engine.connect().say("initialize", shardId=FIRST, sequenceNumber=NUMBERS[3])
        await bench.until(lambda: bool(bench.failures))
    assert isinstance(bench.failures[0], errors.ConfigurationError)
    assert "delete the lease table" in str(bench.failures[0])
    assert bench.told == []


async def test_records_before_the_start_time_are_left_out() -> None:
    """The daemon knows seconds: what is older than our own start is skipped."""
    late = StartPosition(timestamp_us=1_700_000_000_000_001)
    for start, expected in ((late, []), (StartPosition(timestamp_us=1), NUMBERS[:1])):
        bench = KclBench(FakeOwner(start=start))
        async with bench.running():
            channel = bench.engine.connect()
            await channel.initialize()
            await channel.process(NUMBERS[0])
            await channel.process()
            await bench.until(lambda expected=expected, bench=bench: bench.processed() == expected)  # type: ignore[misc]


async def test_an_aggregate_is_one_record_again() -> None:
    """User records of one number are put together: lineage counts them from the same place."""
    bench = KclBench()
    users = [wire(NUMBERS[1], b"user %d" % sub, sub, f"device-{sub}") for sub in range(3)]
    async with bench.running():
        channel = bench.engine.connect()
        await channel.initialize(SECOND)
        channel.say("processRecords", records=[wire(NUMBERS[0], b"plain"), *users])
        await channel.status()
        await bench.until(lambda: bench.processed(SECOND) == NUMBERS[:2])
        shard = await bench.coordinator.describe(SECOND)
    plain, joined = (record.data for record in bench.owner.records[SECOND])
    assert plain == b"plain"
    found = kpl.deaggregate(joined)
    assert [user.data for user in found] == [b"user 0", b"user 1", b"user 2"]
    assert [user.partition_key for user in found] == ["device-0", "device-1", "device-2"]
    assert shard is not None
    assert all(shard.holds(kpl.hash_key(user)) for user in found)


async def test_a_part_of_an_aggregate_is_an_error() -> None:
    """Above our position it would be counted wrongly; at it, it was processed whole."""
    part = [wire(NUMBERS[1], b"user", sub) for sub in (1, 2)]
    bench = KclBench(FakeOwner({FIRST: NUMBERS[1]}))
    async with bench.running():
        channel = bench.engine.connect()
        await channel.initialize(checkpoint=NUMBERS[1])
        await channel.act("processRecords", records=[*part, wire(NUMBERS[2], b"x")])
        await bench.until(lambda: bench.processed() == [NUMBERS[2]])
    bench = KclBench()
    async with bench.running():
        channel = bench.engine.connect()
        await channel.initialize()
        channel.say("processRecords", records=part)
        await bench.until(lambda: bool(bench.failures))
    assert isinstance(bench.failures[0], ProtocolError)


async def test_back_pressure_withholds_the_status() -> None:
    """While there is no room, the daemon gets no status and so sends nothing more."""
    bench = KclBench(prefetch_bytes=100_000)
    async with bench.running():
        channel = bench.engine.connect()
        await channel.initialize()
        bench.gate.clear()
        channel.deliver(*NUMBERS[:2], data=bytes(40_000))
        waiting = asyncio.create_task(channel.status())
        await bench.until(lambda: bench.coordinator.prefetch.budget.held_bytes > 80_000)
        await asyncio.sleep(0.05)
        assert not waiting.done()
        bench.gate.set()
        assert await waiting == "processRecords"
    assert bench.processed() == NUMBERS[:2]


async def test_idle_shards_hold_no_room() -> None:
    """After any number of pages and windows, everything reserved is given back."""
    bench = KclBench()
    async with bench.running():
        channel = bench.engine.connect()
        await channel.initialize()
        channel.deliver(*NUMBERS[:4], data=bytes(900_000))
        await channel.status()
        await channel.process()
        await bench.until(lambda: len(bench.processed()) == 4)
        await bench.until(lambda: bench.coordinator.prefetch.budget.held_bytes == 0)


async def test_a_claim_that_another_worker_holds_is_waited_for() -> None:
    """The last owner drains: initialize is answered once it has released."""
    bench = KclBench()
    bench.owner.hold(FIRST, times=3)
    async with bench.running():
        await bench.engine.connect().initialize()
    assert bench.owner.calls.count(("open", FIRST)) == 4


async def test_records_of_an_unlisted_shard_are_not_swallowed() -> None:
    """A shard past its retention is only answered; one that still has records is an error."""
    bench = KclBench()
    async with bench.running():
        channel = bench.engine.connect()
        await channel.initialize("shardId-000000000009")
        await channel.process()
        assert bench.failures == []
        channel.deliver(NUMBERS[0])
        await bench.until(lambda: bool(bench.failures))
    assert isinstance(bench.failures[0], errors.LeaseLostError)
