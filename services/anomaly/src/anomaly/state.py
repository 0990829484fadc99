"""What the service remembers per input shard: detector, episodes and watermarks. Pure."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import msgspec
import numpy as np

from anomaly import alerting, episodes, limits
from anomaly.detection import interface
from telemill import errors
from telemill.codec import compression
from telemill.stages import watermarks
from telemill.stages.watermarks import Watermarks

SNAPSHOT_VERSION = 2
"""Version 1 held the profiles of `ewma-t2/1` and arrays without their shapes."""
MIGRATED_VERSION = 1
FIRST_CAPACITY = 64
MAX_SNAPSHOT_BYTES = 4 * 2**30
"""Our own, so only a guard: 200,000 devices, or 6,000 with a forest."""

PARTS = ("detector", "forecast", "limits")
"""Of the state, that are arrays by name."""

Begin = Callable[[int], interface.State]
"""Makes a part's empty state for a number of devices."""


class _Array(msgspec.Struct, array_like=True):
    shape: tuple[int, ...]
    data: bytes


class _Snapshot(msgspec.Struct, array_like=True):
    version: int
    keys: list[str]
    slots: list[int]
    arrays: dict[str, bytes | _Array]
    watermarks: bytes
    models: dict[str, list[bytes]] = {}
    telling: bytes = b""


@dataclass(slots=True)
class State:
    """All devices of one shard; a device is one row of every array.

    Attributes:
        detector: What is normal.
        forecast: What comes next.
        limits: Warnings of limits.
        episodes: What is going on.
        watermarks: What is taken.
        telling: What is told of what goes on.
        keys: Canonical device key of each row.
        slots: Slot of each row.
    """

    detector: interface.State
    forecast: interface.State
    limits: interface.State
    episodes: episodes.Episodes
    watermarks: Watermarks = field(default_factory=Watermarks)
    telling: alerting.Telling = field(default_factory=alerting.Telling)
    keys: list[str] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)

    def row_of(self, device_key: str, slot: int) -> int:
        """The row of a device; a new one for a new device."""
        row = self.rows.get(device_key)
        if row is None:
            row = self.rows[device_key] = len(self.keys)
            self.keys.append(device_key)
            self.slots.append(slot)
            if row >= len(self.episodes.streak):
                self._grow()
        return row

    def _grow(self) -> None:
        for each in fields(self.episodes):
            setattr(self.episodes, each.name, _doubled(getattr(self.episodes, each.name)))
        for part in PARTS:
            arrays = getattr(self, part)
            setattr(self, part, {name: _doubled(array) for name, array in arrays.items()})


def _nothing(_devices: int) -> interface.State:
    return {}


def empty(begin: Begin, measures: int, foresee: Begin = _nothing) -> State:
    """No device yet; `begin` is the detector's, `foresee` the forecast's."""
    return State(
        begin(FIRST_CAPACITY),
        foresee(FIRST_CAPACITY),
        limits.begin(FIRST_CAPACITY, measures),
        episodes.empty(FIRST_CAPACITY, measures),
    )


def snapshot(state: State) -> bytes:
    """As bytes; equal states give equal bytes."""
    count = len(state.keys)
    arrays: dict[str, bytes | _Array] = {
        name: _Array(array.shape[1:], np.ascontiguousarray(array[:count]).tobytes())
        for name, array in _arrays(state).items()
        if array.dtype != object
    }
    models = {
        name: interface.model_bytes(array[:count])
        for name, array in _arrays(state).items()
        if array.dtype == object
    }
    made = _Snapshot(
        SNAPSHOT_VERSION,
        state.keys,
        state.slots,
        arrays,
        state.watermarks.snapshot(),
        models,
        state.telling.encode(),
    )
    return compression.zstd_compress(msgspec.msgpack.encode(made))


def restore(
    snapshots: Sequence[bytes],
    begin: Begin,
    own_slots: Collection[int],
    measures: int,
    foresee: Begin = _nothing,
) -> State:
    """The union of snapshots, for the devices whose slot is ours.

    A snapshot of version 1 gives its devices, episodes and watermarks; its detectors warm up again.

    Raises:
        DecodeError: A snapshot is damaged, or of another version or contract.
    """
    state = empty(begin, measures, foresee)
    decoded = [_decode(each) for each in snapshots]
    for each in decoded:
        _add(state, each, own_slots)
    state.watermarks = watermarks.restore(
        [each.watermarks for each in decoded], lambda slot: slot in own_slots
    )
    state.telling = alerting.restore([each.telling for each in decoded], own_slots)
    return state


def _doubled(array: Any) -> Any:
    return np.concatenate([array, np.zeros_like(array)])


def _arrays(state: State) -> dict[str, Any]:
    """Every array of the state by name."""
    made = {
        f"{part}.{name}": array for part in PARTS for name, array in getattr(state, part).items()
    }
    return made | {each.name: getattr(state.episodes, each.name) for each in fields(state.episodes)}


def _decode(data: bytes) -> _Snapshot:
    try:
        plain = compression.decompress(data, limit=MAX_SNAPSHOT_BYTES)
        decoded = msgspec.msgpack.decode(plain, type=_Snapshot)
    except msgspec.MsgspecError as error:
        raise errors.DecodeError(f"anomaly state: {error}") from error
    if decoded.version not in (MIGRATED_VERSION, SNAPSHOT_VERSION):
        raise errors.DecodeError(f"anomaly state: version {decoded.version} is not known")
    return decoded


def _add(state: State, decoded: _Snapshot, own_slots: Collection[int]) -> None:
    ours = [row for row, slot in enumerate(decoded.slots) if slot in own_slots]
    rows = [state.row_of(decoded.keys[row], decoded.slots[row]) for row in ours]
    for name, target in _arrays(state).items():
        # What detectors and episodes have gained since starts empty.
        if target.dtype == object:
            _add_models(target, rows, decoded.models.get(name), ours)
        elif name in decoded.arrays:
            stored = _array(decoded, name, target)
            part = (rows, *(slice(0, size) for size in stored.shape[1:]))
            target[part] = stored[ours]


def _add_models(
    target: Any, rows: Sequence[int], models: Sequence[bytes] | None, ours: Sequence[int]
) -> None:
    for row, stored in zip(rows, ours, strict=True):
        target[row] = (models[stored] or 0) if models else 0


def _array(decoded: _Snapshot, name: str, like: Any) -> Any:
    """A stored array; it may lack the fields that the contract has gained since."""
    devices = len(decoded.keys)
    try:
        found = decoded.arrays[name]
        if isinstance(found, bytes):
            found = _Array((), found)
        stored = np.frombuffer(found.data, like.dtype).reshape((devices, *found.shape))
    except (KeyError, ValueError) as error:
        raise errors.DecodeError(f"anomaly state: {name}: {error}") from error
    fits = stored.ndim == like.ndim and all(
        have <= want for have, want in zip(stored.shape[1:], like.shape[1:], strict=True)
    )
    if not fits:
        raise errors.DecodeError(f"anomaly state: {name}: of another contract")
    return stored
