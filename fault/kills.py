"""Who is killed when, drawn from a seed before the run begins; and what came of it."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

KILLS_PER_MINUTE = 40.0
LONG_SHARE = 0.08
LONG_SECONDS = (12.0, 16.0)
"""A worker's shards are free for another after 10 s."""


class Kill(NamedTuple):
    """One SIGKILL.

    Attributes:
        at_seconds: From the beginning.
        victim: Which process.
        away_seconds: Until it is started again.
    """

    at_seconds: float
    victim: str
    away_seconds: float


def schedule(seed: int, seconds: float, victims: list[str]) -> list[Kill]:
    """Who dies when: the same for the same arguments."""
    chance = random.Random(seed)
    mean = 60.0 / KILLS_PER_MINUTE
    kills: list[Kill] = []
    at = mean
    while at < seconds:
        away = chance.uniform(*LONG_SECONDS) if chance.random() < LONG_SHARE else 0.0
        kills.append(Kill(round(at, 2), chance.choice(victims), round(away, 1)))
        at += chance.uniform(0.5, 1.5) * mean
    return kills


@dataclass(slots=True)
class Recovery:
    """A kill whose shards have not moved since.

    Attributes:
        positions: Of the shards that the victim owned.
        is_long: It stays away: another worker has to take over.
    """

    died: float
    app: str
    is_long: bool
    positions: Mapping[str, str | None]


@dataclass(slots=True)
class Figures:
    """What the soak counted.

    Attributes:
        recoveries: Seconds from SIGKILL to the first new position, by kind.
        idle_kills: Victims that owned no shard.
        repeated_kills: Victims killed again before that.
        ended: Processes that ended by themselves, and why; they are started again.
        peak_bytes: Largest resident memory seen, by process.
        reshards: Streams with a shard that was split.
    """

    kills: dict[str, int] = field(default_factory=dict)
    recoveries: dict[str, list[float]] = field(default_factory=dict)
    idle_kills: int = 0
    repeated_kills: int = 0
    ended: list[str] = field(default_factory=list)
    peak_bytes: dict[str, int] = field(default_factory=dict)
    reshards: list[str] = field(default_factory=list)

    @property
    def kill_count(self) -> int:
        """All SIGKILLs."""
        return sum(self.kills.values())


def quantiles(seconds: Sequence[float]) -> dict[str, float]:
    """Of some durations."""
    p50, p90, p99 = (round(float(np.quantile(seconds, share)), 1) for share in (0.5, 0.9, 0.99))
    return {
        "count": len(seconds),
        "p50": p50,
        "p90": p90,
        "p99": p99,
        "max": round(max(seconds), 1),
    }
