"""What the models of tests/model share of streams: shards with parents, rows, real watermarks."""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import NamedTuple, Protocol

import pyarrow as pa

from telemill.codec.wire import Header
from telemill.progress import rules
from telemill.stages import watermarks

NOTHING = watermarks.Watermarks().snapshot()
"""Watermarks of who took no row."""


class Row(NamedTuple):
    """A row by its lineage.

    Attributes:
        raw: Its raw shard.
        number: Its sequence number there; raw shards count independently.
        slot: Its device's slot.
    """

    raw: str
    number: int
    slot: int = 0

    def __str__(self) -> str:
        return f"{self.raw}{self.number}"


def rows(text: str) -> tuple[Row, ...]:
    """Read "A1 B2.1": raw shard, sequence number, and the slot unless it is 0."""
    split = (each.partition(".") for each in text.split())
    return tuple(Row(name[0], int(name[1:]), int(slot or 0)) for name, _, slot in split)


class Lineaged(Protocol):
    """A shard as far as others come from it."""

    @property
    def parents(self) -> tuple[int, ...]:
        """Indexes of its parents, which go before it."""


class Writing(Protocol):
    """A worker as far as its writes are named."""

    @property
    def name(self) -> str:
        """Its worker id."""

    @property
    def life(self) -> int:
        """How often it died."""

    @property
    def writes(self) -> int:
        """How many names it used up in this life."""


def write_id(worker: Writing) -> str:
    """The name of a worker's next write."""
    return f"{worker.name}{worker.life}.{worker.writes}"


def ended(items: Sequence[rules.Progress | None]) -> bool:
    """Whether every shard was read to its end."""
    return all(item is not None and item.ended for item in items)


def shown(rows: Sequence[object]) -> str:
    """Rows as a fault names them."""
    return " ".join(map(str, rows)) or "nothing"


def openable(
    items: Sequence[rules.Progress | None], shards: Sequence[Lineaged], *, eager: bool = False
) -> Iterator[int]:
    """The shards that may be opened now: not ended, and every parent is.

    Args:
        items: The progress item of each shard.
        shards: Parents first.
        eager: Rejected: children do not wait for the end of their parents.
    """
    for index, shard in enumerate(shards):
        item = items[index]
        parents = [items[parent] for parent in shard.parents]
        if item is not None and item.ended:
            continue
        # A coordinator opens no child before its parents, `Claims.open` none before their ends.
        if eager or (all(parents) and not rules.unfinished_parents(parents)):
            yield index


def paths(shards: Sequence[Lineaged]) -> list[tuple[int, ...]]:
    """Every way from a first shard to one without children: along it rows are in order."""
    parents = {parent for shard in shards for parent in shard.parents}
    leaves = [index for index in range(len(shards)) if index not in parents]
    return [path for leaf in leaves for path in _up(shards, leaf)]


def _up(shards: Sequence[Lineaged], index: int) -> Iterator[tuple[int, ...]]:
    if not shards[index].parents:
        yield (index,)
    for parent in shards[index].parents:
        for path in _up(shards, parent):
            yield (*path, index)


# --- the real watermarks, as functions of bytes ----------------------------------------------


@cache
def take(state: bytes, origin: str, slot: int, numbers: tuple[int, ...]) -> tuple[bytes, int]:
    """What `Watermarks.take` makes of a batch.

    Args:
        state: A snapshot.
        origin: Whose rows: the raw shard. (Rejected protocols say something else.)
        slot: Of all rows.
        numbers: Their sequence numbers, ascending.

    Returns:
        The snapshot after it, and how many leading rows were taken before.
    """
    marks = watermarks.restore([state], _every_slot)
    header = Header("readings", "fms", 1, slot, "transform", "readings-raw", 1, origin)
    fresh = marks.take(header, _record_batch(numbers), 0)
    return marks.snapshot(), len(numbers) - fresh.num_rows


def union(states: Sequence[bytes], keep_slot: Callable[[int], bool]) -> bytes:
    """What a child shard makes of its parents' snapshots."""
    return watermarks.restore(states, keep_slot).snapshot()


@cache
def knows_others(state: bytes, origin: str) -> bool:
    """Whether a snapshot holds a watermark of another raw shard."""
    marks = watermarks.restore([state], _every_slot).marks
    return any(each.raw_shard_id != origin for each in marks)


def _every_slot(_slot: int) -> bool:
    return True


def _record_batch(numbers: tuple[int, ...]) -> pa.RecordBatch:
    """Rows with nothing but their lineage."""
    texts = pa.array([str(number) for number in numbers], pa.string())
    subs = pa.array([0] * len(numbers), pa.int64())
    return pa.record_batch({"sequence_number": texts, "sub_sequence_number": subs})
