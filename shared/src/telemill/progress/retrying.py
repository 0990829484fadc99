"""Try again what may heal: exponential back-off with full jitter."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from telemill.errors import TransientError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and how patiently an adapter repeats a call that raised TransientError.

    Source:
        Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog 2015 ("full jitter").
    """

    attempts: int = 6
    first_seconds: float = 0.05
    limit_seconds: float = 2.0
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    jitter: Callable[[], float] = field(default=random.random)

    async def __call__(self, call: Callable[[], Awaitable[T]]) -> T:
        """The call's first answer; after the last attempt, its TransientError."""
        for attempt in range(self.attempts - 1):
            try:
                return await call()
            except TransientError:
                ceiling = min(self.limit_seconds, self.first_seconds * 2**attempt)
                await self.sleep(ceiling * self.jitter())
        return await call()
