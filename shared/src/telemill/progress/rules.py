"""What an owner of a shard may do, and what its progress is afterwards. Pure: no I/O, no clock.

The store keeps one `Progress` item per (application, shard). Every change of an item is decided
here and carried out by `telemill.progress.store` as one conditional write. Two things guard it:

- `epoch` counts owners. A write names the epoch it was claimed with, so a *zombie* (an owner that
  paused, was replaced and woke up) changes nothing.
- `write_id` chains the writes of one owner. A write names the one it follows, so a *ghost* (a
  write that timed out, was repeated, and reaches the table late) changes nothing either. A write
  of unknown outcome is repeated under its own name before any other follows it.

For the sink there is the cut: `resume`, `admit`, `next_cut` say which records go into one set of
objects; see `Gathering`. (Watermarks, the consumers' side, are `telemill.stages.watermarks`.)
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

from telemill.errors import PositionError
from telemill.kinesis.records import SHARD_END, Shard

__all__ = [
    "MAX_INLINE_BYTES",
    "SHARD_END",
    "STALE_SECONDS",
    "Cut",
    "Gathering",
    "Progress",
    "Sighting",
    "admit",
    "advance",
    "claimed",
    "declare",
    "is_live",
    "may_take",
    "moved",
    "next_cut",
    "order",
    "release",
    "resume",
    "shard_key",
    "sight",
    "take",
    "took_effect",
    "unchanged",
    "unfinished_parents",
    "writable",
]

STALE_SECONDS = 10.0
"""A claim whose heart has not beaten for so long may be taken by anyone."""

MAX_INLINE_BYTES = 4096
"""State up to this size lives in the item: one write unit of DynamoDB is 1 KiB."""


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
class Progress:
    """The progress item of one application on one shard.

    Attributes:
        app: Application id.
        shard: `shard_key` of the shard.
        epoch: Number of claims so far; the present owner's fencing token.
        owner: Worker id of the present or last owner.
        beat: Heartbeats of this epoch; only observers read it.
        released: The owner gave the shard up.
        position: Last sequence number whose output is durable, SHARD_END, or None before that.
        state_key: Where the state at `position` is kept, when it is large.
        state: The state at `position` itself, when it is small.
        intent: The sink's declared cut; its objects may or may not exist.
        write_id: Names the last write of claim, position or intent (not of a heartbeat).
        expires_at: Epoch seconds after which an ended shard's item may be deleted.
    """

    app: str
    shard: str
    epoch: int = 0
    owner: str = ""
    beat: int = 0
    released: bool = False
    position: str | None = None
    state_key: str | None = None
    state: bytes | None = None
    intent: Cut | None = None
    write_id: str = ""
    expires_at: int | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing of the shard is left to read."""
        return self.position == SHARD_END


def shard_key(shard: Shard, shard_id: str | None = None) -> str:
    """The item's range key: of a shard, or of another one (a parent) of the same stream."""
    return f"{shard.stream}/{shard.incarnation}/{shard_id or shard.shard_id}"


def order(position: str | None) -> tuple[int, int]:
    """A sort key of positions: None, then sequence numbers as numbers, then SHARD_END."""
    if position is None:
        return (0, 0)
    return (2, 0) if position == SHARD_END else (1, int(position))


# --- claims ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sighting:
    """When an observer first saw an item's heart at one beat, by its own monotonic clock."""

    epoch: int
    beat: int
    since: float


def sight(before: Sighting | None, seen: Progress, now: float) -> Sighting:
    """What an observer remembers after reading another worker's item.

    Args:
        before: What it remembered of this shard until now.
        seen: The item as just read.
        now: Its own monotonic clock. Clocks of different machines are never compared.
    """
    if before is not None and (before.epoch, before.beat) == (seen.epoch, seen.beat):
        return before
    return Sighting(seen.epoch, seen.beat, now)


def may_take(seen: Progress | None, worker_id: str, unchanged_seconds: float) -> bool:
    """Whether a worker may claim a shard; two live workers then never fence each other for ever.

    Safety does not hang on this (a wrong guess fences a live owner and no row is harmed): only
    liveness does.

    Args:
        seen: The item as read, None when there is none.
        worker_id: Who asks. Unique per live process, kept over a restart.
        unchanged_seconds: For how long the asker has seen the same epoch and beat.
    """
    # 1. Never claimed. 2. Given up. 3. Our own, from before a restart. 4. Its owner is silent.
    return (
        seen is None
        or seen.released
        or seen.owner == worker_id
        or unchanged_seconds >= STALE_SECONDS
    )


def take(seen: Progress | None, app: str, shard: str, worker_id: str, write_id: str) -> Progress:
    """The item after a take-over. Position, state and intent stay whatever they are by then."""
    base = seen or Progress(app, shard)
    return replace(
        base, epoch=base.epoch + 1, owner=worker_id, beat=0, released=False, write_id=write_id
    )


def unfinished_parents(parents: Sequence[Progress | None]) -> list[str]:
    """The parents that forbid to start their child: read by this application, but not to the end.

    None stands for a parent without an item: this application never read it (it was trimmed, or
    lay before the first start), so it left no state.
    """
    return [parent.shard for parent in parents if parent is not None and not parent.ended]


# --- writes of an owner ----------------------------------------------------------------------


def advance(
    held: Progress,
    position: str,
    *,
    write_id: str,
    state: bytes | None = None,
    state_key: str | None = None,
    intent: Cut | None = None,
) -> Progress:
    """Move position and state together, and clear the intent (or declare the next one).

    Args:
        held: The owner's item.
        position: Everything up to here is durable. A sequence number or SHARD_END.
        write_id: Names this write.
        state: The state after the record at `position`, if kept inline.
        state_key: Where it is kept otherwise.
        intent: The next cut, to save a write of its own; it begins at `position`.

    Raises:
        PositionError: The owner broke the protocol: backwards, past the end, or past a cut.
    """
    if held.ended:
        raise PositionError(f"{held.shard} has ended: its final state never changes")
    if order(position) < order(held.position):
        raise PositionError(f"{held.shard}: {position} lies before {held.position}")
    if held.intent is not None and position not in {held.intent.up_to, SHARD_END}:
        raise PositionError(f"{held.shard}: {position} is not the end of cut {held.intent.name}")
    moved = replace(
        held,
        position=position,
        state=state,
        state_key=state_key,
        intent=None,
        write_id=write_id,
    )
    return moved if intent is None else declare(moved, intent, write_id=write_id)


def declare(held: Progress, cut: Cut, *, write_id: str) -> Progress:
    """Write the intent to make a cut's objects. Position and state stay *before* the cut.

    Raises:
        PositionError: Another cut is declared already, or the cut does not begin at position.
    """
    if held.intent not in {None, cut}:
        raise PositionError(f"{held.shard}: a cut is already declared, {held.intent}")
    if cut.after != held.position or held.ended:
        raise PositionError(f"{held.shard}: {cut} does not begin at {held.position}")
    if cut.up_to == SHARD_END or order(cut.up_to) <= order(cut.after):
        raise PositionError(f"{held.shard}: {cut} holds no record")
    return replace(held, intent=cut, write_id=write_id)


def release(held: Progress, *, write_id: str) -> Progress:
    """Give the shard up. An intent that stands is the next owner's to carry out."""
    return replace(held, released=True, write_id=write_id)


# --- the table's side ------------------------------------------------------------------------
# What a conditional write requires and which attributes it sets. DynamoDB gets the same as
# expressions; tests/contract holds both to one suite, tests/model explores these.


def unchanged(item: Progress | None, seen: Progress | None) -> bool:
    """The condition of a take-over: nobody claimed or beat since the item was seen."""
    if item is None or seen is None:
        return item is seen
    return (item.epoch, item.beat) == (seen.epoch, seen.beat)


def claimed(item: Progress | None, taken: Progress) -> Progress:
    """The item after a take-over: only the claim is written, the rest stays as it is."""
    return replace(
        item or Progress(taken.app, taken.shard),
        epoch=taken.epoch,
        owner=taken.owner,
        beat=taken.beat,
        released=taken.released,
        write_id=taken.write_id,
    )


def is_live(item: Progress | None, epoch: int) -> bool:
    """The condition of a heartbeat: the claim of this epoch is the present one."""
    return item is not None and item.epoch == epoch and not item.released


def writable(item: Progress | None, epoch: int, previous: str) -> bool:
    """The condition of every other write of an owner: its claim, and right after its last write.

    Args:
        item: The item in the table.
        epoch: The writer's epoch.
        previous: `write_id` of the item the write was computed from.
    """
    return is_live(item, epoch) and item is not None and item.write_id == previous


def moved(item: Progress, progress: Progress) -> Progress:
    """The item after an owner's write: claim and heartbeat stay as they are."""
    return replace(progress, epoch=item.epoch, owner=item.owner, beat=item.beat)


def took_effect(wanted: Progress, found: Progress | None) -> bool:
    """Tell a repeated write from fencing, after the condition of a write did not hold.

    An owner settles a write of unknown outcome (repeats it) before the next one, so what stands in
    its epoch is either the write it follows, and then the condition held, or this very one.

    Args:
        wanted: What the write would have made of the item.
        found: The item, read consistently afterwards.
    """
    return found is not None and found.write_id == wanted.write_id


# --- the sink's cut --------------------------------------------------------------------------


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
