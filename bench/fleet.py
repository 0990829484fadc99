"""Readings of a fleet, as devices send them: the published generator, drawn by the thousand.

A tick is one reading of every device. Readings of one device have times of their own, so none is
a duplicate; sentinels and outliers are in, so rows have nulls and quality bits; nothing is broken,
so every reading becomes a row.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import numpy as np

from telemill import slots


class Channel(NamedTuple):
    """How one field is drawn: -1, or an outlier of 3 to 5 deviations, or a normal value."""

    mean: float
    deviation: float
    sentinel: float
    outlier: float


CHANNELS = (
    Channel(80, 5.0, 0.02, 0.05),
    Channel(90, 4.0, 0.02, 0.05),
    Channel(75, 6.0, 0.02, 0.05),
    Channel(1200, 100.0, 0.01, 0.03),
    Channel(850, 80.0, 0.01, 0.03),
    Channel(1100, 90.0, 0.01, 0.03),
)
"""The published generator's first device."""

FAIL_SHARE = 0.01
READING = (
    b'{"time":"%b","DeviceId":%d,"sensor1":%g,"sensor2":%g,"sensor3":%g,'
    b'"motor1":%g,"motor2":%g,"motor3":%g,"isFail":%b}'
)
FAILS = (b"false", b"true")


@dataclass(frozen=True, slots=True)
class Fleet:
    """Some devices which send at one interval.

    Attributes:
        devices: Their number; ids from 1.
        interval_seconds: Between two readings of a device.
        start: Time of the first.
        seed: Equal fleets send equal readings.
    """

    devices: int
    interval_seconds: float
    start: datetime
    seed: int = 0

    def ticks(self, count: int) -> Iterator[list[bytes]]:
        """The readings of each tick, by device."""
        chance = np.random.default_rng(self.seed)
        ids = range(1, self.devices + 1)
        for number in range(count):
            time = _text(self.start + timedelta(seconds=number * self.interval_seconds))
            columns = [_draw(channel, self.devices, chance) for channel in CHANNELS]
            fails = (chance.random(self.devices) < FAIL_SHARE).tolist()
            yield [
                READING % (time, device, *values, FAILS[fail])
                for device, fail, *values in zip(ids, fails, *columns, strict=True)
            ]


def ending_now(devices: int, interval_seconds: float, readings: int) -> Fleet:
    """A fleet whose newest readings, of so many, are of now: a backlog to catch up on."""
    span = timedelta(seconds=interval_seconds * readings / devices)
    return Fleet(devices, interval_seconds, (datetime.now(UTC) - span).replace(microsecond=0))


def by_slot(fleet: Fleet, readings: int, per_record: int) -> Iterator[tuple[int, list[bytes]]]:
    """Readings grouped as ingest groups them: each record is of one slot, in order."""
    slot_of = [slots.slot_of(str(device)) for device in range(1, fleet.devices + 1)]
    waiting: dict[int, list[bytes]] = {slot: [] for slot in slot_of}
    for items in fleet.ticks(readings // fleet.devices):
        for slot, item in zip(slot_of, items, strict=True):
            held = waiting[slot]
            held.append(item)
            if len(held) == per_record:
                yield slot, held
                waiting[slot] = []
    yield from ((slot, held) for slot, held in waiting.items() if held)


def _draw(channel: Channel, count: int, chance: np.random.Generator) -> list[float]:
    drawn = chance.random(count)
    sides = chance.choice((-1.0, 1.0), count)
    widths = np.where(
        drawn < channel.sentinel + channel.outlier,
        sides * chance.uniform(3, 5, count),
        chance.standard_normal(count),
    )
    values = np.maximum(0.0, channel.mean + widths * channel.deviation).round(2)
    found: list[float] = np.where(drawn < channel.sentinel, -1.0, values).tolist()
    return found


def _text(instant: datetime) -> bytes:
    text = instant.isoformat(timespec="milliseconds" if instant.microsecond else "seconds")
    return text.removesuffix("+00:00").encode() + b"Z"
