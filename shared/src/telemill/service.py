"""What every service's `__main__` wires alike: the floor under it, its clients, its end."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import structlog

from telemill import aws, emf, health, metrics, tracing
from telemill.errors import ConfigurationError
from telemill.kinesis import transport
from telemill.kinesis.writer import Writer
from telemill.progress.claims import Claims
from telemill.progress.snapshots import S3SnapshotStore
from telemill.progress.store import DynamoProgressStore
from telemill.settings import ServiceSettings, setting
from telemill.stages.guard import DEFAULT_STEP_TIMEOUT_SECONDS

WRITER_CHECK_SECONDS = 1.0
UNAVAILABLE_AFTER_SECONDS = 3.0
"""A stream that took nothing for so long makes the service not ready; a retry or two does not."""

log = structlog.get_logger()

STARTING = "starting"
SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Floor:
    """Metrics and readiness of one process, served over HTTP.

    Attributes:
        application: The deployment, as CloudWatch knows it; a service may run as several.
        app: The HTTP application; a service may add routes before `serving`.
        tracer: None when tracing is off.
    """

    service: str
    application: str
    settings: ServiceSettings
    metrics: metrics.Metrics
    health: health.Health
    app: Any
    tracer: tracing.Tracer | None = None


def step_timeout_setting() -> Any:
    """The setting that every service has which works on records of a stream."""
    return setting(
        DEFAULT_STEP_TIMEOUT_SECONDS,
        unit="seconds",
        description="A step that takes longer hangs: the process says where, and exits.",
        gt=0,
    )


def floor(
    service: str, settings: ServiceSettings, application: str = "", *, trace_ratio: float = 0.0
) -> Floor:
    """Build the floor; `serving` opens it.

    Args:
        service: Which of the four.
        settings: Its settings.
        application: Which of its deployments, where it has several.
        trace_ratio: Share of the traces begun here that are sampled: only ingest begins any.
    """
    registry = metrics.new_registry()
    made = metrics.Metrics(registry, service)
    condition = health.Health(made.ready, **{STARTING: "not started yet"})
    return Floor(
        service,
        application or service,
        settings,
        made,
        condition,
        health.ops_app(condition, registry),
        _tracer(application or service, settings, trace_ratio, made),
    )


def _tracer(
    application: str, settings: ServiceSettings, ratio: float, made: metrics.Metrics
) -> tracing.Tracer | None:
    if not settings.trace_endpoint:
        return None
    # Not at the top: it costs a process some MiB and a quarter of a second.
    from telemill import opentelemetry  # noqa: PLC0415

    return opentelemetry.OtelTracer(
        settings.trace_endpoint,
        ratio=ratio,
        resource={
            "service.name": application,
            "service.namespace": "telemill",
            "service.instance.id": settings.worker_id,
        },
        metrics=made,
    )


@asynccontextmanager
async def serving(
    under: Floor, *, decompress: bool = True, shutdown_seconds: float = 5.0
) -> AsyncIterator[None]:
    """Serve health and metrics, and emit EMF if the settings say so.

    Args:
        under: What to serve.
        decompress: As in `health.serve`.
        shutdown_seconds: As in `health.serve`.
    """
    settings = under.settings
    runner = await health.serve(
        under.app,
        settings.http_host,
        settings.http_port,
        decompress=decompress,
        shutdown_seconds=shutdown_seconds,
    )
    host, port = runner.addresses[0][:2]
    log.info("service.listening", host=host, port=port)
    exporter = asyncio.create_task(_emit(under)) if settings.emf_enabled else None
    try:
        yield
    finally:
        if exporter is not None:
            exporter.cancel()
            await asyncio.gather(exporter, return_exceptions=True)
        if under.tracer is not None:
            await under.tracer.close()
        await runner.cleanup()


async def _emit(under: Floor) -> None:
    exporter = emf.Emitter(
        under.metrics.registry,
        under.application,
        interval_seconds=under.settings.emf_interval_seconds,
        selection=emf.selection(under.settings.emf_metrics),
    )
    await exporter.run()


@dataclass(frozen=True, slots=True)
class Clients:
    """aiobotocore clients of one process; only those asked for are set."""

    kinesis: Any = None
    s3: Any = None
    dynamodb: Any = None
    glue: Any = None
    sns: Any = None


@asynccontextmanager
async def clients(*services: str) -> AsyncIterator[Clients]:
    """Open clients, named as the attributes of `Clients`."""
    async with AsyncExitStack() as stack:
        opened = {each: await stack.enter_async_context(aws.client(each)) for each in services}
        yield Clients(**opened)


async def wait_for_resources(
    under: Floor,
    opened: Clients,
    *,
    streams: Sequence[str] = (),
    buckets: Sequence[str] = (),
    stop: asyncio.Event,
) -> bool:
    """Wait until streams, buckets and the progress table are there; /readyz says what is missing.

    Returns:
        False when `stop` was set meanwhile.
    """
    condition, table = under.health, under.settings.progress_table
    probes = [
        aws.wait_for(condition, f"stream {name}", _probe(aws.probe_stream, opened.kinesis, name))
        for name in streams
    ]
    probes += [
        aws.wait_for(condition, f"bucket {name}", _probe(aws.probe_bucket, opened.s3, name))
        for name in buckets
    ]
    probes.append(
        aws.wait_for(condition, f"table {table}", _probe(aws.probe_table, opened.dynamodb, table))
    )
    return await done_before(stop, _all(probes))


async def done_before(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Do some work, but not longer than until `stop` is set; whether it was done.

    Raises:
        BaseException: What the work raised.
    """
    doing, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((doing, stopping), return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            doing.result()
        return doing.done()
    finally:
        for task in (doing, stopping):
            task.cancel()
        await asyncio.gather(doing, stopping, return_exceptions=True)


async def _all(works: Sequence[Coroutine[Any, Any, None]]) -> None:
    await asyncio.gather(*works)


def _probe(
    probe: Callable[[Any, str], Awaitable[None]], client: Any, name: str
) -> Callable[[], Awaitable[None]]:
    return lambda: probe(client, name)


def progress_store(settings: ServiceSettings, opened: Clients) -> DynamoProgressStore:
    """The progress items of this deployment."""
    return DynamoProgressStore(opened.dynamodb, settings.progress_table)


def claims(
    under: Floor,
    opened: Clients,
    app_id: str,
    *,
    initial_position: str | int,
    retention_seconds: float,
    stale_seconds: float,
) -> Claims:
    """The claims of one application in this process; arguments as of `Claims`."""
    settings = under.settings
    return Claims(
        progress_store(settings, opened),
        S3SnapshotStore(opened.s3, settings.state_bucket),
        app_id,
        settings.worker_id,
        initial_position=initial_position,
        retention_seconds=retention_seconds,
        stale_seconds=stale_seconds,
        health=under.health,
    )


async def fix_slot_count(
    under: Floor, opened: Clients, stream: str, *, stop: asyncio.Event
) -> bool:
    """Note a stream's number of slots on first use; waits while AWS is away.

    Returns:
        False when `stop` was set meanwhile.

    Raises:
        ConfigurationError: The stream is used with another number: order per device would break.
    """

    async def fix() -> None:
        with aws.map_exceptions("kinesis:DescribeStreamSummary", stream=stream):
            answer = await opened.kinesis.describe_stream_summary(StreamName=stream)
        created = answer["StreamDescriptionSummary"]["StreamCreationTimestamp"]
        key = f"slots/{stream}/{round(created.timestamp() * 1000)}"
        store = progress_store(under.settings, opened)
        _require_slots(under.settings, stream, await store.fix(key, str(under.settings.slot_count)))

    return await done_before(stop, aws.wait_for(under.health, f"slots of {stream}", fix))


def _require_slots(settings: ServiceSettings, stream: str, stored: str) -> None:
    if stored != str(settings.slot_count):
        prefix = settings.model_config.get("env_prefix", "")
        raise ConfigurationError(
            f"{prefix}SLOT_COUNT: got {settings.slot_count}; stream {stream} has {stored} slots for"
            " its life (a new stream is needed to change that)"
        )


async def watch_writer(under: Floor, writer: Writer) -> None:
    """Say in /readyz when the output stream takes nothing, until cancelled."""
    loop = asyncio.get_running_loop()
    name = f"writing to stream {writer.stream}"
    while True:
        await asyncio.sleep(WRITER_CHECK_SECONDS)
        since = writer.unavailable_since
        if since is not None and loop.time() - since >= UNAVAILABLE_AFTER_SECONDS:
            under.health.set(name, writer.unavailable_reason)
        else:
            under.health.clear(name)


async def run(
    under: Floor,
    app: transport.App,
    stop: asyncio.Event,
    *background: Coroutine[Any, Any, None],
) -> None:
    """Run an app and what belongs beside it until `stop`; drain; end what runs beside it.

    Args:
        under: Ready from now on.
        app: From `transport.create_app`.
        stop: Set on SIGTERM.
        *background: Endless tasks; one that fails ends the process.

    Raises:
        TelemillError: What the app or a background task failed with.
    """
    under.health.clear(STARTING)
    tasks = [asyncio.create_task(each) for each in background]
    running = asyncio.create_task(
        transport.run_app(app, stop, under.settings.drain_timeout_seconds)
    )
    try:
        done, _ = await asyncio.wait((running, *tasks), return_when=asyncio.FIRST_COMPLETED)
        if running not in done:
            stop.set()
        await running
        for task in done:
            task.result()
    finally:
        running.cancel()
        for task in tasks:
            task.cancel()
        await asyncio.gather(running, *tasks, return_exceptions=True)
