"""Notes about suspects in the progress item: written before, once, and by the owner alone."""

from dataclasses import replace

import pytest

from telemill.errors import FencedError, ServiceUnavailableError
from telemill.kinesis.records import Shard
from telemill.progress import rules
from telemill.progress.claims import Claims
from telemill.progress.suspicion import Suspects
from telemill.testing.progress import Fault, MemoryProgressStore, MemorySnapshotStore

SHARD = Shard("readings", 1, "shardId-000000000000")
CHILD = Shard("readings", 1, "shardId-000000000001", (SHARD.shard_id,))
TRIED_TWICE = Suspects("10", "30", trying="20", tries=2)


class World:
    """One table and any number of workers, all of application "sink"."""

    def __init__(self) -> None:
        self.store = MemoryProgressStore()

    def worker(self, worker_id: str = "a") -> Claims:
        """A process of that worker."""
        return Claims(self.store, MemorySnapshotStore(), "sink", worker_id)

    @property
    def item(self) -> rules.Progress:
        """As it stands in the table."""
        return self.store.table.items["sink", rules.shard_key(SHARD)]


@pytest.fixture
def world() -> World:
    """Nothing happened yet."""
    return World()


async def test_a_note_is_in_the_table_before_it_counts(world: World) -> None:
    """The next owner finds what this one noted; only an owner that knew of a crash notes."""
    claim = (await world.worker().open(SHARD)).claim
    await claim.suspect(Suspects(None, "20"))
    assert world.item.suspects == Suspects(None, "20")
    found = (await world.worker().open(SHARD)).claim
    assert (found.crashes, found.suspects) == (2, Suspects(None, "20"))


async def test_deaths_are_not_counted_against_records_noted_after_them(world: World) -> None:
    """However often a process is killed, records that nobody died of begin with one death."""
    for number in range(10, 100, 10):
        claim = (await world.worker().open(SHARD)).claim
        await claim.suspect(Suspects(str(number), str(number + 10)))
        assert claim.crashes <= 1
    assert (await world.worker().open(SHARD)).claim.crashes == 2


@pytest.mark.parametrize("fault", [Fault.LOST, Fault.APPLIED, Fault.LATE])
async def test_a_note_of_unknown_outcome_may_be_repeated(world: World, fault: Fault) -> None:
    """Saying the same again after a time-out is no second try."""
    claim = (await world.worker().open(SHARD)).claim
    once = Suspects(None, "30", trying="20", tries=1)
    world.store.table.faults.plan("put_progress", *[fault] * 3)
    with pytest.raises(ServiceUnavailableError):
        await claim.suspect(once)
    await claim.suspect(once)
    world.store.table.faults.deliver_late()
    assert (world.item.suspects, claim.suspects) == (once, once)
    await claim.save("20", b"s")
    assert world.item.position == "20"


async def test_a_zombie_notes_nothing(world: World) -> None:
    """Suspicion is the present owner's."""
    zombie = (await world.worker().open(SHARD)).claim
    await world.worker().open(SHARD)
    with pytest.raises(FencedError):
        await zombie.suspect(Suspects(None, "20"))
    assert world.item.suspects is None


async def test_poison_is_named_on_taking_over_and_stays_named(world: World) -> None:
    """It is in the table before the owner reads anything, and for every later owner."""
    claim = (await world.worker().open(SHARD)).claim
    await claim.suspect(TRIED_TWICE)
    opened = await world.worker().open(SHARD)
    assert (opened.named, opened.claim.poison) == ("20", ("20",))
    assert (world.item.poison, world.item.suspects, world.item.crashes) == (("20",), None, 0)
    again = await world.worker().open(SHARD)
    assert (again.named, again.claim.poison) == (None, ("20",))


async def test_a_released_claim_names_nobody(world: World) -> None:
    """An owner that gave up in the middle of a trial did not die of it."""
    claim = (await world.worker().open(SHARD)).claim
    await claim.suspect(TRIED_TWICE)
    await claim.release()
    opened = await world.worker("b").open(SHARD)
    assert (opened.named, opened.claim.crashes) == (None, 0)
    assert opened.claim.suspects == Suspects("10", "30")


async def test_a_position_that_moved_while_it_was_taken_counts_as_one_crash(world: World) -> None:
    """The crashes that were seen lie behind a position that the table no longer holds."""
    claim = (await world.worker().open(SHARD)).claim
    key = ("sink", rules.shard_key(SHARD))
    world.store.table.items[key] = replace(world.item, crashes=7)
    seen = await world.store.read(*key)
    await claim.save("10", b"s")

    async def stale(app: str, shard: str) -> rules.Progress | None:
        assert (app, shard) == key
        return seen

    world.store.read = stale  # type: ignore[method-assign]
    assert (await world.worker().open(SHARD)).claim.crashes == 1


async def test_a_child_inherits_no_suspicion(world: World) -> None:
    """Crashes, suspects and poison are of one shard's records."""
    claim = (await world.worker().open(SHARD)).claim
    await claim.suspect(TRIED_TWICE)
    parent = (await world.worker().open(SHARD)).claim
    await parent.save(rules.SHARD_END, b"s")
    assert world.item.poison == ()
    child = (await world.worker().open(CHILD)).claim
    assert (child.crashes, child.suspects, child.poison) == (0, None, ())
