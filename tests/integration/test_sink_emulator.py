"""The sink against a real wire protocol: S3, Glue, DynamoDB, Kinesis, SQL; and as a process."""

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import boto3
import pytest

from sink import catalog, core, testing
from sink.lake import Lake, S3Lake
from sink.parquet import Partition
from sink.testing import StoredRow
from telemill import aws as telemill_aws
from telemill import contract, slots
from telemill.codec import wire
from telemill.progress import store
from telemill.testing import batches
from telemill.testing.lake import MemoryLake

NOON = 1_751_889_600_000_000
HOUR_US = 3_600_000_000


@pytest.fixture(scope="module")
def form() -> core.Form:
    """The readings table of the default contract."""
    return core.form_of(contract.load("contracts/fms.yaml"), "readings")


@dataclass(frozen=True)
class Names:
    """Resources of one test, unlike those of any other."""

    stream: str
    bucket: str
    state_bucket: str
    table: str
    database: str


@pytest.fixture
def names(aws: str) -> Names:
    """Resources that exist."""
    mark = uuid4().hex[:8]
    made = Names(f"s-{mark}", f"lake-{mark}", f"state-{mark}", f"progress-{mark}", f"db_{mark}")
    kinesis, s3, dynamodb = (boto3.client(each) for each in ("kinesis", "s3", "dynamodb"))
    kinesis.create_stream(StreamName=made.stream, ShardCount=2)
    kinesis.get_waiter("stream_exists").wait(StreamName=made.stream)
    for bucket in (made.bucket, made.state_bucket):
        s3.create_bucket(Bucket=bucket)
    dynamodb.create_table(
        TableName=made.table, BillingMode="PAY_PER_REQUEST", **store.TABLE_DEFINITION
    )
    return made


@pytest.fixture(params=["memory", "s3"])
async def lake(request: pytest.FixtureRequest) -> AsyncIterator[Lake]:
    """Every lake there is."""
    if request.param == "memory":
        yield MemoryLake()
        return
    names: Names = request.getfixturevalue("names")
    async with telemill_aws.client("s3") as s3:
        yield S3Lake(s3, names.bucket)


async def test_an_object_is_created_once(lake: Lake) -> None:
    """Of many who create a key, one does; the object is that one's, for ever."""
    bodies = [b"body %d" % index for index in range(8)]
    created = await asyncio.gather(*(lake.create("a/b.parquet", body) for body in bodies))
    assert created.count(True) == 1
    assert not await lake.create("a/b.parquet", b"later")
    assert await lake.create("a/c.parquet", b"other")


async def test_a_missing_bucket_is_named(aws: str) -> None:
    """Writing to a bucket that does not exist says which one, as something that may heal."""
    async with telemill_aws.client("s3") as s3:
        with pytest.raises(telemill_aws.ResourceError, match="no-such-lake"):
            await S3Lake(s3, "no-such-lake").create("a", b"b")


async def test_the_catalogue_on_the_wire(names: Names, form: core.Form) -> None:
    """Table and partitions are created, found again, and grow with the contract."""
    whole = catalog.define(form, names.database, names.bucket)
    older = catalog.TableDefinition(
        whole.database, whole.name, whole.location, whole.columns[:-1], whole.parameters
    )
    hours = [Partition("2025-07-07", "12"), Partition("2025-07-07", "13")]
    async with telemill_aws.client("glue") as glue:
        first = catalog.GlueCatalog(glue, older)
        await first.ensure_table()
        await first.ensure_partitions(hours)
        second = catalog.GlueCatalog(glue, whole)
        await second.ensure_table()
        await second.ensure_partitions(hours)
        table = (await glue.get_table(DatabaseName=names.database, Name="readings"))["Table"]
        made = await glue.get_partitions(DatabaseName=names.database, TableName="readings")
    assert len(table["StorageDescriptor"]["Columns"]) == len(whole.columns)
    assert sorted(each["Values"] for each in made["Partitions"]) == [list(each) for each in hours]
    location = made["Partitions"][0]["StorageDescriptor"]["Location"]
    assert location.startswith(f"s3://{names.bucket}/readings/dt=2025-07-07/hour=1")


def _put(form: core.Form, names: Names, raw_records: range) -> list[StoredRow]:
    """Put two rows of each raw record on the stream, one slot after the other; what they are."""
    kinesis = boto3.client("kinesis")
    rows = []
    for raw in raw_records:
        slot = raw % slots.DEFAULT_SLOT_COUNT
        times = [NOON + (raw % 3) * HOUR_US, NOON + (raw % 3) * HOUR_US + 1]
        batch = batches.batch(form.stream_schema, [(raw, 0), (raw, 1)], times)
        header = batches.header(form.contract, slot=slot)
        kinesis.put_record(
            StreamName=names.stream,
            Data=wire.encode(header, batch),
            PartitionKey=str(slot),
            ExplicitHashKey=str(slots.hash_key_of(slot)),
        )
        number = batches.sequence_number(raw)
        rows += [StoredRow(header.raw_shard_id, number, sub) for sub in (0, 1)]
    return rows


def _stored(names: Names) -> list[StoredRow]:
    s3 = boto3.client("s3")
    listed = s3.list_objects_v2(Bucket=names.bucket, Prefix="readings/").get("Contents", [])
    bodies = [s3.get_object(Bucket=names.bucket, Key=each["Key"])["Body"].read() for each in listed]
    return [row for body in bodies for row in testing.rows_of(body)]


@dataclass
class Process:
    """A sink process and what it says."""

    child: asyncio.subprocess.Process

    async def event(self, name: str) -> dict[str, Any]:
        """The next log line of this event."""
        assert self.child.stdout is not None
        while line := await self.child.stdout.readline():
            entry: dict[str, Any] = json.loads(line)
            if entry.get("event") == name:
                return entry
        raise AssertionError(f"the process ended without {name}")

    async def stop(self, how: signal.Signals) -> int:
        """End it; its exit status."""
        self.child.send_signal(how)
        await self.child.communicate()
        assert self.child.returncode is not None
        return self.child.returncode


@asynccontextmanager
async def _sink(names: Names, **settings: str) -> AsyncIterator[Process]:
    environment = {
        "SINK_INPUT_STREAM": names.stream,
        "SINK_LAKE_BUCKET": names.bucket,
        "SINK_STATE_BUCKET": names.state_bucket,
        "SINK_PROGRESS_TABLE": names.table,
        "SINK_GLUE_DATABASE": names.database,
        "SINK_FLUSH_INTERVAL_SECONDS": "0.5",
        "SINK_HTTP_PORT": "0",
        **settings,
    }
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "sink",
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield Process(child)
    finally:
        if child.returncode is None:
            child.kill()
            await child.communicate()


async def test_a_killed_process_loses_and_doubles_nothing(names: Names, form: core.Form) -> None:
    """SIGKILL in the middle of writing, twice, then SIGTERM: every row once, and SQL sees it."""
    expected = _put(form, names, range(1, 40))
    async with _sink(names) as process:
        await process.event("sink.object_written")
        await process.stop(signal.SIGKILL)
    expected += _put(form, names, range(40, 60))
    async with _sink(names) as process:
        written = await process.event("sink.object_written")
        assert {"key", "rows", "bytes"} <= written.keys()
        await process.stop(signal.SIGKILL)
    expected += _put(form, names, range(60, 70))
    async with _sink(names) as process:
        while len(_stored(names)) < len(expected):
            await process.event("sink.cut_committed")
        assert await process.stop(signal.SIGTERM) == 0
    assert Counter(_stored(names)) == Counter(expected)
    assert await asyncio.to_thread(_count_by_sql, names) == len(expected)


async def test_a_table_that_does_not_fit_ends_the_process(names: Names, form: core.Form) -> None:
    """With an incompatible Glue table nothing is written: one line on stderr, status 2."""
    definition = catalog.define(form, names.database, names.bucket)
    glue = boto3.client("glue")
    glue.create_database(DatabaseInput={"Name": names.database})
    columns = [{"Name": "device_id", "Type": "string"}]
    glue.create_table(DatabaseName=names.database, TableInput=definition.table_input(columns))
    _put(form, names, range(1, 3))
    async with _sink(names) as process:
        _, complaint = await process.child.communicate()
        assert process.child.returncode == 2
    assert b"column device_id is string, not bigint" in complaint
    assert complaint.count(b"\n") == 1
    assert not _stored(names)


def _count_by_sql(names: Names) -> int:
    """Rows as an analyst counts them, through the Athena API."""
    athena = boto3.client("athena")
    started = athena.start_query_execution(
        QueryString="SELECT count(*) FROM readings WHERE dt = '2025-07-07'",
        QueryExecutionContext={"Database": names.database},
        ResultConfiguration={"OutputLocation": f"s3://{names.state_bucket}/athena/"},
    )
    query = started["QueryExecutionId"]
    while True:
        status = athena.get_query_execution(QueryExecutionId=query)["QueryExecution"]["Status"]
        if status["State"] not in {"QUEUED", "RUNNING"}:
            break
    assert status["State"] == "SUCCEEDED", status
    result = athena.get_query_results(QueryExecutionId=query)["ResultSet"]["Rows"]
    return int(result[1]["Data"][0]["VarCharValue"])
