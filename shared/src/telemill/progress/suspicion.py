"""How a record is found that ends every worker that touches it. Pure: no I/O, no clock.

A crash leaves nothing behind but what was noted before it, so the progress item says what an owner
is about to do. `crashes` counts take-overs of a claim that was not given up, at one position:

1. From the first on, an owner notes which records it works on: when it dies, those are suspects.
2. From the second on it works on suspects in small groups, each noted.
3. From the third on it tries each suspect alone, noted before (`trying`).

A suspect during whose trial `POISON_TRIES` owners in a row died is poison: it is named in the item,
put aside whole by everybody, and the crashes are explained. That is after five.

Twice, because an owner may be killed from outside in the middle of a trial: one such death names
nobody, and an innocent record comes through its second trial. Records before a suspect came
through, so nobody notes them again: a suspicion only ever moves forward.
"""

from dataclasses import dataclass, replace

from telemill.progress.positions import order

GROUPED_AFTER_CRASHES = 2
CAUTIOUS_AFTER_CRASHES = 3
"""So many crashes at one position, and the suspects are tried one by one."""

POISON_TRIES = 2
"""So many owners have to die while they try a record alone before it is called poison."""


@dataclass(frozen=True, slots=True)
class Suspects:
    """Records that an owner worked on when it died, or works on now: `(after, up_to]`.

    Attributes:
        after: Everything up to here is known to come through; None: nothing is.
        up_to: The last of them.
        trying: The one that is tried alone; those before it came through.
        tries: How often in a row it was tried, this time included.
    """

    after: str | None
    up_to: str
    trying: str | None = None
    tries: int = 0

    def holds(self, sequence_number: str) -> bool:
        """Whether a record is one of them."""
        number = order(sequence_number)
        begun = number > order(self.after) if self.trying is None else number >= order(self.trying)
        return begun and number <= order(self.up_to)


def working_on(before: Suspects | None, after: str | None, up_to: str) -> Suspects:
    """What is noted before the records `(after, up_to]` are worked on together.

    Nobody who came through before becomes a suspect again, and nobody is let off unheard.
    """
    if before is None:
        return Suspects(after, up_to)
    first, last = max(before.after, after, key=order), max(before.up_to, up_to, key=order)
    if (first, last) == (before.after, before.up_to):
        return before
    return Suspects(first, last)


def trying(suspects: Suspects, sequence_number: str, found: Suspects | None) -> Suspects:
    """What is noted before a suspect is tried alone.

    Args:
        suspects: As noted last.
        sequence_number: The next of them.
        found: What the owner found on taking over: how its predecessor died.
    """
    again = found is not None and found.trying == sequence_number
    tries = found.tries + 1 if found is not None and again else 1
    return replace(suspects, trying=sequence_number, tries=tries)


def passed(suspects: Suspects, sequence_number: str) -> Suspects | None:
    """What is noted when every suspect up to one came through; None when none is left."""
    if order(sequence_number) >= order(suspects.up_to):
        return None
    return Suspects(sequence_number, suspects.up_to)


def withdrawn(suspects: Suspects | None) -> Suspects | None:
    """What an owner leaves that gives up in good order: it tries nothing any more."""
    return None if suspects is None else replace(suspects, trying=None, tries=0)


def poison(suspects: Suspects | None, declared_up_to: str | None) -> str | None:
    """The record that a new owner has to call poison, if any.

    Args:
        suspects: As the last owner left them when it died.
        declared_up_to: End of the sink's declared cut. What is in it stays in it: its objects may
            exist, with that record's rows.
    """
    if suspects is None or suspects.trying is None or suspects.tries < POISON_TRIES:
        return None
    return suspects.trying if order(suspects.trying) > order(declared_up_to) else None
