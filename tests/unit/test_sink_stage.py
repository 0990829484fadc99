"""The table stage: every row in the lake once, whatever dies and whoever takes over."""

import asyncio
from collections import Counter

import pytest

from sink import core, testing
from sink.stage import Limits, TableStage
from sink.testing import Crash, StoredRow, World
from telemill import aws, contract, errors
from telemill.codec import wire
from telemill.kinesis.records import MAX_HASH_KEY, SHARD_END, Chunk, Record, Shard
from telemill.progress import rules
from telemill.testing import batches
from telemill.testing.batches import SHARD
from telemill.testing.progress import Fault

HOUR_US = 3_600_000_000
NOON = 1_751_889_600_000_000
RAW_SHARD_ID = "shardId-000000000007"


@pytest.fixture(scope="module")
def form() -> core.Form:
    """The readings table of the default contract."""
    return core.form_of(contract.load("contracts/fms.yaml"), "readings")


@pytest.fixture
def world(form: core.Form) -> World:
    """Stores, lake and clock."""
    return World(form)


def _record(form: core.Form, index: int, lineage: list[tuple[int, int]], slot: int = 0) -> Record:
    # Raw records alternate between two hours, so that a cut has two partitions.
    times = [NOON + (raw % 2) * HOUR_US + sub for raw, sub in lineage]
    rows = batches.batch(form.stream_schema, lineage, times)
    data = wire.encode(batches.header(form.contract, slot=slot), rows)
    return batches.record(index, data)


def _stream(form: core.Form) -> list[Record]:
    """Nine records: new rows, a producer's replay, one that is broken, and more rows."""
    lineages = [[(1, 0), (1, 1)], [(2, 0)], [(3, 0), (3, 1)], [(2, 0), (3, 0)], [(3, 1), (4, 0)]]
    records = [_record(form, index, each) for index, each in enumerate(lineages, 1)]
    records.append(batches.record(6, b"broken"))
    records += [_record(form, 5 + raw, [(raw, 0), (raw, 1)]) for raw in (5, 6, 7)]
    return sorted(records, key=lambda each: int(each.sequence_number))


def _rows(*lineage: tuple[int, int]) -> list[StoredRow]:
    number = batches.sequence_number
    return [StoredRow(RAW_SHARD_ID, number(raw), sub) for raw, sub in lineage]


EXPECTED = _rows(
    (1, 0), (1, 1), (2, 0), (3, 0), (3, 1), (4, 0), (5, 0), (5, 1), (6, 0), (6, 1), (7, 0), (7, 1)
)
SIZES = (2, 1, 2, 1, 2)
CUTS = frozenset({1, 2})


def _assert_exactly_once(world: World) -> None:
    assert Counter(world.rows()) == Counter(EXPECTED)
    for body in world.lake.objects.values():
        rows = testing.rows_of(body)
        assert rows == sorted(rows)


async def test_rows_reach_the_lake_once(world: World, form: core.Form) -> None:
    """Without a crash: every row once, partitions known, the position at the end."""
    assert await testing.run_once(world, SHARD, _stream(form), SIZES, cut_after=CUTS)
    _assert_exactly_once(world)
    assert {each.path for each in world.catalog.partitions} == {  # type: ignore[attr-defined]
        "dt=2025-07-07/hour=12",
        "dt=2025-07-07/hour=13",
    }
    assert world.item(SHARD).position == batches.sequence_number(12)
    assert (world.item(SHARD).intent, world.item(SHARD).released) == (None, True)
    assert [each.data for each in world.outlet.durable] == [b"broken"]
    assert not world.lake.refused


async def test_names_say_application_stream_shard_and_cut(world: World, form: core.Form) -> None:
    """An object is named by what made it, so that whoever repeats the cut finds the name taken."""
    await testing.run_once(world, SHARD, [_record(form, 3, [(2, 0)])])
    cut_id = f"sink-readings-1751876489000-{SHARD.shard_id}-start-{batches.sequence_number(3)}"
    assert list(world.lake.objects) == [f"readings/dt=2025-07-07/hour=12/{cut_id}.parquet"]


async def _steps_of_a_run(form: core.Form) -> list[str]:
    world = World(form)
    await testing.run_once(world, SHARD, _stream(form), SIZES, cut_after=CUTS, ends=True)
    return world.steps


async def test_the_order_of_steps(form: core.Form) -> None:
    """Intent, partitions, objects, quarantine, position: each begins when the last is done."""
    steps = [step.split("/")[0] for step in await _steps_of_a_run(form)]
    effects = [step.removeprefix("after ") for step in steps if step.startswith("after")]
    cut = ["declare", "partitions", "readings", "readings", "save"]
    assert effects[:5] == cut
    last = effects[-6:]
    assert last == ["declare", "partitions", "readings", "readings", "flush", "save"]


async def test_every_crash_heals(form: core.Form) -> None:
    """The process dies before or after any step, then restarts: no row lost, none twice."""
    steps = await _steps_of_a_run(form)
    assert len(steps) >= 30
    for crash_at in range(len(steps)):
        world = World(form)
        world.crash_at = crash_at
        arguments = (world, SHARD, _stream(form), SIZES)
        assert not await testing.run_once(*arguments, cut_after=CUTS, ends=True)
        world.crash_at = None
        # Another rhythm than before: only the declared cut may be repeated, nothing else.
        assert await testing.run_once(world, SHARD, _stream(form), (3, 3), ends=True)
        _assert_exactly_once(world)
        assert world.item(SHARD).position == SHARD_END


async def test_crashes_while_healing_heal(form: core.Form) -> None:
    """A second crash at any of the next steps is no different from the first."""
    for first in (3, 6, 9, 14):
        for second in range(12):
            world = World(form)
            for crash_at in (first, first + second + 1):
                world.crash_at = crash_at
                await testing.run_once(world, SHARD, _stream(form), SIZES, cut_after=CUTS)
            world.crash_at = None
            assert await testing.run_once(world, SHARD, _stream(form))
            _assert_exactly_once(world)


async def test_a_zombie_doubles_nothing(world: World, form: core.Form) -> None:
    """A worker paused in a PUT, replaced and woken up finds every name taken and its claim void."""
    records = _stream(form)
    paused, woken = asyncio.Event(), asyncio.Event()

    async def pause_first(_key: str) -> None:
        if not paused.is_set():
            paused.set()
            await woken.wait()

    world.lake.before = pause_first
    zombie, heir = world.stage("zombie"), world.stage("heir")
    await zombie.open(SHARD)
    await zombie.process(Chunk(SHARD, records[:4]))
    world.now += 15.0
    zombie.tick()
    await paused.wait()
    with pytest.raises(errors.ClaimHeldError):
        await heir.open(SHARD)
    world.now += rules.STALE_SECONDS
    start = await heir.open(SHARD)
    await heir.process(Chunk(SHARD, testing.after(start.after, records)))
    await heir.close(SHARD, release=True)
    _assert_exactly_once(world)
    woken.set()
    await zombie.settle()
    with pytest.raises(errors.FencedError):
        await zombie.process(Chunk(SHARD, records[4:]))
    _assert_exactly_once(world)
    assert world.lake.refused


async def test_a_repeated_cut_ends_exactly_where_it_was_declared(
    world: World, form: core.Form
) -> None:
    """After a crash neither age, size nor another rhythm of reading changes the declared cut."""
    records = _stream(form)
    world.crash_at = 3  # declared, nothing written
    await testing.run_once(world, SHARD, records, (4,), cut_after=frozenset({0}))
    declared = world.item(SHARD).intent
    assert declared is not None
    world.crash_at = None
    world.limits = Limits(max_cut_bytes=1)
    stage = world.stage()
    await stage.open(SHARD)
    for record in records[:3]:
        await stage.process(Chunk(SHARD, [record]))
        world.now += 100.0
        stage.tick()
    assert not world.lake.objects
    await stage.process(Chunk(SHARD, records[3:5]))
    await stage.close(SHARD, release=True)
    cuts = {key.rpartition("-start-")[2].removesuffix(".parquet") for key in world.lake.objects}
    assert declared.up_to in cuts
    assert world.item(SHARD).position == records[4].sequence_number


async def test_closing_in_a_repeated_cut_leaves_it_to_the_next_owner(
    world: World, form: core.Form
) -> None:
    """Shutdown before the declared end saves nothing, and the intent stands."""
    world.crash_at = 3
    await testing.run_once(world, SHARD, _stream(form), (4,), cut_after=frozenset({0}))
    world.crash_at = None
    stage = world.stage()
    await stage.open(SHARD)
    await stage.process(Chunk(SHARD, _stream(form)[:2]))
    await stage.close(SHARD, release=True)
    assert world.item(SHARD).intent is not None
    assert (world.item(SHARD).position, world.item(SHARD).released) == (None, True)
    await testing.run_once(world, SHARD, _stream(form))
    _assert_exactly_once(world)


async def test_replays_alone_make_no_object(world: World, form: core.Form) -> None:
    """A cut whose rows were all taken before only moves the position."""
    first, again = _record(form, 1, [(1, 0)]), _record(form, 2, [(1, 0)])
    await testing.run_once(world, SHARD, [first])
    await testing.run_once(world, SHARD, [first, again])
    assert len(world.lake.objects) == 1
    assert world.item(SHARD).position == again.sequence_number
    assert world.metrics.replayed._value.get() == 1


async def test_a_child_shard_knows_what_its_parents_took(world: World, form: core.Form) -> None:
    """After a merge, replays of both parents' slots are recognised; foreign slots are dropped."""
    half = MAX_HASH_KEY // 2
    left = Shard("readings", 1, "left", (), 0, half)
    right = Shard("readings", 1, "right", (), half + 1, MAX_HASH_KEY)
    await testing.run_once(world, left, [_record(form, 1, [(1, 0)], slot=1)], ends=True)
    await testing.run_once(world, right, [_record(form, 1, [(1, 0)], slot=60)], ends=True)
    merged = Shard("readings", 1, "merged", ("left", "right"))
    replays = [_record(form, 5, [(1, 0)], slot=1), _record(form, 6, [(1, 0)], slot=60)]
    before = len(world.rows())
    await testing.run_once(world, merged, [*replays, _record(form, 7, [(2, 0)], slot=60)])
    assert world.rows()[before:] == _rows((2, 0))
    split = Shard("readings", 1, "split", ("right",), half + 1, MAX_HASH_KEY)
    await testing.run_once(world, split, replays[1:])
    assert len(world.rows()) == before + 1


async def test_the_shards_end_is_saved_once_everything_is_durable(
    world: World, form: core.Form
) -> None:
    """`finished` answers only after the last cut; then the shard needs no close."""
    stage = world.stage()
    await stage.open(SHARD)
    await stage.process(Chunk(SHARD, _stream(form), ends_shard=True))
    assert not await stage.finished(SHARD)
    await stage.settle()
    assert await stage.finished(SHARD)
    assert (await world.stage().open(SHARD)).finished
    _assert_exactly_once(world)


async def test_an_empty_shard_ends(world: World) -> None:
    """A shard without a record is finished as well."""
    stage = world.stage()
    await stage.open(SHARD)
    await stage.process(Chunk(SHARD, [], ends_shard=True))
    await stage.settle()
    assert await stage.finished(SHARD)
    assert not world.lake.objects


async def test_size_ends_the_largest_cut(form: core.Form) -> None:
    """When open cuts fill half of the room, the largest is written before its age."""
    world = World(form, Limits(max_cut_bytes=64 * 1024))
    other = Shard("readings", SHARD.incarnation, "shardId-000000000001")
    stage = world.stage()
    await stage.open(SHARD)
    await stage.open(other)
    await stage.process(Chunk(other, [_record(form, 1, [(1, 0)], slot=1)]))
    records = [_record(form, index, [(index, 0)]) for index in range(1, 20)]
    for record in records:
        await stage.process(Chunk(SHARD, [record]))
        await stage.settle()
    assert world.lake.objects
    assert all(SHARD.shard_id in key for key in world.lake.objects)
    await stage.close(SHARD, release=True)
    await stage.close(other, release=True)
    assert Counter(world.rows()) == Counter(_rows(*[(index, 0) for index in range(1, 20)], (1, 0)))


async def test_process_waits_while_too_much_is_waiting(form: core.Form) -> None:
    """With the lake out of reach the stage takes no more rows than fit, and goes on after it."""
    world = World(form, Limits(max_cut_bytes=64 * 1024))
    reachable = asyncio.Event()

    async def wait(_key: str) -> None:
        await reachable.wait()

    world.lake.before = wait
    stage = world.stage()
    await stage.open(SHARD)
    records = [_record(form, index, [(index, 0)]) for index in range(1, 200)]
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
    assert world.item(SHARD).position == batches.sequence_number(12)


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
    await testing.run_once(world, SHARD, [_record(form, 1, [(2, 0)]), _record(form, 2, [(4, 0)])])
    assert world.metrics.lag_seconds._sum.get() == pytest.approx(40.0, abs=0.1)
    assert world.metrics.rows_written._value.get() == 2
