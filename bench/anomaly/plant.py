"""How the machines of the synthetic fleet run when nothing is wrong. Seeded, in time order.

Each field is its level plus, in units of the field's usual spread: what the load makes of it (a
field has its share of the load, temperature follows it late), the weather (temperature and
humidity, daily, the same for the whole hall), a slow wandering over days, and noise that is
correlated from reading to reading. *Steady* machines run round the clock, their load wanders;
*shift* machines work from six to ten and idle at night. Levels and spreads are the published
generator's (humidity lower, so that faults stay inside the contract's range).
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

FIELDS = ("sensor1", "sensor2", "sensor3", "motor1", "motor2", "motor3")
LOW_LEVEL = np.array([70.0, 50.0, 65.0, 1100.0, 780.0, 1000.0])
HIGH_LEVEL = np.array([90.0, 65.0, 85.0, 1300.0, 920.0, 1200.0])
SPREAD = np.array([5.0, 4.0, 6.0, 100.0, 80.0, 90.0])
OF_LOAD = np.array([0.6, -0.3, 0.6, 0.8, 0.7, 0.6])
OF_WEATHER = np.array([0.3, -0.4, 0.0, 0.0, 0.0, 0.1])
NOISE, NOISE_MEMORY = 0.4, 0.3
WANDERING, WANDERING_SECONDS = 0.3, 2 * 86400.0
LOAD_SECONDS = 1200.0
FOLLOWS_SECONDS = 600.0
SHIFT_START, SHIFT_END, RAMP_HOURS = 6.0, 22.0, 0.5
DAY_SECONDS = 86400.0
MISSING = 0.005


class Normal(NamedTuple):
    """Machines in normal running.

    Attributes:
        level: Devices by fields.
        load: Ticks by devices; some −1.5 to 1.5.
        values: Ticks by devices by fields.
    """

    level: Floats
    load: Floats
    values: Floats


def run(
    ticks: int, shift: npt.NDArray[np.bool_], interval_seconds: float, random: np.random.Generator
) -> Normal:
    """Normal running of as many machines as `shift` has entries, from midnight on."""
    devices, fields = len(shift), len(FIELDS)
    level = random.uniform(LOW_LEVEL, HIGH_LEVEL, (devices, fields))
    load = load_of(ticks, shift, interval_seconds, random)
    values = random.normal(size=(ticks, devices, fields))
    remember(values, NOISE_MEMORY, NOISE)
    wandering = random.normal(size=(ticks, devices, fields))
    remember(wandering, np.exp(-interval_seconds / WANDERING_SECONDS), WANDERING)
    values += wandering
    del wandering
    values += load[:, :, None] * OF_LOAD
    keep = np.exp(-interval_seconds / FOLLOWS_SECONDS)
    values[:, :, 0] += OF_LOAD[0] * (follow(load, keep) - load)
    values += _weather(ticks, interval_seconds, random)[:, None, None] * OF_WEATHER
    values *= SPREAD
    values += level
    values[random.random(values.shape) < MISSING] = np.nan
    return Normal(level, load, values)


def load_of(
    ticks: int, shift: npt.NDArray[np.bool_], interval_seconds: float, random: np.random.Generator
) -> Floats:
    """How hard each machine works; ticks by devices."""
    devices = len(shift)
    wander = random.normal(size=(ticks, devices))
    remember(wander, np.exp(-interval_seconds / LOAD_SECONDS), 1.0)
    hours = np.arange(ticks) * interval_seconds / 3600.0
    day = (hours // 24).astype(int)
    # Nobody begins at the same minute every day.
    late = random.normal(0.0, 0.15, (2, day[-1] + 1, devices))
    of_day = hours[:, None] % 24.0
    up = np.clip((of_day - SHIFT_START - late[0][day]) / RAMP_HOURS, 0.0, 1.0)
    down = np.clip((of_day - SHIFT_END - late[1][day]) / RAMP_HOURS, 0.0, 1.0)
    working = 2.0 * (up - down) - 1.0
    return np.where(shift, working + 0.3 * wander, 0.6 * wander)


def follow(series: Floats, keep: float) -> Floats:
    """What follows a series late: its exponential average along the first axis."""
    late = series.copy()
    for tick in range(1, len(late)):
        late[tick] = keep * late[tick - 1] + (1.0 - keep) * late[tick]
    return late


def remember(noise: Floats, keep: float, spread: float) -> None:
    """Turn white noise into noise with memory (AR(1)) of a standard deviation, in place."""
    noise[0] *= spread
    noise[1:] *= spread * np.sqrt(1.0 - keep**2)
    for tick in range(1, len(noise)):
        noise[tick] += keep * noise[tick - 1]


def _weather(ticks: int, interval_seconds: float, random: np.random.Generator) -> Floats:
    """A daily wave, warmest in the afternoon; some days are warmer than others."""
    seconds = np.arange(ticks) * interval_seconds
    days = int(seconds[-1] // DAY_SECONDS) + 2
    mean, swing = random.normal(0.0, 0.5, days), random.uniform(0.5, 1.3, days)
    at = seconds / DAY_SECONDS
    known = np.arange(days)
    wave = -np.cos(2 * np.pi * (at - 3.0 / 24.0))
    found: Floats = np.interp(at, known, mean) + np.interp(at, known, swing) * wave
    return found
