"""What transform and anomaly are wired with alike: settings, and one run from stream to stream."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from aiohttp import web

from telemill import coordination, names, service, settings
from telemill.kinesis import transport
from telemill.kinesis.coordinators.base import Coordinator
from telemill.kinesis.writer import Writer
from telemill.quarantine import QuarantineOutlet
from telemill.reader_settings import ReaderSettings
from telemill.stages.guard import Guard
from telemill.stages.outlet import Outlet
from telemill.stages.spans import StageSpans
from telemill.stages.step import Step
from telemill.stages.stream import StreamStage

State = TypeVar("State")

MAX_APP_ID_BYTES = 255
"""The wire header's limit (docs/wire-format.md)."""


class StageSettings(ReaderSettings):
    """What every service from stream to stream has; a subclass gives the names their defaults."""

    app_id: str = settings.setting(
        unit="name",
        description="Names the application in claims and headers.",
        min_length=1,
        max_length=MAX_APP_ID_BYTES,
    )
    input_stream: str = settings.setting(
        unit="stream", description="Where records come from.", min_length=1
    )
    output_stream: str = settings.setting(
        unit="stream", description="Where results go.", min_length=1
    )
    lake_bucket: str = settings.setting(
        names.LAKE_BUCKET, unit="S3 bucket", description="Holds the quarantine.", min_length=3
    )
    commit_interval_seconds: float = settings.setting(
        5.0, unit="seconds", description="Longest time between two saved positions.", gt=0
    )
    raw_retention_hours: float = settings.setting(
        168.0, unit="hours", description="Retention of the raw stream: how far replays reach.", gt=0
    )
    step_timeout_seconds: float = service.step_timeout_setting()


@asynccontextmanager
async def prepared(
    name: str,
    chosen: StageSettings,
    stop: asyncio.Event,
    *more_clients: str,
    routes: Mapping[str, web.Application] | None = None,
) -> AsyncIterator[tuple[service.Floor, service.Clients] | None]:
    """Floor and clients, once streams, buckets and table are there; None when `stop` came first.

    Args:
        name: Of the service.
        chosen: Its settings.
        stop: Set on SIGTERM.
        *more_clients: Of AWS, beside those that every stage needs.
        routes: Served beside health and metrics, by prefix.

    Raises:
        ConfigurationError: A stream has another number of slots, or the coordinator cannot be run.
    """
    await coordination.require_engine(chosen)
    floor = service.floor(name, chosen)
    for prefix, app in (routes or {}).items():
        floor.app.add_subapp(prefix, app)
    needed = service.clients("kinesis", "s3", "dynamodb", *more_clients)
    async with service.serving(floor), needed as opened:
        found = await service.wait_for_resources(
            floor,
            opened,
            streams=(chosen.input_stream, chosen.output_stream),
            buckets=(chosen.lake_bucket, chosen.state_bucket),
            stop=stop,
        )
        found = found and await service.fix_slot_count(
            floor, opened, chosen.output_stream, stop=stop
        )
        yield (floor, opened) if found else None


async def run(
    chosen: StageSettings,
    floor: service.Floor,
    opened: service.Clients,
    stop: asyncio.Event,
    *,
    step: Step[State],
    create_app: Callable[[str, Coordinator, StreamStage[State]], transport.App],
    outlets: Sequence[Outlet] = (),
    background: Sequence[Coroutine[Any, Any, None]] = (),
) -> None:
    """Drive a step from the input to the output stream until `stop`; the quarantine is built in."""
    claims = service.claims(
        floor,
        opened,
        chosen.app_id,
        initial_position=chosen.initial_position,
        stale_seconds=chosen.stale_seconds,
        retention_seconds=chosen.raw_retention_hours * service.SECONDS_PER_HOUR,
    )
    writer = Writer(
        opened.kinesis, chosen.output_stream, slot_count=chosen.slot_count, metrics=floor.metrics
    )
    stage = StreamStage(
        step,
        claims=claims,
        writer=writer,
        outlets=[
            QuarantineOutlet(opened.s3, chosen.lake_bucket, health=floor.health),
            *outlets,
        ],
        metrics=floor.metrics,
        health=floor.health,
        guard=Guard(chosen.step_timeout_seconds),
        commit_interval_seconds=chosen.commit_interval_seconds,
    )
    coordinator = await coordination.coordinator(
        floor,
        opened,
        chosen,
        stream=chosen.input_stream,
        application=chosen.app_id,
        owner=stage,
        claims=claims,
        stop=stop,
    )
    if coordinator is None:
        return
    stage.on_void = coordinator.drop
    stage.spans = StageSpans(floor.tracer)
    app = create_app(chosen.app_id, coordinator, stage)
    await writer.start()
    try:
        await service.run(
            floor,
            app,
            stop,
            claims.run(),
            stage.run(),
            service.watch_writer(floor, writer),
            *background,
        )
    finally:
        await writer.stop()
