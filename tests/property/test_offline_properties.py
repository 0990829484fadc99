"""Any raw records, any rows missing, crashes anywhere: backfill and replay leave each row once."""

import asyncio
import contextlib
import json
import random
from collections import Counter
from typing import Any, NamedTuple

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from offline import testing
from offline.core import Outcome
from offline.places import KeptPlaces
from offline.raw_range import TimeRange
from offline.testing import Crash, World, crash_at, lineage_of
from telemill import contract
from telemill.kinesis.records import MAX_HASH_KEY
from telemill.progress.claims import Claims
from telemill.testing.progress import MemoryProgressStore, MemorySnapshotStore
from transform.testing import FMS_YAML, plant, reading

PLANT = plant()
LENIENT = contract.loads(
    FMS_YAML.replace("future_tolerance_seconds: 60", "future_tolerance_seconds: 86400")
)
TIMES = [f"2025-07-07T0{hour}:{minute}:00Z" for hour in (7, 8) for minute in ("05", "10", "20")]
FUTURE = "2025-07-07T12:00:00Z"
EVERYTHING_US = 365 * 86_400_000_000


class Put(NamedTuple):
    """One raw record: its body, and in which half of the hash-key range."""

    body: bytes
    upper: bool


class Plan(NamedTuple):
    """A world: records, after how many the shard is split, and which rows the table lacks."""

    puts: list[Put]
    split_after: int | None
    seed: int
    lost_share: float


@st.composite
def _items(draw: st.DrawFn, device: int) -> bytes:
    odd = draw(st.integers(0, 9))
    if odd == 0:
        return b'{"time": '
    time = FUTURE if odd == 1 else draw(st.sampled_from(TIMES))
    speed = draw(st.sampled_from([1.5, None, 99]))
    document = reading(device, time, heat=draw(st.sampled_from([85.5, 80, -1])), speed=speed)
    return json.dumps(document).encode()


@st.composite
def _puts(draw: st.DrawFn) -> Put:
    upper = draw(st.booleans())
    device = draw(st.integers(1, 3)) + 10 * upper
    bodies = draw(st.lists(_items(device), min_size=1, max_size=4))
    return Put(b"\n".join(bodies), upper)


PLANS = st.builds(
    Plan,
    st.lists(_puts(), min_size=1, max_size=10),
    st.none() | st.integers(0, 6),
    st.integers(0, 2**32),
    st.sampled_from([0.2, 0.5, 1.0]),
)


async def _world(plan: Plan) -> World:
    world = World(PLANT)
    await world.create()
    for index, put in enumerate(plan.puts):
        if index == plan.split_after:
            await _split(world)
        await world.put(put.body, MAX_HASH_KEY if put.upper else 0)
    return world


async def _split(world: World) -> None:
    listed = await world.kinesis.list_shards(StreamName=testing.STREAM)
    await world.kinesis.split_shard(
        StreamName=testing.STREAM,
        ShardToSplit=listed["Shards"][0]["ShardId"],
        NewStartingHashKey=str(MAX_HASH_KEY // 2),
    )


async def _with_losses(plan: Plan) -> tuple[World, list[dict[str, Any]]]:
    """A world whose table lacks some rows, and all rows it ought to have."""
    world = await _world(plan)
    rows, _ = await world.live()
    chance = random.Random(plan.seed)
    kept = [chance.random() >= plan.lost_share for _ in range(rows.num_rows)]
    world.store(rows.filter(pa.array(kept, pa.bool_())))
    return world, testing.by_lineage(rows.to_pylist())


def _range(world: World, first: int = 0, end: int | None = None, warm_up_us: int = 0) -> TimeRange:
    start = round(testing.START_SECONDS * 1_000_000)
    last = round(world.now * 1_000_000) + 1 if end is None else start + end * 1_000_000
    return TimeRange(start + first * 1_000_000, last, warm_up_us)


@given(PLANS)
@settings(max_examples=30, deadline=None)
def test_a_backfill_restores_exactly_what_is_missing(plan: Plan) -> None:
    """Whatever is missing, the table is then what the live services made; again adds nothing."""

    async def scenario() -> None:
        world, expected = await _with_losses(plan)
        missing = len(expected) - len(world.rows())
        assert (await world.backfill(_range(world), dry_run=True)).added == missing
        assert len(world.rows()) == len(expected) - missing
        tally = await world.backfill(_range(world))
        assert world.rows() == expected
        assert tally.added == missing
        assert tally.outcomes[Outcome.STORED] == len(expected) - missing
        assert (await world.backfill(_range(world))).added == 0

    asyncio.run(scenario())


@given(PLANS, st.integers(0, 10), st.integers(0, 10))
@settings(max_examples=30, deadline=None)
def test_a_range_adds_its_own_rows_alone(plan: Plan, first: int, length: int) -> None:
    """With a warm-up over everything before, a range restores its own rows and no other."""

    async def scenario() -> None:
        world, expected = await _with_losses(plan)
        before = {lineage_of(row) for row in world.rows()}
        span = _range(world, first, first + length + 1, EVERYTHING_US)
        await world.backfill(span)
        kept = [
            row
            for row in expected
            if lineage_of(row) in before
            or span.from_us <= round(row["ingest_time"].timestamp() * 1e6) < span.to_us
        ]
        assert world.rows() == kept

    asyncio.run(scenario())


@given(PLANS, st.lists(st.tuples(st.integers(0, 10), st.integers(0, 5)), max_size=3))
@settings(max_examples=30, deadline=None)
def test_ranges_without_warm_up_bring_every_reading_once(
    plan: Plan, ranges: list[tuple[int, int]]
) -> None:
    """Ranges in any order, without history: in the end each reading is there once, no row twice."""

    async def scenario() -> None:
        world, expected = await _with_losses(plan)
        before = world.rows()
        for first, length in ranges:
            await world.backfill(_range(world, first, first + length + 1))
        await world.backfill(_range(world))
        rows = world.rows()
        keys = Counter((row["device_id"], row["event_time"]) for row in rows)
        assert keys == Counter((row["device_id"], row["event_time"]) for row in expected)
        assert len({lineage_of(row) for row in rows}) == len(rows)
        assert all(row in rows for row in before)

    asyncio.run(scenario())


@given(PLANS, st.lists(st.integers(0, 40), min_size=1, max_size=3), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_a_crash_anywhere_loses_and_doubles_nothing(
    plan: Plan, crashes: list[int], cut_records: int
) -> None:
    """A run that dies at any step, and dies again, is gone on with: the table is whole."""

    async def scenario() -> None:
        world, expected = await _with_losses(plan)
        store, snapshots = MemoryProgressStore(), MemorySnapshotStore()
        span = _range(world)

        def places() -> KeptPlaces:
            claims = Claims(store, snapshots, "run", "one", initial_position=span.start_us)
            return KeptPlaces(claims, asyncio.sleep, lambda _shard: None)

        for index in crashes:
            with contextlib.suppress(Crash):
                await world.backfill(
                    span, places=places(), step=crash_at(index), cut_records=cut_records
                )
        await world.backfill(span, places=places(), cut_records=cut_records)
        assert world.rows() == expected

    asyncio.run(scenario())


@given(PLANS, st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_runs_at_once_double_nothing(plan: Plan, seed: int) -> None:
    """Two backfills and a replay in any interleaving leave each row once."""

    async def scenario() -> None:
        world, expected = await _with_losses(plan)
        _, quarantine = await world.live()
        chance = random.Random(seed)

        async def step(_name: str) -> None:
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)

        await asyncio.gather(
            world.backfill(_range(world), step=step, cut_records=2),
            world.backfill(_range(world), step=step, cut_records=3),
            world.replay(quarantine, step=step),
        )
        assert world.rows() == expected

    asyncio.run(scenario())


@given(PLANS, st.booleans(), st.integers(0, 12))
@settings(max_examples=40, deadline=None)
def test_a_replay_under_a_mended_contract_adds_each_item_once(
    plan: Plan, include_conflicts: bool, crash: int
) -> None:
    """Items that pass today come in with their own lineage, once, however often it is tried."""

    async def scenario() -> None:
        world = await _world(plan)
        rows, quarantine = await world.live()
        world.store(rows)
        before = world.rows()
        doubled = [*quarantine, *quarantine]

        async def again(**more: Any) -> Any:
            return await world.replay(
                doubled, contract=LENIENT, include_conflicts=include_conflicts, **more
            )

        with contextlib.suppress(Crash):
            await again(step=crash_at(crash))
        await again()
        after = world.rows()
        added = [row for row in after if row not in before]
        assert [row for row in after if row in before] == before
        items = {tuple(item.lineage)[1:]: item for item in quarantine}
        assert {lineage_of(row) for row in added} <= items.keys()
        assert len({lineage_of(row) for row in after}) == len(after)
        reasons = {items[lineage_of(row)].reason for row in added}
        assert reasons <= {"future", "conflict"} if include_conflicts else reasons <= {"future"}
        futures = {item.device_id for item in quarantine if item.reason == "future"}
        assert {str(row["device_id"]) for row in added} >= futures
        assert (await again()).tally.added == 0
        assert world.rows() == after

    asyncio.run(scenario())
