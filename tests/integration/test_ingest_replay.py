"""`ingest replay` as a process: killed, resumed, complete."""

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from uuid import uuid4

import boto3
import pytest

from ingest import replay
from telemill.audit import sources
from telemill.progress import store
from telemill.testing import emulator

READINGS = 60_000
AWAY = emulator.aws_environment("http://127.0.0.1:1")


@pytest.fixture
def unique(aws: str) -> str:
    """The name of a stream and a table of this test's own."""
    name = f"ingest-replay-{uuid4().hex[:8]}"
    kinesis, dynamodb = boto3.client("kinesis"), boto3.client("dynamodb")
    kinesis.create_stream(StreamName=name, ShardCount=2)
    kinesis.get_waiter("stream_exists").wait(StreamName=name)
    dynamodb.create_table(TableName=name, BillingMode="PAY_PER_REQUEST", **store.TABLE_DEFINITION)
    return name


async def start(unique: str, *files: Path, **environ: str) -> asyncio.subprocess.Process:
    """The command."""
    given = {"INGEST_RAW_STREAM": unique, "INGEST_PROGRESS_TABLE": unique}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "ingest",
        "replay",
        *map(str, files),
        env={**os.environ, **given, **environ},
        stderr=asyncio.subprocess.PIPE,
    )


def stopped_status(said: bytes) -> object:
    """The status in the log."""
    [line] = [each for each in said.splitlines() if b"service.stopped" in each]
    return json.loads(line)["status"]


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
    items = await asyncio.to_thread(sources.raw_items, unique)
    assert set(Counter(item.body for item in items)) == set(lines)
    third = await start(unique, file)
    await third.communicate()
    assert third.returncode == 0
    assert len(await asyncio.to_thread(sources.raw_items, unique)) == len(items)


async def test_refused_lines_make_it_end_with_1(unique: str, tmp_path: Path) -> None:
    """Good lines of all files are loaded; bad ones are named on stderr and in the status."""
    good, bad = tmp_path / "good.csv", tmp_path / "bad.ndjson"
    good.write_text("time,DeviceId,sensor1\n2025-07-07T08:21:29Z,5,1.50\n")
    bad.write_text('{"DeviceId":5}\n{"time":"x","DeviceId":6}\n')
    process = await start(unique, good, bad)
    _, said = await process.communicate()
    assert process.returncode == 1
    assert b"bad.ndjson:1: schema:" in said
    assert stopped_status(said) == 1
    assert said.splitlines()[-1] == b"replay: refused 1 lines which cannot be readings"
    assert (said.count(b"good.csv ["), said.count(b"bad.ndjson [")) == (1, 1)
    items = await asyncio.to_thread(sources.raw_items, unique)
    assert Counter(item.body for item in items) == Counter(
        [
            b'{"time":"2025-07-07T08:21:29Z","DeviceId":5,"sensor1":1.50}',
            b'{"time":"x","DeviceId":6}',
        ]
    )


async def test_files_are_looked_at_before_aws_is_asked(tmp_path: Path) -> None:
    """No file, or a bad one behind a good one, is status 2 and named, though AWS is away."""
    good, missing = tmp_path / "good.ndjson", tmp_path / "missing.ndjson"
    good.write_text('{"time":"x","DeviceId":6}\n')
    for files, named in (((), b"FILE..."), ((good, missing), b"missing.ndjson: No such file")):
        process = await start("no-stream", *files, **AWAY)
        _, said = await process.communicate()
        assert process.returncode == 2
        assert named in said
        assert stopped_status(said) == 2


async def test_stopped_before_everything_is_loaded_is_status_1(tmp_path: Path) -> None:
    """SIGTERM while it waits for the stream: the status, the log and the last line say so."""
    file = tmp_path / "good.ndjson"
    file.write_text('{"time":"x","DeviceId":6}\n')
    process = await start("no-stream", file, **AWAY)
    assert process.stderr is not None
    while b"service.started" not in await process.stderr.readline():
        pass
    process.send_signal(signal.SIGTERM)
    said = await process.stderr.read()
    assert await process.wait() == 1
    assert stopped_status(said) == 1
    assert said.splitlines()[-1].startswith(b"replay: stopped before everything was loaded (0 of 1")
