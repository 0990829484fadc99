"""The KCL coordinator: leases lost, handed over, finished, fenced; the daemon's end and ours."""

import asyncio

import pytest

from telemill import errors
from telemill.kinesis import records
from telemill.kinesis.coordinators.kcl import DaemonEndedError
from telemill.kinesis.multilang import ProtocolError
from telemill.kinesis.records import Shard
from telemill.testing.kcl import (
    FIRST,
    LIMIT_SECONDS,
    NUMBERS,
    SECOND,
    KclBench,
)
from telemill.testing.owner import FakeOwner


async def test_a_lost_lease_is_given_up_at_once() -> None:
    """The status does not wait for what is in process, and nothing is checkpointed after it."""
    bench = KclBench()
    bench.gate.clear()
    async with bench.running():
        channel = bench.engine.connect()
        await channel.initialize()
        await channel.process(*NUMBERS[:3])
        await channel.act("leaseLost")
        channel.reader.feed_eof()
        assert ("revoked", FIRST) in bench.told
        assert channel.checkpoints == []
        bench.gate.set()
        await bench.until(lambda: FIRST in bench.owner.released)


class SlowOwner(FakeOwner):
    """Its close takes until it may end."""

    def __init__(self) -> None:
        super().__init__()
        self.may_close = asyncio.Event()

    async def close(self, shard: Shard, *, release: bool) -> None:
        """Wait, then close."""
        await self.may_close.wait()
        await super().close(shard, release=release)


async def test_a_lease_that_comes_back_waits_for_its_close() -> None:
    """The owner is asked to open again only once it has closed: one run of a shard at a time."""
    owner = SlowOwner()
    bench = KclBench(owner)
    async with bench.running():
        first = bench.engine.connect()
        await first.initialize()
        await first.act("leaseLost")
        first.reader.feed_eof()
        again = asyncio.create_task(bench.engine.connect().initialize())
        await asyncio.sleep(0.02)
        before = list(owner.calls)
        owner.may_close.set()
        await again
    assert before == [("open", FIRST)]
    assert [call for call, _ in owner.calls] == ["open", "close", "open"]


async def test_the_end_of_a_shard_is_checkpointed_when_it_is_saved() -> None:
    """All records are processed, the end is saved, then it is checkpointed: children begin."""
    bench = KclBench()
    async with bench.running():
        channel = bench.engine.connect()
        await channel.initialize()
        await channel.process(*NUMBERS[:3])
        channel.refusals = ["ThrottlingException"]
        await channel.act("shardEnded")
        assert bench.owner.positions[FIRST] == records.SHARD_END
        assert channel.checkpoints[-1] is None
    assert bench.processed() == NUMBERS[:3]
    assert ("close", FIRST) not in bench.owner.calls


async def test_a_finished_shard_is_only_answered() -> None:
    """Our position is at the end already: the KCL is told, nothing is opened or processed."""
    bench = KclBench(FakeOwner({FIRST: records.SHARD_END}))
    async with bench.running():
        channel = bench.engine.connect()
        await channel.initialize(checkpoint=NUMBERS[0])
        await channel.process(*NUMBERS[:3])
        await channel.act("shardEnded")
    assert channel.checkpoints == [None]
    assert bench.told == []
    assert bench.processed() == []


async def test_a_hand_over_drains_saves_and_checkpoints() -> None:
    """shutdownRequested: what is in process ends, the claim is released, the KCL knows how far."""
    bench = KclBench()
    bench.gate.clear()
    async with bench.running():
        channel = bench.engine.connect()
        await channel.initialize()
        await channel.process(NUMBERS[0])
        channel.say("shutdownRequested")
        await asyncio.sleep(0.02)
        assert ("close", FIRST) not in bench.owner.calls
        bench.gate.set()
        assert await channel.status() == "shutdownRequested"
        assert bench.owner.released == {FIRST}
        assert channel.checkpoints == [NUMBERS[0]]
        await channel.act("leaseLost")
    assert bench.owner.calls.count(("close", FIRST)) == 1


async def test_a_fenced_shard_is_answered_without_working() -> None:
    """The claim is void: statuses go on, nothing is processed, closed or checkpointed."""
    bench = KclBench()

    async def fence(_: object) -> None:
        raise errors.FencedError("taken over")

    async with bench.running():
        channel = bench.engine.connect()
        await channel.initialize()
        bench.owner.on_process = fence
        await channel.process(NUMBERS[0])
        await bench.until(lambda: ("revoked", FIRST) in bench.told)
        await channel.process(*NUMBERS[1:5])
        await channel.act("leaseLost")
        channel.reader.feed_eof()
        await bench.until(lambda: all(task.done() for task in bench.engine.served))
        bench.late.set()
        await asyncio.sleep(0.01)
    assert bench.failures == []
    assert bench.processed() == []
    assert channel.checkpoints == []
    assert ("close", FIRST) not in bench.owner.calls


async def test_a_fenced_shard_that_stays_ends_the_process() -> None:
    """No leaseLost within the fail-over time: a worker that reads nothing must not look alive."""
    bench = KclBench()

    async def fence(_: object) -> None:
        raise errors.FencedError("taken over")

    bench.owner.on_process = fence
    async with bench.running():
        channel = bench.engine.connect()
        await channel.initialize()
        await channel.process(NUMBERS[0])
        await bench.until(lambda: ("revoked", FIRST) in bench.told)
        bench.late.set()
        await bench.until(lambda: bool(bench.failures))
    assert isinstance(bench.failures[0], DaemonEndedError)


async def test_the_end_of_the_daemon_is_the_end_of_the_process() -> None:
    """It ends with its status and its last words; what was open is closed and released."""
    bench = KclBench()
    async with bench.running():
        channel = bench.engine.connect()
        await channel.initialize()
        list(bench.engine.log.feed(b"ERROR Scheduler no such table\n"))
        channel.reader.feed_eof()
        bench.engine.exit(1)
        await bench.until(lambda: bool(bench.failures))
        await bench.until(lambda: bench.owner.released == {FIRST})
    assert "status 1: Scheduler: no such table" in str(bench.failures[0])


async def test_stopping_drains_every_shard() -> None:
    """SIGTERM: the daemon is asked to stop, withheld statuses come, each shard is closed."""
    bench = KclBench(prefetch_bytes=50_000)
    async with bench.running():
        first, second = bench.engine.connect(), bench.engine.connect()
        await first.initialize(FIRST)
        await second.initialize(SECOND)
        bench.gate.clear()
        first.deliver(*NUMBERS[:2], data=bytes(40_000))
        await bench.until(lambda: bench.coordinator.prefetch.budget.held_bytes > 80_000)
        stopping = asyncio.create_task(bench.coordinator.stop(drain=True))
        assert await first.status() == "processRecords"
        await bench.engine.terminated.wait()
        for channel in (first, second):
            await channel.act("shutdownRequested")
            await channel.act("leaseLost")
            channel.reader.feed_eof()
        async with asyncio.timeout(LIMIT_SECONDS):
            await stopping
    assert bench.owner.released == {FIRST, SECOND}
    assert bench.engine.ended
    assert bench.processed() == []
    assert bench.failures == []


async def test_a_shard_that_cannot_be_closed_is_told() -> None:
    """The drain failed: whoever stops the coordinator learns of it, and the daemon is ended."""
    bench = KclBench()
    bench.owner.close_error = errors.ServiceUnavailableError("the store is away")
    async with bench.running():
        channel = bench.engine.connect()
        await channel.initialize()
        stopping = asyncio.create_task(bench.coordinator.stop(drain=True))
        await bench.engine.terminated.wait()
        await channel.act("shutdownRequested")
        await channel.act("leaseLost")
        channel.reader.feed_eof()
        with pytest.raises(errors.ServiceUnavailableError):
            await stopping
        bench.owner.close_error = None
        bench.coordinator._close_errors.clear()
    assert bench.engine.ended


async def test_what_is_not_the_protocol_ends_the_process() -> None:
    """Whatever came, nobody reads that shard any more."""
    bench = KclBench()
    async with bench.running():
        channel = bench.engine.connect()
        await channel.initialize()
        channel.reader.feed_data(b"Exception in thread main\n")
        await bench.until(lambda: bool(bench.failures))
    assert isinstance(bench.failures[0], ProtocolError)


async def test_a_crash_gives_up_nothing() -> None:
    """Stopped without a drain, no claim is closed: it would look given up in good order."""
    bench = KclBench()
    async with bench.running():
        await bench.engine.connect().initialize()
    assert bench.engine.ended
    assert bench.owner.calls == [("open", FIRST)]


async def test_a_lease_kept_after_its_hand_over_ends_the_process() -> None:
    """After shutdownRequested nothing is worked on: if the lease stays, nobody reads the shard."""
    bench = KclBench()
    async with bench.running():
        channel = bench.engine.connect()
        await channel.initialize()
        await channel.act("shutdownRequested")
        await channel.process(NUMBERS[0])
        bench.late.set()
        await bench.until(lambda: bool(bench.failures))
    assert isinstance(bench.failures[0], DaemonEndedError)


async def test_an_end_that_cannot_be_saved_is_not_checkpointed() -> None:
    """When asking whether the end is saved fails for good, the children must not begin."""
    bench = KclBench()

    async def fail(_: Shard) -> bool:
        raise errors.ConfigurationError("the table is gone")

    bench.owner.finished = fail  # type: ignore[method-assign]
    async with bench.running():
        channel = bench.engine.connect()
        await channel.initialize()
        channel.say("shardEnded")
        await bench.until(lambda: bool(bench.failures))
    assert channel.checkpoints == []
