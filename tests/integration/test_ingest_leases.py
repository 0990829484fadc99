"""Replicas that share devices through DynamoDB: no device is polled by two at once."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from uuid import uuid4

import boto3
import pytest
from aiohttp import web

from ingest import leases, wiring
from ingest.fleet import Fleet
from ingest.settings import IngestSettings
from telemill import aws as aws_clients
from telemill import errors, health, settings
from telemill.progress import store

DEVICES = 40


class Fms:
    """An API that knows which replica asks (by path) and whether two ask for one device at once."""

    def __init__(self) -> None:
        self.port = 0
        self.asked: defaultdict[str, set[str]] = defaultdict(set)
        self.overlaps: list[str] = []
        self._answering: dict[str, str] = {}
        self._changed = asyncio.Condition()

    async def handle(self, request: web.Request) -> web.Response:
        """One reading, after a few turns of the loop in which another replica could ask."""
        replica, device = request.match_info["replica"], request.match_info["device"]
        if self._answering.setdefault(device, replica) != replica:
            self.overlaps.append(device)
        try:
            async with self._changed:
                self.asked[replica].add(device)
                self._changed.notify_all()
            return web.json_response({"DeviceId": int(device), "time": "x"})
        finally:
            self._answering.pop(device, None)

    def forget(self) -> None:
        """Forget who asked what."""
        self.asked.clear()

    async def until(self, reached: Callable[["Fms"], bool]) -> None:
        """Wait for something about who asked what."""
        async with self._changed:
            await self._changed.wait_for(lambda: reached(self))


@asynccontextmanager
async def fms() -> AsyncIterator[Fms]:
    """An API on a free port."""
    served = Fms()
    app = web.Application()
    app.router.add_get("/{replica}/{device}/", served.handle)
    runner = await health.serve(app, "127.0.0.1", 0, decompress=False, shutdown_seconds=0.1)
    served.port = runner.addresses[0][1]
    try:
        yield served
    finally:
        await runner.cleanup()


@pytest.fixture
def unique(aws: str) -> str:
    """The name of a stream and a table of this test's own."""
    name = f"ingest-leases-{uuid4().hex[:8]}"
    kinesis, dynamodb = boto3.client("kinesis"), boto3.client("dynamodb")
    kinesis.create_stream(StreamName=name, ShardCount=1)
    kinesis.get_waiter("stream_exists").wait(StreamName=name)
    dynamodb.create_table(TableName=name, BillingMode="PAY_PER_REQUEST", **store.TABLE_DEFINITION)
    return name


def replica(name: str, unique: str, port: int) -> tuple["asyncio.Task[None]", asyncio.Event]:
    """A whole ingest in this process, and what stops it."""
    chosen = settings.read(
        IngestSettings,
        {
            "raw_stream": unique,
            "progress_table": unique,
            "worker_id": name,
            "base_url": f"http://127.0.0.1:{port}/{name}",
            "devices": f"1-{DEVICES}",
            "poll_interval_seconds": 0.3,
            "poll_timeout_seconds": 0.5,
            "lease_heartbeat_seconds": 0.2,
            "lease_expiry_seconds": 2.5,
            "http_port": 0,
        },
    )
    stop = asyncio.Event()
    return asyncio.create_task(wiring.serve(chosen, stop)), stop


async def test_two_replicas_share_and_take_over(unique: str) -> None:
    """A second replica takes half, a crashed one's half is taken over, never is one polled twice.

    First alone, then two, then the first is killed without a word, then the second leaves.
    """
    async with fms() as plant:
        first, _ = replica("first", unique, plant.port)
        await plant.until(lambda seen: len(seen.asked["first"]) == DEVICES)
        second, stop_second = replica("second", unique, plant.port)
        await plant.until(lambda seen: len(seen.asked["second"]) > DEVICES / 4)
        plant.forget()
        await plant.until(
            lambda seen: (
                len(seen.asked["first"] | seen.asked["second"]) == DEVICES
                and len(seen.asked["second"]) > DEVICES / 4
            )
        )
        assert not plant.asked["first"] & plant.asked["second"]
        first.cancel()
        await asyncio.wait([first])
        plant.forget()
        await plant.until(lambda seen: len(seen.asked["second"]) == DEVICES)
        stop_second.set()
        await second
        assert not plant.overlaps
    async with aws_clients.client("dynamodb") as dynamodb:
        group = f"127.0.0.1:{plant.port}"
        agreed = await leases.DynamoFleetStore(dynamodb, unique, group).read()
    assert not agreed.held_by("second")
    assert not any(owner.startswith("second/") for owner in agreed.owners.values())


async def test_the_stored_agreement_is_what_was_written(unique: str) -> None:
    """DynamoDB holds one agreement a group; only a write on the newest version succeeds."""
    async with aws_clients.client("dynamodb") as dynamodb:
        held = leases.DynamoFleetStore(dynamodb, unique, "host:1")
        assert await held.read() == Fleet()
        first = Fleet(1, {"a/1": 1}, {0: "a/1", 63: "a/1"})
        assert await held.write(first)
        assert await held.read() == first
        assert not await held.write(Fleet(1, {"b/1": 1}, {}))
        assert await held.write(Fleet(2, {}, {}))
        assert not await held.write(Fleet(2, {"a/1": 2}, {}))
        assert await held.read() == Fleet(2, {}, {})
        assert await leases.DynamoFleetStore(dynamodb, unique, "host:2").read() == Fleet()


async def test_a_missing_table_is_named(unique: str) -> None:
    """Reading and writing without the table raise the error that names it."""
    async with aws_clients.client("dynamodb") as dynamodb:
        held = leases.DynamoFleetStore(dynamodb, "no-such-table", "host:1")
        with pytest.raises(errors.ConfigurationError, match="no-such-table"):
            await held.read()
        with pytest.raises(errors.ConfigurationError, match="no-such-table"):
            await held.write(Fleet(1))
