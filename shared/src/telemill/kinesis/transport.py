"""`kinesis://` for Faust: a transport, an app that uses it, and how to run and end one."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar

import faust
from faust.tables.manager import TableManager
from faust.transport.base import Transport as FaustTransport
from mode.supervisors import CrashingSupervisor
from yarl import URL

from telemill import errors
from telemill.kinesis.consumer import DEFAULT_DRAIN_TIMEOUT_SECONDS, Acks, Consumer
from telemill.kinesis.coordinators.base import Coordinator, NoShards
from telemill.kinesis.producer import Producer
from telemill.kinesis.records import Chunk
from telemill.kinesis.writer import Writer

BROKER = "kinesis://"
AGENT_NAME = "chunks"
STREAM_BUFFER_CHUNKS = 4
"""Chunks in an agent's own queue: enough to never wait, little to hand out again."""


class Transport(FaustTransport):
    """Faust finds it under `kinesis://`; `create_app` gives it its coordinator and writers."""

    Consumer: ClassVar[type[Consumer]] = Consumer
    Producer: ClassVar[type[Producer]] = Producer

    driver_version = "telemill"

    def __init__(
        self,
        url: list[URL],
        app: Any,
        loop: asyncio.AbstractEventLoop | None = None,
        *,
        coordinator: Coordinator | None = None,
        writers: Mapping[str, Writer] | None = None,
    ) -> None:
        super().__init__(url, app, loop)
        self.coordinator: Coordinator = coordinator or NoShards()
        self.writers = writers or {}


class Tables(TableManager):
    """None: Faust tables are not supported on Kinesis."""

    async def on_start(self) -> None:
        """Stock Faust first sleeps a second, in which tables may register."""
        await self._update_channels()
        await self.recovery.start()


class App(faust.App):
    """A Faust app that leaves nothing behind in the file system."""

    def _create_directories(self) -> None:
        """Stock Faust makes a data directory in the working directory for tables we do not have."""

    def on_rebalance_end(self) -> None:
        """Stock Faust tells nobody that it flows again; the next rebalance has to wait for it."""
        super().on_rebalance_end()
        self.consumer.rebalanced()

    async def on_stop(self) -> None:
        """Stock Faust tells agents that they stop after it cancelled them: that looks a crash."""
        await super().on_stop()
        for agent in self.agents.values():
            if agent.started:
                await agent.stop()


def create_app(
    app_id: str,
    *,
    coordinator: Coordinator | None = None,
    writers: Mapping[str, Writer] | None = None,
) -> App:
    """A Faust app over Kinesis, without agents.

    Args:
        app_id: The service: "transform".
        coordinator: What it reads; None for a service that reads no stream, whose `@app.task`s
            run all the same.
        writers: Streams that `topic.send()` reaches, started and stopped by whoever made them.
    """
    app = App(
        app_id,
        broker=BROKER,
        env={},  # Faust would let WEB_PORT and a hundred others override what follows
        topic_disable_leader=True,  # no leader election topic
        topic_allow_declare=False,
        reply_create_topic=False,
        key_serializer="raw",  # decode errors of Faust's serializers are acked and skipped
        value_serializer="raw",
        stream_buffer_maxsize=STREAM_BUFFER_CHUNKS,
        stream_recovery_delay=0.0,  # there are no tables to recover
        stream_wait_empty=True,
        agent_supervisor=CrashingSupervisor,  # a restarted agent has lost what it crashed on
        web_enabled=False,
        TableManager=Tables,
        store="memory://",
    )
    app.producer_only = coordinator is None
    app.transport = Transport([URL(BROKER)], app, coordinator=coordinator, writers=writers)
    app.sensors.add(Acks(app))
    return app


def add_agent(
    app: App, process: Callable[[Chunk], Awaitable[None]], *, name: str = AGENT_NAME
) -> Any:
    """Register the agent that gives each chunk to the shard owner's `process`.

    A PositionError makes the coordinator drop that shard; anything else ends the app.
    """
    stream_name = app.transport.coordinator.stream

    async def handle(stream: Any) -> None:
        async for chunk in stream:
            # Chunks of a shard dropped meanwhile are still in Faust's queue.
            if app.consumer.holds(stream.current_event.message.tp):
                try:
                    await process(chunk)
                except errors.PositionError:
                    app.consumer.drop(chunk.shard)

    return app.agent(app.topic(stream_name), name=name)(handle)


async def run_app(
    app: App,
    stop: asyncio.Event,
    drain_timeout_seconds: float = DEFAULT_DRAIN_TIMEOUT_SECONDS,
) -> None:
    """Run an app until `stop` is set or it crashes, drain it, stop it.

    Args:
        app: From `create_app`.
        stop: Set on SIGTERM.
        drain_timeout_seconds: How long chunks in process and closing the shards may take.

    Raises:
        BaseException: What an agent, a task or the coordinator crashed with.
        TelemillError: The drain failed: the next start reads some records again.
    """
    app.consumer.drain_timeout_seconds = drain_timeout_seconds
    starting = asyncio.ensure_future(app.start())
    waits = [asyncio.ensure_future(wait) for wait in (stop.wait(), app._crashed.wait())]  # noqa: SLF001  # mode offers no other way to wait for a crash
    try:
        await asyncio.wait((starting, *waits), return_when=asyncio.FIRST_COMPLETED)
        if starting.done() and starting.exception() is None:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await app.stop()
        starting.cancel()
        await asyncio.gather(starting, *waits, return_exceptions=True)
    _raise_failure(app, starting)


def _raise_failure(app: App, starting: "asyncio.Future[None]") -> None:
    if app.crashed:
        raise app.crash_reason
    if not starting.cancelled() and (error := starting.exception()) is not None:
        raise error
    if app.consumer.drain_error is not None:
        raise app.consumer.drain_error
