"""What a detector is: `begin` makes a state, `score` takes readings and the state. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
State = dict[str, npt.NDArray[Any]]
"""Arrays by name; the first axis of each is the device. All zeros is a device never seen.

An array of type object holds models: 0, a `Model`, or the bytes of one, which its detector takes
as well.
"""


class Model(Protocol):
    """A library's model, as an array of type object holds it."""

    def to_msgpack(self) -> bytes:
        """Everything that decides what comes next."""


class Batch(NamedTuple):
    """Readings in order of arrival.

    Attributes:
        values: n readings by fields; NaN or an infinity where there is no value.
        devices: n; which row of the state each reading belongs to.
        event_us: n; event time, microseconds since 1970.
    """

    values: Floats
    devices: Ints
    event_us: Ints

    def at(self, rows: Ints) -> "Batch":
        """Some of the readings."""
        return Batch(self.values[rows], self.devices[rows], self.event_us[rows])


class Scores(NamedTuple):
    """What a detector says of each reading.

    Attributes:
        score: n; 1 − the probability that a normal reading goes as far, in [0, 1]; NaN while the
            device warms up.
        contributions: n by fields; each field's share of the score, 0 or summing to 1.
        expected: n by fields; the value that would have been normal, NaN where none is known.
    """

    score: Floats
    contributions: Floats
    expected: Floats

    def put(self, rows: Ints, part: "Scores") -> None:
        """Set the scores of some readings."""
        for whole, piece in zip(self, part, strict=True):
            whole[rows] = piece


class Detector(Protocol):
    """Scores readings and learns from them.

    Every implementation passes `tests/unit/test_anomaly_contract_suite.py`: the cut of a stream
    into batches changes no bit, nothing later changes what was said earlier, a state goes through
    a snapshot unchanged and does not grow with time, and any value is tolerated.
    """

    @property
    def identity(self) -> str:
        """Name and version: rows of another algorithm are another detector's."""

    def begin(self, devices: int, fields: int) -> State:
        """A state that has seen nothing."""

    def score(self, batch: Batch, state: State) -> tuple[Scores, State]:
        """Score readings in order and learn from them.

        The state is taken over: its arrays may be changed or come back; the caller goes on with
        the returned one only. Nothing else is changed.
        """


def nothing(shape: tuple[int, int]) -> Scores:
    """No opinion on n readings of some fields."""
    return Scores(np.full(shape[0], np.nan), np.zeros(shape), np.full(shape, np.nan))


def turns(devices: Ints) -> Iterator[Ints]:
    """Indices of the first reading of every device, of the second, and so on.

    Readings of one turn are of different devices, so a turn is one vectorised step.
    """
    order = np.argsort(devices, kind="stable")
    ordered = devices[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    lengths = np.diff(np.r_[starts, len(ordered)])
    ranks = np.arange(len(ordered)) - np.repeat(starts, lengths)
    by_rank = np.argsort(ranks, kind="stable")
    borders = np.cumsum(np.bincount(ranks))[:-1]
    yield from np.split(order[by_rank], borders)


def shares(parts: Floats) -> Floats:
    """Non-negative parts as fractions of their sum, row by row; 0 where the sum is 0."""
    total = parts.sum(axis=1, keepdims=True)
    found: Floats = np.divide(parts, total, out=np.zeros_like(parts), where=total > 0)
    return found


def model_bytes(models: npt.NDArray[Any]) -> list[bytes]:
    """The models of an array of type object as bytes; empty where there is none."""
    return [
        each if isinstance(each, bytes) else each.to_msgpack() if each else b"" for each in models
    ]


def with_prefix(prefix: str, state: Mapping[str, Any]) -> State:
    """The state of a part, as arrays of the whole."""
    return {f"{prefix}.{name}": array for name, array in state.items()}


def of_prefix(prefix: str, state: Mapping[str, Any]) -> State:
    """The arrays of a part, by their own names."""
    start = prefix + "."
    return {name[len(start) :]: array for name, array in state.items() if name.startswith(start)}
