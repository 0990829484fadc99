"""What the stages of `telemill.testing.stream_model` do with a record: the least that has state."""

from functools import cache
from typing import NamedTuple, Protocol

import msgspec

from telemill.testing import reshard_model as streams
from telemill.testing.reshard_model import Row


class Out(NamedTuple):
    """A row that a step puts out; `value` is what else is in it."""

    row: Row
    value: int = 0

    def __str__(self) -> str:
        return f"{self.row}={self.value}" if self.value else str(self.row)


class Step(Protocol):
    """A stage's pure core, as far as the protocol sees it. States are bytes."""

    def restore(self, states: tuple[bytes, ...], slots: frozenset[int]) -> bytes:
        """The state to begin with: one to go on, or those of all parents."""

    def step(self, state: bytes, row: Row, key: str) -> tuple[bytes, Out | None]:
        """One record."""


class Dedupe(NamedTuple):
    """As transform: a reading whose key was seen is dropped. Its input is not slotted."""

    def restore(self, states: tuple[bytes, ...], _slots: frozenset[int]) -> bytes:
        """The union of the keys."""
        return bytes(sorted({key for state in states for key in state}))

    def step(self, state: bytes, row: Row, key: str) -> tuple[bytes, Out | None]:
        """Drop it, or remember its key."""
        if key.encode() in state:
            return state, None
        return bytes(sorted(state + key.encode())), Out(row)


class _Scores(msgspec.Struct, array_like=True):
    """Watermarks of the input, and how many rows each slot had: its detector."""

    watermarks: bytes = streams.NOTHING
    counts: list[tuple[int, int]] = []


class Score(NamedTuple):
    """As anomaly: drops replays by watermark; a score depends on all rows of the slot before."""

    def restore(self, states: tuple[bytes, ...], slots: frozenset[int]) -> bytes:
        """The union for our own slots, as `anomaly.state.restore`."""
        return _restore_scores(states, slots)

    def step(self, state: bytes, row: Row, _key: str) -> tuple[bytes, Out | None]:
        """Drop it, or score it."""
        return _score(state, row)


@cache
def _restore_scores(states: tuple[bytes, ...], slots: frozenset[int]) -> bytes:
    before = [_decode(state) for state in states]
    marks = streams.union([each.watermarks for each in before], slots.__contains__)
    counts = {slot: count for each in before for slot, count in each.counts if slot in slots}
    return _encode(marks, counts)


@cache
def _score(state: bytes, row: Row) -> tuple[bytes, Out | None]:
    before = _decode(state)
    marks, known = streams.take(before.watermarks, row.raw, row.slot, (row.number,))
    if known:
        return state, None
    counts = dict(before.counts)
    counts[row.slot] = counts.get(row.slot, 0) + 1
    return _encode(marks, counts), Out(row, counts[row.slot])


def _encode(marks: bytes, counts: dict[int, int]) -> bytes:
    return msgspec.msgpack.encode(_Scores(marks, sorted(counts.items())))


def _decode(state: bytes) -> _Scores:
    return msgspec.msgpack.decode(state, type=_Scores)


def readings(text: str) -> tuple[tuple[Row, str], ...]:
    """Records of a stage's input: rows as `reshard_model.rows` reads them, `:key` behind each."""
    split = [each.partition(":") for each in text.split()]
    return tuple((streams.rows(name)[0], key) for name, _, key in split)
