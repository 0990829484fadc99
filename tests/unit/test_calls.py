"""Calls that read a stream, while the stream is away."""

from collections.abc import Awaitable, Callable

import pytest
import structlog
from prometheus_client import CollectorRegistry

from telemill import errors
from telemill.health import Health
from telemill.kinesis.calls import UNAVAILABLE_AFTER_SECONDS, StreamCalls
from telemill.metrics import Metrics
from telemill.testing.kinesis import FakeKinesis
from telemill.testing.virtual_time import VirtualTime

AWAY = errors.ServiceUnavailableError("kinesis:ListShards on stream readings: away")


class Bench:
    """Calls in virtual time, and a call that fails for so many seconds."""

    def __init__(self) -> None:
        self.time = VirtualTime()
        self.health = Health()
        self.slept: list[float] = []
        self.not_ready_at: float | None = None
        self.calls = StreamCalls(
            FakeKinesis(self.time.clock),
            "readings",
            metrics=Metrics(CollectorRegistry()),
            health=self.health,
            sleep=self._sleep,
            jitter=lambda: 1.0,
            monotonic=self.time.clock,
        )

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        if self.not_ready_at is None and not self.health.is_ready:
            self.not_ready_at = self.time.now_seconds
        self.time.now_seconds += seconds

    def failing(self, seconds: float, error: errors.TelemillError) -> Callable[[], Awaitable[str]]:
        """A call that is well again after some seconds."""
        well_at = self.time.now_seconds + seconds

        async def call() -> str:
            if self.time.now_seconds < well_at:
                raise error
            return "listed"

        return call


async def test_a_stream_away_for_a_while_makes_the_service_not_ready() -> None:
    """After three seconds without an answer /readyz says what fails, until it answers."""
    bench = Bench()
    began = bench.time.now_seconds
    assert await bench.calls.persist("ListShards", bench.failing(60.0, AWAY)) == "listed"
    assert bench.not_ready_at is not None
    assert bench.not_ready_at - began >= UNAVAILABLE_AFTER_SECONDS
    assert bench.health.is_ready


@pytest.mark.parametrize(
    ("seconds", "error"),
    [(1.0, AWAY), (60.0, errors.ThroughputExceededError("rate exceeded"))],
)
async def test_a_retry_or_a_throttled_stream_does_not(
    seconds: float, error: errors.TelemillError
) -> None:
    """What is over in a moment, or an answer of a stream that is there, is no outage."""
    bench = Bench()
    await bench.calls.persist("ListShards", bench.failing(seconds, error))
    assert bench.not_ready_at is None


async def test_waits_are_capped_and_shorter_when_throttled() -> None:
    """Five seconds at the most; one when throttled: a shard's limits are per second."""
    bench = Bench()
    await bench.calls.persist("ListShards", bench.failing(60.0, AWAY))
    assert max(bench.slept) == 5.0
    bench.slept.clear()
    throttled = errors.ThroughputExceededError("rate exceeded")
    await bench.calls.persist("GetRecords", bench.failing(60.0, throttled))
    assert max(bench.slept) == 1.0


async def test_ten_minutes_away_are_a_page_of_log_lines() -> None:
    """A line that repeats is written now and then, with how often it happened."""
    bench = Bench()
    with structlog.testing.capture_logs() as lines:
        await bench.calls.persist("ListShards", bench.failing(600.0, AWAY))
    assert 1 < len(lines) <= 61
    assert sum(line["times"] for line in lines) >= 100
