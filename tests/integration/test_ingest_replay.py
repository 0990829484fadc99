"""`ingest replay` as a process: killed, resumed, complete."""

import asyncio
import os
import sys
from collections import Counter
from pathlib import Path
from uuid import uuid4

import boto3
import pytest

from demo import collect
from ingest import replay
from telemill.progress import store

READINGS = 60_000


@pytest.fixture
def unique(aws: str) -> str:
    """The name of a stream and a table of this test's own."""
    name = f"ingest-replay-{uuid4().hex[:8]}"
    kinesis, dynamodb = boto3.client("kinesis"), boto3.client("dynamodb")
    kinesis.create_stream(StreamName=name, ShardCount=2)
    kinesis.get_waiter("stream_exists").wait(StreamName=name)
    dynamodb.create_table(TableName=name, BillingMode="PAY_PER_REQUEST", **store.TABLE_DEFINITION)
    return name


async def start(unique: str, *files: Path) -> asyncio.subprocess.Process:
    """The command."""
    given = {"INGEST_RAW_STREAM": unique, "INGEST_PROGRESS_TABLE": unique}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "ingest",
        "replay",
        *map(str, files),
        env={**os.environ, **given},
        stderr=asyncio.subprocess.PIPE,
    )


async def test_a_killed_replay_is_resumed_and_loses_nothing(unique: str, tmp_path: Path) -> None:
    """After kill -9 and a second run every reading of the file is in the stream."""
    file = tmp_path / "history.ndjson"
    lines = [
        f'{{"time":"t{n}","DeviceId":{n % 100},"sensor1":{n}.5}}'.encode() for n in range(READINGS)
    ]
    file.write_bytes(b"\n".join(lines) + b"\n")
    first = await start(unique, file)
    assert first.stderr is not None
    while b"readings" not in await first.stderr.readline():
        pass
    first.kill()
    await first.wait()
    saved = replay.read_progress(file, unique)
    assert saved.acknowledged_bytes > 0
    second = await start(unique, file)
    _, said = await second.communicate()
    assert second.returncode == 0
    assert b"100% 60,000 readings" in said
    items = await asyncio.to_thread(collect.raw_items, unique)
    assert set(Counter(item.body for item in items)) == set(lines)
    third = await start(unique, file)
    await third.communicate()
    assert third.returncode == 0
    assert len(await asyncio.to_thread(collect.raw_items, unique)) == len(items)


async def test_refused_lines_make_it_end_with_1(unique: str, tmp_path: Path) -> None:
    """Good lines of all files are loaded; bad ones are named on stderr and in the status."""
    good, bad = tmp_path / "good.csv", tmp_path / "bad.ndjson"
    good.write_text("time,DeviceId,sensor1\n2025-07-07T08:21:29Z,5,1.50\n")
    bad.write_text('{"DeviceId":5}\n{"time":"x","DeviceId":6}\n')
    process = await start(unique, good, bad)
    _, said = await process.communicate()
    assert process.returncode == 1
    assert b"bad.ndjson:1: schema:" in said
    items = await asyncio.to_thread(collect.raw_items, unique)
    assert Counter(item.body for item in items) == Counter(
        [
            b'{"time":"2025-07-07T08:21:29Z","DeviceId":5,"sensor1":1.50}',
            b'{"time":"x","DeviceId":6}',
        ]
    )


async def test_no_file_and_a_missing_file_are_status_2(unique: str, tmp_path: Path) -> None:
    """One line says what is missing."""
    for files in ((), (tmp_path / "missing.ndjson",)):
        process = await start(unique, *files)
        _, said = await process.communicate()
        assert process.returncode == 2
        assert b"FILE" in said or b"missing.ndjson" in said
