"""The writer against a shard's limits, with twice their load offered: in virtual time, exactly."""

import contextlib
from collections.abc import Mapping
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from telemill import errors
from telemill.kinesis.writer import Writer
from telemill.metrics import Metrics
from telemill.testing.faults import buckets
from telemill.testing.kinesis import FakeKinesis
from telemill.testing.virtual_time import VirtualTime

STREAM = "readings"
THROTTLED = "ProvisionedThroughputExceededException"
ROUND_TRIP_SECONDS = 0.05
WARM_UP_SECONDS = 3.0
SECONDS = 20.0
STEP_SECONDS = 0.1
LEAST_SHARE = 0.9
MAX_BUFFERED_BYTES = 8 * 1024 * 1024
KEY = "k"


class Throttled:
    """A writer to one shard that takes what a shard takes."""

    def __init__(self, slot_count: int) -> None:
        self.time = VirtualTime()
        self.kinesis = FakeKinesis(self.time.clock)
        self.kinesis.latency = self._latency
        self.kinesis.fail_records = self._fail
        self.registry = CollectorRegistry()
        self.writer = Writer(
            self.kinesis,
            STREAM,
            slot_count=slot_count,
            metrics=Metrics(self.registry),
            max_buffered_bytes=MAX_BUFFERED_BYTES,
            drain_timeout_seconds=0.0,
            monotonic=self.time.clock,
            sleep=self.time.sleep,
        )
        self.taken: list[tuple[float, int]] = []
        self._limits = buckets.ShardLimits(self.time.clock())

    async def _latency(self, operation: str) -> None:
        if operation == "PutRecords":
            await self.time.sleep(ROUND_TRIP_SECONDS)

    def _fail(self, entry: Mapping[str, Any]) -> str | None:
        now, size_bytes = self.time.clock(), len(entry["Data"]) + len(KEY)
        if not self._limits.take_record(size_bytes, now):
            return THROTTLED
        self.taken.append((now, size_bytes))
        return None

    async def offer(self, slots: int, size_bytes: int, records_per_second: float) -> None:
        """Put at a steady rate, slot after slot, and give up what the buffer refuses."""
        await self.kinesis.create_stream(StreamName=STREAM, ShardCount=1)
        await self.writer.start()
        offered = 0
        began = self.time.clock()
        while (passed := self.time.clock() - began) < SECONDS:
            while offered < passed * records_per_second:
                data = offered.to_bytes(8, "big").ljust(size_bytes, b"x")
                with contextlib.suppress(errors.ServiceUnavailableError):
                    self.writer.try_put(offered % slots, data, KEY)
                offered += 1
            assert self.writer.buffered_bytes <= MAX_BUFFERED_BYTES
            await self.time.advance(STEP_SECONDS)
        with contextlib.suppress(errors.ServiceUnavailableError):
            await self.writer.stop()

    def shares(self) -> tuple[float, float]:
        """Records and bytes taken after the warm-up, as shares of the shard's limits."""
        since = self.taken[0][0] + WARM_UP_SECONDS
        sizes = [size for at, size in self.taken if at >= since]
        seconds = self.time.clock() - since
        return (
            len(sizes) / seconds / buckets.IN_RECORDS_PER_SECOND,
            sum(sizes) / seconds / buckets.IN_BYTES_PER_SECOND,
        )

    def is_in_order(self, slots: int) -> bool:
        """Whether each slot's records stand as they were put, each once."""
        (stored,) = self.kinesis.stored(STREAM).values()
        numbers = [int.from_bytes(data[:8], "big") for data in stored]
        by_slot = [[n for n in numbers if n % slots == slot] for slot in range(slots)]
        return all(found == sorted(set(found)) for found in by_slot)


@pytest.mark.parametrize(
    ("slots", "size_bytes"),
    [(64, 100), (64, 16_000), (4, 400_000), (16, 1_000_000)],
)
async def test_a_throttled_shard_is_used_to_the_full(slots: int, size_bytes: int) -> None:
    """With 2x offered, at least 90 % of the limit is written, in order, in bounded memory."""
    bench = Throttled(slots)
    limit = min(buckets.IN_RECORDS_PER_SECOND, buckets.IN_BYTES_PER_SECOND / size_bytes)
    await bench.offer(slots, size_bytes, 2 * limit)
    assert max(bench.shares()) >= LEAST_SHARE
    assert bench.is_in_order(slots)
