"""Builds the service from its settings. The one place that knows every part."""

import asyncio
import time
import uuid
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import aiohttp
import structlog

from ingest import api, app, auth, breaker, core, devices, leases, openapi, poller, push
from ingest.outbox import Outbox
from ingest.settings import IngestSettings
from telemill import contract, service
from telemill.contract import Contract
from telemill.kinesis.writer import Writer

SERVICE = "ingest"
CLOSE_SECONDS = 1.0
"""For answers to leave after the drain has settled them."""

BREAKER_EVENTS = {
    breaker.State.CLOSED: "ingest.breaker_closed",
    breaker.State.HALF_OPEN: "ingest.breaker_half_opened",
    breaker.State.OPEN: "ingest.breaker_opened",
}

log = structlog.get_logger()


class Parts:
    """What every part of one process shares."""

    def __init__(self, settings: IngestSettings) -> None:
        self.settings = settings
        self.contract: Contract = contract.load(settings.contract)
        self.devices = settings.device_keys(self.contract)
        self.keys = auth.parse_keys(settings.api_key_hashes)
        self.floor = service.floor(SERVICE, settings, trace_ratio=settings.trace_ratio)
        self.metrics = self.floor.metrics
        self.health = self.floor.health
        self.router = core.Router(self.contract, settings.slot_count)
        self.limits = push.Limits(
            max_body_bytes=settings.push_max_body_bytes,
            max_items=settings.push_max_items,
            max_held_bytes=settings.push_max_held_bytes,
            timeout_seconds=settings.push_timeout_seconds,
        )

    def writer(self, kinesis: Any) -> Writer:
        """The raw stream's writer."""
        return Writer(
            kinesis,
            self.settings.raw_stream,
            slot_count=self.settings.slot_count,
            metrics=self.metrics,
            max_buffered_bytes=self.settings.max_buffered_bytes,
            drain_timeout_seconds=self.settings.drain_timeout_seconds / 2,
        )

    def outbox(self, writer: Writer, linger_seconds: float) -> Outbox:
        """One way's outbox."""
        return Outbox(
            writer,
            raw_format=self.settings.raw_format,
            slot_count=self.settings.slot_count,
            linger_seconds=linger_seconds,
            metrics=self.metrics,
            tracer=self.floor.tracer,
        )


async def serve(settings: IngestSettings, stop: asyncio.Event) -> None:
    """The service, from start to drained."""
    parts = Parts(settings)
    async with AsyncExitStack() as stack:
        clients = await stack.enter_async_context(service.clients("kinesis", "dynamodb"))
        session = await stack.enter_async_context(api.session(settings.poll_concurrency))
        writer = parts.writer(clients.kinesis)
        pushing = parts.outbox(writer, settings.push_linger_seconds)
        polling = parts.outbox(writer, settings.poll_linger_seconds)
        door = _push(parts, pushing, writer)
        door.add_routes(parts.floor.app)
        openapi.add_routes(parts.floor.app, parts.contract, parts.limits)
        # Bodies are decompressed by us, within bounds.
        await stack.enter_async_context(
            service.serving(parts.floor, decompress=False, shutdown_seconds=CLOSE_SECONDS)
        )
        if not await find_stream(parts, clients, stop):
            return
        if not parts.devices:
            log.warning("ingest.polling_disabled", why="INGEST_DEVICES lists no device")
        ingest = app.Ingest(
            push=door,
            polling=_polling(parts, polling, session, clients) if parts.devices else None,
            outboxes=[pushing, polling],
            writer=writer,
            health=parts.health,
            drain_seconds=settings.drain_timeout_seconds / 3,
            watch=partial(service.watch_writer, parts.floor, writer),
        )
        await app.run(ingest, stop, settings.drain_timeout_seconds)


async def find_stream(parts: Parts, clients: service.Clients, stop: asyncio.Event) -> bool:
    """Wait for the raw stream and the progress table; note the stream's slots on first use.

    Returns:
        False when `stop` was set meanwhile.

    Raises:
        ConfigurationError: The stream is used with another number of slots.
    """
    stream = parts.settings.raw_stream
    if not await service.wait_for_resources(parts.floor, clients, streams=[stream], stop=stop):
        return False
    return await service.fix_slot_count(parts.floor, clients, stream, stop=stop)


def _push(parts: Parts, outbox: Outbox, writer: Writer) -> push.Push:
    settings = parts.settings
    if not parts.keys:
        log.warning("ingest.push_disabled", why="INGEST_API_KEY_HASHES is empty")
    rates = auth.RateLimits(
        settings.push_readings_per_second, settings.push_burst_readings, time.monotonic
    )
    return push.Push(
        door=push.Door(parts.keys, rates),
        router=parts.router,
        outbox=outbox,
        stream=writer,
        limits=parts.limits,
        metrics=parts.metrics,
        tracer=parts.floor.tracer,
    )


def _polling(
    parts: Parts, outbox: Outbox, session: aiohttp.ClientSession, clients: service.Clients
) -> app.Polling:
    settings = parts.settings
    held: leases.Leases | None = None

    def is_polling(device_key: str) -> bool:
        return polls.is_polling(device_key)

    if settings.device_leases:
        held = _leases(parts, clients, is_polling)
    else:
        parts.metrics.devices_assigned.set(len(parts.devices))
    polls = poller.Poller(
        host=_host(parts, session),
        router=parts.router,
        collector=outbox,
        timetable=devices.Timetable(parts.devices, settings.poll_interval_seconds),
        assignment=held or leases.EveryDevice(),
        policy=poller.Policy(
            settings.poll_timeout_seconds,
            settings.poll_attempts,
            settings.poll_backoff_seconds,
            settings.poll_concurrency,
        ),
        metrics=parts.metrics,
        clock=poller.steady_clock(),
        tracer=parts.floor.tracer,
    )
    return app.Polling(polls, held)


def _host(parts: Parts, session: aiohttp.ClientSession) -> poller.Host:
    settings = parts.settings
    label = settings.host_label
    gauge = parts.metrics.breaker_state.labels(label)
    gauge.set(breaker.State.CLOSED)

    def changed(before: breaker.State, after: breaker.State, wait_seconds: float) -> None:
        gauge.set(after)
        log.warning(
            BREAKER_EVENTS[after],
            host=label,
            before=before.name.lower(),
            wait_seconds=round(wait_seconds, 1),
            last_failure=guard.last_failure,
        )

    policy = breaker.Policy(settings.breaker_failures, settings.breaker_open_seconds)
    guard = breaker.Breaker(policy, changed=changed)
    return poller.Host(
        api.HttpApi(session, settings.base_url, core.MAX_ITEM_BYTES),
        guard,
    )


def _leases(
    parts: Parts, clients: service.Clients, is_polling: Callable[[str], bool]
) -> leases.Leases:
    settings = parts.settings
    return leases.Leases(
        leases.DynamoFleetStore(clients.dynamodb, settings.progress_table, settings.host_label),
        # Also unlike the process before this one: its last request may still be under way.
        f"{settings.worker_id}/{uuid.uuid4().hex[:8]}",
        parts.devices,
        is_polling=is_polling,
        timing=leases.Timing(
            settings.lease_heartbeat_seconds,
            settings.lease_expiry_seconds,
            settings.poll_timeout_seconds,
            time.monotonic,
        ),
        health=parts.health,
        metrics=parts.metrics,
    )
