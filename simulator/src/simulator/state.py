"""What changes while the simulator runs."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from simulator import scenarios
from simulator.answer_log import AnswerLog
from simulator.scenarios import Active, Fleet, Get


class Simulator:
    """What changes while it runs: scenarios set by hand, and how often a device was asked.

    Args:
        fleet: The constants.
        log: Takes a line for every answer.
        random_per_get: Every GET has a reading of its own.
        now: Unix time in seconds.
        sleep: Waits some seconds.
    """

    def __init__(
        self,
        fleet: Fleet,
        log: AnswerLog,
        *,
        random_per_get: bool = False,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.fleet = fleet
        self.log = log
        self.now = now
        self.sleep = sleep
        self.by_hand: dict[int, Active] = {}
        self._random_per_get = random_per_get
        self._asked: dict[int, tuple[int, int]] = {}

    @property
    def tick(self) -> int:
        """The interval we are in."""
        return self.fleet.tick_at(self.now())

    def knows(self, device: int) -> bool:
        """Whether a device is of the fleet."""
        return 1 <= device <= self.fleet.device_count

    def active(self, device: int, tick: int) -> Active:
        """What is at work on a device: by hand, else by the chaos schedule, else nothing."""
        by_hand = self.by_hand.get(device)
        if by_hand and (by_hand.until_tick is None or tick < by_hand.until_tick):
            return by_hand
        self.by_hand.pop(device, None)
        return scenarios.scheduled(self.fleet, device, tick)

    def get(self, device: int) -> Get:
        """One request of a known device, now."""
        now = self.now()
        tick = self.fleet.tick_at(now)
        asked_at, asked = self._asked.get(device, (tick, 0))
        nth = asked if asked_at == tick else 0
        self._asked[device] = (tick, nth + 1)
        instant = now if self._random_per_get else None
        return Get(self.fleet, device, tick, self.active(device, tick), nth, instant)
