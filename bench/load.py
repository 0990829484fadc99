"""Puts readings where the full path begins: on the raw stream, or at ingest's door."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import aiohttp
import boto3

from bench.deployment import BenchError
from bench.fleet import Fleet, by_slot
from telemill import names, slots
from telemill.codec import raw

KEY = "bench"
KEY_HASH = f"bench:{hashlib.sha256(KEY.encode()).hexdigest()}"
CONNECTIONS = 16
RETRY_SECONDS = 1.0
REQUEST_RECORDS = 500
REQUEST_BYTES = 4 * 1024 * 1024


def preload(fleet: Fleet, readings: int, per_record: int) -> int:
    """Fill the raw stream; returns the number of readings.

    Args:
        fleet: Whose readings.
        readings: About how many: whole ticks.
        per_record: In one zstd-NDJSON record; 1: one plain JSON object a record.
    """
    kinesis, count = boto3.client("kinesis"), 0
    request: list[dict[str, Any]] = []
    size_bytes = 0
    for slot, items in by_slot(fleet, readings, per_record):
        data = raw.encode_ndjson(items) if per_record > 1 else items[0]
        count += len(items)
        size_bytes += len(data)
        request.append(_record(slot, data))
        if len(request) == REQUEST_RECORDS or size_bytes > REQUEST_BYTES:
            _put(kinesis, request)
            request, size_bytes = [], 0
    if request:
        _put(kinesis, request)
    return count


def _record(slot: int, data: bytes) -> dict[str, Any]:
    hash_key = str(slots.hash_key_of(slot))
    return {"Data": data, "PartitionKey": str(slot), "ExplicitHashKey": hash_key}


def _put(kinesis: Any, request: list[dict[str, Any]]) -> None:
    answer = kinesis.put_records(StreamName=names.RAW_STREAM, Records=request)
    if answer["FailedRecordCount"]:
        raise BenchError(f"{answer['FailedRecordCount']} records of the load were not taken")


def bodies(fleet: Fleet, readings: int, per_body: int) -> list[bytes]:
    """NDJSON bodies as a gateway of the whole fleet sends them, in order."""
    found: list[bytes] = []
    held: list[bytes] = []
    for items in fleet.ticks(readings // fleet.devices):
        held += items
        while len(held) >= per_body:
            found.append(b"\n".join(held[:per_body]))
            del held[:per_body]
    return [*found, b"\n".join(held)] if held else found


def push(url: str, made: Sequence[bytes]) -> None:
    """Push bodies over some connections as fast as they are taken."""
    asyncio.run(_push(url, iter(made)))


async def _push(url: str, waiting: Iterator[bytes]) -> None:
    async def client(session: aiohttp.ClientSession) -> None:
        for body in waiting:
            await _post(session, url, body)

    async with _session() as session:
        await asyncio.gather(*(client(session) for _ in range(CONNECTIONS)))


def push_paced(url: str, devices: int, readings_per_second: int, seconds: float) -> int:
    """Push what a fleet sends live, several bodies a second; returns how many readings.

    Args:
        url: Of ingest.
        devices: Each body has one reading of each.
        readings_per_second: Of the whole fleet.
        seconds: How long.
    """
    return asyncio.run(_push_paced(url, devices, devices / readings_per_second, seconds))


async def _push_paced(url: str, devices: int, interval_seconds: float, seconds: float) -> int:
    ticks = round(seconds / interval_seconds)
    fleet = Fleet(devices, interval_seconds, datetime.now(UTC))
    async with _session() as session:
        posts = [
            asyncio.create_task(_post(session, url, b"\n".join(items)))
            async for items in _paced(fleet.ticks(ticks), interval_seconds)
        ]
        await asyncio.gather(*posts)
    return ticks * devices


async def _paced(
    ticks: Iterator[list[bytes]], interval_seconds: float
) -> AsyncIterator[list[bytes]]:
    due = time.monotonic()
    for items in ticks:
        await asyncio.sleep(due - time.monotonic())
        due += interval_seconds
        yield items


def _session() -> aiohttp.ClientSession:
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/x-ndjson"}
    connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    return aiohttp.ClientSession(connector=connector, headers=headers)


async def _post(session: aiohttp.ClientSession, url: str, body: bytes) -> None:
    """Push one body; again when ingest asks for it, as a gateway does."""
    while True:
        async with session.post(f"{url}/v1/readings", data=body) as answer:
            if answer.status == HTTPStatus.ACCEPTED:
                return
            if answer.status != HTTPStatus.SERVICE_UNAVAILABLE:
                raise BenchError(f"ingest answered {answer.status}: {await answer.text()}")
        await asyncio.sleep(RETRY_SECONDS)
