"""The pure decisions of the progress protocol, case by case."""

from dataclasses import replace

import pytest

from telemill.errors import PositionError
from telemill.kinesis.records import SHARD_END, Shard
from telemill.progress import rules

SHARD = Shard("readings", 1_700_000_000_000, "shardId-000000000003")
FIRST = "49590338271490256608559692538361571095921575989136588898"
SECOND = "49590338271490256608559692540925702759324208523137515618"
THIRD = "49590338271490256608559692540925702759324208523137515999"
SHORT = "99"
HELD = rules.Progress(
    "sink", rules.shard_key(SHARD), epoch=3, owner="a", position=FIRST, state=b"s", write_id="w1"
)


def test_a_shard_key_holds_stream_incarnation_and_shard() -> None:
    """A stream deleted and created again never meets the items of the former one."""
    assert rules.shard_key(SHARD) == "readings/1700000000000/shardId-000000000003"
    assert rules.shard_key(SHARD, "shardId-1") == "readings/1700000000000/shardId-1"


def test_positions_are_ordered_as_numbers_between_none_and_the_end() -> None:
    """A short sequence number is smaller than a long one, whatever its first digit is."""
    shuffled = [SHARD_END, SECOND, SHORT, None, THIRD, FIRST]
    assert sorted(shuffled, key=rules.order) == [None, SHORT, FIRST, SECOND, THIRD, SHARD_END]


@pytest.mark.parametrize(
    ("seen", "unchanged_seconds", "may"),
    [
        (None, 0.0, True),
        (replace(HELD, released=True), 0.0, True),
        (replace(HELD, owner="b"), 0.0, True),
        (HELD, rules.STALE_SECONDS, True),
        (HELD, rules.STALE_SECONDS - 0.001, False),
    ],
    ids=["new", "released", "own", "silent", "alive"],
)
def test_who_may_take(seen: rules.Progress | None, unchanged_seconds: float, may: bool) -> None:
    """Only a new, released, own or silent claim may be taken."""
    assert rules.may_take(seen, "b", unchanged_seconds) is may


def test_an_observer_starts_anew_with_every_beat() -> None:
    """A claim is silent only when the very same epoch and beat stay, by the observer's clock."""
    first = rules.sight(None, HELD, 100.0)
    assert rules.sight(first, HELD, 109.0).since == 100.0
    assert rules.sight(first, replace(HELD, beat=1), 109.0).since == 109.0
    assert rules.sight(first, replace(HELD, epoch=4), 109.0).since == 109.0


def test_taking_keeps_position_state_and_intent() -> None:
    """A take-over moves nothing but the claim."""
    standing = replace(HELD, beat=7, released=True, intent=rules.Cut(FIRST, SECOND))
    taken = rules.take(standing, "sink", HELD.shard, "b", "w2")
    assert taken == replace(standing, epoch=4, owner="b", beat=0, released=False, write_id="w2")
    assert rules.take(None, "sink", HELD.shard, "b", "w2").epoch == 1


def test_a_child_waits_for_parents_that_were_begun() -> None:
    """A parent without an item left no state; one that was begun has to be at its end."""
    ended = replace(HELD, position=SHARD_END)
    assert rules.unfinished_parents([None, ended]) == []
    assert rules.unfinished_parents([ended, HELD]) == [HELD.shard]


def test_advance_moves_position_and_state_and_clears_the_intent() -> None:
    """One value holds the new position, its state and no intent: they cannot be torn apart."""
    declared = replace(HELD, intent=rules.Cut(FIRST, SECOND), state=None, state_key="old")
    assert rules.advance(declared, SECOND, write_id="w2", state=b"t") == replace(
        HELD, position=SECOND, state=b"t", write_id="w2"
    )


def test_advance_may_declare_the_next_cut() -> None:
    """The next intent may ride on the write of the last position."""
    cut = rules.Cut(SECOND, THIRD)
    assert rules.advance(HELD, SECOND, write_id="w2", intent=cut).intent == cut


@pytest.mark.parametrize(
    ("held", "position"),
    [
        (HELD, SHORT),
        (replace(HELD, position=SHARD_END), SHARD_END),
        (replace(HELD, intent=rules.Cut(FIRST, SECOND)), THIRD),
        (replace(HELD, intent=rules.Cut(FIRST, THIRD)), SECOND),
    ],
    ids=["backwards", "past-the-end", "beyond-the-cut", "inside-the-cut"],
)
def test_advance_refuses_what_breaks_the_protocol(held: rules.Progress, position: str) -> None:
    """A position never goes back, leaves the end, or leaves a declared cut."""
    with pytest.raises(PositionError):
        rules.advance(held, position, write_id="w2", state=b"")


@pytest.mark.parametrize(
    ("held", "cut"),
    [
        (replace(HELD, intent=rules.Cut(FIRST, THIRD)), rules.Cut(FIRST, SECOND)),
        (HELD, rules.Cut(SECOND, THIRD)),
        (HELD, rules.Cut(None, SECOND)),
        (HELD, rules.Cut(FIRST, FIRST)),
        (HELD, rules.Cut(FIRST, SHARD_END)),
        (replace(HELD, position=SHARD_END), rules.Cut(SHARD_END, THIRD)),
    ],
    ids=["another", "later", "earlier", "empty", "no-number", "ended"],
)
def test_declare_refuses_what_breaks_the_protocol(held: rules.Progress, cut: rules.Cut) -> None:
    """A cut begins at the position, holds a record, and never replaces a declared one."""
    with pytest.raises(PositionError):
        rules.declare(held, cut, write_id="w2")


def test_declaring_moves_neither_position_nor_state() -> None:
    """What a new owner restores is the state before the cut."""
    cut = rules.Cut(FIRST, SECOND)
    declared = rules.declare(HELD, cut, write_id="w2")
    assert declared == replace(HELD, intent=cut, write_id="w2")
    assert rules.declare(declared, cut, write_id="w3").intent == cut


def test_release_keeps_a_standing_intent() -> None:
    """A cut that was declared is made by the next owner, not forgotten."""
    declared = replace(HELD, intent=rules.Cut(FIRST, SECOND))
    assert rules.release(declared, write_id="w2") == replace(declared, released=True, write_id="w2")


@pytest.mark.parametrize(
    ("item", "writable"),
    [
        (HELD, True),
        (replace(HELD, beat=9), True),
        (replace(HELD, epoch=4), False),
        (replace(HELD, released=True), False),
        (replace(HELD, write_id="w2"), False),
        (None, False),
    ],
    ids=["own", "beaten", "taken", "released", "followed", "gone"],
)
def test_an_owner_writes_only_right_after_its_last_write(
    item: rules.Progress | None, writable: bool
) -> None:
    """Another epoch, a release and any later write of the same owner shut a write out."""
    assert rules.writable(item, 3, "w1") is writable


@pytest.mark.parametrize(
    ("found", "ours"),
    [
        (replace(HELD, write_id="w2"), True),
        (replace(HELD, write_id="w2", released=True), True),
        (replace(HELD, epoch=4, write_id="x"), False),
        (replace(HELD, released=True, write_id="w0"), False),
        (None, False),
    ],
    ids=["own", "own-release", "taken", "released", "gone"],
)
def test_a_refused_write_is_told_from_fencing(found: rules.Progress | None, ours: bool) -> None:
    """A repeated write that had taken effect does not look like a lost claim."""
    assert rules.took_effect(replace(HELD, write_id="w2"), found) is ours


def test_a_new_cut_ends_where_the_sink_is_when_asked() -> None:
    """Without an intent, size and age end the cut; without records there is none."""
    gathering = rules.resume(FIRST)
    assert rules.next_cut(gathering, full=True) is None
    gathering = gathering.with_last(SECOND)
    assert rules.next_cut(gathering, full=False) is None
    assert rules.next_cut(gathering, full=True) == rules.Cut(FIRST, SECOND)


def test_a_declared_cut_ends_where_it_was_declared_to_end() -> None:
    """After a crash neither size, age nor shutdown changes which records go into the cut."""
    cut = rules.Cut(FIRST, THIRD)
    gathering = rules.resume(FIRST, cut).with_last(SECOND)
    assert rules.next_cut(gathering, full=True) is None
    assert rules.next_cut(gathering.with_last(THIRD), full=False) == cut
    assert rules.next_cut(gathering, full=False, passed=True) == cut


def test_records_are_admitted_once_and_not_beyond_a_declared_cut() -> None:
    """What was gathered or committed is skipped; what lies beyond the declared cut waits."""
    numbers = [SHORT, FIRST, SECOND, THIRD]
    assert rules.admit(rules.resume(None), numbers) == (0, 4)
    assert rules.admit(rules.resume(FIRST), numbers) == (2, 2)
    assert rules.admit(rules.resume(FIRST).with_last(THIRD), numbers) == (4, 0)
    assert rules.admit(rules.resume(SHORT, rules.Cut(SHORT, SECOND)), numbers) == (1, 2)
    passed = rules.resume(SHORT, rules.Cut(SHORT, SECOND)).with_last(SECOND)
    assert rules.admit(passed, [THIRD]) == (0, 0)


def test_a_cut_is_named_by_its_bounds() -> None:
    """The first cut of a shard has a name too."""
    assert rules.Cut(FIRST, SECOND).name == f"{FIRST}-{SECOND}"
    assert rules.Cut(None, SECOND).name == f"start-{SECOND}"
