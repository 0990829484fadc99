"""Replicas sharing devices: the agreement's rules and its keeping."""

import random

import pytest
from prometheus_client import CollectorRegistry

from ingest import fleet, leases
from ingest.fleet import Fleet
from telemill import errors
from telemill.health import Health
from telemill.metrics import Metrics

COUNT = leases.PARTITION_COUNT
DEVICES = [str(n) for n in range(500)]
TIMING = {"heartbeat_seconds": 3.0, "expiry_seconds": 15.0, "request_seconds": 5.0}


class MemoryStore:
    """One agreement in memory."""

    def __init__(self) -> None:
        self.fleet = Fleet()
        self.error: errors.TelemillError | None = None
        self.rivals = 0

    async def read(self) -> Fleet:
        """As DynamoDB."""
        if self.error:
            raise self.error
        return self.fleet

    async def write(self, fleet: Fleet) -> bool:
        """As DynamoDB; `rivals` writes are lost to another member."""
        if self.rivals:
            self.rivals -= 1
            return False
        if fleet.version != self.fleet.version + 1:
            return False
        self.fleet = fleet
        return True


class Replica:
    """One member with its own idea of what it polls."""

    def __init__(self, store: MemoryStore, name: str, clock: list[float]) -> None:
        self.polling: set[str] = set()
        self.health = Health()
        self.leases = leases.Leases(
            store,
            name,
            DEVICES,
            is_polling=lambda key: key in self.polling,
            timing=leases.Timing(**TIMING, monotonic=lambda: clock[0]),
            health=self.health,
            metrics=Metrics(CollectorRegistry(), "ingest"),
        )

    @property
    def mine(self) -> set[str]:
        """The devices it may poll now."""
        return {key for key in DEVICES if self.leases.may_poll(key)}


async def rounds(count: int, clock: list[float], *replicas: Replica) -> None:
    """Some heartbeats of all."""
    for _ in range(count):
        for replica in replicas:
            await replica.leases.renew()
        clock[0] += 3.0


async def test_one_replica_polls_every_device() -> None:
    """Alone it has everything after one round, and is not ready before."""
    clock = [0.0]
    only = Replica(MemoryStore(), "a", clock)
    assert not only.mine
    assert not only.health.is_ready
    await only.leases.renew()
    assert only.mine == set(DEVICES)
    assert only.health.is_ready


async def test_replicas_share_evenly() -> None:
    """After a few rounds every device belongs to one of three, each with about a third."""
    clock, store = [0.0], MemoryStore()
    replicas = [Replica(store, name, clock) for name in "abc"]
    await rounds(4, clock, *replicas)
    shares = [replica.mine for replica in replicas]
    assert set.union(*shares) == set(DEVICES)
    assert sum(map(len, shares)) == len(DEVICES)
    assert {len(store.fleet.held_by(name)) for name in "abc"} == {21, 22}


async def test_a_partition_moves_only_when_it_is_idle() -> None:
    """The owner stops at once, but keeps what it still polls until that poll is over."""
    clock, store = [0.0], MemoryStore()
    old, new = Replica(store, "a", clock), Replica(store, "b", clock)
    await old.leases.renew()
    old.polling = set(DEVICES)
    await rounds(3, clock, new, old)
    assert len(store.fleet.held_by("a")) == COUNT
    assert 0 < len(old.mine) < len(DEVICES)
    assert not new.mine
    old.polling = set()
    await rounds(2, clock, old, new)
    assert old.mine | new.mine == set(DEVICES)
    assert not old.mine & new.mine


async def test_a_silent_replica_loses_its_devices() -> None:
    """Others take over after the expiry; the silent one had stopped well before."""
    clock, store = [0.0], MemoryStore()
    silent, other = Replica(store, "a", clock), Replica(store, "b", clock)
    await rounds(4, clock, silent, other)
    stopped_at = taken_at = None
    while taken_at is None:
        await other.leases.renew()
        stopped_at = clock[0] if stopped_at is None and not silent.mine else stopped_at
        taken_at = clock[0] if other.mine == set(DEVICES) else None
        clock[0] += 1.0
    assert stopped_at is not None
    assert taken_at - stopped_at >= TIMING["request_seconds"]
    assert taken_at <= 12.0 + TIMING["expiry_seconds"] + 3.0


async def test_a_replica_that_wakes_up_polls_nothing_before_it_has_asked() -> None:
    """However long it stood still: what it held is void, and it gets its share anew."""
    clock, store = [0.0], MemoryStore()
    sleeper, other = Replica(store, "a", clock), Replica(store, "b", clock)
    await rounds(4, clock, sleeper, other)
    await rounds(8, clock, other)
    assert other.mine == set(DEVICES)
    assert not sleeper.mine
    await rounds(3, clock, sleeper, other)
    assert sleeper.mine
    assert not sleeper.mine & other.mine


async def test_leaving_gives_everything_up_at_once() -> None:
    """After a clean stop the others have all devices in their next round."""
    clock, store = [0.0], MemoryStore()
    leaver, other = Replica(store, "a", clock), Replica(store, "b", clock)
    await rounds(4, clock, leaver, other)
    await leaver.leases.leave()
    assert not leaver.mine
    await other.leases.renew()
    assert other.mine == set(DEVICES)
    assert set(store.fleet.beats) == {"b"}


async def test_without_the_table_polling_ends_and_readiness_says_why() -> None:
    """What cannot be renewed runs out; when the store is back, so is everything."""
    clock, store = [0.0], MemoryStore()
    only = Replica(store, "a", clock)
    await only.leases.renew()
    store.error = errors.ServiceUnavailableError("table telemill-progress")
    await rounds(2, clock, only)
    assert only.mine == set(DEVICES)
    await rounds(2, clock, only)
    assert not only.mine
    assert "telemill-progress" in str(only.health.ready())
    await only.leases.leave()
    store.error = None
    await only.leases.renew()
    assert only.mine == set(DEVICES)
    assert only.health.is_ready


async def test_a_lost_race_is_run_again() -> None:
    """Another member's write in between costs a second try, not the round."""
    store = MemoryStore()
    only = Replica(store, "a", [0.0])
    store.rivals = leases.WRITE_ATTEMPTS - 1
    await only.leases.renew()
    assert only.mine
    store.rivals = leases.WRITE_ATTEMPTS
    version = store.fleet.version
    await only.leases.renew()
    assert store.fleet.version == version


def test_shares_add_up() -> None:
    """Whatever the number of members, every partition has room with exactly one of them."""
    for count in range(1, COUNT + 5):
        members = [f"m{n}" for n in range(count)]
        assert sum(fleet.share(name, members, COUNT) for name in members) == COUNT


def test_partitions_beyond_the_count_are_forgotten() -> None:
    """An agreement of another version with more partitions leaves no ghost owner."""
    old = Fleet(3, {"a": 3}, {0: "a", COUNT + 1: "a"})
    assert COUNT + 1 not in fleet.advance(old, "a", partition_count=COUNT).owners


@pytest.mark.parametrize("seed", range(20))
async def test_no_device_is_ever_polled_by_two(seed: int) -> None:
    """Random rounds, pauses, deaths, slow polls: no poll overlaps one of another replica.

    Polls take up to the request time; a replica begins them whenever it may.
    """
    chance = random.Random(seed)
    clock, store = [0.0], MemoryStore()
    replicas = [Replica(store, name, clock) for name in "abc"]
    ends: dict[tuple[str, str], float] = {}
    for _ in range(300):
        clock[0] += chance.choice([0.1, 0.5, 1.0, 3.0])
        for replica in replicas:
            replica.polling = {
                key for key in DEVICES[:20] if ends.get((str(id(replica)), key), 0.0) > clock[0]
            }
        replica = chance.choice(replicas)
        if chance.random() < 0.6:
            await replica.leases.renew()
        for key in replica.mine & set(DEVICES[:20]):
            others = [
                end
                for (owner, device), end in ends.items()
                if device == key and owner != str(id(replica))
            ]
            assert all(end <= clock[0] for end in others)
            ends[str(id(replica)), key] = clock[0] + chance.uniform(0, TIMING["request_seconds"])
