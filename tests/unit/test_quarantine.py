"""The quarantine outlet."""

import asyncio
import base64
import json
from typing import Any

import pytest
from botocore.exceptions import ClientError

from telemill.codec import compression
from telemill.health import Health
from telemill.kinesis.records import Shard
from telemill.quarantine import QuarantineOutlet
from telemill.stages.step import Rejected, StepResult

SHARD = Shard("readings-raw", 1_751_876_489_123, "shardId-000000000012")
ARRIVAL_US = 1_751_876_490_000_001


class MemoryS3:
    """Objects in memory; `answers` says how the next calls end."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.answers: list[Exception] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def put_object(self, *, Bucket: str, Key: str, Body: bytes) -> None:  # noqa: N803
        await self.gate.wait()
        if self.answers:
            raise self.answers.pop(0)
        self.objects[f"{Bucket}/{Key}"] = Body

    def rows(self) -> list[dict[str, Any]]:
        """All rows of all objects."""
        return [
            json.loads(line)
            for body in self.objects.values()
            for line in compression.decompress(body, limit=2**30).splitlines()
        ]


def failed(code: str, status: int) -> ClientError:
    """An error answer of S3."""
    answer = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, "PutObject")


def refused(number: int, reason: str = "not_json", data: bytes = b"\xff{", **more: Any) -> Rejected:
    """The number-th item of a record."""
    fields: dict[str, Any] = {
        "reason": reason,
        "error": "why",
        "data": data,
        "device_id": None,
        "shard_id": SHARD.shard_id,
        "sequence_number": "49",
        "sub_sequence_number": number,
        "arrival_us": ARRIVAL_US,
    }
    return Rejected(**(fields | more))


def result(*rejected: Rejected) -> StepResult:
    """A step's result with nothing but these."""
    return StepResult(rejected=list(rejected))


async def test_a_row_has_everything_to_mend_it() -> None:
    """Reason, error, original bytes and lineage are kept; the path says day and reason."""
    s3 = MemoryS3()
    outlet = QuarantineOutlet(s3, "lake")
    await outlet.write(SHARD, result(refused(3, device_id="7")))
    await outlet.flush(SHARD)
    (path,) = s3.objects
    assert path == (
        "lake/quarantine/dt=2025-07-07/reason=not_json/"
        "readings-raw-1751876489123-shardId-000000000012-49.3-49.3.ndjson.zst"
    )
    assert s3.rows() == [
        {
            "reason": "not_json",
            "error": "why",
            "body": base64.b64encode(b"\xff{").decode(),
            "device_id": "7",
            "stream": "readings-raw",
            "shard_id": "shardId-000000000012",
            "sequence_number": "49",
            "sub_sequence_number": 3,
            "arrival_time": "2025-07-07T08:21:30.000001Z",
        }
    ]


async def test_a_day_and_a_reason_an_object() -> None:
    """Items are apart by day of arrival and by reason, and in order inside an object."""
    s3 = MemoryS3()
    outlet = QuarantineOutlet(s3, "lake")
    later = ARRIVAL_US + 86_400_000_000
    await outlet.write(SHARD, result(refused(0), refused(1, "future"), refused(2)))
    await outlet.write(SHARD, result(refused(3, arrival_us=later)))
    await outlet.flush(SHARD)
    partitions = sorted(path.split("/")[2:4] for path in s3.objects)
    assert partitions == [
        ["dt=2025-07-07", "reason=future"],
        ["dt=2025-07-07", "reason=not_json"],
        ["dt=2025-07-08", "reason=not_json"],
    ]
    assert [row["sub_sequence_number"] for row in s3.rows()] == [0, 2, 1, 3]


async def test_nothing_is_written_before_flush_or_without_rows() -> None:
    """Small objects wait for the flush; a clean stream makes none."""
    s3 = MemoryS3()
    outlet = QuarantineOutlet(s3, "lake")
    await outlet.flush(SHARD)
    await outlet.write(SHARD, result(refused(0)))
    assert s3.objects == {}
    assert outlet.buffered_bytes > 0
    await outlet.flush(SHARD)
    assert len(s3.objects) == 1
    assert outlet.buffered_bytes == 0
    await outlet.flush(SHARD)
    assert len(s3.objects) == 1


async def test_replay_overwrites() -> None:
    """The same items written again are the same object."""
    s3 = MemoryS3()
    for _ in range(2):
        outlet = QuarantineOutlet(s3, "lake")
        await outlet.write(SHARD, result(refused(0), refused(5)))
        await outlet.flush(SHARD)
    assert len(s3.objects) == 1
    assert len(s3.rows()) == 2


async def test_full_buffer_is_written_unasked() -> None:
    """Memory is bounded however long no flush comes."""
    s3 = MemoryS3()
    outlet = QuarantineOutlet(s3, "lake", max_buffered_bytes=1000)
    for number in range(20):
        await outlet.write(SHARD, result(refused(number, data=b"x" * 300)))
        assert outlet.buffered_bytes < 2000
    assert len(s3.objects) > 5
    await outlet.flush(SHARD)
    assert sorted(row["sub_sequence_number"] for row in s3.rows()) == list(range(20))


async def test_outage_is_waited_out() -> None:
    """While S3 fails nothing is dropped, pauses grow with jitter, and readiness says why."""
    s3, health, pauses, seen = MemoryS3(), Health(), [], []
    s3.answers = [failed("SlowDown", 503), failed("NoSuchBucket", 404), OSError("gone")]

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        seen.append(health.is_ready)

    outlet = QuarantineOutlet(s3, "lake", health=health, sleep=sleep, jitter=lambda: 0.5)
    await outlet.write(SHARD, result(refused(0)))
    await outlet.flush(SHARD)
    assert len(s3.rows()) == 1
    assert pauses == [0.1, 0.2, 0.4]
    assert seen == [False] * 3
    assert health.is_ready


async def test_other_errors_are_raised_and_keep_the_rows() -> None:
    """What waiting cannot heal is raised; the rows are still there."""
    s3 = MemoryS3()
    s3.answers = [failed("InvalidRequest", 400)]
    outlet = QuarantineOutlet(s3, "lake")
    await outlet.write(SHARD, result(refused(0)))
    with pytest.raises(ClientError):
        await outlet.flush(SHARD)
    await outlet.flush(SHARD)
    assert len(s3.rows()) == 1


async def test_cancelled_flush_keeps_the_rows() -> None:
    """A flush cut off in the middle is made good by the next one."""
    s3 = MemoryS3()
    s3.gate.clear()
    outlet = QuarantineOutlet(s3, "lake")
    await outlet.write(SHARD, result(refused(0)))
    flushing = asyncio.create_task(outlet.flush(SHARD))
    await asyncio.sleep(0)
    flushing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await flushing
    s3.gate.set()
    await outlet.flush(SHARD)
    assert len(s3.rows()) == 1


async def test_flush_waits_for_a_write_under_way() -> None:
    """A flush covers what another call is writing, and what was taken meanwhile."""
    s3 = MemoryS3()
    s3.gate.clear()
    outlet = QuarantineOutlet(s3, "lake", max_buffered_bytes=1)
    writing = asyncio.create_task(outlet.write(SHARD, result(refused(0))))
    await asyncio.sleep(0)
    more = asyncio.create_task(outlet.write(SHARD, result(refused(1))))
    flushing = asyncio.create_task(outlet.flush(SHARD))
    await asyncio.sleep(0)
    assert not flushing.done()
    s3.gate.set()
    await asyncio.gather(writing, more, flushing)
    assert [row["sub_sequence_number"] for row in s3.rows()] == [0, 1]
    assert outlet.buffered_bytes == 0


async def test_shards_are_apart() -> None:
    """A flush of one shard writes only that shard's items."""
    s3 = MemoryS3()
    other = Shard("readings-raw", SHARD.incarnation, "shardId-000000000013")
    outlet = QuarantineOutlet(s3, "lake")
    await outlet.write(SHARD, result(refused(0)))
    await outlet.write(other, result(refused(1, shard_id=other.shard_id)))
    await outlet.flush(other)
    assert [row["sub_sequence_number"] for row in s3.rows()] == [1]
