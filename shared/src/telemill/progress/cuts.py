"""The sink's cut: which records go into one set of objects. Pure: no I/O, no clock."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

from telemill.progress.positions import order


@dataclass(frozen=True, slots=True)
class Cut:
    """The records of one shard that go into one set of objects: `(after, up_to]`.

    Attributes:
        after: The position before it, exclusive; None when nothing of the shard was committed.
        up_to: Sequence number of its last record, inclusive. Never SHARD_END.
    """

    after: str | None
    up_to: str

    @property
    def name(self) -> str:
        """What the cut's objects are named by, together with application and shard."""
        return f"{self.after or 'start'}-{self.up_to}"


@dataclass(frozen=True, slots=True)
class Gathering:
    """How far a sink has read into the cut it makes.

    The protocol, one shard, in this order and never two cuts at once::

        gathering = resume(claim.position, claim.intent)     # after open; state as opened
        skip, count = admit(gathering, sequence_numbers)     # of the next chunk
        gather records[skip : skip + count]; gathering = gathering.with_last(...)
        cut = next_cut(gathering, full=..., passed=more records follow or the shard ended)
        if cut and it holds rows:
            if gathering.declared is None: await claim.declare(cut)
            Glue partitions; one PUT If-None-Match per partition, named by cut (412 = done)
        if cut: await claim.save(cut.up_to, state after the cut); gathering = after(cut)
        go on with the records from skip + count

    The objects of a cut are a pure function of the records in it and of the state before it, so
    whoever repeats the cut makes the same objects. Hence: never split by size *inside* a cut (size
    ends a cut), and never store the state after the cut before its objects are there.

    Attributes:
        after: The saved position, where the cut begins (exclusive).
        declared: The intent found on open. Its end is fixed: age, size and shutdown do not cut.
        last: Sequence number of the last record gathered; None when there is none yet.
    """

    after: str | None
    declared: Cut | None = None
    last: str | None = None

    def with_last(self, sequence_number: str) -> "Gathering":
        """After one or more records were gathered, up to this one."""
        return replace(self, last=sequence_number)


def resume(position: str | None, intent: Cut | None = None) -> Gathering:
    """Where a sink begins: after open, and (without an intent) after each saved cut."""
    return Gathering(after=position, declared=intent)


def admit(gathering: Gathering, sequence_numbers: Sequence[str]) -> tuple[int, int]:
    """Which of the next records belong to the cut.

    Args:
        gathering: So far.
        sequence_numbers: Of the next records, ascending.

    Returns:
        How many to skip (read before already) and how many then belong to the cut. Those after
        them belong to the next cut: they wait until this one is saved.
    """
    skip = bisect_right(sequence_numbers, order(gathering.last or gathering.after), key=order)
    if gathering.declared is None:
        return skip, len(sequence_numbers) - skip
    end = bisect_right(sequence_numbers, order(gathering.declared.up_to), key=order)
    return skip, max(0, end - skip)


def next_cut(gathering: Gathering, *, full: bool, passed: bool = False) -> Cut | None:
    """The cut to make now, or None to go on gathering.

    Args:
        gathering: So far.
        full: Size, age, shutdown or the shard's end asks for a cut.
        passed: What was read lies beyond the gathered records: `admit` left some over, or the
            shard ended. Ends a declared cut whose last record was trimmed meanwhile.
    """
    # 1. A declared cut ends where it was declared to end, not earlier and not later.
    if gathering.declared is not None:
        reached = gathering.last == gathering.declared.up_to
        return gathering.declared if reached or passed else None
    # 2. Nothing gathered, nothing to cut. 3. Otherwise whenever somebody asks.
    if gathering.last is None or not full:
        return None
    return Cut(gathering.after, gathering.last)
