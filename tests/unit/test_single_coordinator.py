"""The single coordinator: parents first, claims asked for, nothing left open."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest
from prometheus_client import CollectorRegistry

from telemill import errors
from telemill.health import Health
from telemill.kinesis import records
from telemill.kinesis.coordinators.single import SingleCoordinator
from telemill.kinesis.records import Chunk, Shard
from telemill.metrics import Metrics
from telemill.testing.kinesis import FakeKinesis
from telemill.testing.owner import FakeOwner
from telemill.testing.virtual_time import VirtualTime

STREAM = "readings"
FIRST, SECOND, THIRD, FOURTH = (f"shardId-{index:012d}" for index in range(4))


class Worker:
    """Takes the place of the Faust consumer: processes chunks one after the other."""

    def __init__(self, coordinator: SingleCoordinator, owner: FakeOwner) -> None:
        self.coordinator = coordinator
        self.owner = owner
        self.told: list[tuple[str, str]] = []
        self.failures: list[BaseException] = []

    def assigned(self, shard: Shard) -> None:
        """A shard comes."""
        self.told.append(("assigned", shard.shard_id))

    def revoked(self, shard: Shard) -> None:
        """A shard goes."""
        self.told.append(("revoked", shard.shard_id))

    def failed(self, error: BaseException) -> None:
        """The end."""
        self.failures.append(error)

    async def work(self) -> None:
        """Process until cancelled."""
        while True:
            for chunk in await self.coordinator.prefetch.take(0.001, 1):
                try:
                    await self.owner.process(chunk)
                except errors.PositionError:
                    self.coordinator.drop(chunk.shard)
                self.coordinator.prefetch.done(chunk)


class Bench:
    """A stream, its owner and a coordinator in virtual time."""

    def __init__(self, owner: FakeOwner | None = None, kinesis: FakeKinesis | None = None) -> None:
        self.time = VirtualTime()
        self.kinesis = kinesis or FakeKinesis(self.time.clock)
        self.health = Health()
        self.owner = owner or FakeOwner()
        self.coordinator = SingleCoordinator(
            self.kinesis,
            STREAM,
            self.owner,
            metrics=Metrics(CollectorRegistry()),
            health=self.health,
            monotonic=self.time.clock,
            sleep=self.time.sleep,
        )
        self.worker = Worker(self.coordinator, self.owner)

    @contextlib.asynccontextmanager
    async def running(self, shard_count: int = 1) -> AsyncIterator[None]:
        """The stream exists, the coordinator reads it, the worker works."""
        if shard_count:
            await self.kinesis.create_stream(StreamName=STREAM, ShardCount=shard_count)
        await self.coordinator.start(self.worker)
        working = asyncio.ensure_future(self.worker.work())
        try:
            yield
        finally:
            await self.coordinator.stop(drain=False)
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    async def put(self, *data: bytes, hash_key: int = 0) -> None:
        """Put records into the shard that has a hash key."""
        entries = [
            {"Data": one, "PartitionKey": "k", "ExplicitHashKey": str(hash_key)} for one in data
        ]
        await self.kinesis.put_records(StreamName=STREAM, Records=entries)

    async def split(self, shard_id: str, hash_key: int) -> None:
        """Split a shard."""
        await self.kinesis.split_shard(
            StreamName=STREAM, ShardToSplit=shard_id, NewStartingHashKey=str(hash_key)
        )

    async def until(self, holds: Callable[[], bool]) -> None:
        """Let virtual time pass."""
        await self.time.until(holds)

    def opened(self) -> list[str]:
        """The shards whose opening was asked for, in order."""
        return [shard_id for call, shard_id in self.owner.calls if call == "open"]


async def test_reads_every_shard() -> None:
    """Three pages of the shard list are three pages of shards read."""
    bench = Bench()
    async with bench.running(5):
        for index in range(5):
            await bench.put(b"%d" % index, hash_key=index * (2**128 // 5))
        await bench.until(lambda: len(bench.owner.data()) == 5)
        assert sorted(bench.owner.data()) == [b"0", b"1", b"2", b"3", b"4"]


async def test_children_are_opened_only_after_the_parents_end_is_saved() -> None:
    """Through a split and a merge, no record of a child is processed before its parents' last."""
    bench = Bench()
    async with bench.running():
        await bench.put(b"parent")
        await bench.split(FIRST, 2**127)
        await bench.put(b"low")
        await bench.put(b"high", hash_key=2**127)
        await bench.kinesis.merge_shards(
            StreamName=STREAM, ShardToMerge=SECOND, AdjacentShardToMerge=THIRD
        )
        await bench.put(b"merged")
        await bench.until(lambda: len(bench.owner.data()) == 4)
        processed = [shard_id for call, shard_id in bench.owner.calls if call == "process"]
        assert processed[0] == FIRST
        assert set(processed[:-1]) == {FIRST, SECOND, THIRD}
        assert processed[-1] == FOURTH
        assert bench.owner.positions[SECOND] == records.SHARD_END


async def test_a_reshard_is_followed_while_running_without_waiting_for_the_next_list() -> None:
    """Children are read within a few seconds of the parent's end, not after the list interval."""
    bench = Bench()
    async with bench.running():
        await bench.put(b"before")
        await bench.until(lambda: len(bench.owner.data()) == 1)
        await bench.split(FIRST, 2**127)
        await bench.put(b"after")
        started = bench.time.clock()
        await bench.until(lambda: len(bench.owner.data()) == 2)
        assert bench.time.clock() - started < 5


async def test_children_wait_while_the_owner_has_not_saved_the_end() -> None:
    """Everything delivered is not enough: the owner's position must be at the end."""
    bench = Bench()
    gate = asyncio.Event()

    async def hold_the_end(chunk: Chunk) -> None:
        if chunk.ends_shard:
            await gate.wait()

    bench.owner.on_process = hold_the_end
    async with bench.running():
        await bench.split(FIRST, 2**127)
        await bench.time.advance(100)
        assert bench.opened() == [FIRST]
        gate.set()
        await bench.until(lambda: set(bench.opened()) == {FIRST, SECOND, THIRD})


async def test_finished_shards_of_an_earlier_run_are_not_read_again() -> None:
    """A parent whose position is at its end lets the children start at once."""
    bench = Bench(FakeOwner({FIRST: records.SHARD_END}))
    await bench.kinesis.create_stream(StreamName=STREAM, ShardCount=1)
    await bench.put(b"old")
    await bench.split(FIRST, 2**127)
    await bench.put(b"new")
    async with bench.running(0):
        await bench.until(lambda: bench.owner.data() == [b"new"])


async def test_starts_after_the_owners_position() -> None:
    """What an earlier run processed does not come again."""
    bench = Bench()
    await bench.kinesis.create_stream(StreamName=STREAM, ShardCount=1)
    await bench.put(b"old")
    async with bench.running(0):
        await bench.until(lambda: bench.owner.data() == [b"old"])
    again = Bench(FakeOwner(bench.owner.positions), bench.kinesis)
    await bench.put(b"new")
    async with again.running(0):
        await again.until(lambda: again.owner.data() == [b"new"])


async def test_a_held_claim_is_asked_for_every_second() -> None:
    """While another worker holds a shard, opening is tried each second, and succeeds then."""
    bench = Bench()
    bench.owner.hold(FIRST, times=5)
    async with bench.running():
        await bench.put(b"a")
        started = bench.time.clock()
        await bench.until(lambda: bench.owner.data() == [b"a"])
        assert bench.opened() == [FIRST] * 6
        assert 5 <= bench.time.clock() - started < 7


async def test_an_unreachable_progress_store_is_waited_for() -> None:
    """Transient errors of the owner back off and try again."""
    bench = Bench()
    bench.owner.open_errors[FIRST] = [errors.ServiceUnavailableError("no table yet")] * 4
    async with bench.running():
        await bench.put(b"a")
        await bench.until(lambda: bench.owner.data() == [b"a"])


async def test_a_dropped_shard_is_claimed_again_later() -> None:
    """A void claim ends the reading; a new claim starts from the owner's position."""
    bench = Bench()
    fenced = [errors.FencedError("another worker")]

    async def fence_once(_: Chunk) -> None:
        if fenced:
            raise fenced.pop()

    bench.owner.on_process = fence_once
    async with bench.running():
        await bench.put(b"a", b"b")
        await bench.until(lambda: bench.owner.data() == [b"a", b"b"])
        assert bench.worker.told[:3] == [
            ("assigned", FIRST),
            ("revoked", FIRST),
            ("assigned", FIRST),
        ]
        assert ("close", FIRST) not in bench.owner.calls


async def test_stopping_closes_and_releases_every_open_shard() -> None:
    """After a drain no claim is held and nothing fetched is kept."""
    bench = Bench()
    async with bench.running(3):
        await bench.until(lambda: len(bench.opened()) == 3)
        await bench.time.settle()
        await bench.coordinator.stop(drain=True)
        assert bench.owner.released == {FIRST, SECOND, THIRD}


async def test_stopping_without_drain_closes_nothing() -> None:
    """After a crash nothing is committed and no claim given up."""
    bench = Bench()
    async with bench.running():
        await bench.until(lambda: bench.opened() == [FIRST])
        await bench.time.settle()
        await bench.coordinator.stop(drain=False)
        assert ("close", FIRST) not in bench.owner.calls


async def test_a_shard_that_was_just_being_opened_is_closed_too() -> None:
    """Stopping during a claim waits for the claim and gives it up: it is not left to expire."""
    bench = Bench()
    opening = asyncio.Event()
    opened = bench.owner.open

    async def slow_open(shard: Shard) -> object:
        await opening.wait()
        return await opened(shard)

    bench.owner.open = slow_open  # type: ignore[method-assign,assignment]
    async with bench.running():
        await bench.time.settle()
        stopping = asyncio.ensure_future(bench.coordinator.stop(drain=True))
        await bench.time.settle()
        opening.set()
        await stopping
        assert bench.owner.released == {FIRST}


async def test_a_failed_close_is_raised_after_all_were_tried() -> None:
    """One shard that cannot be closed keeps no other one from being released."""
    bench = Bench()
    bench.owner.close_error = errors.ServiceUnavailableError("no answer")
    async with bench.running(3):
        await bench.until(lambda: len(bench.opened()) == 3)
        await bench.time.settle()
        with pytest.raises(errors.ServiceUnavailableError):
            await bench.coordinator.stop(drain=True)
        assert sum(call == "close" for call, _ in bench.owner.calls) == 3


async def test_a_missing_stream_is_waited_for_and_named() -> None:
    """Without its stream the worker is alive, not ready, and says why; then it reads."""
    bench = Bench()
    async with bench.running(0):
        await bench.until(lambda: not bench.health.is_ready)
        assert "readings does not exist" in str(bench.health.ready())
        await bench.kinesis.create_stream(StreamName=STREAM, ShardCount=1)
        await bench.put(b"a")
        await bench.until(lambda: bench.owner.data() == [b"a"])
        assert bench.health.is_ready


async def test_a_stream_of_the_same_name_ends_the_process() -> None:
    """A stream deleted and created again is another one: positions of the first mean nothing."""
    bench = Bench()
    async with bench.running():
        await bench.until(lambda: bench.opened() == [FIRST])
        await bench.kinesis.delete_stream(StreamName=STREAM)
        bench.time.now_seconds += 1
        await bench.kinesis.create_stream(StreamName=STREAM, ShardCount=1)
        await bench.until(lambda: bool(bench.worker.failures))
        assert "created again" in str(bench.worker.failures[0])


async def test_a_bug_in_the_owner_ends_the_process() -> None:
    """What is not transient is not swallowed: a worker that reads nothing must not look alive."""
    bench = Bench()
    bench.owner.open_errors[FIRST] = [RuntimeError("bug")]
    async with bench.running():
        await bench.until(lambda: bool(bench.worker.failures))
        assert isinstance(bench.worker.failures[0], RuntimeError)


async def test_a_shard_deleted_with_its_data_ends_and_the_children_follow() -> None:
    """A parent past its retention while it is read does not hold up its children for ever."""
    bench = Bench()
    async with bench.running():
        await bench.until(lambda: bench.opened() == [FIRST])
        await bench.split(FIRST, 2**127)
        bench.kinesis.forget_shard(STREAM, FIRST)
        await bench.put(b"child")
        await bench.until(lambda: bench.owner.data() == [b"child"])


async def test_a_shard_that_cannot_be_claimed_makes_the_service_not_ready() -> None:
    """While the store is away, /readyz names the shard and says why; and clears it after."""
    bench = Bench()
    bench.owner.open_errors[FIRST] = [errors.ServiceUnavailableError("dynamodb: away")] * 4
    async with bench.running():
        await bench.until(lambda: not bench.health.is_ready)
        assert bench.health.ready()["reasons"] == {f"claim of {FIRST}": "dynamodb: away"}
        await bench.until(lambda: bench.health.is_ready)


async def test_a_standby_is_ready() -> None:
    """A shard held by another worker is no reason not to be ready."""
    bench = Bench()
    bench.owner.hold(FIRST, times=3)
    async with bench.running():
        await bench.until(lambda: len(bench.opened()) == 3)
        assert bench.health.is_ready
