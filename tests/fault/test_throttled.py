"""A shard's own limits with twice their load offered, through the real services."""

import os
from pathlib import Path

import pytest

from bench import bench_throttled
from bench.bench_throttled import Overload
from telemill.testing import emulator
from telemill.testing.faults import buckets

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 15.0
MAX_RSS_BYTES = 320 * 2**20
"""Of ingest: what it takes idle, its buffer of 64 MiB, 32 MiB of bodies, and as much for handling
those."""


@pytest.fixture(autouse=True)
def _environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if emulator.BINARY_VARIABLE not in os.environ:
        monkeypatch.setenv(emulator.BINARY_VARIABLE, str(ROOT / emulator.DEFAULT_BINARY))
    for name, value in emulator.aws_environment("set by the bench").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("BENCH_DIRECTORY", str(tmp_path))
    monkeypatch.chdir(ROOT)


def assert_kept(found: Overload) -> None:
    """What was answered 202 is in the stream, once and in order; refusals were proper."""
    assert found.seen.accepted
    assert found.missing() == 0
    assert found.repeated() == 0
    assert found.overtaken() == 0
    assert set(found.seen.statuses) <= {202, 503}
    assert found.seen.throttled > 0
    assert found.seen.peak_rss_bytes < MAX_RSS_BYTES


def test_twice_the_records_a_shard_takes_become_fewer_records() -> None:
    """Readings gather while their slot is throttled: all that is accepted fits the limit."""
    found = bench_throttled.small(SECONDS)
    assert_kept(found)
    records = len(found.stored.arrived)
    assert records <= buckets.IN_RECORDS_PER_SECOND * (SECONDS + 10.0)
    assert len(found.seen.accepted) * 64 > records


def test_twice_the_bytes_a_shard_takes_are_pushed_back() -> None:
    """Clients beyond the limit are answered 503 with Retry-After; the shard is kept busy."""
    found = bench_throttled.large(SECONDS)
    assert_kept(found)
    assert found.seen.statuses[503] > 0
    assert found.seen.content_types == {"application/problem+json"}
    assert all(after.isdigit() for after in found.seen.retry_after)
    assert found.bytes_per_second >= bench_throttled.LEAST_SHARE * buckets.IN_BYTES_PER_SECOND


def test_a_backlog_is_read_as_fast_as_the_shard_gives() -> None:
    """GetRecords beyond 2 MiB or 5 calls a second are refused, and hardly any time is lost."""
    bytes_per_second, _ = bench_throttled.backlog()
    assert bytes_per_second >= bench_throttled.LEAST_SHARE * buckets.OUT_BYTES_PER_SECOND
