"""Time that passes only when everybody waits: tests with hours in them end at once."""

import asyncio
import heapq
import itertools
from collections.abc import Callable

SETTLE_TURNS = 40
"""Turns of the event loop after which in-memory fakes have nothing left to do but sleep."""


class VirtualTime:
    """A clock and the sleep that belongs to it."""

    def __init__(self, start_seconds: float = 1_700_000_000.0) -> None:
        self.now_seconds = start_seconds
        self.slept: list[float] = []
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = itertools.count()

    def clock(self) -> float:
        """Seconds now."""
        return self.now_seconds

    async def sleep(self, seconds: float) -> None:
        """Wait until virtual time has passed."""
        self.slept.append(seconds)
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now_seconds + seconds, next(self._count), future))
        await future

    async def settle(self) -> None:
        """Let everybody run until all of them sleep."""
        for _ in range(SETTLE_TURNS):
            await asyncio.sleep(0)

    async def until(self, holds: Callable[[], bool], limit_seconds: float = 3600.0) -> None:
        """Let time pass until a condition holds.

        Raises:
            TimeoutError: It does not, within the limit or because nobody sleeps any more.
        """
        deadline = self.now_seconds + limit_seconds
        await self.settle()
        while not holds():
            if not self._wake_next(deadline):
                raise TimeoutError("the condition never held")
            await self.settle()

    async def advance(self, seconds: float) -> None:
        """Let some time pass."""
        end = self.now_seconds + seconds
        await self.settle()
        while self._wake_next(end):
            await self.settle()
        self.now_seconds = end

    def _wake_next(self, deadline: float) -> bool:
        while self._sleepers and self._sleepers[0][0] <= deadline:
            due, _, future = heapq.heappop(self._sleepers)
            if not future.done():
                self.now_seconds = max(self.now_seconds, due)
                future.set_result(None)
                return True
        return False
