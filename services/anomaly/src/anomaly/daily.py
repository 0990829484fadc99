"""What a field usually is at each hour of the day. Pure; times are UTC.

A profile is devices by hours by fields; 0 is an hour that was never seen.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from anomaly.detection.interface import Flags, Ints

Array = npt.NDArray[Any]

HOURS = 24
HOUR_US = 3_600_000_000
DAY_US = HOURS * HOUR_US
TINY = 1e-30


def learn(
    profile: Array,
    visits: Array,
    devices: Ints,
    event_us: Ints,
    values: Array,
    present: Flags,
    most: float,
) -> None:
    """Take a reading of each of some devices into the profile and its visits (devices by hours).

    A mean over the hour's last `most` readings.
    """
    at = devices * HOURS + event_us % DAY_US // HOUR_US
    flat, all_visits = _flat(profile), visits.reshape(-1)
    seen = all_visits.take(at) + np.float32(1)
    all_visits[at] = seen
    mean = flat.take(at, axis=0)
    weight = np.where(mean == 0, 1.0, (1.0 / np.minimum(seen, most))[:, None])
    learned = mean + weight * present * (values - mean)
    flat[at] = np.where((learned == 0) & present, TINY, learned)


def usual(profile: Array, devices: Ints, event_us: Ints) -> Array:
    """The profile at a time of day, between the middles of two hours; 0 where it is not known."""
    position = (event_us % DAY_US) / HOUR_US - 0.5
    before = np.floor(position)
    share = (position - before)[:, None].astype(np.float32)
    hour, flat = before.astype(np.int64), _flat(profile)
    left = flat.take(devices * HOURS + hour % HOURS, axis=0)
    right = flat.take(devices * HOURS + (hour + 1) % HOURS, axis=0)
    found: Array = np.where((left != 0) & (right != 0), left + share * (right - left), 0.0)
    return found


def _flat(profile: Array) -> Array:
    """Devices and hours as one axis; a view."""
    return profile.reshape(-1, profile.shape[-1])
