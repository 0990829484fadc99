"""What goes wrong below a worker ends in recovery or a non-zero exit, never in a silent stall.

On the real daemon; Kinesis and DynamoDB are one emulator. Needs Java and `make kcl-jars`.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest

from telemill import names, provision, slots
from telemill.codec import raw
from telemill.testing import emulator, proc, processes
from telemill.testing.processes import Process, Spec

ROOT = Path(__file__).resolve().parents[2]
LIMIT_SECONDS = 240.0
SHARDS = 2
LEASE_TABLE = "telemill-leases-transform"
LARGE_BYTES = 900_000
READING = b'{"time":"2026-03-01T06:00:%02d","DeviceId":%d,"sensor1":1.0}'


class Worker:
    """A transform worker on the KCL, with readings to work on."""

    def __init__(self, directory: Path, **more: str) -> None:
        port = emulator.free_port()
        environment = {
            "TRANSFORM_HTTP_PORT": str(port),
            "TRANSFORM_WORKER_ID": "worker",
            "TRANSFORM_COMMIT_INTERVAL_SECONDS": "0.5",
            "KINESIS_COORDINATOR": "kcl",
            **more,
        }
        self._spec = Spec("transform", "transform", (), environment, port)
        self._directory = directory
        self._sent = 0
        self.process = Process(self._spec, directory)

    def start_again(self) -> None:
        """As an orchestrator does."""
        self.process = Process(self._spec, self._directory)

    def wait(self, what: str, holds: Callable[[], bool]) -> None:
        """Wait for a condition."""
        assert processes.wait_until(holds, LIMIT_SECONDS), f"{what}:\n{self.process.tail()}"

    def wait_for_the_end(self) -> int:
        """Its exit status."""
        self.wait("it ends", lambda: not self.process.is_running())
        return self.process.wait()

    def send(self) -> None:
        """A reading to every slot."""
        kinesis: Any = boto3.client("kinesis")
        self._sent += 1
        for slot in range(slots.DEFAULT_SLOT_COUNT):
            kinesis.put_record(
                StreamName=names.RAW_STREAM,
                Data=raw.encode_ndjson([READING % (self._sent, slot)]),
                PartitionKey=str(slot),
                ExplicitHashKey=str(slots.hash_key_of(slot)),
            )

    def works(self) -> None:
        """What is sent now moves the position of every shard."""
        before = _positions()
        self.send()
        self.wait(
            "every shard moves",
            lambda: (
                len(_positions()) == SHARDS
                and all(place != before.get(shard) for shard, place in _positions().items())
            ),
        )

    def jvm(self) -> int:
        """Process id of its daemon."""
        [found] = [each for each in proc.below(self.process.pid) if "java" in proc.command(each)[0]]
        return found

    def relays(self) -> list[int]:
        """Process ids of its relays."""
        return proc.below(self.jvm())

    def log(self) -> str:
        """What it wrote."""
        return self.process.log_path.read_text()


def _positions() -> dict[str, str]:
    items = boto3.client("dynamodb").scan(TableName=names.PROGRESS_TABLE, ConsistentRead=True)
    return {
        item["shard"]["S"]: item["position"]["S"]
        for item in items["Items"]
        if item["app"]["S"] == "transform" and "position" in item
    }


@contextmanager
def working(directory: Path, **more: str) -> Iterator[Worker]:
    """A worker that holds every shard; ended at the end."""
    provision.provision(provision.Resources(shard_count=SHARDS), lambda _line: None)
    worker = Worker(directory, **more)
    try:
        worker.wait(
            "it holds every shard", lambda: worker.log().count("progress.claimed") >= SHARDS
        )
        worker.works()
        yield worker
    finally:
        if worker.process.is_running():
            worker.process.kill()


@pytest.fixture(autouse=True)
def _emulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One of its own for every test."""
    if emulator.BINARY_VARIABLE not in os.environ:
        monkeypatch.setenv(emulator.BINARY_VARIABLE, str(ROOT / emulator.DEFAULT_BINARY))
    with emulator.running(tmp_path / "emulator") as running:
        for name, value in emulator.aws_environment(running.url).items():
            monkeypatch.setenv(name, value)
        boto3.setup_default_session()
        yield


def test_the_end_of_the_jvm_ends_the_worker(tmp_path: Path) -> None:
    """SIGKILL of the JVM: status 1 with its last words, and a restart goes on."""
    with working(tmp_path) as worker:
        os.kill(worker.jvm(), signal.SIGKILL)
        assert worker.wait_for_the_end() == 1
        assert "MultiLangDaemon ended with status -9" in worker.log()
        worker.start_again()
        worker.works()
        worker.process.ask_to_stop()
        assert worker.process.wait() == 0


def test_a_jvm_that_hangs_ends_the_worker(tmp_path: Path) -> None:
    """SIGSTOP of the JVM: no word for so long, though the stream answers: status 1."""
    with working(tmp_path, KINESIS_KCL_SILENCE_SECONDS="30") as worker:
        jvm = worker.jvm()
        os.kill(jvm, signal.SIGSTOP)
        assert worker.wait_for_the_end() == 1
        assert "the stream can be reached: it hangs" in worker.log()
        assert not Path(f"/proc/{jvm}").exists()


def test_a_relay_that_dies_ends_in_recovery(tmp_path: Path) -> None:
    """The daemon ends when one child does: the worker says so, and a restart goes on."""
    with working(tmp_path) as worker:
        os.kill(worker.relays()[0], signal.SIGKILL)
        assert worker.wait_for_the_end() == 1
        assert "MultiLangDaemon" in worker.log()
        worker.start_again()
        worker.works()


def test_a_lease_table_that_is_deleted_ends_the_worker(tmp_path: Path) -> None:
    """Status 1 and why; a restart makes the table again, reads anew and doubles nothing."""
    with working(tmp_path) as worker:
        boto3.client("dynamodb").delete_table(TableName=LEASE_TABLE)
        assert worker.wait_for_the_end() == 1
        assert f"table {LEASE_TABLE} does not exist" in worker.log()
        written = _count(names.READINGS_STREAM)
        worker.start_again()
        worker.works()
        # What is below our positions came again from the KCL, and was left out.
        assert _count(names.READINGS_STREAM) - written <= slots.DEFAULT_SLOT_COUNT


def test_a_jvm_out_of_memory_ends_the_worker(tmp_path: Path) -> None:
    """A heap too small for a page of large records: status 1, and the setting that raises it."""
    with working(tmp_path, KINESIS_KCL_HEAP_MEGABYTES="64") as worker:
        kinesis: Any = boto3.client("kinesis")
        for _ in range(40):
            kinesis.put_record(
                StreamName=names.RAW_STREAM, Data=os.urandom(LARGE_BYTES), PartitionKey="0"
            )
        assert worker.wait_for_the_end() == 1
        assert "KINESIS_KCL_HEAP_MEGABYTES" in worker.log()


def _count(stream: str) -> int:
    """Records on a stream."""
    kinesis: Any = boto3.client("kinesis")
    found = 0
    for shard in kinesis.list_shards(StreamName=stream)["Shards"]:
        iterator = kinesis.get_shard_iterator(
            StreamName=stream, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]
        while True:
            answer = kinesis.get_records(ShardIterator=iterator, Limit=10_000)
            found += len(answer["Records"])
            if not answer["Records"]:
                break
            iterator = answer["NextShardIterator"]
    return found
