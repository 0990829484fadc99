"""Pins each internal of Faust that the transport relies on: an upgrade fails here, loudly.

Behaviour where it can be seen from outside, source text where it cannot.
"""

import asyncio
import importlib.metadata
import inspect
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import faust
import pytest
from faust.app.base import App as FaustApp
from faust.sensors.base import Sensor
from faust.tables.manager import TableManager
from faust.tables.recovery import Recovery
from faust.transport import drivers
from faust.transport.consumer import Consumer as FaustConsumer
from faust.transport.producer import Producer as FaustProducer
from faust.types import TP
from mode.services import Service
from mode.supervisors import CrashingSupervisor

from telemill.kinesis import transport
from telemill.kinesis.consumer import Consumer, Handed
from telemill.kinesis.coordinators.base import Listener, NoShards
from telemill.kinesis.producer import Producer
from telemill.kinesis.records import Chunk, Record, Shard

STREAM = "readings"
SHARD = Shard(STREAM, 1, "shardId-000000000000")
TIMEOUT_SECONDS = 30.0


def chunk(name: str) -> Chunk:
    """A chunk of one record."""
    return Chunk(SHARD, [Record("4959", 0, name.encode(), "k")])


class OneShard(NoShards):
    """Assigns one shard at once; the test fills the queue."""

    def __init__(self) -> None:
        super().__init__()
        self.stream = STREAM

    async def start(self, listener: Listener) -> None:
        """Assign."""
        listener.assigned(SHARD)


class Running:
    """An app that reads one shard, with an agent that notes what it gets."""

    def __init__(self) -> None:
        self.coordinator = OneShard()
        self.app = transport.create_app("internals", coordinator=self.coordinator)
        self.seen: list[Any] = []
        self.gate = asyncio.Event()
        self.gate.set()
        transport.add_agent(self.app, self.process)
        self.stop = asyncio.Event()

    async def process(self, one: Chunk) -> None:
        """Note a chunk, when the gate is open."""
        await self.gate.wait()
        self.seen.append(one)

    @property
    def consumer(self) -> Consumer:
        """The app's consumer."""
        consumer: Consumer = self.app.consumer
        return consumer

    async def until(self, holds: Any) -> None:
        """Wait for something."""
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while not holds():  # noqa: ASYNC110  # Faust offers no event for any of it
                await asyncio.sleep(0.005)


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    """A running app with its shard assigned."""
    made = Running()
    task = asyncio.create_task(transport.run_app(made.app, made.stop, 1.0))
    await made.until(lambda: made.consumer.assignment() and not made.app.rebalancing)
    yield made
    made.gate.set()
    made.stop.set()
    await asyncio.wait_for(task, TIMEOUT_SECONDS)


def test_the_version_is_the_one_examined() -> None:
    """Everything here was read in this version; another one has to be read again."""
    assert importlib.metadata.version("faust-streaming") == "0.15.3"


@pytest.mark.parametrize(
    ("ours", "stock", "names"),
    [
        (
            Consumer,
            FaustConsumer,
            """_add_gap _commit _getmany _new_offset _new_topicpartition _seek _to_message ack
            on_buffer_drop on_buffer_full on_task_error seek_to_committed wait_empty""",
        ),
        (Producer, FaustProducer, "create_topic flush key_partition send send_and_wait"),
        (transport.App, FaustApp, "_create_directories on_rebalance_end on_stop"),
        (transport.Tables, TableManager, "on_start"),
    ],
)
def test_what_is_overridden_exists(ours: type, stock: type, names: str) -> None:
    """Each override replaces a method that Faust has and calls, a coroutine or not as there."""
    for name in names.split():
        mine, theirs = inspect.unwrap(vars(ours)[name]), inspect.unwrap(getattr(stock, name))
        assert inspect.iscoroutinefunction(mine) == inspect.iscoroutinefunction(theirs), name


def test_the_consumer_has_no_abstract_method_left() -> None:
    """A new abstract method in Faust's consumer interface would need an answer."""
    assert not inspect.isabstract(Consumer)
    assert not getattr(Consumer, "__abstractmethods__", None)


def test_a_chunk_passes_the_raw_serializer_untouched() -> None:
    """The value of a message is the very object the agent gets."""
    app = transport.create_app("internals")
    one = chunk("a")
    assert app.serializers.loads_value(None, one, serializer=app.conf.value_serializer) is one


def test_the_environment_does_not_reach_faust(monkeypatch: pytest.MonkeyPatch) -> None:
    """Faust reads a hundred unprefixed variables, above what is passed; ours are not theirs."""
    for name, value in {"STREAM_BUFFER_MAXSIZE": "9999", "APP_WEB_ENABLED": "1"}.items():
        monkeypatch.setenv(name, value)
    conf = transport.create_app("internals").conf
    assert (conf.stream_buffer_maxsize, conf.web_enabled) == (transport.STREAM_BUFFER_CHUNKS, False)
    assert faust.App("stock").conf.stream_buffer_maxsize == 9999


def test_the_settings_are_the_ones_the_design_asks_for() -> None:
    """No topics created, no leader, raw bytes, crash instead of restart, no web."""
    conf = transport.create_app("internals").conf
    assert conf.topic_disable_leader
    assert conf.stream_wait_empty
    assert not conf.topic_allow_declare
    assert not conf.reply_create_topic
    assert (conf.key_serializer, conf.value_serializer) == ("raw", "raw")
    assert conf.agent_supervisor is CrashingSupervisor
    assert conf.stream_recovery_delay == 0.0


def test_transports_are_found_by_entry_point() -> None:
    """`kinesis://` is looked up in the group we register in."""
    assert "faust.transports" in drivers.TRANSPORTS.namespaces


async def test_a_start_takes_no_nap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stock Faust sleeps a second in which tables may register, and one for its partitions."""
    naps: list[tuple[str, float]] = []
    stock = Service.sleep

    async def noted(self: Any, seconds: float, **options: Any) -> None:
        naps.append((type(self).__name__, float(seconds)))
        await stock(self, seconds, **options)

    monkeypatch.setattr(Service, "sleep", noted)
    running = Running()
    running.coordinator.prefetch.put([chunk("first")])
    task = asyncio.create_task(transport.run_app(running.app, running.stop, 1.0))
    await running.until(lambda: running.seen)
    assert ("Tables", 1.0) not in naps
    assert ("TableManager", 1.0) not in naps
    assert ("Consumer", 1.0) not in naps
    running.stop.set()
    await asyncio.wait_for(task, TIMEOUT_SECONDS)


def test_a_rebalance_seeks_before_it_flows() -> None:
    """Redelivery hangs on `perform_seek` coming before `resume_flow`, and the end after both."""
    source = inspect.getsource(Recovery._resume_streams)
    steps = [
        source.index(step)
        for step in ("perform_seek", "flow_control.resume", "resume_flow", "on_rebalance_end")
    ]
    assert steps == sorted(steps)


def test_a_fetch_that_found_the_flow_stopped_seeks() -> None:
    """What such a fetch had taken is dropped by Faust, and comes again through the seek."""
    source = inspect.getsource(FaustConsumer.getmany)
    assert source.index("if self.flow_active:") < source.index("await self.perform_seek()")


def test_the_compiled_stream_acknowledges_by_these_attributes() -> None:
    """The compiled ack bypasses `Consumer.ack`: it needs these attributes, and the sensor."""
    source = (Path(faust.__file__).parent / "_cython" / "streams.pyx").read_text()
    for relied in (
        "consumer._committed_offset[tp]",
        "consumer._acked_index[tp]",
        "consumer._acked[tp]",
        "self.consumer._unacked_messages",
        "self.on_message_out(tp, offset, message)",
        "message.generation_id != self.app.consumer_generation_id",
    ):
        assert relied in source
    assert hasattr(Sensor, "on_message_out")


async def test_every_acknowledgement_reaches_the_ledger(running: Running) -> None:
    """Compiled stream or not, a processed chunk frees its room in the queue."""
    running.coordinator.prefetch.put([chunk("a"), chunk("b")])
    await running.until(lambda: len(running.seen) == 2)
    await running.until(lambda: running.coordinator.prefetch.budget.held_bytes == 0)
    (ledger,) = running.consumer._ledgers.values()
    assert (ledger.watermark, ledger.position) == (2, "4959")


async def test_a_commit_keeps_fausts_own_lists_short(running: Running) -> None:
    """Faust's lists of acknowledged offsets are emptied by each commit, and go on working."""
    for name in ("a", "b", "c"):
        running.coordinator.prefetch.put([chunk(name)])
    await running.until(lambda: running.coordinator.prefetch.budget.held_bytes == 0)
    (tp,) = running.consumer.assignment()
    assert len(running.consumer._acked[tp]) == 3
    await running.consumer.commit()
    assert (running.consumer._acked[tp], running.consumer._acked_index[tp]) == ([], set())
    running.coordinator.prefetch.put([chunk("d")])
    await running.until(lambda: running.coordinator.prefetch.budget.held_bytes == 0)


async def test_an_agent_at_work_shows_in_the_unacked_messages(running: Running) -> None:
    """A drain waits for exactly the chunks agents have begun: not for those in their queues."""
    running.gate.clear()
    running.coordinator.prefetch.put([chunk("a"), chunk("b"), chunk("c")])
    await running.until(running.consumer._begun)
    assert len(running.consumer._begun()) == 1


async def test_chunks_of_an_older_generation_are_skipped(running: Running) -> None:
    """A chunk fetched before a rebalance and delivered after it is neither processed nor acked."""
    (tp,) = running.consumer.assignment()
    stale = running.consumer._to_message(tp, Handed(7, chunk("stale")))
    stale.generation_id -= 1
    await running.app.topics.on_message(stale)
    await running.app.topics.on_message(running.consumer._to_message(tp, Handed(8, chunk("fresh"))))
    await running.until(lambda: running.seen)
    assert [one.records[0].data for one in running.seen] == [b"fresh"]
    assert not stale.acked


async def test_a_rebalance_drops_what_waits_and_it_comes_again(running: Running) -> None:
    """Faust clears its queues in a rebalance; begun chunks finish, the others are handed again."""
    running.gate.clear()
    names = [f"{index}" for index in range(10)]
    running.coordinator.prefetch.put([chunk(name) for name in names])
    await running.until(running.consumer._begun)
    before = running.app.rebalancing_count
    running.consumer._changed.set()
    await running.until(lambda: running.app.rebalancing_count > before)
    running.gate.set()
    await running.until(lambda: len(running.seen) >= 10)
    await running.until(lambda: running.coordinator.prefetch.budget.held_bytes == 0)
    assert [one.records[0].data.decode() for one in running.seen] == names


async def test_what_a_rebalance_gave_back_comes_before_what_was_fetched_meanwhile() -> None:
    """A fetch that waits through a rebalance does not overtake what the rebalance took back.

    The owner would take the earlier chunks for repeated ones, and they would be lost.
    """
    coordinator = OneShard()
    consumer = transport.create_app("internals", coordinator=coordinator).consumer
    consumer.assigned(SHARD)
    consumer._assigned = set(consumer._open.values())
    (tp,) = consumer._assigned
    earlier, later = chunk("earlier"), chunk("later")
    coordinator.prefetch.put([earlier])
    await consumer._getmany(None, 0.0)
    fetch = asyncio.create_task(consumer._getmany(None, TIMEOUT_SECONDS))
    await asyncio.sleep(0)
    await consumer.seek_to_committed()
    coordinator.prefetch.put([later])
    assert [handed.chunk for handed in (await fetch)[tp]] == [earlier, later]


async def test_a_chunk_an_agent_is_stuck_in_is_not_handed_out_twice(running: Running) -> None:
    """A rebalance that stops waiting for a begun chunk leaves it to its agent."""
    running.consumer.drain_timeout_seconds = 0.01
    running.gate.clear()
    names = [f"{index}" for index in range(10)]
    running.coordinator.prefetch.put([chunk(name) for name in names])
    await running.until(running.consumer._begun)
    generation = running.app.consumer_generation_id
    running.consumer._changed.set()
    await running.until(
        lambda: running.app.consumer_generation_id > generation and not running.app.rebalancing
    )
    running.gate.set()
    await running.until(lambda: running.coordinator.prefetch.budget.held_bytes == 0)
    assert [one.records[0].data.decode() for one in running.seen] == names


async def test_a_full_queue_neither_sleeps_nor_stops_fetching(running: Running) -> None:
    """Stock Faust pauses a partition for a second when its agent's queue is full."""
    (tp,) = running.consumer.assignment()
    running.consumer.on_buffer_full(tp)
    assert tp in running.consumer._get_active_partitions()


async def test_acks_after_a_crash_count_for_nothing(running: Running) -> None:
    """Once an agent has crashed, neither its own ack nor any later one moves the watermark."""
    running.gate.clear()
    running.coordinator.prefetch.put([chunk("a")])
    await running.until(running.consumer._begun)
    await running.consumer.on_task_error(RuntimeError("bug"))
    running.gate.set()
    await running.until(lambda: running.seen)
    await asyncio.sleep(0)
    (ledger,) = running.consumer._ledgers.values()
    assert ledger.watermark == 0
    (tp,) = running.consumer.assignment()
    assert running.consumer._new_offset(tp) is None


def test_partitions_are_named_tuples_of_stream_and_number() -> None:
    """The consumer makes its own partitions; Faust only compares and hashes them."""
    assert TP(STREAM, 1) == (STREAM, 1)
