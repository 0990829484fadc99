"""The table stage: every row in the lake once, whatever dies and whoever takes over."""

import asyncio
from collections import Counter

import pytest

from sink import core, testing
from sink.stage import Limits
from sink.testing import World
from telemill import contract, errors
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


def _stream(form: core.Form) -> list[Record]:
    """Nine records: new rows, a producer's replay, one that is broken, and more rows."""
    lineages = [[(1, 0), (1, 1)], [(2, 0)], [(3, 0), (3, 1)], [(2, 0), (3, 0)], [(3, 1), (4, 0)]]
    records = [testing.record_of(form, index, each) for index, each in enumerate(lineages, 1)]
    records.append(batches.record(6, b"broken"))
    records += [testing.record_of(form, 5 + raw, [(raw, 0), (raw, 1)]) for raw in (5, 6, 7)]
    return sorted(records, key=lambda each: int(each.sequence_number))


EXPECTED = testing.stored_rows(
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
    await testing.run_once(world, SHARD, [testing.record_of(form, 3, [(2, 0)])])
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


async def test_a_save_of_unknown_outcome_does_not_begin_the_cut_again(
    world: World, form: core.Form
) -> None:
    """A save that took effect and was never answered is settled; its cut is not declared twice."""
    unanswered = [Fault.APPLIED, Fault.LOST, Fault.LOST]
    world.progress.faults.plan("put_progress", None, *unanswered)
    assert await testing.run_once(world, SHARD, _stream(form), SIZES, cut_after=CUTS)
    _assert_exactly_once(world)
    assert world.steps.count("after declare") == len(
        {name.split("/")[-1] for name in world.lake.objects}
    )
    assert not world.lake.refused


async def test_a_chunk_behind_a_gap_is_refused(world: World, form: core.Form) -> None:
    """What was lost between reader and sink is read again, not cut away."""
    records = _stream(form)
    stage = world.stage()
    await stage.open(SHARD)
    await stage.process(Chunk(SHARD, records[:2]))
    behind = Chunk(SHARD, records[3:], after=records[2].sequence_number)
    with pytest.raises(errors.LeaseLostError):
        await stage.process(behind)


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


@pytest.mark.parametrize("ends", [False, True])
async def test_a_declared_cut_whose_records_are_gone_is_passed(
    world: World, form: core.Form, ends: bool
) -> None:
    """When the stream trimmed the rest of a declared cut, it ends with what is left of it."""
    world.crash_at = 3
    await testing.run_once(world, SHARD, _stream(form), (4,), cut_after=frozenset({0}))
    world.crash_at = None
    left = [] if ends else _stream(form)[6:]
    assert await testing.run_once(world, SHARD, left, ends=ends)
    assert Counter(world.rows()) == Counter(() if ends else EXPECTED[6:])
    assert world.item(SHARD).position == (SHARD_END if ends else left[-1].sequence_number)
    assert world.item(SHARD).intent is None


async def test_replays_alone_make_no_object(world: World, form: core.Form) -> None:
    """A cut whose rows were all taken before only moves the position."""
    first, again = testing.record_of(form, 1, [(1, 0)]), testing.record_of(form, 2, [(1, 0)])
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
    await testing.run_once(world, left, [testing.record_of(form, 1, [(1, 0)], slot=1)], ends=True)
    await testing.run_once(world, right, [testing.record_of(form, 1, [(1, 0)], slot=60)], ends=True)
    merged = Shard("readings", 1, "merged", ("left", "right"))
    replays = [
        testing.record_of(form, 5, [(1, 0)], slot=1),
        testing.record_of(form, 6, [(1, 0)], slot=60),
    ]
    before = len(world.rows())
    await testing.run_once(world, merged, [*replays, testing.record_of(form, 7, [(2, 0)], slot=60)])
    assert world.rows()[before:] == testing.stored_rows((2, 0))
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


async def test_every_crash_heals_where_two_tables_are_filled() -> None:
    """Scores and the alerts on their stream: each row once in its own table, whatever dies."""
    form = core.form_of(contract.load("contracts/fms.yaml"), "scores")
    alerts = core.form_of(form.contract, "alerts")
    records = [
        testing.record_of(form, 1, [(1, 0), (2, 0)]),
        testing.record_of(alerts, 2, [(2, 0)]),
        testing.record_of(form, 3, [(2, 0), (3, 0)]),
        testing.record_of(alerts, 4, [(2, 0), (3, 0)]),
        testing.record_of(alerts, 5, [(3, 0)]),
        testing.record_of(form, 6, [(4, 0)]),
    ]
    whole = World(form)
    assert await testing.run_once(whole, SHARD, records, SIZES, cut_after=CUTS, ends=True)
    for crash_at in range(len(whole.steps) + 1):
        world = World(form)
        world.crash_at = crash_at
        await testing.run_once(world, SHARD, records, SIZES, cut_after=CUTS, ends=True)
        world.crash_at = None
        assert await testing.run_once(world, SHARD, records, (3, 3), ends=True)
        scores = testing.stored_rows((1, 0), (2, 0), (3, 0), (4, 0))
        assert Counter(world.rows("scores/")) == Counter(scores)
        assert Counter(world.rows("alerts/")) == Counter(testing.stored_rows((2, 0), (3, 0)))
