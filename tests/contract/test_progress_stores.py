"""What every progress store and snapshot store promises: in memory, and on the AWS protocol."""

import itertools
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from telemill import aws as aws_clients
from telemill.errors import ClaimHeldError, ConfigurationError, FencedError, PositionError
from telemill.kinesis.records import SHARD_END, Shard
from telemill.progress import rules, snapshots
from telemill.progress.claims import Claims
from telemill.progress.snapshots import S3SnapshotStore, SnapshotStore
from telemill.progress.store import (
    FACTS_APP,
    TABLE_DEFINITION,
    DynamoProgressStore,
    ProgressStore,
)
from telemill.progress.suspicion import Suspects
from telemill.stages.owner import StartPosition
from telemill.testing.progress import MemoryProgressStore, MemorySnapshotStore

FIRST = "49590338271490256608559692538361571095921575989136588898"
SECOND = "49590338271490256608559692540925702759324208523137515618"
IDS = itertools.count()
EVERY_STORE = ["memory", "aws"]


@pytest.fixture
async def clients() -> AsyncIterator[AsyncExitStack]:
    """Clients of the emulator, closed after the test."""
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture(params=EVERY_STORE)
async def store(request: pytest.FixtureRequest, clients: AsyncExitStack) -> ProgressStore:
    """An empty progress store of each kind."""
    if request.param == "memory":
        return MemoryProgressStore()
    request.getfixturevalue("aws")
    return await dynamo_store(clients)


@pytest.fixture(params=EVERY_STORE)
async def states(request: pytest.FixtureRequest, clients: AsyncExitStack) -> SnapshotStore:
    """An empty snapshot store of each kind."""
    if request.param == "memory":
        return MemorySnapshotStore()
    request.getfixturevalue("aws")
    return await s3_store(clients)


async def dynamo_store(clients: AsyncExitStack) -> ProgressStore:
    """A table of its own."""
    table = f"progress-{uuid.uuid4().hex}"
    client = await clients.enter_async_context(aws_clients.client("dynamodb"))
    await client.create_table(TableName=table, BillingMode="PAY_PER_REQUEST", **TABLE_DEFINITION)
    await client.get_waiter("table_exists").wait(TableName=table)
    return DynamoProgressStore(client, table)


async def s3_store(clients: AsyncExitStack) -> SnapshotStore:
    """A bucket of its own."""
    bucket = f"progress-{uuid.uuid4().hex}"
    client = await clients.enter_async_context(aws_clients.client("s3"))
    await client.create_bucket(Bucket=bucket)
    return S3SnapshotStore(client, bucket)


def write_id() -> str:
    """A name no other write of this run has."""
    return f"w{next(IDS)}"


async def claimed(store: ProgressStore, owner: str = "a") -> rules.Progress:
    """The shard's item, claimed by a worker."""
    seen = await store.read("sink", "s/1/x")
    return await store.take(seen, rules.take(seen, "sink", "s/1/x", owner, write_id()))


async def test_an_item_that_was_never_written_is_none(store: ProgressStore) -> None:
    """A new shard is told from one that was claimed."""
    assert await store.read("sink", "s/1/x") is None


async def test_every_claim_raises_the_epoch(store: ProgressStore) -> None:
    """Epochs count claims, and what is read is what the take returned."""
    assert (await claimed(store)).epoch == 1
    second = await claimed(store, "b")
    assert (second.epoch, second.owner, second.beat, second.released) == (2, "b", 0, False)
    assert await store.read("sink", "s/1/x") == second


@pytest.mark.parametrize("new", [True, False])
async def test_of_two_that_saw_the_same_only_one_takes(store: ProgressStore, new: bool) -> None:
    """A claim is decided in one write, for a new item too."""
    seen = None if new else await claimed(store)
    mine = rules.take(seen, "sink", "s/1/x", "a", write_id())
    theirs = rules.take(seen, "sink", "s/1/x", "b", write_id())
    await store.take(seen, mine)
    with pytest.raises(ClaimHeldError):
        await store.take(seen, theirs)


async def test_a_take_that_is_repeated_is_one_take(store: ProgressStore) -> None:
    """Whoever lost the answer of its claim gets it by asking again."""
    wanted = rules.take(None, "sink", "s/1/x", "a", write_id())
    assert await store.take(None, wanted) == await store.take(None, wanted)


@pytest.mark.parametrize(
    "content",
    [
        {"position": FIRST, "state": b"\x00\xff" * 2048},
        {"position": FIRST, "state": b""},
        {"crashes": 3, "suspects": Suspects(None, SECOND), "poison": (FIRST, SECOND)},
        {"suspects": Suspects(FIRST, SECOND, trying=SECOND, tries=2)},
        {"position": FIRST, "state_key": "state/live/x", "intent": rules.Cut(FIRST, SECOND)},
        {"intent": rules.Cut(None, SECOND)},
        {"position": SHARD_END, "state": b"s", "expires_at": 1_700_000_000},
        {"position": FIRST, "released": True},
    ],
    ids=["inline", "empty", "poison", "suspects", "object", "first-intent", "end", "release"],
)
async def test_what_is_saved_is_read(store: ProgressStore, content: dict[str, object]) -> None:
    """Position, state and intent come back together as they were written."""
    held = await claimed(store)
    wanted = replace(held, write_id=write_id(), **content)  # type: ignore[arg-type]
    await store.save(wanted, held.write_id)
    assert await store.read("sink", "s/1/x") == wanted


async def test_a_save_replaces_what_was_there(store: ProgressStore) -> None:
    """An inline state gives way to an object's key and an intent to none, in one write."""
    held = await claimed(store)
    before = replace(held, state=b"s", intent=rules.Cut(None, FIRST), write_id=write_id())
    await store.save(before, held.write_id)
    after = replace(held, position=FIRST, state_key="k", write_id=write_id())
    await store.save(after, before.write_id)
    assert await store.read("sink", "s/1/x") == after


async def test_a_take_over_counts_a_crash_and_keeps_what_was_noted(store: ProgressStore) -> None:
    """The next owner finds whom to suspect, and what nobody may touch."""
    held = await claimed(store)
    noted = replace(held, suspects=Suspects(None, FIRST), poison=(SECOND,), write_id=write_id())
    await store.save(noted, held.write_id)
    taken = await claimed(store, "b")
    assert (taken.crashes, taken.suspects, taken.poison) == (2, noted.suspects, noted.poison)


async def test_saves_and_beats_do_not_undo_each_other(store: ProgressStore) -> None:
    """A heartbeat beside a save touches nothing else, and the save keeps the heartbeat."""
    held = await claimed(store)
    await store.beat(replace(held, beat=4))
    await store.save(replace(held, position=FIRST, write_id=write_id()), held.write_id)
    await store.beat(replace(held, beat=5))
    found = await store.read("sink", "s/1/x")
    assert found is not None
    assert (found.position, found.beat) == (FIRST, 5)


@pytest.mark.parametrize("how", ["taken", "released"])
async def test_a_void_claim_writes_nothing(store: ProgressStore, how: str) -> None:
    """After a take-over or a release neither position nor heartbeat can be written."""
    held = await claimed(store)
    if how == "taken":
        await claimed(store, "b")
    else:
        await store.save(rules.release(held, write_id=write_id()), held.write_id)
    before = await store.read("sink", "s/1/x")
    with pytest.raises(FencedError):
        await store.save(rules.advance(held, FIRST, write_id=write_id()), held.write_id)
    with pytest.raises(FencedError):
        await store.beat(replace(held, beat=1))
    assert await store.read("sink", "s/1/x") == before


async def test_a_save_that_is_repeated_is_one_save(store: ProgressStore) -> None:
    """Whoever lost the answer of its save is not fenced by it."""
    held = await claimed(store)
    wanted = rules.advance(held, FIRST, write_id=write_id(), state=b"s")
    await store.save(wanted, held.write_id)
    await store.save(wanted, held.write_id)
    assert await store.read("sink", "s/1/x") == wanted


async def test_a_write_that_does_not_follow_the_last_one_is_refused(store: ProgressStore) -> None:
    """An owner that forgot about a write of its own cannot undo it."""
    held = await claimed(store)
    await store.save(rules.advance(held, FIRST, write_id=write_id()), held.write_id)
    with pytest.raises(FencedError):
        await store.save(rules.advance(held, SECOND, write_id=write_id()), held.write_id)
    found = await store.read(held.app, held.shard)
    assert found is not None
    assert found.position == FIRST


async def test_a_fact_is_fixed_once(store: ProgressStore) -> None:
    """The first value wins for ever, and facts are no items of an application."""
    assert await store.fix("slots/readings/1", "64") == "64"
    assert await store.fix("slots/readings/1", "128") == "64"
    assert await store.fix("slots/readings/2", "128") == "128"
    assert FACTS_APP != "sink"


async def test_states_come_back_until_deleted(states: SnapshotStore) -> None:
    """A state is kept under its name, may be put and deleted twice, and is gone then."""
    key = await states.put("sink", "s/1/x", 3, FIRST, b"\x00" * 100_000)
    assert await states.put("sink", "s/1/x", 3, FIRST, b"\x00" * 100_000) == key
    assert await states.get(key) == b"\x00" * 100_000
    await states.delete(key)
    await states.delete(key)
    with pytest.raises(PositionError):
        await states.get(key)


async def test_states_of_two_writers_never_share_a_name(states: SnapshotStore) -> None:
    """Epoch, position, end and content each give another object."""
    keys = {
        await states.put("sink", "s/1/x", 3, FIRST, b"a"),
        await states.put("sink", "s/1/x", 4, FIRST, b"a"),
        await states.put("sink", "s/1/x", 3, SECOND, b"a"),
        await states.put("sink", "s/1/x", 3, FIRST, b"b"),
        await states.put("other", "s/1/x", 3, FIRST, b"a"),
    }
    assert len(keys) == 5
    ended = await states.put("sink", "s/1/x", 3, SHARD_END, b"a")
    assert ended.startswith(snapshots.ENDED_PREFIX)
    assert all(key.startswith(snapshots.LIVE_PREFIX) for key in keys)


async def test_claims_work_on_every_store(store: ProgressStore, states: SnapshotStore) -> None:
    """Taken, saved with a large state, declared, released, ended and inherited by the child."""
    parent = Shard("readings", 1, "shardId-000000000000")
    child = Shard("readings", 1, "shardId-000000000001", (parent.shard_id,))
    large = b"x" * (rules.MAX_INLINE_BYTES + 1)
    first = await Claims(store, states, "sink", "a").open(parent)
    await first.claim.save(FIRST, large)
    await first.claim.declare(rules.Cut(FIRST, SECOND))
    await first.claim.beat()
    await first.claim.release()
    second = await Claims(store, states, "sink", "b").open(parent)
    assert second.states == [large]
    assert second.start == StartPosition(after=FIRST)
    assert second.claim.intent == rules.Cut(FIRST, SECOND)
    await second.claim.save(SHARD_END, large + b"end")
    assert (await Claims(store, states, "sink", "c").open(child)).states == [large + b"end"]


async def test_a_missing_table_is_named(aws: str, clients: AsyncExitStack) -> None:
    """A wrong table name says so at the first call, not as lost claims."""
    client = await clients.enter_async_context(aws_clients.client("dynamodb"))
    with pytest.raises(ConfigurationError, match="progress-nowhere"):
        await DynamoProgressStore(client, "progress-nowhere").read("sink", "s/1/x")


async def test_a_missing_bucket_is_named(aws: str, clients: AsyncExitStack) -> None:
    """A wrong bucket name is not mistaken for a lost state."""
    client = await clients.enter_async_context(aws_clients.client("s3"))
    with pytest.raises(ConfigurationError, match="progress-nowhere"):
        await S3SnapshotStore(client, "progress-nowhere").get("state/live/x")
