"""Which replica polls which devices: a small fleet agrees in one DynamoDB item. Pure.

The device list is cut into a fixed number of partitions. One item holds the whole agreement: the
live members and the owner of each partition. Each member rewrites it every few seconds with a
conditional write on its version, so two members never act on different agreements:

1. A member is alive while its beat changes. One whose beat an observer has seen unchanged for
   `expiry_seconds` of the observer's own monotonic clock is removed, and its partitions are free.
2. Free partitions are taken by members with less than their share.
3. A member with more than its share stops polling the surplus and gives it up once no poll of it
   is under way; only then can another take it.

A member may act on an agreement only for `expiry_seconds` less the length of a request after it
began to write it. So, however long a member stands still or is cut off, its last request has
ended before another takes its partitions.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class Fleet:
    """The agreement.

    Attributes:
        version: Number of writes; 0 before the first.
        beats: For each member the version it last wrote.
        owners: The member of each partition that has one.
    """

    version: int = 0
    beats: Mapping[str, int] = field(default_factory=dict)
    owners: Mapping[int, str] = field(default_factory=dict)

    def held_by(self, member: str) -> frozenset[int]:
        """The partitions of a member."""
        return frozenset(each for each, owner in self.owners.items() if owner == member)


def share(member: str, members: Collection[str], partition_count: int) -> int:
    """How many partitions a member should hold: equal, the first by name one more if need be."""
    each, over = divmod(partition_count, len(members))
    return each + (sorted(members).index(member) < over)


def surplus(fleet: Fleet, member: str, partition_count: int) -> frozenset[int]:
    """The partitions a member should stop polling and give up: always the same ones."""
    if member not in fleet.beats:
        return frozenset()
    held = sorted(fleet.held_by(member))
    return frozenset(held[share(member, fleet.beats, partition_count) :])


def advance(
    fleet: Fleet,
    member: str,
    *,
    partition_count: int,
    dead: Collection[str] = (),
    idle: Collection[int] = (),
) -> Fleet:
    """The next agreement, as one member proposes it.

    Args:
        fleet: The agreement as read.
        member: Who proposes.
        partition_count: Partitions of the device list.
        dead: Members to remove; never the proposer.
        idle: Partitions of the proposer it does not poll at the moment and will not begin to.
    """
    version = fleet.version + 1
    beats = {name: beat for name, beat in fleet.beats.items() if name not in dead}
    beats[member] = version
    owners = {
        partition: owner
        for partition, owner in fleet.owners.items()
        if owner in beats and partition < partition_count
    }
    joined = Fleet(version, beats, owners)
    for partition in surplus(joined, member, partition_count) & frozenset(idle):
        del owners[partition]
    _take_free(joined, member, partition_count, owners)
    return replace(joined, owners=owners)


def _take_free(fleet: Fleet, member: str, partition_count: int, owners: dict[int, str]) -> None:
    held = sum(owner == member for owner in owners.values())
    wanted = share(member, fleet.beats, partition_count) - held
    free = [each for each in range(partition_count) if each not in owners]
    for partition in free[: max(wanted, 0)]:
        owners[partition] = member


def leave(fleet: Fleet, member: str) -> Fleet:
    """The agreement without a member that has stopped polling."""
    return Fleet(
        fleet.version + 1,
        {name: beat for name, beat in fleet.beats.items() if name != member},
        {partition: owner for partition, owner in fleet.owners.items() if owner != member},
    )


class Watch:
    """Tells which members are dead: those whose beat stays the same for too long."""

    def __init__(self, expiry_seconds: float) -> None:
        self._expiry_seconds = expiry_seconds
        self._seen: dict[str, tuple[int, float]] = {}

    def observe(self, fleet: Fleet, now: float) -> frozenset[str]:
        """Take note of an agreement.

        Args:
            fleet: As read, just now.
            now: Monotonic seconds, taken after the read was answered.

        Returns:
            The members to remove.
        """
        self._seen = {name: self._since(name, beat, now) for name, beat in fleet.beats.items()}
        return frozenset(
            name for name, (_, since) in self._seen.items() if now - since >= self._expiry_seconds
        )

    def _since(self, name: str, beat: int, now: float) -> tuple[int, float]:
        seen = self._seen.get(name)
        return seen if seen and seen[0] == beat else (beat, now)
