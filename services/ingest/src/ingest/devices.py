"""Which devices are polled, and when. Pure."""

import bisect
import math
import re
from collections.abc import Iterable
from hashlib import md5

from telemill import errors
from telemill.contract import Contract

MAX_DEVICES = 100_000
TICK_SECONDS = 0.1
"""Phases are multiples of it (or of what divides the interval). Requests that begin together
share the process's wake-ups: ten at a time cost a third of ten one by one."""

_RANGE = re.compile(r"(\d+)\s*-\s*(\d+)")
_QUOTED = re.compile(r'"(\d+\s*-\s*\d+)"')


def parse(text: str, contract: Contract) -> tuple[str, ...]:
    """The device keys of a list such as "1-100,205" or "pump-1,pump-2".

    Args:
        text: Integer ids and inclusive ranges of them, or string ids, separated by commas. Among
            string ids "pump-1" is one, and 1-100 is an error: it is hardly the name of a device.
            One that is really called so is written in quotes: "1-100".
        contract: Says what a device id is.

    Returns:
        Canonical keys, each once, in the order given; empty for an empty text.

    Raises:
        ConfigurationError: An entry is no id of this contract, or there are too many.
    """
    keys: dict[str, None] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        for key in _entry(entry, contract):
            keys[key] = None
        if len(keys) > MAX_DEVICES:
            raise _wrong(entry, f"takes at most {MAX_DEVICES} devices in all")
    return tuple(keys)


def _entry(entry: str, contract: Contract) -> Iterable[str]:
    if contract.device.type == "int64" and (match := _RANGE.fullmatch(entry)):
        first, last = int(match[1]), int(match[2])
        if not 0 <= last - first < MAX_DEVICES:
            raise _wrong(entry, f"takes first-last, ascending, at most {MAX_DEVICES} devices")
        return map(str, range(first, last + 1))
    if contract.device.type == "string":
        if _RANGE.fullmatch(entry):
            raise _wrong(
                entry,
                f"devices of contract {contract.name} are text: takes a list of ids such as"
                f' pump-1,pump-2 (a device of that very name in quotes: "{entry}")',
            )
        entry = _QUOTED.sub(r"\1", entry)
    try:
        return [contract.device_key(entry)]
    except errors.SchemaError as error:
        raise _wrong(entry, 'takes ids and ranges of ids such as "1-100,205"') from error


def _wrong(entry: str, takes: str) -> errors.ConfigurationError:
    return errors.ConfigurationError(f"INGEST_DEVICES: got {entry!r}; {takes}")


def fraction_of(device_key: str) -> float:
    """A stable, evenly spread number in [0, 1) for a device."""
    digest = md5(device_key.encode(), usedforsecurity=False).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def phase_of(device_key: str, interval_seconds: float) -> float:
    """When in each interval a device is polled: the same in every replica and after a restart."""
    tick_count = max(1, int(interval_seconds / TICK_SECONDS))
    return int(fraction_of(device_key) * tick_count) * interval_seconds / tick_count


def partition_of(device_key: str, partition_count: int) -> int:
    """The share of the device list a device belongs to (see `leases`)."""
    digest = md5(device_key.encode(), usedforsecurity=False).digest()
    # Other bytes than the phase's: the devices of one partition keep the whole interval.
    return int.from_bytes(digest[8:], "big") % partition_count


class Timetable:
    """Every device at its own phase of every interval, counted from the epoch."""

    def __init__(self, device_keys: Iterable[str], interval_seconds: float) -> None:
        self.interval_seconds = interval_seconds
        stops = sorted((phase_of(key, interval_seconds), key) for key in device_keys)
        self._phases = [phase for phase, _ in stops]
        self._keys = [key for _, key in stops]

    def __len__(self) -> int:
        return len(self._keys)

    def place_after(self, now: float) -> int:
        """The number of the first stop later than `now` (epoch seconds); stops count for ever."""
        turn = math.floor(now / self.interval_seconds)
        phase = now - turn * self.interval_seconds
        return turn * len(self._keys) + bisect.bisect_right(self._phases, phase)

    def stop(self, place: int) -> tuple[float, str]:
        """When (epoch seconds) and which device the stop of that number is."""
        turn, index = divmod(place, len(self._keys))
        return turn * self.interval_seconds + self._phases[index], self._keys[index]


class UnknownDevices:
    """Devices the API answered 404 for: asked again after 1, 2, 4 … intervals.

    Args:
        interval_seconds: The first wait, and what a wait is a multiple of.
        longest_seconds: No wait is longer.
    """

    def __init__(self, interval_seconds: float, longest_seconds: float = 3600.0) -> None:
        self._interval_seconds = interval_seconds
        self._longest_seconds = max(longest_seconds, interval_seconds)
        self._waits: dict[str, tuple[float, float]] = {}

    def __len__(self) -> int:
        return len(self._waits)

    def may_ask(self, device_key: str, now: float) -> bool:
        """Whether the device is known or its wait is over."""
        wait = self._waits.get(device_key)
        # Half an interval of tolerance: the next poll is due a whole number of intervals later.
        return wait is None or now >= wait[0] - self._interval_seconds / 2

    def add(self, device_key: str, now: float) -> float:
        """The API does not know the device; returns how long it is left alone."""
        before = self._waits.get(device_key)
        wait = min(before[1] * 2 if before else self._interval_seconds, self._longest_seconds)
        self._waits[device_key] = (now + wait, wait)
        return wait

    def discard(self, device_key: str) -> bool:
        """The API knows the device; whether it did not before."""
        return self._waits.pop(device_key, None) is not None
