"""Says what keeps happening now and then: an outage must not fill a disk with its log lines."""

import time
from collections.abc import Callable
from dataclasses import dataclass

INTERVAL_SECONDS = 10.0


@dataclass(slots=True)
class _Said:
    at: float
    times: int = 0


class Seldom:
    """When a line that repeats is due: the first time at once, then once an interval.

    Args:
        interval_seconds: Between two lines of one name.
        monotonic: Clock.
    """

    def __init__(
        self,
        interval_seconds: float = INTERVAL_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._interval_seconds = interval_seconds
        self._monotonic = monotonic
        self._said: dict[str, _Said] = {}

    def due(self, name: str) -> int:
        """It has happened once more: how often since it was last said; 0 says nothing.

        Args:
            name: One of few: what a log line is about.
        """
        now = self._monotonic()
        said = self._said.get(name)
        if said is None:
            self._said[name] = _Said(now)
            return 1
        said.times += 1
        if now - said.at < self._interval_seconds:
            return 0
        times, said.times, said.at = said.times, 0, now
        return times
