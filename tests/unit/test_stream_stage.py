"""The stream stage: a position moves only with its state and after its output is acknowledged."""

import asyncio
import dataclasses
from collections.abc import Callable, Sequence

import pytest
from prometheus_client import CollectorRegistry

from telemill import errors
from telemill.health import Health
from telemill.kinesis.records import SHARD_END, Chunk, Record, Shard
from telemill.metrics import Metrics
from telemill.progress.claims import Claims
from telemill.stages.step import Output, Rejected, StepResult
from telemill.stages.stream import StreamStage
from telemill.testing.progress import Fault, MemoryProgressStore, MemorySnapshotStore

SHARD = Shard("in", 1, "s0")


def chunk(*numbers: int, shard: Shard = SHARD, ends: bool = False) -> Chunk:
    """Records with these sequence numbers."""
    return Chunk(shard, [Record(str(n), n, b"%d" % n, "p") for n in numbers], ends_shard=ends)


class Sum:
    """A step whose state is the sum of all records and whose output is the running sum."""

    def restore(self, states: Sequence[bytes], shard: Shard) -> list[int]:
        return [sum(int(state) for state in states)]

    def snapshot(self, state: list[int]) -> bytes:
        return str(state[0]).encode()

    def step(self, chunk: Chunk, state: list[int]) -> StepResult:
        result = StepResult()
        for record in chunk.records:
            state[0] += int(record.data)
            result.outputs.append(Output(0, b"%d" % state[0], "p", 1))
        return result


class FakeWriter:
    """Acknowledges when told."""

    def __init__(self) -> None:
        self.put_data: list[bytes] = []
        self.unacknowledged: list[asyncio.Future[str]] = []
        self.room = asyncio.Event()
        self.room.set()

    async def put(self, slot: int, data: bytes, partition_key: str) -> "asyncio.Future[str]":
        await self.room.wait()
        self.put_data.append(data)
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.unacknowledged.append(future)
        return future

    def acknowledge(self) -> None:
        for future in self.unacknowledged:
            if not future.done():
                future.set_result("1")


class FakeOutlet:
    """Remembers in which order it was used."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.rejected: list[Rejected] = []

    async def write(self, shard: Shard, result: StepResult) -> None:
        self.calls.append("write")
        self.rejected += result.rejected

    async def flush(self, shard: Shard) -> None:
        self.calls.append("flush")


async def yield_once(_seconds: float) -> None:
    """Sleep without waiting."""
    await asyncio.sleep(0)


class World:
    """A store that outlives the stages made on it."""

    def __init__(self) -> None:
        self.store = MemoryProgressStore()
        self.snapshots = MemorySnapshotStore()
        self.outlet = FakeOutlet()
        self.writer = FakeWriter()
        self.health = Health()
        self.now = 0.0

    def stage(self, worker_id: str = "w") -> StreamStage[list[int]]:
        """A process starts."""
        self.writer = FakeWriter()
        return StreamStage(
            Sum(),
            claims=Claims(self.store, self.snapshots, "app", worker_id),
            writer=self.writer,
            outlets=[self.outlet],
            metrics=Metrics(CollectorRegistry()),
            health=self.health,
            sleep=yield_once,
            commit_interval_seconds=5.0,
            monotonic=lambda: self.now,
            wall=lambda: 0.0,
        )

    async def opened(self) -> StreamStage[list[int]]:
        """A process starts and opens the shard."""
        stage = self.stage()
        await stage.open(SHARD)
        return stage

    def saved(self, shard: Shard = SHARD) -> tuple[str | None, bytes | None]:
        """Position and state in the store."""
        for (_, key), item in self.store.table.items.items():
            if key.endswith(shard.shard_id):
                return item.position, item.state
        return None, None


async def settle(condition: Callable[[], bool] = lambda: False) -> None:
    """Let every task run until a condition holds, or nothing more happens."""
    for _ in range(400):
        if condition():
            return
        await asyncio.sleep(0)


async def test_the_position_waits_for_acknowledgements() -> None:
    """No position is saved while any output up to it is unacknowledged; then both move at once."""
    world = World()
    stage = await world.opened()
    await stage.process(chunk(1, 2))
    world.now = 6.0
    stage.commit_due()
    await settle()
    assert world.saved() == (None, None)
    world.writer.acknowledge()
    await settle(lambda: world.saved()[0] is not None)
    assert world.saved() == ("2", b"3")


async def test_state_and_position_are_of_the_same_moment() -> None:
    """Records that come while a commit waits are in neither its state nor its position."""
    world = World()
    stage = await world.opened()
    await stage.process(chunk(1, 2))
    world.now = 6.0
    stage.commit_due()
    await stage.process(chunk(3, 4))
    world.writer.acknowledge()
    await settle(lambda: world.saved()[0] is not None)
    assert world.saved() == ("2", b"3")


async def test_a_large_state_is_saved_less_often() -> None:
    """Snapshots take at most one fiftieth of the time, whatever the interval says."""
    world = World()
    stage = await world.opened()

    class Slow(Sum):
        def snapshot(self, state: list[int]) -> bytes:
            world.now += 1.0
            return super().snapshot(state)

    stage._step = Slow()
    for record, due_at, expected in ((1, 6.0, "1"), (2, 55.0, "1"), (3, 56.5, "3")):
        await stage.process(chunk(record))
        world.writer.acknowledge()
        world.now = due_at
        stage.commit_due()
        await settle()
        assert world.saved()[0] == expected


async def test_a_chunk_cut_off_half_way_is_never_committed() -> None:
    """A process cancelled between step and output leaves the last consistent position."""
    world = World()
    stage = await world.opened()
    await stage.process(chunk(1))
    world.writer.acknowledge()
    world.writer.room.clear()
    processing = asyncio.create_task(stage.process(chunk(2)))
    await settle()
    processing.cancel()
    await asyncio.gather(processing, return_exceptions=True)
    world.now = 6.0
    stage.commit_due()
    await stage.close(SHARD, release=True)
    assert world.saved()[0] in {None, "1"}
    again = world.stage()
    start = await again.open(SHARD)
    assert start.after in {None, "1"}


async def test_closing_drains_commits_and_releases() -> None:
    """After close the position is the last record and another worker can take over at once."""
    world = World()
    stage = await world.opened()
    await stage.process(chunk(1, 2, 3))
    closing = asyncio.create_task(stage.close(SHARD, release=True))
    await settle()
    assert not closing.done()
    world.writer.acknowledge()
    await closing
    assert world.saved() == ("3", b"6")
    assert (await world.stage("other").open(SHARD)).after == "3"


async def test_a_restart_repeats_exactly_what_came_after_the_position() -> None:
    """A new process with the saved state makes the same bytes for the same records."""
    world = World()
    first = world.stage()
    await first.open(SHARD)
    await first.process(chunk(1, 2))
    world.writer.acknowledge()
    world.now = 6.0
    first.commit_due()
    await settle(lambda: world.saved()[0] is not None)
    await first.process(chunk(3, 4))
    before = world.writer.put_data[2:]
    second = world.stage()
    assert (await second.open(SHARD)).after == "2"
    await second.process(chunk(3, 4))
    assert world.writer.put_data == before


async def test_records_delivered_again_are_skipped() -> None:
    """Records at or below the position change nothing."""
    world = World()
    stage = await world.opened()
    await stage.process(chunk(1, 2))
    await stage.process(chunk(1, 2, 3))
    assert world.writer.put_data == [b"1", b"3", b"6"]


async def test_by_products_are_durable_before_the_position_moves() -> None:
    """Outlets are flushed before the position is saved."""
    world = World()
    stage = await world.opened()
    await stage.process(chunk(1))
    world.writer.acknowledge()
    await stage.close(SHARD, release=True)
    assert world.outlet.calls == ["write", "flush"]


async def test_the_end_of_a_shard_is_saved_and_children_get_the_state() -> None:
    """SHARD_END is saved with the final state, from which both children start."""
    world = World()
    stage = await world.opened()
    processing = asyncio.create_task(stage.process(chunk(5, 6, ends=True)))
    await settle()
    assert not await stage.finished(SHARD)
    world.writer.acknowledge()
    await processing
    assert await stage.finished(SHARD)
    assert world.saved() == (SHARD_END, b"11")
    with pytest.raises(errors.LeaseLostError):
        await stage.process(chunk(7))
    child = Shard("in", 1, "s1", parents=("s0",))
    await stage.open(child)
    await stage.process(chunk(7, shard=child))
    assert world.writer.put_data[-1] == b"18"


async def test_a_fenced_owner_stops_and_moves_nothing() -> None:
    """After a take-over the old owner's commit fails, and the store keeps the new owner's item."""
    world = World()
    stage = await world.opened()
    await stage.process(chunk(1))
    world.writer.acknowledge()
    thief = world.stage()
    await thief.open(SHARD)
    world.now = 6.0
    stage.commit_due()
    await settle()
    lost: list[Shard] = []
    stage.on_void = lost.append
    stage.commit_due()
    assert lost == [SHARD]
    with pytest.raises(errors.PositionError):
        await stage.process(chunk(2))
    assert world.saved() == (None, None)
    await stage.close(SHARD, release=True)
    assert (await world.stage().open(SHARD)).after is None


async def test_an_outage_of_the_store_is_said_and_outlived() -> None:
    """While the store is away the stage is not ready and keeps trying; then the commit succeeds."""
    world = World()
    stage = await world.opened()
    await stage.process(chunk(1))
    world.writer.acknowledge()
    world.store.table.faults.plan("put_progress", *[Fault.LOST] * 30)
    world.now = 6.0
    stage.commit_due()
    await settle(lambda: not world.health.is_ready)
    assert "commit of s0" in str(world.health.ready())
    await settle(lambda: world.saved()[0] is not None)
    assert world.saved() == ("1", b"1")
    await settle(lambda: world.health.is_ready)
    assert world.health.is_ready


async def test_a_chunk_behind_a_gap_is_refused_and_the_shard_dropped() -> None:
    """What was lost between reader and stage is read again, not stepped over."""
    world = World()
    stage = await world.opened()
    await stage.process(chunk(1, 2))
    with pytest.raises(errors.LeaseLostError):
        await stage.process(dataclasses.replace(chunk(5), after="4"))
    with pytest.raises(errors.LeaseLostError):
        await stage.process(dataclasses.replace(chunk(3), after="2"))


async def test_a_shard_that_is_not_ours_is_refused() -> None:
    """Chunks of a shard that was never opened, or was closed, are refused."""
    stage = World().stage()
    with pytest.raises(errors.LeaseLostError):
        await stage.process(chunk(1))
