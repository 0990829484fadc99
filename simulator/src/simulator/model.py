"""What a healthy device measures: a pure function of (seed, device, tick).

Devices 1 to 5 have the published generator's means and standard deviations, the others a spread
around them derived from the seed. Each field of each tick is on its own: the "no reading"
sentinel -1, else an outlier, else normal. Published noise is not correlated in time; what is (a
drift, a fault) comes from `scenarios`.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from random import Random
from typing import Any, NamedTuple

SENSORS = ("sensor1", "sensor2", "sensor3")
MOTORS = ("motor1", "motor2", "motor3")
FIELDS = SENSORS + MOTORS

SENTINEL = -1
ENCODER = json.JSONEncoder(separators=(",", ":"))
OUTLIER_SDS = (3.0, 5.0)

Document = dict[str, Any]
"""A reading as the API spells it, keys in the API's order."""


class Normal(NamedTuple):
    """Mean and standard deviation of one field of one device."""

    mean: float
    sd: float


@dataclass(frozen=True)
class Rates:
    """How often a field of one kind is not a normal value."""

    sentinel: float
    outlier: float

    def times(self, factor: float) -> "Rates":
        """More or less of both."""
        return Rates(min(1.0, self.sentinel * factor), min(1.0, self.outlier * factor))


Noise = tuple[Rates, Rates]
"""Rates of the sensors and of the motors."""

PUBLISHED_NOISE: Noise = (Rates(0.02, 0.05), Rates(0.01, 0.03))

# Per device: the three sensors, then the three motors. As published.
PUBLISHED: dict[int, tuple[tuple[float, float], ...]] = {
    1: ((80, 5.0), (90, 4.0), (75, 6.0), (1200, 100), (850, 80), (1100, 90)),
    2: ((82, 5.5), (88, 4.5), (77, 6.5), (1180, 110), (870, 85), (1120, 95)),
    3: ((81, 5.2), (89, 4.2), (76, 6.1), (1190, 105), (860, 82), (1110, 92)),
    4: ((83, 5.3), (91, 4.3), (78, 6.3), (1210, 108), (840, 83), (1130, 93)),
    5: ((84, 5.4), (92, 4.4), (79, 6.4), (1220, 109), (830, 84), (1140, 94)),
}

# For the other devices: lowest and highest mean, lowest and highest standard deviation. Around
# the published ones; means keep three standard deviations inside the valid ranges.
SPREAD: tuple[tuple[float, float, float, float], ...] = (
    (70, 90, 4.5, 6.0),
    (70, 87, 3.5, 4.3),
    (65, 85, 5.5, 7.0),
    (1100, 1300, 90, 120),
    (780, 920, 75, 90),
    (1000, 1200, 85, 100),
)


@lru_cache(maxsize=65536)
def profile(seed: int, device: int) -> dict[str, Normal]:
    """Mean and standard deviation of each field of a device."""
    if device in PUBLISHED:
        return {name: Normal(*pair) for name, pair in zip(FIELDS, PUBLISHED[device], strict=True)}
    random = random_for("profile", seed, device)
    return {
        name: Normal(random.uniform(low, high), random.uniform(low_sd, high_sd))
        for name, (low, high, low_sd, high_sd) in zip(FIELDS, SPREAD, strict=True)
    }


def random_for(*key: object) -> Random:
    """A generator which is a function of its key alone."""
    # A simulator's noise, no secret: the seed must be repeatable.
    return Random("/".join(map(str, key)))  # noqa: S311


def reading(
    seed: int, device: int, tick: int, time: float, noise: Noise = PUBLISHED_NOISE, salt: str = ""
) -> Document:
    """One reading.

    Args:
        seed: Of the whole fleet.
        device: Its id.
        tick: Number of the interval.
        time: Unix time the reading carries.
        noise: How often sensors and motors are not normal.
        salt: Makes another reading of the same tick.
    """
    random = random_for(seed, device, tick, salt)
    values = _values(random, profile(seed, device), noise)
    return {"time": timestamp(time), "DeviceId": device, **values, "isFail": False}


def _values(random: Random, normals: dict[str, Normal], noise: Noise) -> dict[str, float]:
    sensors, motors = noise
    values = {name: _value(random, normals[name], sensors) for name in SENSORS}
    return values | {name: _value(random, normals[name], motors) for name in MOTORS}


def _value(random: Random, normal: Normal, rates: Rates) -> float:
    chance = random.random()
    if chance < rates.sentinel:
        return SENTINEL
    # The outlier's chance is of what is left, as published.
    if chance < rates.sentinel + (1 - rates.sentinel) * rates.outlier:
        sds = random.uniform(*OUTLIER_SDS) * random.choice((-1, 1))
        return round(normal.mean + sds * normal.sd, 2)
    return round(random.gauss(normal.mean, normal.sd), 2)


def timestamp(time: float) -> str:
    """Unix time as the API writes it: UTC, whole seconds."""
    return _timestamp(int(time))


# All devices of a tick carry the same few times.
@lru_cache(maxsize=1024)
def _timestamp(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def encode(document: Document) -> bytes:
    """A reading as the API sends it."""
    return ENCODER.encode(document).encode()


def device_ids(device_count: int) -> Iterable[int]:
    """The fleet: 1 to `device_count`."""
    return range(1, device_count + 1)
