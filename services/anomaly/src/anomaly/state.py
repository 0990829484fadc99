"""What the service remembers per input shard: profiles, episodes and watermarks. Pure."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import msgspec
import numpy as np

from anomaly import detector, episodes
from telemill import errors
from telemill.codec import compression
from telemill.stages import watermarks
from telemill.stages.watermarks import Watermarks

SNAPSHOT_VERSION = 1
FIRST_CAPACITY = 64


class _Snapshot(msgspec.Struct, array_like=True):
    version: int
    keys: list[str]
    slots: list[int]
    arrays: dict[str, bytes]
    watermarks: bytes


@dataclass(slots=True)
class State:
    """All devices of one shard; a device is one row of every array.

    Attributes:
        profiles: What is normal.
        episodes: What is going on.
        watermarks: What is taken.
        keys: Canonical device key of each row.
        slots: Slot of each row.
    """

    profiles: detector.Profiles
    episodes: episodes.Episodes
    watermarks: Watermarks = field(default_factory=Watermarks)
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
            if row >= len(self.profiles.rows):
                self._grow()
        return row

    def _grow(self) -> None:
        for part in (self.profiles, self.episodes):
            for each in fields(part):
                array = getattr(part, each.name)
                setattr(part, each.name, np.concatenate([array, np.zeros_like(array)]))


def empty(field_count: int) -> State:
    """No device yet."""
    return State(detector.empty(FIRST_CAPACITY, field_count), episodes.empty(FIRST_CAPACITY))


def snapshot(state: State) -> bytes:
    """As bytes; equal states give equal bytes."""
    count = len(state.keys)
    arrays = {
        each.name: np.ascontiguousarray(getattr(part, each.name)[:count]).tobytes()
        for part in (state.profiles, state.episodes)
        for each in fields(part)
    }
    made = _Snapshot(SNAPSHOT_VERSION, state.keys, state.slots, arrays, state.watermarks.snapshot())
    return compression.zstd_compress(msgspec.msgpack.encode(made))


def restore(snapshots: Sequence[bytes], field_count: int, own_slots: Collection[int]) -> State:
    """The union of snapshots, for the devices whose slot is ours.

    Raises:
        DecodeError: A snapshot is damaged, or of another version or contract.
    """
    state = empty(field_count)
    decoded = [_decode(each) for each in snapshots]
    for each in decoded:
        _add(state, each, own_slots)
    state.watermarks = watermarks.restore(
        [each.watermarks for each in decoded], lambda slot: slot in own_slots
    )
    return state


def _decode(data: bytes) -> _Snapshot:
    try:
        decoded = msgspec.msgpack.decode(compression.decompress(data), type=_Snapshot)
    except msgspec.MsgspecError as error:
        raise errors.DecodeError(f"anomaly state: {error}") from error
    if decoded.version != SNAPSHOT_VERSION:
        raise errors.DecodeError(f"anomaly state: version {decoded.version} is not known")
    return decoded


def _add(state: State, decoded: _Snapshot, own_slots: Collection[int]) -> None:
    ours = [row for row, slot in enumerate(decoded.slots) if slot in own_slots]
    rows = [state.row_of(decoded.keys[row], decoded.slots[row]) for row in ours]
    for part in (state.profiles, state.episodes):
        for each in fields(part):
            target = getattr(part, each.name)
            target[rows] = _array(decoded, each.name, target)[ours]


def _array(decoded: _Snapshot, name: str, like: Any) -> Any:
    """A stored array; fields that the contract has gained since are empty."""
    devices = len(decoded.keys)
    if not devices:
        return np.empty((0, *like.shape[1:]), like.dtype)
    try:
        flat = np.frombuffer(decoded.arrays[name], like.dtype)
        stored = flat.reshape((devices, -1)) if like.ndim > 1 else flat
    except (KeyError, ValueError) as error:
        raise errors.DecodeError(f"anomaly state: {name}: {error}") from error
    if len(stored) != devices or stored.shape[1:] > like.shape[1:]:
        raise errors.DecodeError(f"anomaly state: {name}: of another contract")
    if stored.shape[1:] == like.shape[1:]:
        return stored
    gained = like.shape[1] - stored.shape[1]
    return np.pad(stored, ((0, 0), (0, gained)))
