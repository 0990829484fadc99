"""What stands around every step of a process: a time limit, and quiet while one record is tried."""

import asyncio
import faulthandler
import os
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import structlog

EXIT_TIMED_OUT = 1
DEFAULT_STEP_TIMEOUT_SECONDS = 60.0

BACKSTOP_SECONDS = 5.0
"""For a hang that never lets another Python thread run: so much later, C code ends the process."""

LOOKS_PER_TIMEOUT = 10
STDERR = 2

log = structlog.get_logger()


def end_process(what: str, seconds: float) -> None:
    """Say where every thread stands, and exit without cleaning up: the hung one would not let us.

    Args:
        what: The step that hangs.
        seconds: How long it was waited for.
    """
    log.error("stage.step_timed_out", step=what, seconds=seconds, traceback=_stacks())
    sys.stdout.flush()
    os._exit(EXIT_TIMED_OUT)


def _stacks() -> str:
    own = threading.get_ident()
    return "\n".join(
        "".join(traceback.format_stack(frame))
        for thread, frame in sys._current_frames().items()  # noqa: SLF001  # there is no other way
        if thread != own
    )


class Watchdog:
    """Ends the process when a step takes too long: the event loop cannot, the step blocks it.

    A thread watches and writes one log line with the stack of every other thread. A step that
    holds the interpreter lock keeps that thread from running; then `faulthandler`, which needs no
    lock, writes the stacks to standard error and exits a little later.

    Args:
        timeout_seconds: For one step; None for no limit.
        monotonic: Clock of the limit.
        expire: Called with step and limit in the watching thread; must not return in production.
    """

    def __init__(
        self,
        timeout_seconds: float | None = None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        expire: Callable[[str, float], None] = end_process,
    ) -> None:
        self._timeout_seconds = timeout_seconds
        self._monotonic = monotonic
        self._expire = expire
        self._lock = threading.Lock()
        self._steps: dict[object, tuple[float, str]] = {}
        self._thread: threading.Thread | None = None

    @contextmanager
    def limit(self, what: str) -> Iterator[None]:
        """Around a step; steps in several threads may overlap.

        Args:
            what: For the log: which records of which shard.
        """
        if self._timeout_seconds is None:
            yield
            return
        step = object()
        with self._lock:
            self._steps[step] = (self._monotonic() + self._timeout_seconds, what)
            self._arm()
            self._start(self._timeout_seconds)
        try:
            yield
        finally:
            with self._lock:
                del self._steps[step]
                self._arm()

    def _arm(self) -> None:
        """Set the backstop to the step that is due first."""
        if not self._steps:
            faulthandler.cancel_dump_traceback_later()
            return
        due, _ = min(self._steps.values())
        seconds = max(0.0, due - self._monotonic()) + BACKSTOP_SECONDS
        faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__ or STDERR)

    def _start(self, timeout_seconds: float) -> None:
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._watch, args=(timeout_seconds,), name="watchdog", daemon=True
            )
            self._thread.start()

    def _watch(self, timeout_seconds: float) -> None:
        # It looks now and then: waking it at every step would cost more than most steps.
        overdue = None
        while overdue is None:
            time.sleep(timeout_seconds / LOOKS_PER_TIMEOUT)
            overdue = self._overdue()
        self._expire(overdue, timeout_seconds)

    def _overdue(self) -> str | None:
        with self._lock:
            now = self._monotonic()
            return next((what for due, what in self._steps.values() if now >= due), None)


class Guard:
    """One per process: every step of every shard passes here.

    While one record is tried alone, nothing else that may crash goes on in this process: a crash
    then names that record and no other shard's.

    Args:
        timeout_seconds: For one step; None for no limit.
        watchdog: For tests.
    """

    def __init__(
        self, timeout_seconds: float | None = None, *, watchdog: Watchdog | None = None
    ) -> None:
        self._watchdog = watchdog or Watchdog(timeout_seconds)
        self._alone = asyncio.Lock()
        self._others = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Around trials: nobody else is in `together` or enters it."""
        async with self._alone:
            await self._quiet.wait()
            yield

    @asynccontextmanager
    async def together(self, what: str) -> AsyncIterator[None]:
        """Around any other step, which may await a thread; waits while a trial is under way."""
        async with self._alone:
            self._others += 1
            self._quiet.clear()
        try:
            with self.limit(what):
                yield
        finally:
            self._others -= 1
            if not self._others:
                self._quiet.set()

    @contextmanager
    def limit(self, what: str) -> Iterator[None]:
        """Around a step: it must end in time, or the process does."""
        with self._watchdog.limit(what):
            yield
