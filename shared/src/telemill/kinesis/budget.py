"""A bound on bytes held in memory, waited for in order of arrival."""

import asyncio
from collections import deque


class ByteBudget:
    """How many bytes may be held at once.

    A single holding larger than the limit is let in when nothing else is held: it could never be
    otherwise.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def try_acquire(self, size_bytes: int) -> bool:
        """Hold `size_bytes` more, if that fits now and nobody waits already."""
        if any(not future.done() for _, future in self._waiting) or not self._fits(size_bytes):
            return False
        self.held_bytes += size_bytes
        return True

    async def acquire(self, size_bytes: int) -> None:
        """Wait until `size_bytes` more fit, and hold them. A cancelled wait holds nothing."""
        if self.try_acquire(size_bytes):
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size_bytes, future))
        try:
            await future
        except asyncio.CancelledError:
            # Granted and cancelled in the same turn of the loop: give it back.
            if future.done() and not future.cancelled():
                self.release(size_bytes)
            else:
                self._grant()
            raise

    def force(self, size_bytes: int) -> None:
        """Hold more without asking: what a reservation fell short of."""
        self.held_bytes += size_bytes

    def release(self, size_bytes: int) -> None:
        """Hold less; whoever waits longest is let in first."""
        self.held_bytes -= size_bytes
        self._grant()

    def _fits(self, size_bytes: int) -> bool:
        return self.held_bytes == 0 or self.held_bytes + size_bytes <= self.limit_bytes

    def _grant(self) -> None:
        while self._waiting:
            size_bytes, future = self._waiting[0]
            if not future.done():
                if not self._fits(size_bytes):
                    return
                self.held_bytes += size_bytes
                future.set_result(None)
            self._waiting.popleft()
