"""One poison record among 10,000: every stage loses that record and nothing else.

Real processes, restarted whenever they end, as an orchestrator would; each touches the record with
its own code and dies of it (`telemill.testing.poison`).
"""

import base64
import json
import os
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from telemill import contract, provision
from telemill.codec import compression, wire
from telemill.stages.watermarks import Watermarks
from telemill.testing import batches, processes
from telemill.testing.emulator import free_port
from telemill.testing.poison import VARIABLE
from telemill.testing.processes import Process, Spec

CONTRACT = "contracts/fms.yaml"
RECORDS = 10_000
POISON_INDEX = 6_543
RECORDS_PER_PUT = 500
MOST_RESTARTS = 5
STEP_TIMEOUT_SECONDS = 10.0
COMMIT_INTERVAL_SECONDS = 15.0
"""Longer than a restart takes: a position saved between two deaths is another story."""
PATIENCE_SECONDS = 600.0
WORKER_ID = "poisoned"
RAW_INCARNATION = 1_751_000_000_000
NOON_US = 1_751_889_600_000_000

FMS = contract.load(Path(__file__).parents[2] / CONTRACT)


class Lineage(NamedTuple):
    """A row's raw record and its place in it."""

    sequence_number: str
    sub_sequence_number: int


@dataclass
class Place:
    """Streams, buckets and a table of one test's own."""

    name: str
    directory: Path
    restarts: int = 0
    sequence_numbers: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.input, self.output = f"{self.name}-in", f"{self.name}-out"
        self.lake, self.table = f"{self.name}-lake", f"{self.name}-progress"
        resources = provision.Resources(
            streams=(self.input, self.output),
            shard_count=1,
            lake_bucket=self.lake,
            state_bucket=f"{self.name}-state",
            results_bucket=f"{self.name}-results",
            progress_table=self.table,
            alert_topic=f"{self.name}-alerts",
        )
        self.topic = provision.provision(resources, lambda _line: None)

    def put(self, records: list[bytes]) -> None:
        """Put records on the input stream, in order."""
        kinesis = boto3.client("kinesis")
        for start in range(0, len(records), RECORDS_PER_PUT):
            answer = kinesis.put_records(
                StreamName=self.input,
                Records=[
                    {"Data": data, "PartitionKey": "0"}
                    for data in records[start : start + RECORDS_PER_PUT]
                ],
            )
            self.sequence_numbers += [each["SequenceNumber"] for each in answer["Records"]]

    def spec(self, service: str, poison: str) -> Spec:
        """A service whose record is poison."""
        own: dict[str, dict[str, object]] = {
            "transform": {
                "INPUT_STREAM": self.input,
                "OUTPUT_STREAM": self.output,
                "COMMIT_INTERVAL_SECONDS": COMMIT_INTERVAL_SECONDS,
            },
            "anomaly": {
                "COMMIT_INTERVAL_SECONDS": COMMIT_INTERVAL_SECONDS,
                "INPUT_STREAM": self.input,
                "OUTPUT_STREAM": self.output,
                "ALERT_TOPIC": self.topic,
            },
            "sink": {
                "INPUT_STREAM": self.input,
                "GLUE_DATABASE": self.name.replace("-", "_"),
                "FLUSH_INTERVAL_SECONDS": COMMIT_INTERVAL_SECONDS,
            },
        }
        port = free_port()
        chosen = {
            "HTTP_PORT": port,
            "CONTRACT": CONTRACT,
            "WORKER_ID": WORKER_ID,
            "LAKE_BUCKET": self.lake,
            "STATE_BUCKET": f"{self.name}-state",
            "PROGRESS_TABLE": self.table,
            "STEP_TIMEOUT_SECONDS": STEP_TIMEOUT_SECONDS,
            **own[service],
        }
        prefix = service.upper()
        environment = {f"{prefix}_{key}": str(value) for key, value in chosen.items()}
        environment[VARIABLE] = poison
        return Spec(service, "telemill.testing.poison", (service,), environment, port)

    def run(self, service: str, poison: str) -> Path:
        """Keep the service running until everything put is below its position; its log."""
        process = Process(self.spec(service, poison), self.directory)

        def is_done() -> bool:
            nonlocal process
            if self.position() == self.sequence_numbers[-1]:
                return True
            if not process.is_running():
                assert self.restarts < MOST_RESTARTS, process.tail()
                self.restarts += 1
                process = Process(process.spec, self.directory)
            return False

        try:
            done = processes.wait_until(is_done, PATIENCE_SECONDS, 0.1)
            assert done, process.tail()
        finally:
            process.kill()
        return process.log_path

    def position(self) -> str | None:
        """Of the one shard."""
        items = boto3.client("dynamodb").scan(TableName=self.table, ConsistentRead=True)["Items"]
        found = [item["position"]["S"] for item in items if "position" in item]
        return found[0] if found else None

    def taken(self, kind: str) -> list[Lineage]:
        """What a consumer takes from the output stream: replays are ignored."""
        kinesis = boto3.client("kinesis")
        schema = FMS.stream_schema if kind == "readings" else FMS.score_stream_schema
        shard = kinesis.list_shards(StreamName=self.output)["Shards"][0]["ShardId"]
        iterator = kinesis.get_shard_iterator(
            StreamName=self.output, ShardId=shard, ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]
        marks, rows, behind = Watermarks(), list[Lineage](), True
        while behind:
            answer = kinesis.get_records(ShardIterator=iterator)
            for record in answer["Records"]:
                header, batch = wire.decode(record["Data"], lambda _: schema)
                rows += lineages(marks.take(header, batch, 0))
            iterator = answer["NextShardIterator"]
            behind = bool(answer["Records"]) or answer["MillisBehindLatest"] > 0
        return rows

    def objects(self, prefix: str) -> Iterator[bytes]:
        """Everything in the lake under a prefix."""
        s3 = boto3.client("s3")
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=self.lake, Prefix=prefix):
            for each in page.get("Contents", ()):
                yield s3.get_object(Bucket=self.lake, Key=each["Key"])["Body"].read()

    def stored(self) -> list[Lineage]:
        """The rows of the table."""
        columns = list(Lineage._fields)
        tables = (
            pq.read_table(pa.BufferReader(body), columns=columns)
            for body in self.objects("readings/")
        )
        return [Lineage(**row) for table in tables for row in table.to_pylist()]

    def quarantined(self) -> list[dict[str, Any]]:
        """What was put aside."""
        return [
            json.loads(line)
            for body in self.objects("quarantine/")
            for line in compression.decompress(body, limit=1 << 20).splitlines()
        ]

    def assert_put_aside(self, data: bytes) -> None:
        """The poison record is in the quarantine, whole, and nothing else is."""
        (row,) = self.quarantined()
        assert (row["reason"], row["stream"]) == ("poison", self.input)
        assert row["sequence_number"] == self.sequence_numbers[POISON_INDEX]
        assert base64.b64decode(row["body"]) == data
        assert "tried this record alone" in row["error"]


def lineages(batch: pa.RecordBatch) -> list[Lineage]:
    """Of a batch's rows."""
    return [Lineage(**row) for row in batch.select(list(Lineage._fields)).to_pylist()]


@pytest.fixture
def place(aws: str, tmp_path: Path) -> Place:
    """Provisioned, and empty."""
    assert aws == os.environ["AWS_ENDPOINT_URL"]
    return Place(f"poison-{uuid.uuid4().hex[:8]}", tmp_path)


def raw_records() -> list[bytes]:
    """One reading each, of 50 devices in turn."""
    values = {each.name: 50.0 for each in FMS.measures}
    values |= {each.name: False for each in FMS.values if each.type == "bool"}
    return [
        json.dumps(
            {
                FMS.device.name: index % 50 + 1,
                FMS.time.name: f"2025-07-07T12:{index // 3000:02d}:{index // 50 % 60:02d}Z",
                **values,
            }
        ).encode()
        for index in range(RECORDS)
    ]


def wire_records() -> list[bytes]:
    """One row each, as transform puts them."""
    header = batches.header(FMS)
    return [
        wire.encode(header, batches.batch(FMS.stream_schema, [(index, 0)], [NOON_US + index]))
        for index in range(RECORDS)
    ]


@pytest.mark.parametrize("death", ["kill", "segfault", "loop", "hold", "raise"])
def test_transform_passes_a_poison_record(place: Place, death: str) -> None:
    """However it ends the worker: at most 5 restarts, one record aside, all others put out."""
    records = raw_records()
    place.put(records)
    poison = place.sequence_numbers[POISON_INDEX]
    log = place.run("transform", f"step:{death}:{poison}")
    expected = [Lineage(number, 0) for number in place.sequence_numbers if number != poison]
    assert Counter(place.taken("readings")) == Counter(expected)
    place.assert_put_aside(records[POISON_INDEX])
    assert place.restarts == MOST_RESTARTS
    assert len(processes.log_events(log, "stage.poison_named")) == 1
    if death == "loop":
        said = processes.log_events(log, "stage.step_timed_out")
        assert len(said) == MOST_RESTARTS
        assert all("_loop" in str(each["traceback"]) for each in said)
    if death == "hold":
        assert log.read_text().count("Timeout (0:00:") == MOST_RESTARTS


@pytest.mark.parametrize(
    ("where", "death"), [("take", "kill"), ("encode", "kill"), ("encode", "loop")]
)
def test_the_sink_passes_a_poison_record(place: Place, where: str, death: str) -> None:
    """Wherever its rows break: at most 5 restarts, one record aside, all others stored once."""
    records = wire_records()
    place.put(records)
    poison = place.sequence_numbers[POISON_INDEX]
    number = poison if where == "take" else batches.sequence_number(POISON_INDEX)
    place.run("sink", f"{where}:{death}:{number}")
    others = (index for index in range(RECORDS) if index != POISON_INDEX)
    expected = [Lineage(batches.sequence_number(index), 0) for index in others]
    assert Counter(place.stored()) == Counter(expected)
    place.assert_put_aside(records[POISON_INDEX])
    assert place.restarts == MOST_RESTARTS


def test_anomaly_passes_a_poison_record(place: Place) -> None:
    """At most 5 restarts, one record aside, a score for every other reading."""
    records = wire_records()
    place.put(records)
    poison = place.sequence_numbers[POISON_INDEX]
    place.run("anomaly", f"step:kill:{poison}")
    others = (index for index in range(RECORDS) if index != POISON_INDEX)
    assert place.taken("scores") == [Lineage(batches.sequence_number(i), 0) for i in others]
    place.assert_put_aside(records[POISON_INDEX])
    assert place.restarts == MOST_RESTARTS
