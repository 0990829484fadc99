"""Claims over the stores in memory: taking, keeping, saving, losing and giving up."""

import asyncio
import itertools
from dataclasses import dataclass, field

import pytest

from telemill.errors import ClaimHeldError, FencedError, PositionError, ServiceUnavailableError
from telemill.kinesis.records import SHARD_END, Shard
from telemill.progress import rules
from telemill.progress.claims import BEAT_SECONDS, Claims, Host, Opened
from telemill.stages.owner import StartPosition
from telemill.testing.progress import (
    Fault,
    MemoryProgressStore,
    MemorySnapshotStore,
)

FIRST = "49590338271490256608559692538361571095921575989136588898"
SECOND = "49590338271490256608559692540925702759324208523137515618"
THIRD = "49590338271490256608559692540925702759324208523137515999"
LARGE = b"x" * (rules.MAX_INLINE_BYTES + 1)
NOW_SECONDS = 1_700_000_000.0
PARENT = Shard("readings", 1, "shardId-000000000000")
OTHER_PARENT = Shard("readings", 1, "shardId-000000000001")
CHILD = Shard("readings", 1, "shardId-000000000002", (PARENT.shard_id, OTHER_PARENT.shard_id))


@dataclass
class World:
    """One table, one bucket, one clock; any number of workers."""

    store: MemoryProgressStore = field(default_factory=MemoryProgressStore)
    snapshots: MemorySnapshotStore = field(default_factory=MemorySnapshotStore)
    now: float = 1000.0
    ticks: "asyncio.Queue[None]" = field(default_factory=asyncio.Queue)
    ids: "itertools.count[int]" = field(default_factory=itertools.count)

    def worker(self, worker_id: str, initial_position: str | int = "TRIM_HORIZON") -> Claims:
        """A worker's claims, all of application "sink"."""
        return Claims(
            self.store,
            self.snapshots,
            "sink",
            worker_id,
            initial_position=initial_position,
            host=Host(lambda: self.now, lambda: NOW_SECONDS, self.sleep, self.new_id),
        )

    async def sleep(self, seconds: float) -> None:
        """A heartbeat's pause, over when the test says so."""
        assert seconds == BEAT_SECONDS
        await self.ticks.get()

    def new_id(self) -> str:
        """Names in order."""
        return f"w{next(self.ids)}"

    def item(self, shard: Shard = PARENT) -> rules.Progress:
        """The shard's item as it stands."""
        return self.store.table.items["sink", rules.shard_key(shard)]

    async def finish(self, shard: Shard, state: bytes) -> None:
        """Some worker read a shard to its end."""
        opened = await self.worker("past").open(shard)
        await opened.claim.save(SHARD_END, state)


@pytest.fixture
def world() -> World:
    """A world in which nothing happened yet."""
    return World()


async def test_a_new_shard_starts_at_the_trim_horizon_without_state(world: World) -> None:
    """The first owner reads everything there is."""
    opened = await world.worker("a").open(PARENT)
    assert opened.states == []
    assert opened.start == StartPosition()
    assert (opened.claim.epoch, opened.claim.position, opened.claim.intent) == (1, None, None)


@pytest.mark.parametrize("state", [b"", b"small", LARGE], ids=["empty", "inline", "object"])
async def test_a_restarted_worker_goes_on_from_position_and_state(
    world: World, state: bytes
) -> None:
    """What was saved together comes back together, wherever the state is kept."""
    await (await world.worker("a").open(PARENT)).claim.save(FIRST, state)
    opened = await world.worker("a").open(PARENT)
    assert opened.states == [state]
    assert opened.start == StartPosition(after=FIRST)
    assert opened.claim.epoch == 2


async def test_a_superseded_state_object_is_deleted_after_the_write(world: World) -> None:
    """One state object is left per shard, and it is the one the item names."""
    claim = (await world.worker("a").open(PARENT)).claim
    await claim.save(FIRST, LARGE + b"1")
    await claim.save(SECOND, LARGE + b"2")
    assert list(world.snapshots.objects) == [world.item().state_key]
    await claim.save(THIRD, b"small")
    assert world.snapshots.objects == {}


async def test_a_save_that_failed_deletes_nothing_the_item_names(world: World) -> None:
    """While it is unknown which position holds, both states are there; later one is."""
    claim = (await world.worker("a").open(PARENT)).claim
    await claim.save(FIRST, LARGE + b"1")
    world.store.table.faults.plan("put_progress", *[Fault.LOST] * 3)
    with pytest.raises(ServiceUnavailableError):
        await claim.save(SECOND, LARGE + b"2")
    assert world.item().state_key in world.snapshots.objects
    await claim.save(THIRD, LARGE + b"3")
    assert list(world.snapshots.objects) == [world.item().state_key]


async def test_a_delete_that_fails_does_not_fail_the_save(world: World) -> None:
    """A state object left behind is waste, not an error."""
    claim = (await world.worker("a").open(PARENT)).claim
    await claim.save(FIRST, LARGE)
    world.snapshots.faults.plan("delete", Fault.LOST)
    await claim.save(SECOND, b"small")
    assert claim.position == SECOND


async def test_nothing_is_written_when_the_state_cannot_be_put(world: World) -> None:
    """Position never moves to a state that is not there."""
    claim = (await world.worker("a").open(PARENT)).claim
    world.snapshots.faults.plan("put", Fault.LOST)
    with pytest.raises(ServiceUnavailableError):
        await claim.save(FIRST, LARGE)
    assert world.item().position is None
    assert claim.position is None


async def test_a_live_worker_is_not_robbed(world: World) -> None:
    """While the owner beats, another worker is told to wait, however long it asks."""
    owner = (await world.worker("a").open(PARENT)).claim
    other = world.worker("b")
    for _ in range(5):
        with pytest.raises(ClaimHeldError):
            await other.open(PARENT)
        world.now += BEAT_SECONDS
        await owner.beat()
    assert world.item().owner == "a"


async def test_a_silent_worker_is_replaced_after_ten_seconds(world: World) -> None:
    """A dead owner's shard is taken over by the observer's own clock."""
    await world.worker("a").open(PARENT)
    other = world.worker("b")
    with pytest.raises(ClaimHeldError):
        await other.open(PARENT)
    world.now += rules.STALE_SECONDS - 0.1
    with pytest.raises(ClaimHeldError):
        await other.open(PARENT)
    world.now += 0.1
    assert (await other.open(PARENT)).claim.epoch == 2


async def test_a_beat_between_look_and_take_keeps_the_claim(world: World) -> None:
    """An owner that was only slow beats just in time and is not fenced."""
    owner = (await world.worker("a").open(PARENT)).claim
    seen = world.item()
    await owner.beat()
    with pytest.raises(ClaimHeldError):
        await world.store.take(seen, rules.take(seen, "sink", seen.shard, "b", "wb"))
    await owner.save(FIRST, b"")


async def test_a_released_shard_is_taken_at_once(world: World) -> None:
    """A clean shutdown costs no waiting."""
    claim = (await world.worker("a").open(PARENT)).claim
    await claim.save(FIRST, b"s")
    await claim.release()
    await claim.release()
    assert not claim.live
    opened = await world.worker("b").open(PARENT)
    assert (opened.start.after, opened.states) == (FIRST, [b"s"])
    with pytest.raises(FencedError):
        await claim.save(SECOND, b"t")


async def robbed(world: World) -> tuple[Opened, Opened]:
    """A zombie and the owner that replaced it."""
    zombie = await world.worker("a").open(PARENT)
    other = world.worker("b")
    with pytest.raises(ClaimHeldError):
        await other.open(PARENT)
    world.now += rules.STALE_SECONDS
    return zombie, await other.open(PARENT)


@pytest.mark.parametrize("act", ["save", "save_large", "declare", "beat"])
async def test_a_zombie_changes_nothing_and_learns_it(world: World, act: str) -> None:
    """Whatever a replaced owner tries first is refused, voids its claim and leaves no trace."""
    zombie, _ = await robbed(world)
    before = world.item()
    acts = {
        "save": lambda: zombie.claim.save(FIRST, b""),
        "save_large": lambda: zombie.claim.save(FIRST, LARGE),
        "declare": lambda: zombie.claim.declare(rules.Cut(None, FIRST)),
        "beat": zombie.claim.beat,
    }
    with pytest.raises(FencedError):
        await acts[act]()
    assert zombie.claim.void
    assert not zombie.claim.live
    assert world.item() == before
    for again in acts.values():
        with pytest.raises(FencedError):
            await again()
    await zombie.claim.release()
    assert world.item() == before


async def test_a_zombies_state_never_replaces_the_owners(world: World) -> None:
    """State objects of two epochs have different names even at one position."""
    zombie, owner = await robbed(world)
    await owner.claim.save(FIRST, LARGE)
    with pytest.raises(FencedError):
        await zombie.claim.save(FIRST, LARGE + b"zombie")
    assert (await world.worker("b").open(PARENT)).states == [LARGE]


async def test_a_take_over_sees_what_was_saved_after_the_look(world: World) -> None:
    """The position that counts is the one in the item as taken, not the one observed."""
    owner = (await world.worker("a").open(PARENT)).claim
    seen = world.item()
    await owner.save(FIRST, b"s")
    taken = await world.store.take(seen, rules.take(seen, "sink", seen.shard, "b", "wb"))
    assert (taken.position, taken.state) == (FIRST, b"s")


async def test_an_intent_outlives_its_owner(world: World) -> None:
    """A new owner learns which cut to make again, with position and state before it."""
    claim = (await world.worker("a").open(PARENT)).claim
    await claim.save(FIRST, b"before")
    await claim.declare(rules.Cut(FIRST, SECOND))
    opened = await world.worker("a").open(PARENT)
    assert opened.claim.intent == rules.Cut(FIRST, SECOND)
    assert (opened.start.after, opened.states) == (FIRST, [b"before"])
    await opened.claim.save(SECOND, b"after")
    assert world.item().intent is None


async def test_the_next_intent_rides_on_a_save(world: World) -> None:
    """One write ends a cut and declares the next."""
    claim = (await world.worker("a").open(PARENT)).claim
    await claim.save(FIRST, b"", intent=rules.Cut(FIRST, SECOND))
    assert claim.intent == world.item().intent == rules.Cut(FIRST, SECOND)


@pytest.mark.parametrize("fault", [Fault.APPLIED, Fault.LOST], ids=lambda fault: fault.name)
@pytest.mark.parametrize("act", ["save", "declare", "release", "open"])
async def test_an_ambiguous_write_is_no_fencing(world: World, act: str, fault: Fault) -> None:
    """A write whose answer was lost is repeated and counts once, whether it was done or not."""
    worker = world.worker("a")
    faults = world.store.table.faults
    if act == "open":
        faults.plan("put_claim", fault)
    claim = (await worker.open(PARENT)).claim
    faults.plan("put_progress", fault)
    if act == "save":
        await claim.save(FIRST, LARGE)
    if act == "declare":
        await claim.declare(rules.Cut(None, FIRST))
    if act == "release":
        await claim.release()
    assert not claim.void
    assert world.item().epoch == 1
    assert world.item().released is (act == "release")


async def test_an_owner_goes_on_after_a_write_of_unknown_outcome(world: World) -> None:
    """A save that failed for good but had taken effect does not look like fencing later."""
    claim = (await world.worker("a").open(PARENT)).claim
    world.store.table.faults.plan("put_progress", Fault.APPLIED, Fault.LOST, Fault.LOST)
    with pytest.raises(ServiceUnavailableError):
        await claim.save(FIRST, b"1")
    await claim.save(FIRST, b"1")
    await claim.save(SECOND, b"2")
    assert (world.item().position, world.item().state) == (SECOND, b"2")


async def test_a_ghost_write_moves_nothing_back(world: World) -> None:
    """A save that timed out, was repeated and arrives late cannot undo a later save."""
    claim = (await world.worker("a").open(PARENT)).claim
    world.store.table.faults.plan("put_progress", Fault.LATE)
    await claim.save(FIRST, b"1")
    await claim.save(SECOND, b"2")
    world.store.table.faults.deliver_late()
    assert (world.item().position, world.item().state) == (SECOND, b"2")


@pytest.mark.parametrize("operation", ["put_progress", "put"])
async def test_a_cancelled_save_leaves_a_claim_that_works(world: World, operation: str) -> None:
    """Cancelled at either write, the owner can still save and the item is whole."""
    claim = (await world.worker("a").open(PARENT)).claim
    faults = world.store.table.faults if operation == "put_progress" else world.snapshots.faults
    faults.plan(operation, Fault.HANGING)
    saving = asyncio.create_task(claim.save(FIRST, LARGE))
    await settled()
    assert operation in faults.calls
    saving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await saving
    await claim.save(SECOND, LARGE + b"2")
    assert (await world.worker("a").open(PARENT)).states == [LARGE + b"2"]
    assert list(world.snapshots.objects) == [world.item().state_key] or operation == "put"


@pytest.mark.parametrize("operation", ["get", "put_claim"])
async def test_a_cancelled_open_can_be_repeated(world: World, operation: str) -> None:
    """A worker cancelled while it claims a shard is not locked out of it."""
    worker = world.worker("a")
    world.store.table.faults.plan(operation, Fault.HANGING)
    opening = asyncio.create_task(worker.open(PARENT))
    await settled()
    assert operation in world.store.table.faults.calls
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert (await worker.open(PARENT)).claim.live


async def test_a_child_starts_with_its_parents_final_states(world: World) -> None:
    """Until its first position is saved, every open finds both parents' states again."""
    await world.finish(PARENT, b"p")
    await world.finish(OTHER_PARENT, LARGE)
    for _ in range(2):
        opened = await world.worker("a").open(CHILD)
        assert opened.states == [b"p", LARGE]
        assert opened.start == StartPosition()
    await opened.claim.save(FIRST, b"own")
    assert (await world.worker("a").open(CHILD)).states == [b"own"]
    assert (await world.worker("past").open(OTHER_PARENT)).start.finished


async def test_a_parent_never_read_leaves_no_state(world: World) -> None:
    """A parent that was trimmed before the application came does not hold its child up."""
    await world.finish(PARENT, b"p")
    assert (await world.worker("a").open(CHILD)).states == [b"p"]


async def test_a_child_before_its_parents_end_is_refused(world: World) -> None:
    """A coordinator that opens a child too early is stopped before the child is claimed."""
    await world.worker("a").open(PARENT)
    with pytest.raises(PositionError):
        await world.worker("a").open(CHILD)
    assert ("sink", rules.shard_key(CHILD)) not in world.store.table.items


async def test_an_ended_shard_is_finished_for_everybody(world: World) -> None:
    """Nobody claims, beats or changes it any more, and its item expires after the retention."""
    await world.finish(PARENT, b"p")
    worker = world.worker("a")
    opened = await worker.open(PARENT)
    assert opened.start.finished
    assert await worker.finished(PARENT)
    assert not await worker.finished(OTHER_PARENT)
    with pytest.raises(PositionError):
        await opened.claim.save(SHARD_END, b"other")
    await opened.claim.release()
    assert (world.item().epoch, world.item().state) == (1, b"p")
    assert world.item().expires_at == NOW_SECONDS + 2 * 86_400


async def test_latest_is_stored_once_as_a_time(world: World) -> None:
    """A second worker, another shard and a changed setting all start where the first one did."""
    start = StartPosition(timestamp_us=int(NOW_SECONDS * 1_000_000))
    assert (await world.worker("a", "LATEST").open(PARENT)).start == start
    assert (await world.worker("a", "TRIM_HORIZON").open(PARENT)).start == start
    assert (await world.worker("b", 5).open(OTHER_PARENT)).start == start


async def test_a_child_older_than_the_start_is_not_read_from_before_it(world: World) -> None:
    """With a start time, children begin there too, with their parents' states."""
    opened = await world.worker("a", 5).open(PARENT)
    await opened.claim.save(SHARD_END, b"p")
    child = await world.worker("a", 5).open(CHILD)
    assert child.start == StartPosition(timestamp_us=5)
    assert child.states == [b"p"]


async def test_all_live_claims_beat_and_a_fenced_one_stops(world: World) -> None:
    """Each pause every live claim beats once; a void one is noticed and left alone."""
    worker = world.worker("a")
    kept = (await worker.open(PARENT)).claim
    lost = (await worker.open(OTHER_PARENT)).claim
    seen = world.item(OTHER_PARENT)
    await world.store.take(seen, rules.take(seen, "sink", seen.shard, "b", "wb"))
    beating = asyncio.create_task(worker.run())
    for _ in range(2):
        world.ticks.put_nowait(None)
        await settled()
    assert kept.live
    assert lost.void
    assert world.item().beat == 2
    assert world.store.table.faults.calls.count("put_beat") == 3
    beating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await beating


async def test_a_beat_that_hangs_holds_up_no_other(world: World) -> None:
    """One slow answer does not make the other shards look dead, and one lost beat is made up."""
    worker = world.worker("a")
    await worker.open(PARENT)
    await worker.open(OTHER_PARENT)
    world.store.table.faults.plan("put_beat", Fault.HANGING, *[Fault.LOST] * 3)
    beating = asyncio.create_task(worker.run())
    for _ in range(3):
        world.ticks.put_nowait(None)
        await settled()
    assert world.item(PARENT).beat == 1
    assert world.item(OTHER_PARENT).beat == 3
    beating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await beating


async def test_a_beat_that_meets_our_own_release_is_no_fencing(world: World) -> None:
    """Shutting down beside a heartbeat raises nothing."""
    claim = (await world.worker("a").open(PARENT)).claim
    world.store.table.faults.plan("put_beat", Fault.LOST)
    beat = asyncio.create_task(claim.beat())
    await claim.release()
    await beat
    assert world.item().released
    assert not claim.void


async def settled() -> None:
    """Let all tasks run until they wait."""
    for _ in range(30):
        await asyncio.sleep(0)
