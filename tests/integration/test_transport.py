"""A real Faust app over the real wire protocol: reads, drains, crashes, rebalances."""

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from telemill import aws, errors
from telemill.health import Health
from telemill.kinesis import transport
from telemill.kinesis.coordinators.base import NoShards
from telemill.kinesis.coordinators.single import SingleCoordinator
from telemill.kinesis.records import Chunk
from telemill.kinesis.writer import Writer
from telemill.metrics import Metrics
from telemill.testing.owner import FakeOwner

TIMEOUT_SECONDS = 30.0
"""Far beyond what any of this takes: only to end a test that would hang."""

_numbers = itertools.count()


class Bench:
    """A stream on the emulator, a Faust app that reads it and the owner it gives chunks to."""

    def __init__(self, client: Any, stream: str, **settings: Any) -> None:
        self.client = client
        self.stream = stream
        self.owner = FakeOwner()
        self.coordinator = SingleCoordinator(
            client,
            stream,
            self.owner,
            metrics=Metrics(CollectorRegistry()),
            health=Health(),
            **{"get_records_per_second": 20.0, "claim_interval_seconds": 0.05, **settings},
        )
        self.app = transport.create_app("test", coordinator=self.coordinator)
        transport.add_agent(self.app, self.owner.process)
        self.stop = asyncio.Event()
        self.running: asyncio.Task[None] | None = None

    def start(self, drain_timeout_seconds: float = 10.0) -> "asyncio.Task[None]":
        """Run the app."""
        self.running = asyncio.create_task(
            transport.run_app(self.app, self.stop, drain_timeout_seconds)
        )
        return self.running

    async def put(self, count: int, size_bytes: int = 20) -> list[bytes]:
        """Put records spread over the shards."""
        data = [b"%08d" % index + b"." * size_bytes for index in range(count)]
        entries = [{"Data": one, "PartitionKey": str(index)} for index, one in enumerate(data)]
        answer = await self.client.put_records(StreamName=self.stream, Records=entries)
        assert answer["FailedRecordCount"] == 0
        return data

    def has_ended(self) -> bool:
        """Whether the app has stopped by itself."""
        return self.running is not None and self.running.done()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for something, or for the app to end."""
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while not (holds() or self.has_ended()):  # noqa: ASYNC110  # a real app: no event
                await asyncio.sleep(0.01)
        assert holds()

    async def finish(self) -> None:
        """Stop the app as SIGTERM does."""
        assert self.running is not None
        self.stop.set()
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await self.running


@contextlib.asynccontextmanager
async def bench(shard_count: int = 2, **settings: Any) -> AsyncIterator[Bench]:
    """A fresh stream and app; ended at the end, however the test ends."""
    async with aws.client("kinesis") as client:
        stream = f"transport-{os.getpid()}-{next(_numbers)}"
        await client.create_stream(StreamName=stream, ShardCount=shard_count)
        made = Bench(client, stream, **settings)
        try:
            yield made
        finally:
            if made.running is not None:
                made.running.cancel()
                await asyncio.gather(made.running, return_exceptions=True)
            await client.delete_stream(StreamName=stream)


def blocking(gate: asyncio.Event, begun: asyncio.Event) -> Callable[[Chunk], Awaitable[None]]:
    """A process step that waits for a gate."""

    async def process(_: Chunk) -> None:
        begun.set()
        await gate.wait()

    return process


@pytest.mark.usefixtures("aws")
async def test_every_record_reaches_the_owner_once_and_in_order() -> None:
    """Records of all shards are processed, in order inside each shard."""
    async with bench(shard_count=3) as made:
        data = await made.put(400)
        made.start()
        await made.until(lambda: len(made.owner.data()) >= len(data))
        await made.finish()
        assert sorted(made.owner.data()) == data
        for shard in made.owner.records.values():
            numbers = [int(record.sequence_number) for record in shard]
            assert numbers == sorted(numbers)


@pytest.mark.usefixtures("aws")
async def test_stopping_lets_the_chunk_in_process_finish_and_closes_the_shards() -> None:
    """SIGTERM waits for the agent, then every shard is closed and its claim released."""
    async with bench() as made:
        await made.put(10)
        gate, begun = asyncio.Event(), asyncio.Event()
        made.owner.on_process = blocking(gate, begun)
        running = made.start()
        await made.until(begun.is_set)
        made.stop.set()
        await asyncio.sleep(0)
        assert not running.done()
        assert ("close", "shardId-000000000000") not in made.owner.calls
        gate.set()
        await made.finish()
        assert len(made.owner.released) == 2
        calls = [call for call, _ in made.owner.calls]
        assert calls[-2:] == ["close", "close"]


@pytest.mark.usefixtures("aws")
async def test_stopping_during_a_rebalance_still_closes_the_shards() -> None:
    """A rebalance that waits for a chunk and a SIGTERM that comes then close every shard once."""
    async with bench() as made:
        await made.put(10)
        gate, begun = asyncio.Event(), asyncio.Event()
        made.owner.on_process = blocking(gate, begun)
        made.start()
        await made.until(begun.is_set)
        made.app.consumer._changed.set()
        await made.until(lambda: made.app.rebalancing)
        made.stop.set()
        await asyncio.sleep(0)
        gate.set()
        await made.finish()
        assert len(made.owner.released) == 2
        assert [call for call, _ in made.owner.calls].count("close") == 2


@pytest.mark.usefixtures("aws")
async def test_a_crash_of_the_agent_ends_the_app_and_acknowledges_nothing() -> None:
    """What the agent raised is raised by `run_app`; no shard is closed, no chunk counts."""
    async with bench(shard_count=1) as made:
        await made.put(5)

        async def crash(_: Chunk) -> None:
            raise RuntimeError("bug in a core")

        made.owner.on_process = crash
        with pytest.raises(RuntimeError, match="bug in a core"):
            await asyncio.wait_for(made.start(), TIMEOUT_SECONDS)
        assert made.owner.data() == []
        assert "close" not in [call for call, _ in made.owner.calls]
        (ledger,) = made.app.consumer._ledgers.values()
        assert (ledger.watermark, len(ledger.pending())) == (0, 1)
        assert sum(call == "process" for call, _ in made.owner.calls) == 1


@pytest.mark.usefixtures("aws")
async def test_a_void_claim_drops_the_shard_and_not_the_app() -> None:
    """PositionError from `process`: the shard is claimed again, its chunks come again."""
    async with bench() as made:
        data = await made.put(50)
        fenced = [errors.FencedError("another worker"), errors.LeaseLostError("moved")]

        async def fence(_: Chunk) -> None:
            if fenced:
                raise fenced.pop()

        made.owner.on_process = fence
        made.start()
        await made.until(lambda: len(made.owner.data()) >= len(data))
        await made.finish()
        assert sorted(made.owner.data()) == data


@pytest.mark.usefixtures("aws")
async def test_shards_that_come_and_go_lose_and_double_no_chunk() -> None:
    """Rebalances empty Faust's queues again and again: every chunk is still processed once."""
    async with bench(shard_count=4, max_chunk_bytes=1) as made:
        data = await made.put(300)
        for index in range(1, 4):
            made.owner.hold(f"shardId-{index:012d}", times=index * 3)

        async def dawdle(_: Chunk) -> None:
            await asyncio.sleep(0.001)

        made.owner.on_process = dawdle
        made.start()
        await made.until(lambda: len(made.owner.data()) >= len(data))
        await made.finish()
        assert sorted(made.owner.data()) == data
        assert made.app.rebalancing_count > 2


@pytest.mark.usefixtures("aws")
async def test_stopping_has_a_deadline() -> None:
    """A chunk that never ends does not keep the process: the drain fails, and says so."""
    async with bench(shard_count=1) as made:
        await made.put(1)
        gate, begun = asyncio.Event(), asyncio.Event()
        made.owner.on_process = blocking(gate, begun)
        running = made.start(drain_timeout_seconds=0.1)
        await made.until(begun.is_set)
        made.stop.set()
        with pytest.raises(errors.ServiceUnavailableError, match="still being processed"):
            await asyncio.wait_for(running, TIMEOUT_SECONDS)
        assert "close" not in [call for call, _ in made.owner.calls]
        assert made.app.consumer._ledgers == {} or all(
            ledger.watermark == 0 for ledger in made.app.consumer._ledgers.values()
        )


@pytest.mark.usefixtures("aws")
async def test_a_shard_that_cannot_be_closed_fails_the_run() -> None:
    """A failed drain is an error of the process, after everything has been stopped."""
    async with bench(shard_count=1) as made:
        made.owner.close_error = errors.ServiceUnavailableError("no answer")
        running = made.start()
        await made.until(lambda: made.app.consumer.assignment() != set())
        made.stop.set()
        with pytest.raises(errors.ServiceUnavailableError, match="no answer"):
            await asyncio.wait_for(running, TIMEOUT_SECONDS)


@pytest.mark.usefixtures("aws")
async def test_a_coordinator_that_cannot_go_on_ends_the_app() -> None:
    """A worker that reads nothing must not look alive."""
    async with bench(shard_count=1) as made:
        made.owner.open_errors["shardId-000000000000"] = [KeyError("bug in a stage")]
        with pytest.raises(KeyError, match="bug in a stage"):
            await asyncio.wait_for(made.start(), TIMEOUT_SECONDS)


@pytest.mark.usefixtures("aws")
async def test_it_stops_while_every_claim_is_held_by_another_worker() -> None:
    """A stand-by worker starts without shards and ends at once when told to."""
    async with bench(shard_count=1) as made:
        made.owner.hold("shardId-000000000000", times=10_000)
        made.start()
        await made.until(lambda: len(made.owner.calls) > 2)
        await made.finish()
        assert made.owner.released == set()


@pytest.mark.usefixtures("aws")
async def test_it_stops_before_it_has_started() -> None:
    """SIGTERM during the start ends the app like any other."""
    async with bench(shard_count=1) as made:
        made.start()
        await asyncio.sleep(0)
        await made.finish()


@pytest.mark.usefixtures("aws")
async def test_topics_send_through_the_writers() -> None:
    """`topic.send` resolves when Kinesis has acknowledged, and flush waits for it."""
    async with bench(shard_count=1) as made:
        writer = Writer(
            made.client, made.stream, slot_count=4, metrics=Metrics(CollectorRegistry())
        )
        await writer.start()
        app = transport.create_app("sender", writers={made.stream: writer})
        stop = asyncio.Event()
        running = asyncio.create_task(transport.run_app(app, stop))
        sent = await app.topic(made.stream).send(key=b"7", value=b"data")
        await app.producer.flush()
        assert (await sent).offset > 0
        stop.set()
        await running
        await writer.stop()
        made.start()
        await made.until(lambda: made.owner.data() == [b"data"])
        await made.finish()


async def test_an_app_without_a_stream_runs_its_tasks(tmp_path: Path) -> None:
    """Ingest reads no stream: its tasks run, stop and crash as those of the others."""
    before = set(Path.cwd().iterdir())
    app = transport.create_app("ingest")
    ran = asyncio.Event()

    async def poll() -> None:
        ran.set()

    app.task(poll)
    stop = asyncio.Event()
    running = asyncio.create_task(transport.run_app(app, stop))
    await asyncio.wait_for(ran.wait(), TIMEOUT_SECONDS)
    stop.set()
    await asyncio.wait_for(running, TIMEOUT_SECONDS)
    assert set(Path.cwd().iterdir()) == before


async def test_a_task_that_crashes_ends_the_app() -> None:
    """What an `@app.task` raises is raised by `run_app`."""
    app = transport.create_app("ingest")

    async def poll() -> None:
        raise RuntimeError("bug in a task")

    app.task(poll)
    with pytest.raises(RuntimeError, match="bug in a task"):
        await asyncio.wait_for(transport.run_app(app, asyncio.Event()), TIMEOUT_SECONDS)


async def test_an_agent_on_another_stream_is_refused() -> None:
    """A topic the coordinator does not read would wait for ever: it is a configuration error."""
    app = transport.create_app("test", coordinator=OtherStream())

    async def handle(stream: Any) -> None:
        async for _ in stream:
            pass

    app.agent(app.topic("scores"), name="other")(handle)
    with pytest.raises(errors.ConfigurationError, match="scores"):
        await asyncio.wait_for(transport.run_app(app, asyncio.Event()), TIMEOUT_SECONDS)


class OtherStream(NoShards):
    """A coordinator of a stream nobody has an agent for."""

    def __init__(self) -> None:
        super().__init__()
        self.stream = "readings"
