"""The coordinator with the real MultiLangDaemon of both pinned KCL versions.

Needs Java and both sets of jars (`make kcl-test` fetches them). Kinesis and
DynamoDB are one emulator, so nothing is resharded here.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aws_kinesis_agg import aggregator
from prometheus_client import CollectorRegistry

from telemill import aws as aws_clients
from telemill.codec import kpl
from telemill.health import Health
from telemill.kcl import jars, lock
from telemill.kcl.properties import DaemonSettings
from telemill.kinesis.coordinators.daemon import Daemon
from telemill.kinesis.coordinators.kcl import KclCoordinator, Timing
from telemill.kinesis.records import Shard
from telemill.metrics import Metrics
from telemill.testing.owner import FakeOwner

LIMIT_SECONDS = 180.0
"""The KCL rests up to 30 s at an empty lease table, then up to 20 s between takings."""
RECORD_BYTES = 700_000
NEAR_SECONDS = 3600.0
LARGE_RECORDS = 18
"""More than one page of 10 MiB, whose line is longer than 13 MB."""


class Worker:
    """One worker: coordinator, owner, and the loop in the place of the Faust consumer."""

    def __init__(self, name: str, stream: str, client: Any, owner: FakeOwner, url: str) -> None:
        self.owner = owner
        self.assigned_shards: set[str] = set()
        self.failures: list[BaseException] = []
        self.settings = DaemonSettings(
            application=f"app-{stream}",
            stream=stream,
            worker_id="worker",
            region="us-east-1",
            kinesis_endpoint=url,
            dynamodb_endpoint=url,
        )
        class_path = jars.class_path(jars.DEFAULT_DIRECTORY, lock.load(name))
        self.coordinator = KclCoordinator(
            client,
            stream,
            owner,
            saved=lambda shard: owner.positions.get(shard.shard_id),
            make_engine=lambda serve, heard: Daemon(
                self.settings, class_path, serve, heard, environ=os.environ
            ),
            probe_lease_table=self._probe,
            metrics=Metrics(CollectorRegistry()),
            health=Health(),
            timing=Timing(failover_seconds=10.0),
        )

    async def _probe(self) -> None:
        async with aws_clients.client("dynamodb") as dynamodb:
            await aws_clients.probe_table(dynamodb, self.settings.application)

    def assigned(self, shard: Shard) -> None:
        """A shard comes."""
        self.assigned_shards.add(shard.shard_id)

    def revoked(self, shard: Shard) -> None:
        """A shard goes."""
        self.assigned_shards.discard(shard.shard_id)

    def failed(self, error: BaseException) -> None:
        """The end."""
        self.failures.append(error)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Until the end of the block; then SIGTERM and a drain."""
        await self.coordinator.start(self)
        working = asyncio.create_task(self._work())
        try:
            yield
        finally:
            async with asyncio.timeout(LIMIT_SECONDS):
                await self.coordinator.stop(drain=True)
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for a condition, or for the end."""
        async with asyncio.timeout(LIMIT_SECONDS):
            while not self.failures and not holds():  # noqa: ASYNC110  # of many things
                await asyncio.sleep(0.05)
        assert self.failures == []

    async def _work(self) -> None:
        queue = self.coordinator.prefetch
        while True:
            for chunk in await queue.take(0.1, 1):
                await self.owner.process(chunk)
                queue.done(chunk)


async def checkpoints(worker: Worker) -> dict[str, str]:
    """What the KCL has stored, by shard."""
    async with aws_clients.client("dynamodb") as client:
        found = await client.scan(TableName=worker.settings.application)
    return {item["leaseKey"]["S"]: item["checkpoint"]["S"] for item in found["Items"]}


async def put(client: Any, stream: str, *data: bytes, hash_key: int = 1) -> None:
    """One record after the other."""
    for each in data:
        await client.put_record(
            StreamName=stream, Data=each, PartitionKey="k", ExplicitHashKey=str(hash_key)
        )


def whole(owner: FakeOwner) -> list[bytes]:
    """What was processed, aggregates taken apart."""
    return [
        user
        for data in owner.data()
        for user in (
            [each.data for each in kpl.deaggregate(data)] if kpl.is_aggregated(data) else [data]
        )
    ]


def aggregated(users: list[bytes]) -> bytes:
    """A record of user records, made by the producers' library and not by ours."""
    made = aggregator.RecordAggregator()
    for user in users:
        made.add_user_record("k", user, "1")
    _, _, data = made.clear_and_get().get_contents()
    return bytes(data)


@pytest.mark.parametrize("name", ["kcl2", "kcl3"])
async def test_each_record_is_processed_once_and_in_order(aws: str, name: str) -> None:
    """Plain, aggregated and large records; a stop in good order; a start that repeats nothing."""
    stream = f"real-{name}"
    users = [b"user %d" % each for each in range(100)]
    large = [bytes([each]) * RECORD_BYTES for each in range(LARGE_RECORDS)]
    async with aws_clients.client("kinesis") as client:
        await client.create_stream(StreamName=stream, ShardCount=2)
        await (client.get_waiter("stream_exists")).wait(StreamName=stream)
        await put(client, stream, b"first")
        await put(client, stream, aggregated(users), *large)
        await put(client, stream, b"other shard", hash_key=2**127)

        first = Worker(name, stream, client, FakeOwner(), aws)
        async with first.running():
            await first.until(lambda: len(first.owner.data()) == 2 + LARGE_RECORDS + 1)
        assert sorted(whole(first.owner)) == sorted([b"first", *users, *large, b"other shard"])
        [in_order] = [each for each in _by_shard(first.owner) if each[0] == b"first"]
        assert in_order == [b"first", aggregate_of(first.owner), *large]
        arrived = [each.arrival_us for of in first.owner.records.values() for each in of]
        assert max(abs(time.time() - each / 1e6) for each in arrived) < NEAR_SECONDS
        assert first.owner.released == set(first.owner.positions)
        assert await checkpoints(first) == first.owner.positions

        await put(client, stream, b"later")
        second = Worker(name, stream, client, FakeOwner(first.owner.positions), aws)
        async with second.running():
            await second.until(lambda: b"later" in second.owner.data())
        assert second.owner.data() == [b"later"]


def _by_shard(owner: FakeOwner) -> list[list[bytes]]:
    return [[record.data for record in records] for records in owner.records.values()]


def aggregate_of(owner: FakeOwner) -> bytes:
    """The one aggregate that was processed."""
    [found] = [data for data in owner.data() if kpl.is_aggregated(data)]
    return found
