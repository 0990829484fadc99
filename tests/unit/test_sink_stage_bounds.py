"""The table stage: what it holds at most, and what it does when others fail."""

import asyncio
from collections import Counter

import pytest

from sink import core, testing
from sink.stage import Limits, TableStage
from sink.testing import NOON, Crash, World
from telemill import aws, contract, errors
from telemill.kinesis.records import Chunk, Record, Shard
from telemill.testing import batches
from telemill.testing.batches import SHARD
from telemill.testing.progress import Fault

SIZES = (2, 1, 2, 1, 2)
CUTS = frozenset({1, 2})


@pytest.fixture(scope="module")
def form() -> core.Form:
    """The readings table of the default contract."""
    return core.form_of(contract.load("contracts/fms.yaml"), "readings")


@pytest.fixture
def world(form: core.Form) -> World:
    """Stores, lake and clock."""
    return World(form)


def _stream(form: core.Form) -> list[Record]:
    """Nine records of two rows each."""
    return [testing.record_of(form, index, [(index, 0), (index, 1)]) for index in range(1, 10)]


def _assert_exactly_once(world: World) -> None:
    lineage = [(index, sub) for index in range(1, 10) for sub in (0, 1)]
    assert Counter(world.rows()) == Counter(testing.stored_rows(*lineage))


async def test_size_ends_the_largest_cut(form: core.Form) -> None:
    """When open cuts fill half of the room, the largest is written before its age."""
    world = World(form, Limits(max_cut_bytes=64 * 1024))
    other = Shard("readings", SHARD.incarnation, "shardId-000000000001")
    stage = world.stage()
    await stage.open(SHARD)
    await stage.open(other)
    await stage.process(Chunk(other, [testing.record_of(form, 1, [(1, 0)], slot=1)]))
    records = [testing.record_of(form, index, [(index, 0)]) for index in range(1, 20)]
    for record in records:
        await stage.process(Chunk(SHARD, [record]))
        await stage.settle()
    assert world.lake.objects
    assert all(SHARD.shard_id in key for key in world.lake.objects)
    await stage.close(SHARD, release=True)
    await stage.close(other, release=True)
    assert Counter(world.rows()) == Counter(
        testing.stored_rows(*[(index, 0) for index in range(1, 20)], (1, 0))
    )


async def test_process_waits_while_too_much_is_waiting(form: core.Form) -> None:
    """With the lake out of reach the stage takes no more rows than fit, and goes on after it."""
    world = World(form, Limits(max_cut_bytes=64 * 1024))
    reachable = asyncio.Event()

    async def wait(_key: str) -> None:
        await reachable.wait()

    world.lake.before = wait
    stage = world.stage()
    await stage.open(SHARD)
    records = [testing.record_of(form, index, [(index, 0)]) for index in range(1, 200)]
    reading = asyncio.create_task(_process_all(stage, records))
    for _ in range(500):
        await asyncio.sleep(0)
    assert not reading.done()
    stage.tick()
    assert world.metrics.buffered_bytes._value.get() < 2 * 64 * 1024
    reachable.set()
    await reading
    await stage.close(SHARD, release=True)
    assert len(set(world.rows())) == len(world.rows()) == 199


async def _process_all(stage: TableStage, records: list[Record]) -> None:
    for record in records:
        await stage.process(Chunk(SHARD, [record]))


@pytest.mark.parametrize(
    "error", [errors.ServiceUnavailableError("s3 503"), aws.ResourceError("bucket lake is gone")]
)
async def test_what_may_heal_is_tried_again_and_shown(
    world: World, form: core.Form, error: Exception
) -> None:
    """While the lake fails, /readyz says why; when it heals the cut is finished, once."""
    failures = [error] * 5
    reasons = []

    async def fail(_key: str) -> None:
        if failures:
            raise failures.pop()
        reasons.append(world.health.ready())

    world.lake.before = fail
    stage = world.stage()
    await stage.open(SHARD)
    await stage.process(Chunk(SHARD, _stream(form)))
    world.now += 15.0
    stage.tick()
    await stage.settle()
    assert str(error) in str(reasons[0])
    assert world.health.is_ready
    _assert_exactly_once(world)


async def test_the_store_may_lose_answers(world: World, form: core.Form) -> None:
    """A write of position or intent whose answer is lost, or comes late, changes nothing."""
    lost = [Fault.APPLIED, Fault.LOST, Fault.LATE, None, Fault.LOST, Fault.APPLIED, Fault.LATE]
    world.progress.faults.plan("put_progress", *lost)
    assert await testing.run_once(world, SHARD, _stream(form), SIZES, cut_after=CUTS)
    world.progress.faults.deliver_late()
    _assert_exactly_once(world)
    assert world.item(SHARD).position == batches.sequence_number(9)


async def test_a_drain_that_fails_says_so_and_leaves_the_cut(world: World, form: core.Form) -> None:
    """Closing does not wait for a lake that is away: the error is raised, the intent stands."""
    world.lake.before = _unavailable
    stage = world.stage()
    await stage.open(SHARD)
    await stage.process(Chunk(SHARD, _stream(form)))
    with pytest.raises(errors.ServiceUnavailableError):
        await stage.close(SHARD, release=True)
    assert world.item(SHARD).intent is not None
    world.lake.before = world.lake.after
    assert await testing.run_once(world, SHARD, _stream(form))
    _assert_exactly_once(world)


async def _unavailable(_key: str) -> None:
    raise errors.ServiceUnavailableError("s3 is away")


async def test_a_cancelled_close_leaves_the_cut_to_the_next_owner(
    world: World, form: core.Form
) -> None:
    """Cut off in a PUT, the stage commits nothing; who comes next repeats the cut."""
    entered = asyncio.Event()

    async def hang(_key: str) -> None:
        entered.set()
        await asyncio.Event().wait()

    world.lake.before = hang
    stage = world.stage()
    await stage.open(SHARD)
    await stage.process(Chunk(SHARD, _stream(form)))
    closing = asyncio.create_task(stage.close(SHARD, release=True))
    await entered.wait()
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert world.item(SHARD).position is None
    world.lake.before = world.lake.after
    assert await testing.run_once(world, SHARD, _stream(form))
    _assert_exactly_once(world)


async def test_a_bug_ends_the_process(world: World, form: core.Form) -> None:
    """An unexpected exception in a commit is raised by the timer and by the next chunk."""
    world.crash_at = 0
    stage = world.stage()
    await stage.open(SHARD)
    await stage.process(Chunk(SHARD, _stream(form)))
    world.now += 15.0
    stage.tick()
    await stage.settle()
    with pytest.raises(Crash):
        stage.tick()
    with pytest.raises(Crash):
        await stage.process(Chunk(SHARD, _stream(form)))


async def test_a_shard_that_is_not_ours_is_refused(world: World, form: core.Form) -> None:
    """A chunk of a shard that was never opened, or closed since, is not gathered."""
    with pytest.raises(errors.LeaseLostError):
        await world.stage().process(Chunk(SHARD, _stream(form)))


async def test_catching_up_makes_no_tiny_cuts(world: World, form: core.Form) -> None:
    """Records that are hours old age at most a quarter of the interval on their way here."""
    stage = world.stage()
    await stage.open(SHARD)
    world.now = NOON / 1e6 + 86_400
    await stage.process(Chunk(SHARD, _stream(form)[:2]))
    world.now += 11.0
    stage.tick()
    assert "before declare" not in world.steps
    world.now += 0.5
    stage.tick()
    await stage.settle()
    assert "after save" in world.steps


async def test_lag_is_measured_at_the_commit(world: World, form: core.Form) -> None:
    """The histogram of lag counts each batch at the moment its rows became durable."""
    world.now = NOON / 1e6 + 20.0
    await testing.run_once(
        world, SHARD, [testing.record_of(form, 1, [(2, 0)]), testing.record_of(form, 2, [(4, 0)])]
    )
    assert world.metrics.lag_seconds._sum.get() == pytest.approx(40.0, abs=0.1)
    assert world.metrics.rows_written._value.get() == 2
