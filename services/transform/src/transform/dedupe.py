"""Which readings were there before: the last event times of each device with a hash of the values.

One raw shard's state. All of it is a function of the rows taken, in order, however they were cut
into portions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from transform.hashing import UInt64s

DAY_US = 86_400_000_000
NEVER = np.iinfo(np.int64).min
UNTRACKED = -1

KEEP, DUPLICATE, CONFLICT = 0, 1, 2

Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
_GROW_BY = 64


class Verdicts(NamedTuple):
    """What became of each row.

    Attributes:
        outcome: KEEP, DUPLICATE or CONFLICT.
        out_of_order: Whether it is kept though older than one taken before.
    """

    outcome: npt.NDArray[np.uint8]
    out_of_order: Bools


class Entry(NamedTuple):
    """What is known of a device, oldest reading taken first."""

    event_us: Int64s
    hashes: UInt64s
    newest_us: int
    last_seen_us: int
    carried: tuple[Any, ...]


@dataclass(slots=True)
class Groups:
    """Rows by device: `order` sorts them, each group is `starts[i]` … `starts[i] + sizes[i]`."""

    order: npt.NDArray[np.intp]
    starts: npt.NDArray[np.intp]
    sizes: npt.NDArray[np.intp]

    @classmethod
    def of(cls, devices: Int64s) -> "Groups":
        """Group rows by device, keeping their order inside each."""
        narrow = (
            devices.astype(np.uint16) if len(devices) and devices.max() < 2**16 - 1 else devices
        )
        order = np.argsort(narrow, kind="stable")  # a radix sort for 16 bits
        ordered = devices[order]
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]][: len(ordered)])
        return cls(order, starts, np.diff(np.r_[starts, len(ordered)]))


class History:
    """The window of each device, as rows of two arrays used as rings.

    Args:
        window: Event times kept a device, by order of acceptance.
        max_devices: Devices tracked at once. Of further ones nothing is remembered until a place
            is free, so their duplicates are not seen: that bounds the memory whoever sends.
        carry_count: Values carried a device.
    """

    def __init__(self, window: int, max_devices: int, carry_count: int = 0) -> None:
        self.window = window
        self.max_devices = max_devices
        self.carry_count = carry_count
        self.day = UNTRACKED
        self._rows: dict[str, int] = {}
        self._free: list[int] = []
        self._event_us = np.empty((0, window), np.int64)
        self._hashes = np.empty((0, window), np.uint64)
        self._taken = np.empty(0, np.int64)
        self._newest_us = np.empty(0, np.int64)
        self._last_seen_us = np.empty(0, np.int64)
        self.carried = np.empty((0, carry_count), np.object_)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def size_bytes(self) -> int:
        """Memory of the rings."""
        return int(self._event_us.nbytes + self._hashes.nbytes)

    def rows_of(self, keys: Sequence[str]) -> Int64s:
        """The row of each device, making room for new ones in order; UNTRACKED when full."""
        found = (self._rows.get(key, UNTRACKED) for key in keys)
        rows = np.fromiter(found, np.int64, len(keys))
        for index in np.flatnonzero(rows == UNTRACKED).tolist():
            if len(self._rows) < self.max_devices:
                rows[index] = self._add(keys[index])
        return rows

    def seen(self, rows: Int64s, arrival_us: Int64s) -> None:
        """Note when rows' devices were last heard of."""
        tracked = rows != UNTRACKED
        np.maximum.at(self._last_seen_us, rows[tracked], arrival_us[tracked])

    def advance_to(self, day: int, keep_days: int) -> None:
        """Forget devices not heard of for `keep_days` before `day`. Called once a new day begins.

        The day is that of the records' arrival, so that a replay forgets at the same record.
        """
        oldest_us = (day - keep_days) * DAY_US
        self.day = day
        for key in [key for key, row in self._rows.items() if self._last_seen_us[row] < oldest_us]:
            row = self._rows.pop(key)
            self._free.append(row)
            self._clear(row)

    def screen(self, devices: Int64s, event_us: Int64s, hashes: UInt64s) -> Verdicts:
        """Take rows in order: say which are new, and remember those."""
        verdicts = Verdicts(np.zeros(len(devices), np.uint8), np.zeros(len(devices), np.bool_))
        tracked = np.flatnonzero(devices != UNTRACKED)
        if len(tracked) == 0:
            return verdicts
        groups = Groups.of(devices[tracked])
        order = tracked[groups.order]
        rising = self._is_rising(devices[order], event_us[order], groups)
        self._append(order, devices, event_us, hashes, groups, rising)
        for group in np.flatnonzero(~rising).tolist():
            start = groups.starts[group]
            rows = order[start : start + groups.sizes[group]]
            self._screen_device(int(devices[rows[0]]), rows, event_us, hashes, verdicts)
        return verdicts

    def _is_rising(self, devices: Int64s, event_us: Int64s, groups: Groups) -> Bools:
        """Of each group: whether every row is newer than all before, so none can be known."""
        before = np.empty_like(event_us)
        before[1:] = event_us[:-1]
        before[groups.starts] = self._newest_us[devices[groups.starts]]
        rising: Bools = np.logical_and.reduceat(event_us > before, groups.starts)
        return rising

    def _append(
        self,
        order: npt.NDArray[np.intp],
        devices: Int64s,
        event_us: Int64s,
        hashes: UInt64s,
        groups: Groups,
        chosen: Bools,
    ) -> None:
        """Remember all rows of the chosen groups."""
        sizes = groups.sizes
        place = np.arange(len(order)) - np.repeat(groups.starts, sizes)
        # Of a group larger than the window only its end stays.
        kept = np.repeat(chosen, sizes) & (place >= np.repeat(sizes - self.window, sizes))
        rows, place = order[kept], place[kept]
        devices_kept = devices[rows]
        ring = (self._taken[devices_kept] + place) % self.window
        self._event_us[devices_kept, ring] = event_us[rows]
        self._hashes[devices_kept, ring] = hashes[rows]
        last = order[(groups.starts + sizes - 1)[chosen]]
        self._taken[devices[last]] += sizes[chosen]
        self._newest_us[devices[last]] = event_us[last]

    def _screen_device(
        self,
        device: int,
        rows: npt.NDArray[np.intp],
        event_us: Int64s,
        hashes: UInt64s,
        verdicts: Verdicts,
    ) -> None:
        """One device, of which some event time is not newer than all before."""
        times = event_us[rows]
        before = np.maximum.accumulate(np.r_[self._newest_us[device], times])
        start = 0
        for number in np.flatnonzero(times <= before[:-1]).tolist():
            self._remember(device, event_us, hashes, rows[start:number])
            row, start = rows[number], number + 1
            (same,) = np.nonzero(self._event_us[device] == event_us[row])
            if len(same):
                equal = self._hashes[device, same[0]] == hashes[row]
                verdicts.outcome[row] = DUPLICATE if equal else CONFLICT
            else:
                verdicts.out_of_order[row] = True
                self._remember(device, event_us, hashes, rows[number : number + 1])
        self._remember(device, event_us, hashes, rows[start:])
        self._newest_us[device] = before[-1]

    def _remember(
        self, device: int, event_us: Int64s, hashes: UInt64s, rows: npt.NDArray[np.intp]
    ) -> None:
        taken = self._taken[device] + len(rows)
        rows = rows[-self.window :]
        ring = np.arange(taken - len(rows), taken) % self.window
        self._event_us[device, ring] = event_us[rows]
        self._hashes[device, ring] = hashes[rows]
        self._taken[device] = taken

    def entries(self) -> dict[str, Entry]:
        """Everything known, by device in the order of their keys: what a snapshot holds."""
        return {key: self._entry(self._rows[key]) for key in sorted(self._rows)}

    def put(self, key: str, entry: Entry) -> None:
        """Set what is known of a device, also beyond `max_devices`: nothing restored is lost."""
        row = self._rows.get(key)
        if row is None:
            row = self._add(key)
        count = min(len(entry.event_us), self.window)
        self._clear(row)
        self._event_us[row, :count] = entry.event_us[len(entry.event_us) - count :]
        self._hashes[row, :count] = entry.hashes[len(entry.hashes) - count :]
        self._taken[row] = count
        self._newest_us[row] = entry.newest_us
        self._last_seen_us[row] = entry.last_seen_us
        if len(entry.carried) == self.carry_count:  # else the contract now carries others
            self.carried[row, :] = entry.carried

    def _entry(self, row: int) -> Entry:
        taken = int(self._taken[row])
        count = min(taken, self.window)
        turn = taken % self.window if count == self.window else 0
        return Entry(
            np.roll(self._event_us[row, :count], -turn),
            np.roll(self._hashes[row, :count], -turn),
            int(self._newest_us[row]),
            int(self._last_seen_us[row]),
            tuple(self.carried[row]),
        )

    def _add(self, key: str) -> int:
        if not self._free:
            self._grow()
        row = self._free.pop()
        self._rows[key] = row
        return row

    def _grow(self) -> None:
        old = len(self._taken)
        more = max(_GROW_BY, old // 4)
        self._event_us = _extended(self._event_us, more, NEVER)
        self._hashes = _extended(self._hashes, more, 0)
        self._taken = _extended(self._taken, more, 0)
        self._newest_us = _extended(self._newest_us, more, NEVER)
        self._last_seen_us = _extended(self._last_seen_us, more, NEVER)
        self.carried = _extended(self.carried, more, None)
        self._free.extend(range(old + more - 1, old - 1, -1))

    def _clear(self, row: int) -> None:
        self._event_us[row] = NEVER
        self._hashes[row] = 0
        self._taken[row] = 0
        self._newest_us[row] = self._last_seen_us[row] = NEVER
        self.carried[row] = None


def _extended(array: npt.NDArray[Any], more: int, filler: Any) -> npt.NDArray[Any]:
    tail = np.full((more, *array.shape[1:]), filler, array.dtype)
    return np.concatenate([array, tail])


def union(first: Entry, second: Entry) -> Entry:
    """What two parent shards know of a device, together; the same whichever comes first.

    Event times are ordered by time, as the order of acceptance of two shards is not known. A time
    both know with other values keeps the smaller hash.
    """
    order = np.lexsort((np.r_[first.hashes, second.hashes], np.r_[first.event_us, second.event_us]))
    event_us = np.r_[first.event_us, second.event_us][order]
    hashes = np.r_[first.hashes, second.hashes][order]
    fresh = np.r_[True, event_us[1:] != event_us[:-1]][: len(event_us)]
    # Both know the newest reading when a split came after it; late ones since went to one of them.
    newer = max(
        first, second, key=lambda entry: (entry.newest_us, entry.last_seen_us, repr(entry.carried))
    )
    return Entry(
        event_us[fresh],
        hashes[fresh],
        newer.newest_us,
        max(first.last_seen_us, second.last_seen_us),
        newer.carried,
    )
