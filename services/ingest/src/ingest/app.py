"""Joins the ways in: what runs in the Faust app, and how it ends."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from ingest.leases import Leases
from ingest.outbox import Outbox
from ingest.poller import Poller
from ingest.push import Push
from telemill import errors, service
from telemill.health import Health
from telemill.kinesis import transport

LEAVE_SECONDS = 2.0
"""For giving the devices up. When DynamoDB is away the other replicas notice our silence."""

log = structlog.get_logger()


class RawStream(Protocol):
    """The raw stream, as `telemill.kinesis.writer.Writer` serves it."""

    async def start(self) -> None:
        """Begin to write."""

    async def stop(self) -> None:
        """Wait for what is not acknowledged yet, within its own time-out.

        Raises:
            ServiceUnavailableError: Some was not.
        """


@dataclass(frozen=True, slots=True)
class Polling:
    """A poller and, when it shares its devices, its leases."""

    poller: Poller
    leases: Leases | None


class Ingest:
    """The service.

    Args:
        push: Takes HTTP.
        polling: None when no device is to be polled.
        outboxes: Of push and polling.
        writer: Behind the outboxes.
        health: Told when it starts and stops.
        drain_seconds: For polls under way, when it ends.
        watch: Runs beside it: tells how the raw stream is.
    """

    def __init__(
        self,
        *,
        push: Push,
        polling: Polling | None,
        outboxes: Sequence[Outbox],
        writer: RawStream,
        health: Health,
        drain_seconds: float,
        watch: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        self._push = push
        self._polling = polling
        self._outboxes = outboxes
        self._writer = writer
        self._health = health
        self._drain_seconds = drain_seconds
        self._watch = watch
        self._polls: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Collect until cancelled; call `drain` before."""
        await self._writer.start()
        self._push.open()
        self._health.clear(service.STARTING)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch())
            for outbox in self._outboxes:
                tasks.create_task(outbox.broken())
            if self._polling:
                self._polls = tasks.create_task(self._polling.poller.run())
                if self._polling.leases:
                    tasks.create_task(self._polling.leases.run())

    async def drain(self) -> None:
        """Take nothing more in and see that what was taken is acknowledged.

        Raises:
            TelemillError: Some of it was not in time.
        """
        self._health.set("stopping", "the service is stopping")
        self._push.close()
        if self._polling:
            await self._drain_polls(self._polling)
        for outbox in self._outboxes:
            outbox.flush()
        written, _ = await asyncio.gather(
            self._writer.stop(), self._give_devices_up(), return_exceptions=True
        )
        if isinstance(written, BaseException):
            raise written

    async def _give_devices_up(self) -> None:
        if not (self._polling and self._polling.leases):
            return
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                await self._polling.leases.leave()
        except TimeoutError:
            log.warning("ingest.leases_not_released", error=f"not in {LEAVE_SECONDS:g} seconds")

    async def _drain_polls(self, polling: Polling) -> None:
        polling.poller.stop()
        if self._polls is not None:
            _, late = await asyncio.wait([self._polls], timeout=self._drain_seconds)
            for polls in late:
                polls.cancel()
                await asyncio.wait([polls])


def create_app(ingest: Ingest) -> transport.App:
    """The Faust app: it reads no stream, its one task collects."""
    app = transport.create_app("ingest")

    app.task(ingest.run)
    return app


async def run(ingest: Ingest, stop: asyncio.Event, drain_timeout_seconds: float) -> None:
    """Run the Faust app until `stop` is set, drain, and stop it.

    Raises:
        BaseException: What the app crashed with.
        TelemillError: The drain failed.
    """
    drained = asyncio.Event()
    draining = asyncio.create_task(_drain_after(stop, ingest, drained))
    try:
        await transport.run_app(create_app(ingest), drained, drain_timeout_seconds)
        if stop.is_set():
            await draining
    finally:
        draining.cancel()


async def _drain_after(stop: asyncio.Event, ingest: Ingest, drained: asyncio.Event) -> None:
    await stop.wait()
    try:
        await ingest.drain()
    except errors.TelemillError as error:
        log.warning("ingest.not_drained", error=str(error))
        raise
    finally:
        drained.set()
