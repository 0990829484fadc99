"""The writer: nothing lost, order inside a slot, bounded memory, an end with a deadline."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
import structlog
from prometheus_client import CollectorRegistry

from telemill import errors, slots
from telemill.kinesis import batching
from telemill.kinesis.writer import MAX_REQUESTS_IN_FLIGHT, Writer
from telemill.metrics import Metrics
from telemill.testing.kinesis import FakeKinesis
from telemill.testing.virtual_time import VirtualTime

STREAM = "readings"
THROTTLED = "ProvisionedThroughputExceededException"


class Bench:
    """A writer over a fake stream of four shards."""

    def __init__(self, **settings: Any) -> None:
        self.time = VirtualTime()
        self.kinesis = FakeKinesis(self.time.clock)
        self.registry = CollectorRegistry()
        settings = {"slot_count": 8, "max_buffered_bytes": 1024 * 1024, **settings}
        self.writer = Writer(
            self.kinesis,
            STREAM,
            metrics=Metrics(self.registry),
            monotonic=self.time.clock,
            sleep=self.time.sleep,
            jitter=lambda: 0.5,
            **settings,
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Writer]:
        """The writer, started; stopped at the end whatever it lost."""
        await self.kinesis.create_stream(StreamName=STREAM, ShardCount=4)
        await self.writer.start()
        try:
            yield self.writer
        finally:
            with contextlib.suppress(errors.ServiceUnavailableError):
                await self.writer.stop()

    async def acknowledged(self, *puts: "asyncio.Future[str]") -> list[str]:
        """Let time pass until everything is acknowledged."""
        await self.time.until(lambda: all(put.done() for put in puts))
        return [put.result() for put in puts]

    def stored(self) -> list[bytes]:
        """Everything on the stream, shard after shard."""
        return [data for shard in self.kinesis.stored(STREAM).values() for data in shard]

    def count(self, name: str, **labels: str) -> float | None:
        """A metric's value."""
        return self.registry.get_sample_value(f"telemill_{name}", labels)


class Gate:
    """Holds calls of one operation until it is opened."""

    def __init__(self, operation: str = "PutRecords") -> None:
        self.opened = asyncio.Event()
        self.operation = operation

    async def __call__(self, operation: str) -> None:
        if operation == self.operation:
            await self.opened.wait()


async def test_a_put_resolves_to_the_sequence_number_kinesis_gave() -> None:
    """The future is done only when the record is on the stream, with its number."""
    bench = Bench()
    async with bench.running() as writer:
        (number,) = await bench.acknowledged(await writer.put(3, b"data", "7"))
        assert len(number) == 56
        assert bench.stored() == [b"data"]
        assert writer.buffered_bytes == 0
        assert bench.count("records_out_total") == 1


async def test_the_hash_key_is_the_slots_own() -> None:
    """A record goes where its slot lives, whatever its partition key hashes to."""
    bench = Bench()
    async with bench.running() as writer:
        await bench.acknowledged(await writer.put(5, b"data", "any"))
        (call,) = bench.kinesis.called("PutRecords")
        assert call["Records"][0]["ExplicitHashKey"] == str(slots.hash_key_of(5, 8))


async def test_failed_records_are_put_again_and_only_those() -> None:
    """Of a partly failed request the rest is not repeated, and both kinds are counted."""
    bench = Bench()
    failures = {b"a": [THROTTLED, "InternalFailure"]}

    def fail(entry: Mapping[str, Any]) -> str | None:
        codes = failures.get(entry["Data"], [])
        return codes.pop(0) if codes else None

    bench.kinesis.fail_records = fail
    async with bench.running() as writer:
        puts = [await writer.put(slot, data, "k") for slot, data in enumerate((b"a", b"b"))]
        await bench.acknowledged(*puts)
        assert sorted(bench.stored()) == [b"a", b"b"]
        assert bench.count("retries_total", operation="PutRecords") == 2
        assert bench.count("throttles_total", operation="PutRecords") == 1


async def test_order_inside_a_slot_survives_failures() -> None:
    """A record that fails again and again is never overtaken by a later one of its slot."""
    bench = Bench()
    attempts: list[bytes] = []

    def fail_twice(entry: Mapping[str, Any]) -> str | None:
        attempts.append(entry["Data"])
        return THROTTLED if attempts.count(entry["Data"]) < 3 else None

    bench.kinesis.fail_records = fail_twice
    async with bench.running() as writer:
        names = [f"{number}".encode() for number in range(6)]
        await bench.acknowledged(*[await writer.put(2, name, "k") for name in names])
        assert bench.stored() == names


async def test_other_slots_go_on_while_one_backs_off() -> None:
    """A throttled slot holds up nobody but itself."""
    bench = Bench(drain_timeout_seconds=0.01)
    bench.kinesis.fail_records = lambda entry: THROTTLED if entry["Data"] == b"stuck" else None
    async with bench.running() as writer:
        stuck = await writer.put(0, b"stuck", "k")
        await bench.acknowledged(*[await writer.put(1, b"free", "k") for _ in range(5)])
        assert not stuck.done()


async def test_a_lost_answer_means_the_record_is_put_again() -> None:
    """After a time-out the record may be twice on the stream, but is not missing."""
    bench = Bench()
    bench.kinesis.lose_answer("PutRecords")
    async with bench.running() as writer:
        await bench.acknowledged(*[await writer.put(1, name, "k") for name in (b"a", b"b")])
        assert bench.stored() == [b"a", b"a", b"b"]


async def test_backing_off_is_jittered_and_capped() -> None:
    """Waits double up to five seconds, times a random factor."""
    bench = Bench()
    bench.kinesis.fail("PutRecords", "InternalFailure", times=9)
    async with bench.running() as writer:
        await bench.acknowledged(await writer.put(1, b"a", "k"))
        assert bench.time.slept == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.5, 2.5, 2.5]


async def test_backing_off_from_a_throttled_shard_never_takes_longer_than_its_second() -> None:
    """A shard's limits are per second: longer waits would leave its throughput unused."""
    bench = Bench()
    bench.kinesis.fail("PutRecords", THROTTLED, times=6)
    async with bench.running() as writer:
        await bench.acknowledged(await writer.put(1, b"a", "k"))
        assert bench.time.slept == [0.05, 0.1, 0.2, 0.4, 0.5, 0.5]


async def test_records_are_counted_with_what_they_cost_in_memory() -> None:
    """The buffer's bound is one of memory: tiny records do not multiply it."""
    bench = Bench(max_buffered_bytes=100_000, drain_timeout_seconds=0.01)
    bench.kinesis.latency = Gate()
    async with bench.running() as writer:
        fits = 100_000 // (batching.ENTRY_OVERHEAD_BYTES + 2)
        for number in range(fits):
            writer.try_put(number % 8, b"x", "k")
        with pytest.raises(errors.ServiceUnavailableError):
            writer.try_put(0, b"x", "k")


async def test_how_long_a_slot_waits_is_known() -> None:
    """The age of a slot's oldest record, 0 for a slot with none."""
    bench = Bench(drain_timeout_seconds=0.01)
    bench.kinesis.fail_records = lambda entry: THROTTLED
    async with bench.running() as writer:
        for _ in range(2):
            await writer.put(3, b"x", "k")
            await bench.time.advance(4.0)
        assert writer.waited_seconds(3) == 8.0
        assert writer.waited_seconds(2) == 0.0


async def test_a_long_outage_is_a_handful_of_log_lines() -> None:
    """Ten minutes without Kinesis: every record is tried for ever, and few lines say so."""
    bench = Bench()
    bench.kinesis.fail_records = lambda entry: "InternalFailure"
    async with bench.running() as writer:
        puts = [await writer.put(slot, b"x", "k") for slot in range(8)]
        with structlog.testing.capture_logs() as lines:
            await bench.time.advance(600.0)
            assert not writer.is_available
            bench.kinesis.fail_records = lambda entry: None
            await bench.acknowledged(*puts)
        assert writer.is_available
        assert [line["event"] for line in lines] == ["writer.unavailable", "writer.available_again"]
        assert 590 <= lines[-1]["after_seconds"] <= 610


async def test_at_most_four_requests_are_in_flight() -> None:
    """More slots than requests wait their turn."""
    bench = Bench(max_buffered_bytes=50 * 1024 * 1024)
    gate = bench.kinesis.latency = Gate()
    async with bench.running() as writer:
        puts = []
        for slot in range(8):
            puts.append(await writer.put(slot, b"x", "k"))
            await bench.time.settle()
        assert len(bench.kinesis.called("PutRecords")) == MAX_REQUESTS_IN_FLIGHT
        gate.opened.set()
        await bench.acknowledged(*puts)


async def test_put_waits_for_room_and_try_put_refuses() -> None:
    """A full buffer holds back who can wait and tells who cannot."""
    bench = Bench(max_buffered_bytes=100)
    gate = bench.kinesis.latency = Gate()
    async with bench.running() as writer:
        await writer.put(0, b"x" * 99, "k")
        with pytest.raises(errors.ServiceUnavailableError):
            writer.try_put(1, b"x", "k")
        waiting = asyncio.ensure_future(writer.put(1, b"x", "k"))
        await bench.time.settle()
        assert not waiting.done()
        gate.opened.set()
        await bench.acknowledged(await waiting)
        await bench.acknowledged(writer.try_put(1, b"y", "k"))


async def test_a_cancelled_put_has_queued_nothing() -> None:
    """Cancellation while waiting for room leaves no record and no room taken."""
    bench = Bench(max_buffered_bytes=100)
    gate = bench.kinesis.latency = Gate()
    async with bench.running() as writer:
        first = await writer.put(0, b"x" * 99, "k")
        waiting = asyncio.ensure_future(writer.put(1, b"never", "k"))
        await bench.time.settle()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        gate.opened.set()
        await bench.acknowledged(first)
        assert bench.stored() == [b"x" * 99]
        assert writer.buffered_bytes == 0


async def test_a_caller_that_stops_waiting_does_not_stop_the_record() -> None:
    """Cancelling an acknowledgement cancels the wait, not the write."""
    bench = Bench()
    async with bench.running() as writer:
        (await writer.put(0, b"a", "k")).cancel()
        await bench.acknowledged(await writer.put(0, b"b", "k"))
        assert bench.stored() == [b"a", b"b"]


async def test_stopping_waits_for_acknowledgements() -> None:
    """What was put before `stop` is on the stream after it."""
    bench = Bench()
    async with bench.running() as writer:
        puts = [await writer.put(slot % 8, b"x", "k") for slot in range(30)]
        await writer.stop()
        assert all(put.result() for put in puts)
        with pytest.raises(errors.ServiceUnavailableError):
            await writer.put(0, b"late", "k")


async def test_stopping_has_a_deadline() -> None:
    """When Kinesis does not answer, `stop` says how many records it could not vouch for."""
    bench = Bench(drain_timeout_seconds=0.01)
    bench.kinesis.latency = Gate()
    async with bench.running() as writer:
        put = await writer.put(0, b"x", "k")
        with pytest.raises(errors.ServiceUnavailableError, match="1 records"):
            await writer.stop()
        assert isinstance(put.exception(), errors.ServiceUnavailableError)
        assert writer.buffered_bytes == 0


async def test_a_cancelled_stop_fails_what_it_leaves_behind() -> None:
    """Cancelled while draining, the writer ends its requests and tells every waiter."""
    bench = Bench()
    bench.kinesis.latency = Gate()
    async with bench.running() as writer:
        put = await writer.put(0, b"x", "k")
        stopping = asyncio.ensure_future(writer.stop())
        await bench.time.settle()
        stopping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopping
        assert isinstance(put.exception(), errors.ServiceUnavailableError)


async def test_a_missing_stream_is_named_and_waited_for() -> None:
    """The writer says which stream is missing, since when, and goes on when it is there."""
    bench = Bench()
    async with bench.running() as writer:
        await bench.kinesis.delete_stream(StreamName=STREAM)
        put = await writer.put(0, b"x", "k")
        await bench.time.until(lambda: not writer.is_available)
        assert STREAM in writer.unavailable_reason
        assert writer.unavailable_since is not None
        await bench.kinesis.create_stream(StreamName=STREAM, ShardCount=1)
        await bench.acknowledged(put)
        assert writer.is_available


async def test_a_bug_fails_every_waiter() -> None:
    """What is neither transient nor missing hangs nobody: futures fail, puts are refused."""
    bench = Bench()
    bench.kinesis.fail("PutRecords", "InvalidArgumentException")
    async with bench.running() as writer:
        put = await writer.put(0, b"x", "k")
        await bench.time.until(put.done)
        assert put.exception() is not None
        with pytest.raises(errors.ServiceUnavailableError):
            await writer.put(0, b"y", "k")


async def test_a_service_with_a_lower_limit_gets_smaller_requests() -> None:
    """A request refused for its size is cut until it is taken; nothing is lost."""
    bench = Bench(slot_count=64, max_buffered_bytes=100 * 1024 * 1024)
    bench.kinesis.max_put_bytes = 3 * 1024 * 1024
    async with bench.running() as writer:
        puts = [writer.try_put(slot, b"x" * 500_000, "k") for slot in range(40)]
        await bench.acknowledged(*puts)
        assert len(bench.stored()) == 40


async def test_flush_waits_for_what_was_put_before_it() -> None:
    """After `flush` everything put until then is acknowledged."""
    bench = Bench()
    async with bench.running() as writer:
        puts = [await writer.put(slot % 8, b"x", "k") for slot in range(20)]
        await writer.flush()
        assert all(put.done() for put in puts)
