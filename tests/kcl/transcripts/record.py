"""Record what the real MultiLangDaemon says: python tests/kcl/transcripts/record.py kcl3.

Needs the jars (`python -m telemill.kcl.jars --set kcl3`), Java and both emulators (`make
setup-fault`). One file a shard, one JSON line for each line that went over the pipe:

    {"from": "daemon", "line": {...}}   as it came
    {"from": "worker", "line": {...}}   what we answered or asked
    {"from": "probe", "line": {...}}    what a worker must never ask: recorded to know the answer

A shard with plain records and a KPL aggregate is split once its records have come; its children see
the daemon stop. (The emulator does not filter shards by position: no KCL starts after a split.)
"""

import asyncio
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import msgspec

from telemill.codec import kpl
from telemill.kcl import jars, lock
from telemill.kcl.properties import DaemonSettings
from telemill.kinesis import multilang
from telemill.kinesis.coordinators.daemon import Daemon, Pipes
from telemill.kinesis.records import MAX_HASH_KEY
from telemill.testing import emulator, kinesis_local

STREAM = "recorded"
TIMEOUT_SECONDS = 240.0
FAR_BEYOND = "9" * 56
SEQUENCE_NUMBERS = 3
EMPTY_WINDOWS = 2
"""Windows without records kept of a shard: they are all alike."""


class Recorder:
    """Answers the daemon and writes everything down.

    Attributes:
        spoken: Lines by shard.
        ended: Shards whose end was checkpointed.
        numbers: Sequence numbers received.
    """

    def __init__(self) -> None:
        self.spoken: dict[str, list[dict[str, Any]]] = {}
        self.ended: set[str] = set()
        self.numbers: set[str] = set()
        self.heard = asyncio.Event()

    async def serve(self, pipes: Pipes) -> None:
        """One shard."""
        lines: list[dict[str, Any]] = []
        empty_windows = 0
        while line := await pipes.reader.readline():
            action = multilang.decode(line)
            keep = True
            if isinstance(action, multilang.ProcessRecords) and not action.records:
                empty_windows += 1
                keep = empty_windows <= EMPTY_WINDOWS
            said = lines if keep else []
            said.append({"from": "daemon", "line": msgspec.json.decode(line)})
            if isinstance(action, multilang.Initialize):
                self.spoken[action.shard_id] = lines
            await self._answer(pipes, action, said)
            if isinstance(action, multilang.ProcessRecords):
                self.numbers |= {record.sequence_number for record in action.records}
            if isinstance(action, multilang.ShardEnded):
                self.ended.add(next(key for key, value in self.spoken.items() if value is lines))
            self.heard.set()

    async def _answer(self, pipes: Pipes, action: multilang.Action, said: list[Any]) -> None:
        name = str(action.__struct_config__.tag)
        if isinstance(action, multilang.Initialize | multilang.LeaseLost):
            await self._ask(pipes, said, "probe", "1")
        if isinstance(action, multilang.ProcessRecords) and action.records:
            await self._ask(pipes, said, "probe", FAR_BEYOND)
            await self._ask(pipes, said, "worker", action.records[-1].sequence_number)
        if isinstance(action, multilang.ShardEnded):
            await self._ask(pipes, said, "worker", None)
        self._say(pipes, said, "worker", {"action": "status", "responseFor": name})

    async def _ask(self, pipes: Pipes, said: list[Any], who: str, number: str | None) -> None:
        request = {"action": "checkpoint", "sequenceNumber": number, "subSequenceNumber": None}
        self._say(pipes, said, who, request)
        answer = msgspec.json.decode(await pipes.reader.readline())
        said.append({"from": "daemon", "line": answer})

    def _say(self, pipes: Pipes, said: list[Any], who: str, line: dict[str, Any]) -> None:
        said.append({"from": who, "line": line})
        pipes.write(msgspec.json.encode(line) + b"\n")

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something was heard."""
        while not condition():
            self.heard.clear()
            await self.heard.wait()


def put(client: Any) -> None:
    """What the first shard holds."""
    users = [kpl.UserRecord(f"device-{each}", 1, b"user %d" % each) for each in range(3)]
    client.put_record(StreamName=STREAM, Data=b"plain", PartitionKey="device-0")
    client.put_record(
        StreamName=STREAM, Data=kpl.aggregate(users), PartitionKey="a", ExplicitHashKey="1"
    )
    client.put_record(StreamName=STREAM, Data="ä€😀\x00".encode(), PartitionKey='ä€😀 "quoted"')


def split(client: Any) -> None:
    """Close the first shard."""
    shard = client.list_shards(StreamName=STREAM)["Shards"][0]["ShardId"]
    client.split_shard(
        StreamName=STREAM, ShardToSplit=shard, NewStartingHashKey=str(MAX_HASH_KEY // 2 + 1)
    )


async def record(name: str, client: Any, kinesis_url: str, aws_url: str) -> Recorder:
    """Run a daemon of a set until it has said everything, then stop it."""
    recorder = Recorder()
    settings = DaemonSettings(
        application=f"recorded-{name}",
        stream=STREAM,
        worker_id="recorder",
        region="us-east-1",
        kinesis_endpoint=kinesis_url,
        dynamodb_endpoint=aws_url,
    )
    daemon = Daemon(
        settings,
        jars.class_path(jars.DEFAULT_DIRECTORY, lock.load(name)),
        recorder.serve,
        environ=os.environ,
    )
    await daemon.start()
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await recorder.until(lambda: len(recorder.numbers) == SEQUENCE_NUMBERS)
            await asyncio.to_thread(split, client)
            # Both children, and the parent's end.
            await recorder.until(lambda: len(recorder.spoken) == 3 and bool(recorder.ended))
            daemon.terminate()
            await daemon.wait()
    finally:
        await daemon.end()
    return recorder


def main(name: str) -> None:
    """Write the files of a set."""
    with (
        tempfile.TemporaryDirectory() as directory,
        kinesis_local.running(Path(directory)) as kinesis_url,
        emulator.running(Path(directory)) as aws,
    ):
        os.environ.update(kinesis_local.aws_environment(kinesis_url, aws.url))
        client = boto3.client("kinesis")
        client.create_stream(StreamName=STREAM, ShardCount=1)
        client.get_waiter("stream_exists").wait(StreamName=STREAM, WaiterConfig={"Delay": 1})
        put(client)
        recorder = asyncio.run(record(name, client, kinesis_url, aws.url))
    for shard_id, lines in recorder.spoken.items():
        path = Path(__file__).with_name(f"{name}-{shard_id}.ndjson")
        path.write_bytes(msgspec.json.Encoder().encode_lines(lines))
        sys.stdout.write(f"{path.name}: {len(lines)} lines\n")


if __name__ == "__main__":
    main(sys.argv[1])
