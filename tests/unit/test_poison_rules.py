"""Who is suspected of crashes, who is named, and how many lives it takes: the pure decisions."""

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from telemill.errors import PositionError
from telemill.progress import rules, suspicion
from telemill.progress.suspicion import Suspects

ONE_IN_THREE = 0.33
HELD = rules.Progress("app", "s", epoch=1, owner="a", position="10", write_id="w")


def taken(item: rules.Progress) -> rules.Progress:
    """The item after the next owner's claim."""
    return rules.take(item, "app", "s", "a", "w")


def test_crashes_are_take_overs_of_claims_that_nobody_gave_up() -> None:
    """The first claim and one after a release are no crash; every other is one more."""
    first = rules.take(None, "app", "s", "a", "w")
    assert first.crashes == 0
    assert taken(taken(first)).crashes == 2
    assert taken(rules.release(taken(first), write_id="w")).crashes == 1


def test_a_claim_in_the_table_is_counted() -> None:
    """What the take decides is what the table keeps; the rest of the item stays as it is there."""
    standing = replace(HELD, suspects=Suspects("10", "20"), poison=("30",))
    there = rules.claimed(standing, taken(replace(HELD, crashes=4)))
    assert (there.crashes, there.suspects, there.poison) == (5, Suspects("10", "20"), ("30",))


def test_a_saved_position_ends_the_count_unless_suspects_lie_beyond_it() -> None:
    """In the middle of the suspects the count stays: the culprit may be among the rest."""
    held = replace(HELD, crashes=3, suspects=Suspects("10", "20"))
    amid = rules.advance(held, "15", write_id="w")
    assert (amid.crashes, amid.suspects) == (3, Suspects("10", "20"))
    beyond = rules.advance(amid, "20", write_id="w")
    assert (beyond.crashes, beyond.suspects) == (0, None)


def test_poison_is_kept_until_the_position_passes_it() -> None:
    """Whoever re-reads a poison record puts it aside again; afterwards nobody has to know."""
    held = rules.condemn(replace(HELD, crashes=5), "20", write_id="w")
    assert (held.poison, held.crashes, held.suspects) == (("20",), 0, None)
    assert rules.advance(held, "19", write_id="w").poison == ("20",)
    assert rules.advance(held, "20", write_id="w").poison == ()
    assert rules.advance(held, rules.SHARD_END, write_id="w").poison == ()


@pytest.mark.parametrize(("number", "intent"), [("10", None), ("20", rules.Cut("10", "20"))])
def test_what_is_saved_or_declared_is_not_called_poison(
    number: str, intent: rules.Cut | None
) -> None:
    """Output of such a record may exist: leaving it out now would make another output."""
    with pytest.raises(PositionError):
        rules.condemn(replace(HELD, intent=intent), number, write_id="w")


def test_a_release_withdraws_the_trial() -> None:
    """Whoever gives up in good order did not die of the record it was trying."""
    held = replace(HELD, suspects=Suspects("10", "20", trying="15", tries=1))
    assert rules.release(held, write_id="w").suspects == Suspects("10", "20")


def test_suspicion_moves_forward_only() -> None:
    """Records that came through are no suspects again; those not reached again stay suspects."""
    found = Suspects("20", "30")
    assert suspicion.working_on(None, "10", "20") == Suspects("10", "20")
    assert suspicion.working_on(found, "10", "20") is found
    assert suspicion.working_on(found, "10", "25") is found
    assert suspicion.working_on(found, "24", "28") == Suspects("24", "30")
    assert suspicion.working_on(found, "30", "40") == Suspects("30", "40")


def test_a_record_is_named_after_two_deaths_in_a_row_while_it_was_tried() -> None:
    """Once is not enough, twice with another record in between neither."""
    suspects = Suspects("10", "30")
    once = suspicion.trying(suspects, "20", None)
    assert suspicion.poison(once, None) is None
    assert suspicion.poison(suspicion.trying(once, "20", once), None) == "20"
    other = suspicion.trying(once, "25", once)
    assert other.tries == 1
    assert suspicion.poison(suspicion.trying(other, "20", other), None) is None


def test_a_record_in_a_declared_cut_is_not_named() -> None:
    """Its objects may exist with that record's rows."""
    twice = Suspects("10", "30", trying="20", tries=suspicion.POISON_TRIES)
    assert suspicion.poison(twice, "20") is None
    assert suspicion.poison(twice, "19") == "20"


def test_suspects_begin_with_the_one_that_was_tried() -> None:
    """Those before it came through; those behind it are still to be heard."""
    suspects = Suspects("10", "30", trying="20", tries=1)
    assert [suspects.holds(n) for n in ("11", "19", "20", "30", "31")] == [
        False,
        False,
        True,
        True,
        False,
    ]
    assert suspicion.passed(suspects, "20") == Suspects("20", "30")
    assert suspicion.passed(suspects, "30") is None


class Death(Exception):  # noqa: N818
    """The worker is gone; what is noted stays."""


@dataclass
class Shard:
    """One shard whose owners die, as often as the test says.

    Attributes:
        die: Asked at every note, try and pass: whether somebody kills the worker now.
        tried_at_death: The record that was noted as tried alone at each death, or None.
    """

    records: int
    poison: int | None
    die: Callable[[], bool]
    item: rules.Progress | None = None

    def __post_init__(self) -> None:
        self.tried_at_death: list[int | None] = []
        self.named: list[int] = []
        self.restarts = 0

    def note(self, suspects: Suspects | None) -> None:
        assert self.item is not None
        self.item = replace(self.item, suspects=suspects)
        self.step()

    def step(self) -> None:
        """A moment at which a kill may come."""
        if self.die():
            raise Death

    def touch(self, *numbers: int) -> None:
        if self.poison in numbers:
            raise Death

    def live(self) -> None:
        """One owner, from its claim to the end of the shard."""
        self.item = rules.take(self.item, "app", "s", "a", "w")
        named = suspicion.poison(self.item.suspects, None)
        if named is not None:
            self.named.append(int(named))
            self.item = rules.condemn(self.item, named, write_id="w")
        found = self.item.suspects
        self.step()
        number = 1
        while number <= self.records:
            number += self.work(number, found)
        self.item = rules.advance(self.item, str(self.records), write_id="w")

    def work(self, number: int, found: Suspects | None) -> int:
        """Work on some records from a number on; how many."""
        item = self.item
        assert item is not None
        if str(number) in item.poison:
            return 1
        crashes, suspects = item.crashes, item.suspects
        if crashes >= 3 and suspects is not None and suspects.holds(str(number)):
            self.note(suspicion.trying(suspects, str(number), found))
            self.touch(number)
            self.note(suspicion.passed(suspects, str(number)))
            return 1
        last = next(
            (
                n - 1
                for n in range(number + 1, min(number + 4, self.records + 1))
                if str(n) in item.poison or (crashes >= 3 and suspects and suspects.holds(str(n)))
            ),
            min(number + 3, self.records),
        )
        if crashes:
            self.note(
                suspicion.working_on(suspects, str(number - 1) if number > 1 else None, str(last))
            )
        self.touch(*range(number, last + 1))
        return last - number + 1

    def run(self, most_restarts: int) -> None:
        for _ in range(most_restarts + 1):
            try:
                self.live()
            except Death:
                assert self.item is not None
                suspects = self.item.suspects
                alone = suspects.trying if suspects else None
                self.tried_at_death.append(int(alone) if alone else None)
                self.restarts += 1
            else:
                return
        pytest.fail(f"not done after {most_restarts} restarts")


@pytest.mark.parametrize("poison", range(1, 14))
def test_poison_is_named_after_five_deaths(poison: int) -> None:
    """Wherever it stands: five restarts, that record and no other."""
    shard = Shard(13, poison, die=lambda: False)
    shard.run(5)
    assert (shard.restarts, shard.named) == (5, [poison])


def killer(seed: int, kills: int) -> Callable[[], bool]:
    """Kills at about every third moment, until so many are used up."""
    chance, left = random.Random(seed), [kills]

    def die() -> bool:
        hit = left[0] > 0 and chance.random() < ONE_IN_THREE
        left[0] -= hit
        return hit

    return die


def test_kills_from_outside_name_only_who_was_tried_at_two_in_a_row() -> None:
    """Whenever owners are killed: an innocent is named by two hits in its trial, not by less."""
    hits = names = 0
    for seed in range(300):
        shard = Shard(12, None, killer(seed, 12))
        shard.run(12)
        pairs = set(itertools.pairwise(shard.tried_at_death))
        for named in shard.named:
            assert (named, named) in pairs
        hits += sum(tried is not None for tried in shard.tried_at_death)
        names += len(shard.named)
    assert hits > 2 * names > 0


def test_poison_among_kills_is_named_in_the_end() -> None:
    """Kills from outside cost restarts, but the culprit is found all the same."""
    for seed in range(200):
        shard = Shard(12, 7, killer(seed, 4))
        shard.run(5 + 5 * 4)
        assert 7 in shard.named
