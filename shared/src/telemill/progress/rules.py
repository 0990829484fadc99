"""What an owner of a shard may do, and what its progress is afterwards. Pure: no I/O, no clock.

The store keeps one `Progress` item per (application, shard). Every change of an item is decided
here and carried out by `telemill.progress.store` as one conditional write. Two things guard it:

- `epoch` counts owners. A write names the epoch it was claimed with, so a *zombie* (an owner that
  paused, was replaced and woke up) changes nothing.
- `write_id` chains the writes of one owner. A write names the one it follows, so a *ghost* (a
  write that timed out, was repeated, and reaches the table late) changes nothing either. A write
  of unknown outcome is repeated under its own name before any other follows it.

For the sink there is the cut: `telemill.progress.cuts`, whose names are here too. (Watermarks, the
consumers' side, are `telemill.stages.watermarks`; how a record is found that crashes its worker is
`telemill.progress.suspicion`.)
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from telemill.errors import PositionError
from telemill.kinesis.records import SHARD_END, Shard
from telemill.progress import suspicion
from telemill.progress.cuts import Cut, Gathering, admit, next_cut, resume
from telemill.progress.positions import order
from telemill.progress.suspicion import Suspects

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
    "condemn",
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
    "suspect",
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
        crashes: Owners in a row that died at this position.
        suspects: Which records they may have died of.
        poison: Sequence numbers after `position` that nobody may touch: put aside whole.
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
    crashes: int = 0
    suspects: Suspects | None = None
    poison: tuple[str, ...] = ()

    @property
    def ended(self) -> bool:
        """Whether nothing of the shard is left to read."""
        return self.position == SHARD_END


def shard_key(shard: Shard, shard_id: str | None = None) -> str:
    """The item's range key: of a shard, or of another one (a parent) of the same stream."""
    return f"{shard.stream}/{shard.incarnation}/{shard_id or shard.shard_id}"


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


def may_take(
    seen: Progress | None,
    worker_id: str,
    unchanged_seconds: float,
    stale_seconds: float = STALE_SECONDS,
) -> bool:
    """Whether a worker may claim a shard; two live workers then never fence each other for ever.

    Safety does not hang on this (a wrong guess fences a live owner and no row is harmed): only
    liveness does.

    Args:
        seen: The item as read, None when there is none.
        worker_id: Who asks. Unique per live process, kept over a restart.
        unchanged_seconds: For how long the asker has seen the same epoch and beat.
        stale_seconds: An owner silent for so long is taken for dead.
    """
    # 1. Never claimed. 2. Given up. 3. Our own, from before a restart. 4. Its owner is silent.
    return (
        seen is None
        or seen.released
        or seen.owner == worker_id
        or unchanged_seconds >= stale_seconds
    )


def take(seen: Progress | None, app: str, shard: str, worker_id: str, write_id: str) -> Progress:
    """The item after a take-over. Position, state and intent stay whatever they are by then.

    An owner that did not give its claim up has died, or is taken for dead.
    """
    base = seen or Progress(app, shard)
    died = seen is not None and not seen.released
    # Only an owner that knows of a crash notes what it works on: its own death is the second.
    noted = died and base.suspects is not None
    return replace(
        base,
        epoch=base.epoch + 1,
        owner=worker_id,
        beat=0,
        released=False,
        write_id=write_id,
        crashes=max(base.crashes + died, suspicion.GROUPED_AFTER_CRASHES if noted else 0),
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

    Crashes are over when no suspect is left beyond the position.

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
    suspects = held.suspects
    if suspects is not None and order(suspects.up_to) <= order(position):
        suspects = None
    moved = replace(
        held,
        position=position,
        state=state,
        state_key=state_key,
        intent=None,
        write_id=write_id,
        crashes=0 if suspects is None else held.crashes,
        suspects=suspects,
        poison=tuple(each for each in held.poison if order(each) > order(position)),
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
    suspects = suspicion.withdrawn(held.suspects)
    return replace(held, released=True, suspects=suspects, write_id=write_id)


def suspect(held: Progress, suspects: Suspects | None, *, write_id: str) -> Progress:
    """Note what is about to be tried.

    When all who were suspected before came through, the deaths were not theirs: of those that are
    noted now nobody has died yet, and one death counts as with any owner that found a crash.
    """
    before = held.suspects
    through = before is None or (
        suspects is not None and order(suspects.after) >= order(before.up_to)
    )
    crashes = min(held.crashes, 1) if through else held.crashes
    return replace(held, suspects=suspects, crashes=crashes, write_id=write_id)


def condemn(held: Progress, sequence_number: str, *, write_id: str) -> Progress:
    """Call a record poison. With that the crashes are explained.

    Raises:
        PositionError: It is not after the position, or it is in a declared cut: that is a function
            of its records, and some of its objects may exist.
    """
    done = held.position if held.intent is None else held.intent.up_to
    if order(sequence_number) <= order(done):
        raise PositionError(f"{held.shard}: {sequence_number} is not after {done}")
    poison = (*held.poison, sequence_number)
    return replace(held, crashes=0, suspects=None, poison=poison, write_id=write_id)


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
        crashes=taken.crashes,
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
