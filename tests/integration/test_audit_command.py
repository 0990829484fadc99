"""`telemill audit` on tables that real services filled: sound, tampered with, in flight."""

import asyncio
import contextlib
import hashlib
import io
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from telemill.audit import Lineage, sources
from telemill.cli.__main__ import main
from telemill.codec import raw
from telemill.progress import store
from telemill.testing import emulator, processes
from telemill.testing.processes import Process, Spec

TIMEOUT_SECONDS = 180.0
DEVICES = 8
SECONDS = 20
START = "2026-01-01T00:59:50"
"""Readings of two hours: every cut has two partitions."""


@dataclass
class Plant:
    """Resources of one run, and what was put into them."""

    mark: str
    arguments: list[str]
    rows: int = 0
    services: dict[str, Process] = field(default_factory=dict)

    def named(self, what: str) -> str:
        """A resource."""
        return f"{what}-{self.mark}"


def readings(device: int) -> list[bytes]:
    """Readings of a device, one of them twice, and one that is none."""
    bodies = [
        json.dumps(
            {
                "time": f"2026-01-01T{'00:59' if tick < 10 else '01:00'}:{(50 + tick) % 60:02}.25Z",
                "DeviceId": device,
                "sensor1": 20 + tick / 4,
                "sensor2": -1 if tick == 3 else 40.5,
                "motor1": 999_999 if tick == 4 else 1200,
                "isFail": tick % 2 == 0,
            }
        ).encode()
        for tick in range(SECONDS)
    ]
    return [*bodies, bodies[5], b'{"DeviceId": "nobody"}']


@pytest.fixture(scope="module")
def plant(aws: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    """Transform and sink have consumed everything; they still run."""
    mark = uuid4().hex[:8]
    made = Plant(mark, [])
    _provision(made)
    logs = tmp_path_factory.mktemp("audit-logs")
    for spec in _specs(made):
        made.services[spec.name] = Process(spec, logs)
    try:
        _put(made)
        assert processes.wait_until(lambda: _stored(made) == made.rows, TIMEOUT_SECONDS), [
            each.tail() for each in made.services.values()
        ]
        yield made
    finally:
        processes.stop_in_order(list(made.services.values()))


def _provision(made: Plant) -> None:
    kinesis, s3, dynamodb = (boto3.client(each) for each in ("kinesis", "s3", "dynamodb"))
    for stream in ("raw", "readings", "scores"):
        kinesis.create_stream(StreamName=made.named(stream), ShardCount=2)
        kinesis.get_waiter("stream_exists").wait(StreamName=made.named(stream))
    for bucket in ("lake", "state", "results"):
        s3.create_bucket(Bucket=made.named(bucket))
    dynamodb.create_table(
        TableName=made.named("progress"),
        BillingMode="PAY_PER_REQUEST",
        **store.TABLE_DEFINITION,
    )
    made.arguments = [
        "audit",
        f"--raw-stream={made.named('raw')}",
        f"--readings-stream={made.named('readings')}",
        f"--scores-stream={made.named('scores')}",
        f"--progress-table={made.named('progress')}",
        f"--bucket={made.named('lake')}",
        f"--database=db_{made.mark}",
        f"--results=s3://{made.named('results')}/audit/",
    ]


def _specs(made: Plant) -> list[Spec]:
    common = {
        "PROGRESS_TABLE": made.named("progress"),
        "STATE_BUCKET": made.named("state"),
        "WORKER_ID": "here",
    }
    own: dict[str, dict[str, str]] = {
        "transform": {
            "INPUT_STREAM": made.named("raw"),
            "OUTPUT_STREAM": made.named("readings"),
            "LAKE_BUCKET": made.named("lake"),
        },
        "sink": {
            "INPUT_STREAM": made.named("readings"),
            "LAKE_BUCKET": made.named("lake"),
            "GLUE_DATABASE": f"db_{made.mark}",
            "FLUSH_INTERVAL_SECONDS": "0.5",
        },
    }
    specs = []
    for name, given in own.items():
        port = emulator.free_port()
        chosen = {**common, **given, "HTTP_PORT": str(port)}
        environment = {f"{name.upper()}_{key}": value for key, value in chosen.items()}
        specs.append(Spec(name, name, (), environment, port))
    return specs


def _put(made: Plant) -> None:
    """Every device's readings: half in records of one, half in NDJSON records."""
    kinesis = boto3.client("kinesis")
    for device in range(DEVICES):
        bodies = readings(device)
        parts = [[each] for each in bodies] if device % 2 else [bodies[:12], bodies[12:]]
        for part in parts:
            key = hashlib.md5(str(device).encode(), usedforsecurity=False).hexdigest()
            kinesis.put_record(
                StreamName=made.named("raw"), Data=raw.encode_ndjson(part), PartitionKey=key
            )
        made.rows += SECONDS


def _objects(made: Plant) -> dict[str, bytes]:
    s3 = boto3.client("s3")
    listed = s3.list_objects_v2(Bucket=made.named("lake"), Prefix="readings/").get("Contents", [])
    keys = [each["Key"] for each in listed]
    return {k: s3.get_object(Bucket=made.named("lake"), Key=k)["Body"].read() for k in keys}


def _lineages(body: bytes) -> list[Lineage]:
    table = pq.read_table(pa.BufferReader(body), columns=list(Lineage._fields))
    return [Lineage(**row) for row in table.to_pylist()]


def _stored(made: Plant) -> int:
    return sum(len(_lineages(body)) for body in _objects(made).values())


@dataclass
class Answer:
    """What the command said."""

    status: int
    document: dict[str, Any]

    def lineages(self, kind: str) -> list[Lineage]:
        """Those that are wrong in one way."""
        return [
            Lineage(*(each[name] for name in Lineage._fields))
            for each in self.document["wrong"][kind]
        ]


def audit(made: Plant, *more: str) -> Answer:
    """Run the command."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        status = main([*made.arguments, "--json", *more])
    assert status < 2, "the reason is on standard error"
    return Answer(status, json.loads(said.getvalue()))


@pytest.fixture
def restored(plant: Plant) -> Iterator[Plant]:
    """The table is afterwards as it was."""
    before = _objects(plant)
    yield plant
    s3, bucket = boto3.client("s3"), plant.named("lake")
    for key in _objects(plant).keys() - before.keys():
        s3.delete_object(Bucket=bucket, Key=key)
    for key, body in before.items():
        s3.put_object(Bucket=bucket, Key=key, Body=body)


def _without(made: Plant, objects: dict[str, bytes], deleted: str) -> set[Lineage]:
    """What is lost with an object: its rows, and their duplicates, which lose their excuse."""
    gone = set(_lineages(objects[deleted]))
    kept = {each for key, body in objects.items() if key != deleted for each in _lineages(body)}
    items = sources.raw_items(made.named("raw"))
    bodies = {item.body for item in items if item.lineage in gone}
    return {item.lineage for item in items if item.body in bodies} - kept


tables = pytest.mark.parametrize("tables", ["s3", "athena"])


@tables
def test_what_the_services_stored_is_sound(plant: Plant, tables: str) -> None:
    """Every item is stored, in the quarantine, or a duplicate; the command ends with 0."""
    answer = audit(plant, f"--tables={tables}")
    assert answer.status == 0, answer.document
    counts = answer.document["counts"]
    assert counts["raw_items"] == DEVICES * (SECONDS + 2)
    assert (counts["stored"], counts["quarantined"], counts["duplicates"]) == (
        plant.rows,
        DEVICES,
        DEVICES,
    )
    assert counts["in_flight"] == 0


@tables
def test_a_doubled_and_a_deleted_object_are_named(restored: Plant, tables: str) -> None:
    """A tampered table: exactly its rows are named, by lineage; the command ends with 1."""
    objects = _objects(restored)
    copied, deleted = min(objects), max(objects)
    s3, bucket = boto3.client("s3"), restored.named("lake")
    s3.put_object(Bucket=bucket, Key=f"{copied[:-8]}-copy.parquet", Body=objects[copied])
    s3.delete_object(Bucket=bucket, Key=deleted)
    answer = audit(restored, f"--tables={tables}")
    assert answer.status == 1
    assert set(answer.lineages("duplicated")) == set(_lineages(objects[copied]))
    assert set(answer.lineages("lost")) == _without(restored, objects, deleted)
    assert not answer.lineages("altered")
    if tables == "s3":
        notes = [each["note"] for each in answer.document["wrong"]["duplicated"]]
        assert all(copied in note and "-copy.parquet" in note for note in notes)


def test_the_report_for_people_names_objects(restored: Plant) -> None:
    """As a process on a terminal: progress, lineages with their objects, a verdict, status 1."""
    objects = _objects(restored)
    copied = min(objects)
    boto3.client("s3").put_object(
        Bucket=restored.named("lake"), Key=f"{copied[:-8]}-copy.parquet", Body=objects[copied]
    )

    async def run() -> tuple[int | None, str, str]:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "telemill.cli", *restored.arguments,
            env={**os.environ, "FORCE_COLOR": "1"},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        said, progress = await child.communicate()
        return child.returncode, said.decode(), progress.decode()

    status, text, progress = asyncio.run(run())
    assert status == 1
    assert "raw records read" in progress
    assert "THE AUDIT FAILED" in text
    assert str(_lineages(objects[copied])[0]) in text
    assert copied in text


def test_the_tables_alone_show_what_is_doubled(restored: Plant) -> None:
    """Without the raw stream doubled rows are proved and missing ones are gaps, no proof."""
    assert audit(restored, "--no-raw").status == 0
    objects = _objects(restored)
    copied = min(objects)
    boto3.client("s3").put_object(
        Bucket=restored.named("lake"), Key=f"{copied[:-8]}-copy.parquet", Body=objects[copied]
    )
    answer = audit(restored, "--no-raw")
    assert answer.status == 1
    assert set(answer.lineages("duplicated")) == set(_lineages(objects[copied]))


@tables
def test_a_range_limits_what_is_compared(plant: Plant, tables: str) -> None:
    """Outside the range nothing is compared, and nothing is lost."""
    answer = audit(plant, "--from=2020-01-01", "--to=2020-01-02", f"--tables={tables}")
    assert answer.status == 0
    assert answer.document["counts"]["raw_items"] == 0
    given = ["--from=2020-01-01T00:00:00Z", "--oldest-event=2025-12-31", f"--tables={tables}"]
    whole = audit(plant, *given)
    assert whole.document["counts"]["stored"] == plant.rows
    assert whole.status == 0


def test_scores_are_audited_when_asked(plant: Plant) -> None:
    """What no detector has read is on its way; once all is settled every score is missing."""
    answer = audit(plant, "--scores")
    assert answer.status == 0
    assert answer.document["counts"]["scores"] == 0
    settled = audit(plant, "--scores", "--settled")
    assert settled.status == 1
    assert settled.document["counts"]["unscored"] == plant.rows


def test_what_is_not_committed_is_in_flight(plant: Plant) -> None:
    """A record that the transform has not reached is counted and not lost; settled, it is lost."""
    service = plant.services["transform"]
    service.ask_to_stop()
    service.wait()
    boto3.client("kinesis").put_record(
        StreamName=plant.named("raw"), Data=readings(77)[0], PartitionKey="x"
    )
    try:
        answer = audit(plant)
        assert answer.status == 0
        assert answer.document["counts"]["in_flight"] == 1
        settled = audit(plant, "--settled")
        assert settled.status == 1
        assert settled.document["counts"]["lost"] == 1
    finally:
        spec = service.spec
        plant.services["transform"] = Process(spec, service.log_path.parent)
        plant.rows += 1
        assert processes.wait_until(lambda: _stored(plant) == plant.rows, TIMEOUT_SECONDS)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--from=soon"], "--from"),
        (["--from=2026-01-02", "--to=2026-01-01"], "--to"),
        (["--contract=nowhere.yaml"], "nowhere.yaml"),
        (["--served=nowhere.ndjson"], "nowhere.ndjson"),
        (["--raw-stream=nowhere"], "nowhere"),
        (["--bucket=nowhere-at-all"], "nowhere-at-all"),
        (["--progress-table=nowhere"], "nowhere"),
        (["--results=folder"], "--results"),
        (["--strict"], "--strict"),
        (["--no-raw", "--oldest-event=2026-01-01"], "--oldest-event"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    plant: Plant, capsys: pytest.CaptureFixture[str], arguments: list[str], named: str
) -> None:
    """What is wrong is named."""
    assert main([*plant.arguments, *arguments]) == 2
    complaint = capsys.readouterr().err
    assert named in complaint
    assert complaint.count("\n") == 1
