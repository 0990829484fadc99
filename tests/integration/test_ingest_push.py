"""POST /v1/readings over real sockets, against real Kinesis protocol and against a dead stream."""

import asyncio
import contextlib
import gzip
import hashlib
import io
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import boto3
import pytest
import zstandard
from aiohttp import web
from prometheus_client import CollectorRegistry

from ingest import auth, core, openapi, problem, push
from ingest.outbox import Outbox
from telemill import aws as aws_clients
from telemill import contract, errors, health, slots
from telemill.audit import sources
from telemill.kinesis.writer import Writer
from telemill.metrics import Metrics

FMS = contract.load(Path("contracts/fms.yaml"))
KEYS = {"line-a": "key of line a", "line-b": "key of line b"}
HASHES = ",".join(
    f"{name}:{hashlib.sha256(key.encode()).hexdigest()}" for name, key in KEYS.items()
)
NDJSON = "application/x-ndjson"
LIMITS = push.Limits(
    max_body_bytes=64 * 1024, max_items=1000, max_held_bytes=256 * 1024, timeout_seconds=5.0
)


def reading(device: object = 5, n: int = 0) -> bytes:
    """One reading."""
    return f'{{"time":"2025-07-07T08:21:29Z","DeviceId":{device}, "sensor1":{n}.50}}'.encode()


class DeadStream:
    """A stream that takes records and never acknowledges, or has no room."""

    def __init__(self) -> None:
        self.unavailable_since: float | None = None
        self.is_full = False
        self.puts = 0
        self.waited: dict[int, float] = {}
        self.taken = asyncio.Event()

    def waited_seconds(self, slot: int) -> float:
        """As the writer."""
        return self.waited.get(slot, 0.0)

    def try_put(self, _slot: int, _data: bytes, _key: str) -> "asyncio.Future[str]":
        """As the writer."""
        if self.is_full:
            raise errors.ServiceUnavailableError("full")
        self.puts += 1
        self.taken.set()
        return asyncio.get_running_loop().create_future()


class Client:
    """Pushes to one server."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.session = session
        self.url = url
        self.described: dict[str, Any] = {}

    async def post(
        self, body: object, *, key: str | None = "line-a", query: str = "", **headers: str
    ) -> tuple[int, dict[str, Any], dict[str, str]]:
        """Push; the answer is checked against the OpenAPI document."""
        sent = {"Content-Type": "application/json"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        if key is not None:
            sent["Authorization"] = f"Bearer {KEYS.get(key, key)}"
        url = f"{self.url}{push.PATH}{query}"
        async with self.session.post(url, data=body, headers=sent) as answer:
            document = json.loads(await answer.read())
            await self._check(answer)
        assert answer.status == 202 or document["status"] == answer.status
        return answer.status, document, dict(answer.headers)

    async def _check(self, answer: aiohttp.ClientResponse) -> None:
        if not self.described:
            async with self.session.get(f"{self.url}{openapi.PATH}") as document:
                self.described = await document.json()
        responses = self.described["paths"][push.PATH]["post"]["responses"]
        assert answer.content_type in responses[str(answer.status)]["content"]


@asynccontextmanager
async def serving(
    writer: Any, limits: push.Limits = LIMITS, rate: float = 1e6, linger_seconds: float = 0.0
) -> AsyncIterator[tuple[Client, push.Push, CollectorRegistry]]:
    """The handlers on a free port, over some writer."""
    registry = CollectorRegistry()
    metrics = Metrics(registry, "ingest")
    outbox = Outbox(
        writer, raw_format="ndjson", slot_count=64, linger_seconds=linger_seconds, metrics=metrics
    )
    times = iter(range(1_000_000))
    handlers = push.Push(
        door=push.Door(
            auth.parse_keys(HASHES), auth.RateLimits(rate, rate, lambda: next(times) * 1e-6)
        ),
        router=core.Router(FMS, 64),
        outbox=outbox,
        stream=writer,
        limits=limits,
        metrics=metrics,
    )
    handlers.open()
    app = web.Application()
    handlers.add_routes(app)
    openapi.add_routes(app, FMS, limits)
    runner = await health.serve(app, "127.0.0.1", 0, decompress=False, shutdown_seconds=0.1)
    try:
        async with aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            yield Client(session, url), handlers, registry
    finally:
        await runner.cleanup()


@asynccontextmanager
async def on_a_stream(**options: Any) -> AsyncIterator[tuple[Client, str]]:
    """The handlers over a real writer and a stream of their own."""
    stream = f"ingest-push-{uuid4().hex[:8]}"
    kinesis = boto3.client("kinesis")
    kinesis.create_stream(StreamName=stream, ShardCount=2)
    kinesis.get_waiter("stream_exists").wait(StreamName=stream)
    async with aws_clients.client("kinesis") as client:
        writer = Writer(client, stream, slot_count=64, metrics=Metrics(CollectorRegistry()))
        await writer.start()
        async with serving(writer, **options) as (pusher, _, _):
            yield pusher, stream
        await writer.stop()


async def stored(stream: str) -> Counter[bytes]:
    """The items of a stream."""
    items = await asyncio.to_thread(sources.raw_items, stream)
    return Counter(item.body for item in items)


@pytest.mark.usefixtures("aws")
async def test_what_is_answered_202_is_in_the_stream() -> None:
    """One object, an array and NDJSON, plain, gzip or zstd, are there with the bytes sent."""
    sent = [reading(n % 7, n) for n in range(60)]
    one, array, lines = sent[:1], sent[1:30], sent[30:]
    ndjson = b"\r\n".join(lines) + b"\n"
    async with on_a_stream() as (client, stream):
        assert (await client.post(one[0]))[:2] == (202, {"accepted": 1})
        body = gzip.compress(b"[" + b",".join(array) + b"]")
        assert (await client.post(body, Content_Encoding="gzip"))[1] == {"accepted": 29}
        body = zstandard.compress(ndjson)
        answer = await client.post(body, Content_Encoding="zstd", Content_Type=NDJSON)
        assert answer[1] == {"accepted": 30}
        assert await stored(stream) == Counter(sent)


@pytest.mark.usefixtures("aws")
async def test_nothing_is_written_when_an_item_is_no_reading() -> None:
    """Without partial=true one bad item refuses the body, and its index is named."""
    async with on_a_stream() as (client, stream):
        body = b"\n".join([reading(), b'{"time":"x"}', reading(6)])
        status, document, _ = await client.post(body)
        assert status == 422
        assert document["type"] == "urn:telemill:problem:not-readings"
        assert [(each["index"], each["reason"]) for each in document["errors"]] == [(1, "schema")]
        assert "DeviceId" in document["errors"][0]["error"]
        assert not await stored(stream)


@pytest.mark.usefixtures("aws")
async def test_partial_writes_the_good_items() -> None:
    """With partial=true the good ones are written and the others listed; all bad is still 422."""
    async with on_a_stream() as (client, stream):
        body = b"\n".join([reading(), b'{"time":', reading(6)])
        status, document, _ = await client.post(body, query="?partial=true")
        assert (status, document["accepted"], document["refused"]) == (202, 2, 1)
        assert [(each["index"], each["reason"]) for each in document["errors"]] == [(1, "decode")]
        assert (await client.post(b"{}", query="?partial=true"))[0] == 422
        assert (await client.post(b"{}", query="?partial=yes"))[0] == 400
        assert await stored(stream) == Counter([reading(), reading(6)])


@pytest.mark.usefixtures("aws")
async def test_concurrent_pushes_share_records_and_all_arrive() -> None:
    """Many bodies at once, lingering together, are each answered for exactly their own readings."""
    bodies = [[reading(n % 9, 100 * client + n) for n in range(50)] for client in range(20)]
    async with on_a_stream(linger_seconds=0.02) as (client, stream):
        answers = await asyncio.gather(*(client.post(b"\n".join(body)) for body in bodies))
        assert [answer[:2] for answer in answers] == [(202, {"accepted": 50})] * 20
        assert await stored(stream) == Counter(item for body in bodies for item in body)
        assert len(await asyncio.to_thread(sources.read_stream, stream)) < 20 * 9


@pytest.mark.parametrize("key", [None, "", "wrong", "Key of line a"])
async def test_an_unknown_key_is_401(key: str | None) -> None:
    """Without a key of ours nothing is read; the answer says how to authenticate."""
    async with serving(DeadStream()) as (client, _, _):
        status, _, headers = await client.post(reading(), key=key)
        assert status == 401
        assert headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"nonsense", 400),
        (b'{"DeviceId":5,"time":"x"', 400),
        (b'{"DeviceId":5,"time":"x","sensor1":NaN}', 400),
        (b'[{"DeviceId":5,"time":"x","sensor1":Infinity}]', 400),
        (b'{"DeviceId":5,"time":"\xff"}', 400),
        (b"\xff\xfe\x00", 400),
        (b"[" * 60_000, 400),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, 400),
        (b'{"DeviceId":5,"time":"x","a":' + b"[" * 30_000 + b"]" * 30_000 + b"}", 400),
        (b"5", 422),
        (b'"text"', 422),
        (b"{}", 422),
        (b"[" + b"1," * 5000 + b"1]", 413),
        (b"{}\n" * 2000, 413),
        (b"\x00" * 100, 400),
    ],
)
async def test_bad_bodies_are_a_clean_refusal(body: bytes, status: int) -> None:
    """Whatever is sent is refused with problem details, and the next push is served."""
    stream = DeadStream()
    async with serving(stream) as (client, _, _):
        assert (await client.post(body))[0] == status
        assert (await client.post(b"[]"))[:2] == (202, {"accepted": 0})
    assert not stream.puts


@pytest.mark.parametrize("declared", [True, False])
async def test_a_20_mb_body_is_413(declared: bool) -> None:
    """Whether its length is declared or not, it is not held in memory."""

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(320):
            yield b"x" * 65536

    async with serving(DeadStream()) as (client, _, _):
        try:
            status, _, _ = await client.post(
                io.BytesIO(b"x" * 20_971_520) if declared else pieces()
            )
            assert status == 413
        except aiohttp.ClientConnectionError:
            # The server may close while the client still sends.
            pass
        assert (await client.post(b"[]"))[0] == 202


@pytest.mark.parametrize(
    ("coding", "body", "status"),
    [
        ("gzip", gzip.compress(b" " * 50_000_000), 413),
        ("zstd", zstandard.compress(b" " * 50_000_000), 413),
        ("gzip", gzip.compress(reading())[:-9], 400),
        ("zstd", zstandard.compress(reading())[:-3], 400),
        ("gzip", reading(), 400),
        ("zstd", gzip.compress(reading()), 400),
        ("gzip", gzip.compress(gzip.compress(reading())), 400),
        ("br", reading(), 415),
        ("gzip, gzip", reading(), 415),
    ],
)
async def test_compressed_bodies_are_bounded_and_checked(
    coding: str, body: bytes, status: int
) -> None:
    """A bomb is 413 without being inflated, a lie about the coding 400, an unknown one 415."""
    async with serving(DeadStream()) as (client, _, _):
        assert (await client.post(body, Content_Encoding=coding))[0] == status


async def test_an_unknown_content_type_is_415() -> None:
    """Forms and the like are refused with what is taken."""
    async with serving(DeadStream()) as (client, _, _):
        status, document, _ = await client.post(
            reading(), Content_Type="application/x-www-form-urlencoded"
        )
        assert status == 415
        assert "application/json" in document["detail"]


async def test_other_paths_and_methods_are_problems_too() -> None:
    """404 and 405 are problem details; 405 says what is allowed."""
    async with serving(DeadStream()) as (client, _, _):
        async with client.session.get(f"{client.url}/nothing") as answer:
            assert (answer.status, answer.content_type) == (404, problem.CONTENT_TYPE)
        async with client.session.get(f"{client.url}{push.PATH}") as answer:
            assert (answer.status, answer.content_type) == (405, problem.CONTENT_TYPE)
            assert "POST" in answer.headers["Allow"]


async def test_a_key_that_pushes_too_much_is_429() -> None:
    """Its debt is waited off as Retry-After says; another key is not concerned."""
    async with serving(DeadStream(), rate=10.0) as (client, _, registry):
        assert (await client.post(b"\n".join([b"{}"] * 35)))[0] == 422
        status, _, headers = await client.post(b"[]")
        assert (status, headers["Retry-After"]) == (429, "3")
        assert (await client.post(b"[]", key="line-b"))[0] == 202
    sample = registry.get_sample_value("telemill_pushes_total", {"status": "429"})
    assert sample == 1


async def test_no_acknowledgement_is_503() -> None:
    """When Kinesis does not acknowledge in time the client is told to send again."""
    limits = push.Limits(timeout_seconds=0.05)
    stream = DeadStream()
    async with serving(stream, limits) as (client, _, registry):
        status, document, headers = await client.post(reading())
        assert (status, stream.puts) == (503, 1)
        assert int(headers["Retry-After"]) > 0
        assert document["type"] == "urn:telemill:problem:unavailable"
    assert registry.get_sample_value("telemill_readings_out_total") == 0


async def test_a_full_buffer_is_503() -> None:
    """No room in the writer is the client's to wait for, not ours to hold."""
    stream = DeadStream()
    stream.is_full = True
    async with serving(stream) as (client, _, _):
        assert (await client.post(reading()))[0] == 503


async def test_a_stream_long_away_is_503_at_once() -> None:
    """Nothing is taken for a stream which has been failing for longer than a push may wait."""
    stream = DeadStream()
    stream.unavailable_since = -1000.0
    async with serving(stream) as (client, _, _):
        assert (await client.post(reading()))[0] == 503
    assert not stream.puts


async def test_a_slot_far_behind_is_503_at_once_and_others_are_taken() -> None:
    """What would wait longer than a push may is refused before it is queued, with a Retry-After."""
    stream = DeadStream()
    stream.waited[slots.slot_of("5", 64)] = LIMITS.timeout_seconds
    async with serving(stream) as (client, _, _):
        status, document, headers = await client.post(reading(5))
        assert (status, document["type"]) == (503, "urn:telemill:problem:unavailable")
        assert int(headers["Retry-After"]) > 0
        assert not stream.puts
        waiting = asyncio.ensure_future(client.post(reading(6)))
        async with asyncio.timeout(10):
            await stream.taken.wait()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


async def test_a_stopping_service_is_503() -> None:
    """After close nothing more is taken; before open neither."""
    stream = DeadStream()
    async with serving(stream) as (client, handlers, _):
        handlers.close()
        assert (await client.post(reading()))[0] == 503
    assert not stream.puts


async def test_all_bodies_together_are_bounded() -> None:
    """When the bodies being received fill the room, further ones are 503; later there is room."""
    limits = push.Limits(max_body_bytes=60_000, max_held_bytes=100_000, timeout_seconds=5.0)
    go_on = asyncio.Event()
    half_sent = asyncio.Semaphore(0)

    async def slow() -> AsyncIterator[bytes]:
        yield b" " * 55_000
        half_sent.release()
        await go_on.wait()
        yield b"[]"

    async with serving(DeadStream(), limits) as (client, handlers, _):
        first = asyncio.create_task(client.post(slow()))
        await half_sent.acquire()
        while handlers._room._free_bytes > 45_000:
            await client.post(b"[]")
        assert (await client.post(b" " * 50_000 + b"[]"))[0] == 503
        go_on.set()
        assert (await first)[0] == 202
        assert (await client.post(b" " * 50_000 + b"[]"))[0] == 202
        assert handlers._room._free_bytes == 100_000


async def test_a_body_that_does_not_come_is_408() -> None:
    """A client that sends slowly for ever holds a place only for the time-out."""
    limits = push.Limits(timeout_seconds=0.05)
    never = asyncio.Event()

    async def stalled() -> AsyncIterator[bytes]:
        yield b"["
        await never.wait()

    async with serving(DeadStream(), limits) as (client, _, _):
        with contextlib.suppress(aiohttp.ClientConnectionError):
            assert (await client.post(stalled()))[0] == 408
        assert (await client.post(b"[]"))[0] == 202


async def test_a_bug_is_a_problem_too() -> None:
    """An unexpected exception is 500 with problem details and no internals."""

    class Broken(DeadStream):
        def try_put(self, _slot: int, _data: bytes, _key: str) -> "asyncio.Future[str]":
            raise ZeroDivisionError("internal detail")

    async with serving(Broken()) as (client, _, _):
        status, document, _ = await client.post(reading())
        assert status == 500
        assert "internal detail" not in json.dumps(document)


async def test_a_client_that_hangs_up_leaves_nothing_behind() -> None:
    """Its readings are on their way all the same, and the room its body took is given back."""
    limits = push.Limits(timeout_seconds=0.2)
    stream = DeadStream()
    async with serving(stream, limits) as (client, handlers, _):
        waiting = asyncio.create_task(client.post(reading()))
        while not stream.puts:
            await client.post(b"[]")
        waiting.cancel()
        await asyncio.wait([waiting])
        while handlers._room._free_bytes != limits.max_held_bytes:
            await client.post(b"[]")
    assert stream.puts == 1
