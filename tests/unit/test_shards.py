"""Which shards may be opened: parents before children."""

import itertools

import pytest

from telemill.kinesis.records import Shard
from telemill.kinesis.shards import TRANSITIONS, Event, Shards, State


def shard(name: str, *parents: str) -> Shard:
    """A shard by its letter."""
    return Shard("readings", 1, name, parents)


def finish(shards: Shards, name: str) -> None:
    """Take a shard that is being claimed to its end."""
    for event in (Event.OPENED, Event.ENDED, Event.POSITION_AT_END):
        shards.apply(name, event)


def names(shards: Shards) -> list[str]:
    """What may be claimed now."""
    return [found.shard_id for found in shards.to_claim()]


def test_shards_without_parents_open_at_once_and_once() -> None:
    """Every first shard may be claimed immediately, and is offered a single time."""
    shards = Shards()
    shards.listed([shard("a"), shard("b")])
    assert names(shards) == ["a", "b"]
    assert names(shards) == []


def test_children_of_a_split_wait_for_their_parent() -> None:
    """No child is offered before the parent's end is saved, and both are right after."""
    shards = Shards()
    shards.listed([shard("a"), shard("b", "a"), shard("c", "a")])
    assert names(shards) == ["a"]
    shards.apply("a", Event.OPENED)
    shards.apply("a", Event.ENDED)
    assert names(shards) == []
    shards.apply("a", Event.POSITION_AT_END)
    assert names(shards) == ["b", "c"]


def test_the_child_of_a_merge_waits_for_both_parents() -> None:
    """One finished parent of two is not enough."""
    shards = Shards()
    shards.listed([shard("a"), shard("b"), shard("c", "a", "b")])
    assert names(shards) == ["a", "b"]
    finish(shards, "a")
    assert names(shards) == []
    finish(shards, "b")
    assert names(shards) == ["c"]


def test_a_parent_past_its_retention_counts_as_finished() -> None:
    """A child whose parent is no longer listed may be opened."""
    shards = Shards()
    shards.listed([shard("b", "a")])
    assert names(shards) == ["b"]


def test_a_parent_that_leaves_the_list_while_it_is_read_still_comes_first() -> None:
    """What somebody works on is not forgotten because the list no longer has it."""
    shards = Shards()
    shards.listed([shard("a")])
    assert names(shards) == ["a"]
    shards.apply("a", Event.OPENED)
    shards.listed([shard("b", "a")])
    assert names(shards) == []
    assert not shards.is_listed("a")
    shards.apply("a", Event.ENDED)
    shards.apply("a", Event.POSITION_AT_END)
    assert names(shards) == ["b"]


def test_a_position_already_at_the_end_opens_the_children() -> None:
    """A parent finished by an earlier run is finished as soon as its owner says so."""
    shards = Shards()
    shards.listed([shard("a"), shard("b", "a")])
    assert names(shards) == ["a"]
    shards.apply("a", Event.POSITION_AT_END)
    assert names(shards) == ["b"]


def test_a_dropped_shard_is_claimed_again_not_offered_again() -> None:
    """Dropping goes back to claiming, from reading and from ending."""
    for events in ((Event.OPENED,), (Event.OPENED, Event.ENDED)):
        shards = Shards()
        shards.listed([shard("a")])
        names(shards)
        for event in (*events, Event.DROPPED):
            shards.apply("a", event)
        assert shards.state("a") is State.CLAIMING
        assert names(shards) == []


def test_moves_outside_the_table_are_refused() -> None:
    """Every pair of state and event that the table lacks raises."""
    for state, event in itertools.product(State, Event):
        if (state, event) in TRANSITIONS:
            continue
        shards = Shards()
        shards.listed([shard("a")])
        reach(shards, state)
        with pytest.raises(ValueError, match="cannot happen"):
            shards.apply("a", event)


def reach(shards: Shards, state: State) -> None:
    """Bring shard a into a state by legal moves."""
    path = {
        State.WAITING: (),
        State.CLAIMING: (Event.PARENTS_FINISHED,),
        State.READING: (Event.PARENTS_FINISHED, Event.OPENED),
        State.ENDING: (Event.PARENTS_FINISHED, Event.OPENED, Event.ENDED),
        State.FINISHED: (Event.PARENTS_FINISHED, Event.POSITION_AT_END),
    }
    for event in path[state]:
        shards.apply("a", event)
