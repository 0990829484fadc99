"""Polling end to end: an HTTP API, the whole service, real Kinesis protocol."""

import asyncio
import os
import signal
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from uuid import uuid4

import aiohttp
import boto3
import pytest
from aiohttp import web

from ingest import api, wiring
from ingest.settings import IngestSettings
from telemill import errors, health, settings
from telemill.audit import sources
from telemill.codec import kpl
from telemill.progress import store
from telemill.testing import emulator

BAD_BODIES = [
    b'{"time":"2025-07-07T08:2',
    b"\xff\xfe\x00",
    b'{\n  "DeviceId": 5\n}\n',
    b"",
    b"[" * 100_000,
    b'{"DeviceId":5,"x":NaN}',
    b"null",
    b"\x1f\x8b\x08 no gzip",
]
DEVICES = 12


class Fms:
    """An FMS API which remembers what it answered."""

    def __init__(self) -> None:
        self.served: defaultdict[str, list[bytes]] = defaultdict(list)
        self.statuses: Counter[int] = Counter()
        self.url = ""
        self._changed = asyncio.Condition()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Devices up to `DEVICES` answer, 13 with 500, 14 hangs up, others are unknown."""
        device = request.match_info["device"]
        number = int(device)
        if number == DEVICES + 1:
            response = web.Response(status=500, body=b"no reading")
        elif number == DEVICES + 2:
            assert request.transport is not None
            request.transport.abort()
            response = web.Response()
        elif number > DEVICES:
            response = web.Response(status=404, body=b"no reading")
        else:
            response = web.Response(body=self._body(number))
            self.served[device].append(response.body or b"")  # type: ignore[arg-type]
        async with self._changed:
            self.statuses[response.status] += 1
            self._changed.notify_all()
        return response

    def _body(self, number: int) -> bytes:
        count = len(self.served[str(number)])
        if number <= len(BAD_BODIES) and count % 2:
            return BAD_BODIES[number - 1]
        return f'{{"time":"t{count}","DeviceId":{number}, "sensor1":1.50}}'.encode()

    async def until(self, reached: Callable[["Fms"], bool]) -> None:
        """Wait for something about what was answered."""
        async with self._changed:
            await self._changed.wait_for(lambda: reached(self))


@asynccontextmanager
async def fms() -> AsyncIterator[Fms]:
    """An API on a free port."""
    served = Fms()
    app = web.Application()
    app.router.add_get("/plant/{device}/", served.handle)
    runner = await health.serve(app, "127.0.0.1", 0, decompress=False, shutdown_seconds=0.1)
    served.url = f"http://127.0.0.1:{runner.addresses[0][1]}/plant"
    try:
        yield served
    finally:
        await runner.cleanup()


@pytest.fixture
def names(aws: str) -> dict[str, str]:
    """A stream and a table of this test's own."""
    unique = uuid4().hex[:8]
    made = {"raw_stream": f"ingest-poll-{unique}", "progress_table": f"ingest-poll-{unique}"}
    kinesis, dynamodb = boto3.client("kinesis"), boto3.client("dynamodb")
    kinesis.create_stream(StreamName=made["raw_stream"], ShardCount=2)
    kinesis.get_waiter("stream_exists").wait(StreamName=made["raw_stream"])
    dynamodb.create_table(
        TableName=made["progress_table"], BillingMode="PAY_PER_REQUEST", **store.TABLE_DEFINITION
    )
    return made


def ingest_settings(names: dict[str, str], url: str, **more: object) -> IngestSettings:
    """Fast polling of a few devices more than there are."""
    values: dict[str, object] = {
        **names,
        "base_url": url,
        "devices": f"1-{DEVICES + 3}",
        "poll_interval_seconds": 0.2,
        "poll_backoff_seconds": 0.01,
        "breaker_failures": 100,
        "http_port": 0,
        **more,
    }
    return settings.read(IngestSettings, values)


async def test_every_answer_reaches_the_stream_as_it_came(names: dict[str, str]) -> None:
    """All bodies of 200 answers, broken ones too, are in the stream once each, and no other."""
    async with fms() as plant:
        stop = asyncio.Event()
        running = asyncio.create_task(wiring.serve(ingest_settings(names, plant.url), stop))
        await plant.until(
            lambda seen: (
                len(seen.served) == DEVICES
                and all(len(bodies) >= 4 for bodies in seen.served.values())
            )
        )
        stop.set()
        await running
    served = Counter(body.strip() for bodies in plant.served.values() for body in bodies)
    items = await asyncio.to_thread(sources.raw_items, names["raw_stream"])
    assert Counter(item.body.strip() for item in items) == served
    assert plant.statuses[404]
    assert plant.statuses[500]


async def test_kpl_aggregates_hold_each_answer_as_a_record(names: dict[str, str]) -> None:
    """With raw_format=kpl any KCL de-aggregates the same bodies, each with its slot's hash key."""
    async with fms() as plant:
        stop = asyncio.Event()
        chosen = ingest_settings(names, plant.url, raw_format="kpl", device_leases=False)
        running = asyncio.create_task(wiring.serve(chosen, stop))
        await plant.until(lambda seen: seen.statuses[200] >= 3 * DEVICES)
        stop.set()
        await running
    served = Counter(body for bodies in plant.served.values() for body in bodies)
    stored = await asyncio.to_thread(sources.read_stream, names["raw_stream"])
    users = [(found, user) for found in stored for user in kpl.deaggregate(found.record.data)]
    # One line end at a body's end is what NDJSON would stand for.
    assert Counter(user.data.removesuffix(b"\n") for _, user in users) == Counter(
        body.removesuffix(b"\n") for body in served.elements()
    )
    assert all(found.shard.holds(kpl.hash_key(user)) for found, user in users)


async def test_another_number_of_slots_is_refused(names: dict[str, str]) -> None:
    """A stream begun with 64 slots is not written to with 32: order would break."""
    async with fms() as plant:
        stop = asyncio.Event()
        first = asyncio.create_task(wiring.serve(ingest_settings(names, plant.url), stop))
        await plant.until(lambda seen: seen.statuses[200] > 0)
        stop.set()
        await first
        other = ingest_settings(names, plant.url, slot_count=32)
        with pytest.raises(errors.ConfigurationError, match="has 64 slots"):
            await wiring.serve(other, asyncio.Event())


async def test_a_process_stops_cleanly(names: dict[str, str]) -> None:
    """The real process is ready, collects, and on SIGTERM drains and exits 0."""
    async with fms() as plant:
        port = emulator.free_port()
        values = ingest_settings(names, plant.url, http_port=port).model_dump(mode="json")
        given = {f"INGEST_{name.upper()}": str(value) for name, value in values.items()}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "ingest",
            env={**os.environ, **given},
            stdout=asyncio.subprocess.PIPE,
        )
        await plant.until(lambda seen: seen.statuses[200] >= 2 * DEVICES)
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/readyz") as answer:
                assert answer.status == 200
            async with session.get(f"http://127.0.0.1:{port}/metrics") as answer:
                assert 'telemill_breaker_state{host="127.0.0.1:' in await answer.text()
        process.send_signal(signal.SIGTERM)
        log, _ = await process.communicate()
    assert process.returncode == 0
    assert b"2025-07" not in log
    served = Counter(body.strip() for bodies in plant.served.values() for body in bodies)
    items = await asyncio.to_thread(sources.raw_items, names["raw_stream"])
    assert Counter(item.body.strip() for item in items) == served


async def test_a_missing_stream_is_named_until_it_is_there(names: dict[str, str]) -> None:
    """/readyz names the stream that is missing, pushes are 503, and SIGTERM still ends it."""
    absent = {**names, "raw_stream": f"absent-{uuid4().hex[:8]}"}
    port = emulator.free_port()
    stop = asyncio.Event()
    chosen = ingest_settings(absent, "http://127.0.0.1:9", http_port=port)
    running = asyncio.create_task(wiring.serve(chosen, stop))
    async with aiohttp.ClientSession() as session:
        reasons = ""
        while absent["raw_stream"] not in reasons:
            reasons = await _readiness(session, port)
    stop.set()
    await running


async def _readiness(session: aiohttp.ClientSession, port: int) -> str:
    try:
        async with session.get(f"http://127.0.0.1:{port}/readyz") as answer:
            return await answer.text()
    except aiohttp.ClientConnectionError:
        return ""


async def test_an_endless_body_is_cut_off() -> None:
    """A body larger than a raw record is not read to its end."""

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x" * 65536)

    app = web.Application()
    app.router.add_get("/{device}/", endless)
    runner = await health.serve(app, "127.0.0.1", 0, decompress=False, shutdown_seconds=0.1)
    try:
        async with api.session(2) as session:
            url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            host = api.HttpApi(session, url, 1_000_000)
            with pytest.raises(errors.RecordTooLargeError):
                await host.get("1", 30.0)
    finally:
        await runner.cleanup()


async def test_a_silent_host_times_out() -> None:
    """No answer within the time-out is a TimeoutError; a refused connection is told apart."""
    silent = asyncio.Event()

    async def handle(_request: web.Request) -> web.Response:
        await silent.wait()
        return web.Response()

    app = web.Application()
    app.router.add_get("/{device}/", handle)
    runner = await health.serve(app, "127.0.0.1", 0, decompress=False, shutdown_seconds=0.1)
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    async with api.session(2) as session:
        host = api.HttpApi(session, url, 1_000_000)
        with pytest.raises(TimeoutError):
            await host.get("a/b", 0.05)
        silent.set()
        await runner.cleanup()
        with pytest.raises(errors.ServiceUnavailableError):
            await host.get("1", 5.0)
