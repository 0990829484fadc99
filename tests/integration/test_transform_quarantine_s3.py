"""The transform service as a process on the emulator, and its quarantine on S3."""

import asyncio
import base64
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest

from telemill import aws as clients
from telemill import contract
from telemill.codec import compression, raw, wire
from telemill.kinesis.records import Chunk
from telemill.quarantine import QuarantineOutlet
from transform import reasons, testing
from transform.core import TransformStep

FMS = contract.load("contracts/fms.yaml")
RAW, OUT = "transform-it-raw", "transform-it-readings"
LAKE, STATE, TABLE = "transform-it-lake", "transform-it-state", "transform-it-progress"


def quarantined(bucket: str) -> dict[tuple[str, int], dict[str, Any]]:
    """Every row of the quarantine by lineage."""
    s3 = boto3.client("s3")
    found = {}
    for each in s3.list_objects_v2(Bucket=bucket, Prefix="quarantine/").get("Contents", ()):
        body = s3.get_object(Bucket=bucket, Key=each["Key"])["Body"].read()
        for line in compression.decompress(body, limit=2**30).splitlines():
            row = json.loads(line)
            assert f"/reason={row['reason']}/" in each["Key"]
            assert f"/dt={row['arrival_time'][:10]}/" in each["Key"]
            found[row["sequence_number"], row["sub_sequence_number"]] = row
    return found


@pytest.fixture
def bucket(aws: str) -> str:
    """An empty bucket."""
    name = "transform-it-outlet"
    boto3.client("s3").create_bucket(Bucket=name)
    return name


async def test_refused_items_are_found_on_s3(bucket: str) -> None:
    """What the core refuses can be read back from the bucket, bytes and lineage."""
    step = TransformStep(testing.plant())
    lines = [testing.ndjson([testing.reading(1)]), b'{"torn', b'{"DeviceId":1,"time":"soon"}']
    chunk = Chunk(testing.SHARD, [testing.record(0, raw.encode_ndjson(lines))])
    result = step.step(chunk, step.restore([], testing.SHARD))
    async with clients.client("s3") as s3:
        outlet = QuarantineOutlet(s3, bucket)
        for _ in range(2):  # a replay
            await outlet.write(testing.SHARD, result)
            await outlet.flush(testing.SHARD)
    rows = quarantined(bucket)
    number = chunk.records[0].sequence_number
    assert set(rows) == {(number, 1), (number, 2)}
    assert base64.b64decode(rows[number, 1]["body"]) == lines[1]
    assert rows[number, 2]["reason"] == reasons.BAD_TIME


async def test_missing_bucket_heals(aws: str) -> None:
    """The outlet waits for a bucket that is created later, and then writes."""
    name = "transform-it-late"
    step = TransformStep(testing.plant())
    result = step.step(testing.chunk(b"?"), step.restore([], testing.SHARD))

    async def create(_seconds: float) -> None:
        boto3.client("s3").create_bucket(Bucket=name)

    async with clients.client("s3") as s3:
        outlet = QuarantineOutlet(s3, name, sleep=create)
        await outlet.write(testing.SHARD, result)
        await outlet.flush(testing.SHARD)
    assert len(quarantined(name)) == 1


@pytest.fixture
def resources(aws: str) -> Iterator[None]:
    """Everything the service needs."""
    kinesis, s3, dynamodb = (boto3.client(name) for name in ("kinesis", "s3", "dynamodb"))
    for stream in (RAW, OUT):
        kinesis.create_stream(StreamName=stream, ShardCount=1)
        kinesis.get_waiter("stream_exists").wait(StreamName=stream)
    for name in (LAKE, STATE):
        s3.create_bucket(Bucket=name)
    keys = {"app": "HASH", "shard": "RANGE"}
    dynamodb.create_table(
        TableName=TABLE,
        KeySchema=[{"AttributeName": key, "KeyType": kind} for key, kind in keys.items()],
        AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"} for key in keys],
        BillingMode="PAY_PER_REQUEST",
    )
    yield
    for stream in (RAW, OUT):
        kinesis.delete_stream(StreamName=stream)


@asynccontextmanager
async def service() -> AsyncIterator[asyncio.subprocess.Process]:
    """The service as a process; ended with SIGTERM."""
    environment = {
        "TRANSFORM_INPUT_STREAM": RAW,
        "TRANSFORM_OUTPUT_STREAM": OUT,
        "TRANSFORM_LAKE_BUCKET": LAKE,
        "TRANSFORM_STATE_BUCKET": STATE,
        "TRANSFORM_PROGRESS_TABLE": TABLE,
        "TRANSFORM_WORKER_ID": "it",
        "TRANSFORM_HTTP_PORT": "0",
        "TRANSFORM_COMMIT_INTERVAL_SECONDS": "0.5",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "transform"),
        env=os.environ | environment,
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def documents(first: int, count: int) -> list[dict[str, Any]]:
    """Readings of now, of ten devices."""
    time = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}"
    return [
        {"time": f"{time}.{number:06}Z", "DeviceId": number % 10, "sensor1": 80.5, "isFail": False}
        for number in range(first, first + count)
    ]


def put(made: list[dict[str, Any]], *bad: bytes) -> None:
    """One raw record."""
    lines = [*(json.dumps(each).encode() for each in made), *bad]
    boto3.client("kinesis").put_record(
        StreamName=RAW, Data=raw.encode_ndjson(lines), PartitionKey="k"
    )


async def put_out(count: int) -> list[dict[str, Any]]:
    """The rows on the output stream, as soon as there are `count`."""
    async with clients.client("kinesis") as kinesis:
        shards = await kinesis.list_shards(StreamName=OUT)
        answer = await kinesis.get_shard_iterator(
            StreamName=OUT,
            ShardId=shards["Shards"][0]["ShardId"],
            ShardIteratorType="TRIM_HORIZON",
        )
        rows: list[dict[str, Any]] = []
        while len(rows) < count:
            answer = await kinesis.get_records(
                ShardIterator=answer.get("NextShardIterator") or answer["ShardIterator"]
            )
            for each in answer["Records"]:
                rows += wire.decode(each["Data"], lambda _: FMS.stream_schema)[1].to_pylist()
        return rows


async def test_the_service_end_to_end(resources: None) -> None:
    """Raw records become readings once, bad ones are quarantined, and a restart goes on."""
    first, second = documents(0, 50), documents(50, 50)
    async with service():
        put(first, b'{"torn')
        assert len(await put_out(50)) == 50
    async with service():
        put(first[:10] + second)
        rows = await put_out(100)
    assert sorted(row["event_time"].microsecond for row in rows) == list(range(100))
    (refused,) = quarantined(LAKE).values()
    assert (refused["reason"], refused["sub_sequence_number"]) == (reasons.NOT_JSON, 50)
    assert base64.b64decode(refused["body"]) == b'{"torn'
