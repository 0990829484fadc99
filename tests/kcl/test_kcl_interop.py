"""What we write is read by a stock KCL consumer: the library's own sample processor.

Needs Java, the jars (`make kcl-jars`) and the sample (`make kcl-test` fetches it).
"""

import asyncio
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from ingest import core
from telemill import aws as aws_clients
from telemill import slots
from telemill.kcl import jars, lock
from telemill.kinesis.coordinators.daemon import MAIN_CLASS

ROOT = Path(__file__).resolve().parents[2]
SET = "kcl2"
"""The jars of the version whose sample it is."""
LIMIT_SECONDS = 180.0
SLOT_COUNT = slots.DEFAULT_SLOT_COUNT
RECORD = re.compile(
    r"^Record \(Partition Key: (?P<key>[^,]+), Sequence Number: (?P<number>\d+),"
    r" Subsequence Number: (?P<sub>\d+), Data Size: (?P<size>\d+)$",
    re.MULTILINE,
)
"""The daemon writes its child's line out once as it is, and once in its log."""
CONSUMER = """
import sys
from amazon_kclpy import kcl
from samples.sample_kclpy_app import RecordProcessor
class Told(RecordProcessor):
    def log(self, message):
        # The sample ends no line, and the daemon forwards whole ones.
        super().log(message + chr(10))
kcl.KCLProcess(Told()).run()
"""


def sample_directory() -> Path:
    """Where the library's source distribution is unpacked."""
    [found] = (ROOT / "build" / "kclpy").glob("amazon_kclpy-*/")
    return found


async def stock_consumer(directory: Path, stream: str, url: str) -> asyncio.subprocess.Process:
    """The MultiLangDaemon with the sample processor, as the library's README starts it."""
    (directory / "consumer.py").write_text(CONSUMER)
    (directory / "sample.properties").write_text(
        f"executableName = {sys.executable} consumer.py\n"
        f"streamName = {stream}\napplicationName = stock-{stream}\nregionName = us-east-1\n"
        "AwsCredentialsProvider = DefaultCredentialsProvider\nprocessingLanguage = python/3\n"
        f"initialPositionInStream = TRIM_HORIZON\nkinesisEndpoint = {url}\n"
        f"dynamoDBEndpoint = {url}\nmetricsLevel = NONE\nretrievalMode = POLLING\n"
        "shardSyncIntervalMillis = 1000\n"
    )
    class_path = jars.class_path(ROOT / jars.DEFAULT_DIRECTORY, lock.load(SET))
    return await asyncio.create_subprocess_exec(
        "java",
        *("-cp", os.pathsep.join(map(str, class_path)), MAIN_CLASS),
        *("--properties-file", "sample.properties"),
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(sample_directory()), "AWS_REGION": "us-east-1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def read_until(process: asyncio.subprocess.Process, count: int) -> list[dict[str, str]]:
    """What the sample has logged, once it is so many records."""
    output = ""
    stream: Any = process.stdout
    async with asyncio.timeout(LIMIT_SECONDS):
        while len(found := list(RECORD.finditer(output))) < count:
            piece = await stream.read(65536)
            assert piece, output[-4000:]
            output += piece.decode(errors="replace")
    return [each.groupdict() for each in found]


@pytest.mark.parametrize("raw_format", ["ndjson", "kpl"])
async def test_a_stock_consumer_reads_what_ingest_writes(
    aws: str, tmp_path: Path, raw_format: core.RawFormat
) -> None:
    """Every record, and of KPL aggregates every user record, with its device as key."""
    batches = [
        core.Batch(
            slot,
            keys=[str(device) for device in range(slot, 640, SLOT_COUNT)],
            items=[b'{"DeviceId":%d}' % device for device in range(slot, 640, SLOT_COUNT)],
        )
        for slot in range(SLOT_COUNT)
    ]
    stream = f"interop-{raw_format}"
    async with aws_clients.client("kinesis") as client:
        await client.create_stream(StreamName=stream, ShardCount=2)
        await (client.get_waiter("stream_exists")).wait(StreamName=stream)
        sizes = []
        for batch in batches:
            data = core.encode(batch, raw_format, SLOT_COUNT)
            sizes.append(len(data))
            await client.put_record(
                StreamName=stream,
                Data=data,
                PartitionKey=core.partition_key(batch),
                ExplicitHashKey=str(slots.hash_key_of(batch.slot, SLOT_COUNT)),
            )
    expected = (
        sorted(
            (key, len(item))
            for batch in batches
            for key, item in zip(batch.keys, batch.items, strict=True)
        )
        if raw_format == "kpl"
        else sorted(zip(map(core.partition_key, batches), sizes, strict=True))
    )
    process = await stock_consumer(tmp_path, stream, aws)
    try:
        found = await read_until(process, len(expected))
    finally:
        process.kill()
        await process.wait()
    assert sorted((each["key"], int(each["size"])) for each in found) == expected
    places = [(each["number"], each["sub"]) for each in found]
    assert len(set(places)) == len(places)
