"""Which shards a worker may open, and when: parents before children. Pure.

One table is the whole state machine; `Shards` applies it.
"""

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from telemill.kinesis.records import Shard


class State(enum.Enum):
    """Where a shard stands in this worker."""

    WAITING = "waiting"  # for a parent to be finished
    CLAIMING = "claiming"  # asks its owner to open it, until that succeeds
    READING = "reading"
    ENDING = "ending"  # everything delivered; its last position is not saved yet
    FINISHED = "finished"


class Event(enum.Enum):
    """What happens to a shard."""

    PARENTS_FINISHED = "parents_finished"
    OPENED = "opened"
    ENDED = "ended"
    DROPPED = "dropped"  # the claim was void
    POSITION_AT_END = "position_at_end"


TRANSITIONS: Mapping[tuple[State, Event], State] = {
    (State.WAITING, Event.PARENTS_FINISHED): State.CLAIMING,
    (State.CLAIMING, Event.OPENED): State.READING,
    (State.CLAIMING, Event.POSITION_AT_END): State.FINISHED,
    (State.READING, Event.ENDED): State.ENDING,
    (State.READING, Event.DROPPED): State.CLAIMING,
    (State.ENDING, Event.DROPPED): State.CLAIMING,
    (State.ENDING, Event.POSITION_AT_END): State.FINISHED,
}
"""Every move there is; any other is a fault in the coordinator."""


@dataclass(slots=True)
class _Entry:
    shard: Shard
    state: State = State.WAITING


class Shards:
    """The shards of one stream, as this worker sees them."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._listed: frozenset[str] = frozenset()

    def listed(self, shards: Iterable[Shard]) -> None:
        """Take a complete list of the stream's shards.

        Those no longer listed are past their retention: forgotten, unless somebody works on them.
        """
        named = {shard.shard_id: shard for shard in shards}
        self._listed = frozenset(named)
        idle = {State.WAITING, State.FINISHED}
        self._entries = {
            shard_id: entry
            for shard_id, entry in self._entries.items()
            if shard_id in named or entry.state not in idle
        }
        for shard_id, shard in named.items():
            self._entries.setdefault(shard_id, _Entry(shard))

    def is_listed(self, shard_id: str) -> bool:
        """Whether the last list had the shard."""
        return shard_id in self._listed

    def state(self, shard_id: str) -> State:
        """Where a shard stands."""
        return self._entries[shard_id].state

    def apply(self, shard_id: str, event: Event) -> State:
        """Move a shard.

        Raises:
            ValueError: The table has no such move.
        """
        entry = self._entries[shard_id]
        following = TRANSITIONS.get((entry.state, event))
        if following is None:
            raise ValueError(f"{shard_id} is {entry.state.value}: {event.value} cannot happen")
        entry.state = following
        return following

    def to_claim(self) -> list[Shard]:
        """Shards that have become free to open; each is returned once, and is CLAIMING then."""
        free = [
            entry.shard
            for entry in self._entries.values()
            if entry.state is State.WAITING and self._parents_finished(entry.shard)
        ]
        for shard in free:
            self.apply(shard.shard_id, Event.PARENTS_FINISHED)
        return free

    def _parents_finished(self, shard: Shard) -> bool:
        """A parent neither listed nor being worked on is long gone: it counts as finished."""
        parents = (self._entries.get(parent) for parent in shard.parents)
        return all(parent is None or parent.state is State.FINISHED for parent in parents)
