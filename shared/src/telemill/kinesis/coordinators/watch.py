"""Notices what the daemon tells nobody: that it hangs, leaves records out, may not, lost its table.

Each ends the process with a reason: who restarts it gets a fresh daemon, and every position is
saved. A stream that cannot be reached is none of these: the daemon tries again by itself.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from telemill import aws, errors
from telemill.kcl.daemon_log import Line
from telemill.kcl.symptoms import Symptom, symptom
from telemill.kinesis.calls import Readiness

CHECK_SECONDS = 5.0
QUIET_SECONDS = 10.0
"""A shard is heard of every half second. After so long it is asked whether the stream is there."""
DEFAULT_SILENCE_SECONDS = 120.0
"""The KCL begins a request anew after 35 s without an answer, and logs once a minute."""
STARTING = "daemon"
STREAM = "stream"
LEASE_TABLE = "lease table"
"""What /readyz calls them."""

log = structlog.get_logger()

Probe = Callable[[], Awaitable[object]]
"""Returns when a resource is there; raises as `aws.map_exceptions` does."""


@dataclass(frozen=True, slots=True)
class Clock:
    """Time, as the coordinator and its leases see it; tests give their own.

    Attributes:
        monotonic: Seconds, for intervals.
        sleep: Waits some seconds.
    """

    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep


class DaemonEndedError(errors.TelemillError):
    """The daemon ended, or no longer does what it is there for: the process must start afresh."""


class Watch:
    """One daemon's watch.

    Attributes:
        trouble: What is wrong for good; None while nothing is.
    """

    def __init__(
        self,
        *,
        health: Readiness,
        probe_stream: Probe,
        probe_lease_table: Probe,
        quiet_since: Callable[[], float | None],
        silence_seconds: float = DEFAULT_SILENCE_SECONDS,
        clock: Clock,
    ) -> None:
        """Wire the watch.

        Args:
            health: Told while the daemon starts, and while a resource is away.
            probe_stream: Asks for the stream.
            probe_lease_table: Asks for the lease table, which the daemon makes.
            quiet_since: When the longest silent of our shards was heard last; None without shards.
            silence_seconds: So long without a word the daemon hangs.
            clock: Of the process.
        """
        self.trouble: errors.TelemillError | None = None
        self._health = health
        self._probe_stream = probe_stream
        self._probe_lease_table = probe_lease_table
        self._quiet_since = quiet_since
        self._silence_seconds = silence_seconds
        self._monotonic = clock.monotonic
        self._sleep = clock.sleep
        self._heard_at = self._excused_at = clock.monotonic()
        self._running = False
        self._alarm = asyncio.Event()

    def begin(self) -> None:
        """The daemon is about to start."""
        self._health.set(STARTING, "the MultiLangDaemon is starting")
        self._heard_at = self._excused_at = self._monotonic()

    def spoke(self) -> None:
        """The daemon said something about a shard."""
        self._heard_at = self._monotonic()

    def logged(self, line: Line) -> None:
        """The daemon wrote a line of its log."""
        self._heard_at = self._monotonic()
        meaning = symptom(line)
        if meaning is Symptom.RUNNING:
            self._running = True
            self._health.clear(STARTING)
        elif meaning is not None and self.trouble is None:
            self.trouble = _error(meaning, line)
            self._alarm.set()

    async def run(self) -> None:
        """Watch until cancelled.

        Raises:
            ConfigurationError: AWS denies the daemon what it needs.
            DaemonEndedError: It is of no use any more.
        """
        while True:
            await self._rest()
            if self.trouble is not None:
                raise self.trouble
            await self._check_silence()
            if self._running:
                await self._check_lease_table()

    async def _rest(self) -> None:
        alarm = asyncio.ensure_future(self._alarm.wait())
        rest = asyncio.ensure_future(self._sleep(CHECK_SECONDS))
        try:
            await asyncio.wait((alarm, rest), return_when=asyncio.FIRST_COMPLETED)
        finally:
            alarm.cancel()
            rest.cancel()

    async def _check_silence(self) -> None:
        silent_seconds = self._silent_seconds()
        if silent_seconds < QUIET_SECONDS:
            self._health.clear(STREAM)
            return
        try:
            await self._probe_stream()
        except errors.TransientError as error:
            # Nobody hears of a stream that is away. Its time does not count.
            self._excused_at = self._monotonic()
            self._health.set(STREAM, str(error))
            return
        self._health.clear(STREAM)
        if silent_seconds >= self._silence_seconds:
            raise DaemonEndedError(
                f"the MultiLangDaemon has said nothing for {silent_seconds:.0f} seconds, though the"
                " stream can be reached: it hangs"
            )

    def _silent_seconds(self) -> float:
        """How long the daemon, or it about one of our shards, has said nothing."""
        quiet_since = self._quiet_since()
        last = self._heard_at if quiet_since is None else min(self._heard_at, quiet_since)
        return self._monotonic() - max(last, self._excused_at)

    async def _check_lease_table(self) -> None:
        try:
            await self._probe_lease_table()
        except aws.MissingError as error:
            raise DaemonEndedError(
                f"{error}: under a running daemon, which does not make it again"
            ) from error
        except errors.TransientError as error:
            self._health.set(LEASE_TABLE, str(error))
        else:
            self._health.clear(LEASE_TABLE)


def _error(meaning: Symptom, line: Line) -> errors.TelemillError:
    said = f"{line.logger}: {line.text}"
    if meaning is Symptom.DENIED:
        return errors.ConfigurationError(
            f"KINESIS_COORDINATOR: kcl, but {meaning.value} (docs/scaling.md lists the permissions"
            f" of the KCL): {said}"
        )
    if meaning is Symptom.MEMORY:
        return DaemonEndedError(
            f"the MultiLangDaemon: {meaning.value}, KINESIS_KCL_HEAP_MEGABYTES raises it: {said}"
        )
    return DaemonEndedError(f"the MultiLangDaemon: {meaning.value}: {said}")
