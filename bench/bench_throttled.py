"""Twice a shard's limits offered: `python -m bench throttled`.

Behind the fault proxy one shard takes 1,000 records and 1 MiB a second and gives 2 MiB in five
GetRecords a second, as the service's does. Ingest is pushed twice as much by clients that give up
what is answered 503; transform is given a backlog. Throughput is what the stream took, or gave,
after the first seconds: a bucket holds one second's worth, which is no throughput.
"""

import asyncio
import base64
import io
import itertools
import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import aiohttp
import boto3
import msgspec

from bench import deployment, load
from bench.deployment import Deployment, Service
from bench.measurement import MEGABYTE, Measurement
from bench.settings import BenchSettings
from telemill import names, slots
from telemill.codec import compression, raw
from telemill.testing import faults
from telemill.testing.faults import buckets
from telemill.testing.processes import Process

LEAST_SHARE = 0.9
"""The issue's target, of a shard's limit."""

OVERLOAD = 2.0
SEED = 20260101
WARM_UP_SECONDS = 4.0
SECONDS = 24.0
"""How long is pushed, with the warm-up."""

LARGE_BYTES = 16_384
"""Of random text in a reading; base64, so about a quarter less in a compressed record."""
LARGE_STORED_BYTES = 12_400

REST_SAMPLES = 8
"""Looks without progress that tell that an answer is worked off."""

MAX_RECORD_BYTES = 2**26
"""Of a raw record, decompressed."""

BACKLOG_BYTES = 50 * 1024 * 1024
BACKLOG_READING_BYTES = 1024
"""Of random text: the emulator bounds an answer by records alone, 10,000 make one of 11 MB."""

INGEST = Service(
    "ingest",
    "ingest",
    "INGEST_",
    {
        "DEVICES": "",
        "API_KEY_HASHES": load.KEY_HASH,
        "PUSH_READINGS_PER_SECOND": 1e9,
        "PUSH_BURST_READINGS": 1e9,
        # A record for each reading and slot of a body: the worst a client can do.
        "PUSH_LINGER_SECONDS": 0,
    },
)
TRANSFORM = Service("transform", "transform", "TRANSFORM_")


@dataclass(slots=True)
class Pushed:
    """What the clients saw.

    Attributes:
        accepted: When each body answered 202 was begun and answered, by its number.
        statuses: Answers by status.
        retry_after: Values of Retry-After on 503.
        content_types: Of answers with 503.
        peak_rss_bytes: Of ingest.
        throttled: Records the shard refused.
    """

    accepted: dict[int, tuple[float, float]] = field(default_factory=dict)
    statuses: Counter[int] = field(default_factory=Counter)
    retry_after: set[str] = field(default_factory=set)
    content_types: set[str] = field(default_factory=set)
    peak_rss_bytes: int = 0
    throttled: int = 0


@dataclass(frozen=True, slots=True)
class Stored:
    """What the raw stream holds.

    Attributes:
        arrived: Arrival (epoch seconds) and size as Kinesis counts it, of each record in order.
        numbers: The bodies each device's readings came from, in stream order.
    """

    arrived: list[tuple[float, int]]
    numbers: Mapping[int, list[int]]

    def per_second(self, since: float, until: float) -> tuple[float, float]:
        """Records and bytes a second between two moments."""
        inside = [size for at, size in self.arrived if since <= at < until]
        return len(inside) / (until - since), sum(inside) / (until - since)


def device_of_each_slot() -> list[int]:
    """One device for each of the 64 slots."""
    found: dict[int, int] = {}
    device = 0
    while len(found) < slots.DEFAULT_SLOT_COUNT:
        device += 1
        found.setdefault(slots.slot_of(str(device), slots.DEFAULT_SLOT_COUNT), device)
    return sorted(found.values())


def bodies(random_bytes: int) -> Iterator[bytes]:
    """NDJSON bodies without end, one reading of each slot; `sensor1` is the body's number."""
    chance = random.Random(SEED)  # noqa: S311
    devices = device_of_each_slot()
    number = 0
    while True:
        moment = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        yield b"\n".join(
            _reading(moment, device, number, chance.randbytes(random_bytes * 3 // 4))
            for device in devices
        )
        number += 1


def _reading(moment: str, device: int, number: int, noise: bytes) -> bytes:
    document: dict[str, Any] = {"time": moment, "DeviceId": device, "sensor1": number}
    if noise:
        document["noise"] = base64.b64encode(noise).decode()
    return msgspec.json.encode(document)


@contextmanager
def limited(where: Deployment) -> Iterator[faults.Proxy]:
    """A proxy before the emulator whose shards have the service's limits."""
    upstream = boto3.client("kinesis").meta.endpoint_url
    log_path = where.directory / "faults.ndjson"
    with faults.running(upstream, seed=SEED, log_path=log_path) as proxy:
        proxy.set_plan(faults.Plan(shard_limits=True))
        yield proxy


@contextmanager
def started(where: Deployment, service: Service, proxy: faults.Proxy) -> Iterator[Process]:
    """A service behind the proxy, ready; it is drained and ended at the end."""
    spec = service.spec(None)
    spec = replace(spec, environment={**spec.environment, "AWS_ENDPOINT_URL": proxy.url})
    process = Process(spec, where.directory)
    try:
        deployment.wait_for(
            lambda: deployment.total(process, "ready") == 1, {service.name: process}, 0.1
        )
        yield process
    finally:
        process.ask_to_stop()
        process.wait()


def push(process: Process, random_bytes: int, bodies_per_second: float, seconds: float) -> Pushed:
    """Push at a rate, whatever comes back; the process must stay up."""
    return asyncio.run(_push(process, random_bytes, bodies_per_second, seconds))


async def _push(
    process: Process, random_bytes: int, bodies_per_second: float, seconds: float
) -> Pushed:
    seen = Pushed()
    headers = {"Authorization": f"Bearer {load.KEY}", "Content-Type": "application/x-ndjson"}
    connector = aiohttp.TCPConnector(limit=0)
    began = time.monotonic()
    async with (
        aiohttp.ClientSession(connector=connector, headers=headers) as session,
        asyncio.TaskGroup() as posts,
    ):
        for number, body in enumerate(bodies(random_bytes)):
            due = began + number / bodies_per_second
            if due - began >= seconds:
                break
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            posts.create_task(_post(session, process.spec.url, number, body, seen))
            seen.peak_rss_bytes = max(seen.peak_rss_bytes, process.rss_bytes())
    return seen


async def _post(
    session: aiohttp.ClientSession, url: str, number: int, body: bytes, seen: Pushed
) -> None:
    began = time.monotonic()
    async with session.post(f"{url}/v1/readings", data=io.BytesIO(body)) as answer:
        await answer.read()
        seen.statuses[answer.status] += 1
        if answer.status == HTTPStatus.ACCEPTED:
            seen.accepted[number] = began, time.monotonic()
        elif answer.status == HTTPStatus.SERVICE_UNAVAILABLE:
            seen.retry_after.add(answer.headers.get("Retry-After", ""))
            seen.content_types.add(answer.content_type)


def read_stream() -> Stored:
    """The whole raw stream of one shard, not through the proxy."""
    kinesis = boto3.client("kinesis")
    (shard,) = kinesis.list_shards(StreamName=names.RAW_STREAM)["Shards"]
    iterator = kinesis.get_shard_iterator(
        StreamName=names.RAW_STREAM, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
    )["ShardIterator"]
    arrived: list[tuple[float, int]] = []
    numbers: dict[int, list[int]] = {}
    while True:
        answer = kinesis.get_records(ShardIterator=iterator)
        for each in answer["Records"]:
            size_bytes = len(each["Data"]) + len(each["PartitionKey"].encode())
            arrived.append((each["ApproximateArrivalTimestamp"].timestamp(), size_bytes))
            for line in raw.lines(compression.decompress(each["Data"], limit=MAX_RECORD_BYTES)):
                document = msgspec.json.decode(line)
                numbers.setdefault(document["DeviceId"], []).append(int(document["sensor1"]))
        if not answer["Records"] and answer["MillisBehindLatest"] == 0:
            return Stored(arrived, numbers)
        iterator = answer["NextShardIterator"]


@dataclass(frozen=True, slots=True)
class Overload:
    """What came of pushing twice a limit.

    Attributes:
        seen: By the clients.
        stored: In the stream.
        records_per_second: Taken by the shard after the warm-up.
        bytes_per_second: The same.
        readings_per_second: Answered 202, over the whole time.
    """

    seen: Pushed
    stored: Stored
    records_per_second: float
    bytes_per_second: float
    readings_per_second: float

    def missing(self) -> int:
        """Readings answered 202 that are not in the stream."""
        accepted = self.seen.accepted.keys()
        return sum(len(accepted - set(numbers)) for numbers in self.stored.numbers.values())

    def repeated(self) -> int:
        """Readings that are in the stream more than once."""
        return sum(len(each) - len(set(each)) for each in self.stored.numbers.values())

    def overtaken(self) -> int:
        """Pairs of neighbours in the stream where the later was answered before the first began."""
        return sum(
            self._is_overtaken(earlier, later)
            for numbers in self.stored.numbers.values()
            for earlier, later in itertools.pairwise(numbers)
        )

    def _is_overtaken(self, earlier: int, later: int) -> bool:
        accepted = self.seen.accepted
        if earlier not in accepted or later not in accepted:
            return False
        return accepted[later][1] < accepted[earlier][0]


def ingest(
    directory: str, random_bytes: int, bodies_per_second: float, seconds: float = SECONDS
) -> Overload:
    """Push into a limited shard through ingest."""
    settings = BenchSettings(shards=1)
    with deployment.deployed(settings, directory) as where, limited(where) as proxy:
        with started(where, INGEST, proxy) as process:
            began = time.time()
            seen = push(process, random_bytes, bodies_per_second, seconds)
        seen.throttled = proxy.counts().get("shard_limits", 0)
        stored = read_stream()
    records, size_bytes = stored.per_second(began + WARM_UP_SECONDS, began + seconds)
    readings = len(seen.accepted) * slots.DEFAULT_SLOT_COUNT / seconds
    return Overload(seen, stored, records, size_bytes, readings)


def small(seconds: float = SECONDS) -> Overload:
    """2,000 small readings a second, one of each slot at a time."""
    offered = OVERLOAD * buckets.IN_RECORDS_PER_SECOND / slots.DEFAULT_SLOT_COUNT
    return ingest("throttled-records", 0, offered, seconds)


def large(seconds: float = SECONDS) -> Overload:
    """2 MiB a second that hardly compress."""
    body_bytes = slots.DEFAULT_SLOT_COUNT * LARGE_STORED_BYTES
    offered = OVERLOAD * buckets.IN_BYTES_PER_SECOND / body_bytes
    return ingest("throttled-bytes", LARGE_BYTES, offered, seconds)


def backlog() -> tuple[float, int]:
    """Transform reads a backlog of one limited shard: bytes a second, and its peak RSS."""
    settings = BenchSettings(shards=1)
    with deployment.deployed(settings, "throttled-backlog") as where, limited(where) as proxy:
        size_bytes, count = _preload()
        with started(where, TRANSFORM, proxy) as process:
            samples = _consume(process, count)
            peak = max(rss for _, _, rss in samples)
    began, before = _second_rest(samples)
    ended = next(moment for moment, taken, _ in samples if taken >= count)
    return (count - before) / count * size_bytes / (ended - began), peak


def _second_rest(samples: Sequence[tuple[float, float, int]]) -> tuple[float, float]:
    """When the second answer was worked off, and what was taken by then.

    The first ones come with what the bucket held at the start; from then on each answer waits until
    the one before is paid for.
    """
    rests: list[tuple[float, float]] = []
    for index, (moment, taken, _) in enumerate(samples):
        rests_here = samples[index : index + REST_SAMPLES]
        is_new = taken > (rests[-1][1] if rests else 0)
        if is_new and all(each[1] == taken for each in rests_here):
            rests.append((moment, taken))
    if len(rests) < 3:
        raise deployment.BenchError("the backlog came in fewer than three answers")
    return rests[1]


def _preload() -> tuple[int, int]:
    """Fill the raw stream; bytes and readings."""
    kinesis = boto3.client("kinesis")
    source = bodies(BACKLOG_READING_BYTES)
    size_bytes = count = 0
    while size_bytes < BACKLOG_BYTES:
        items = next(source).split(b"\n")
        request = [
            {"Data": item, "PartitionKey": "k", "ExplicitHashKey": str(slots.hash_key_of(slot))}
            for slot, item in enumerate(items)
        ]
        answer = kinesis.put_records(StreamName=names.RAW_STREAM, Records=request)
        if answer["FailedRecordCount"]:
            raise deployment.BenchError("records of the backlog were not taken")
        size_bytes += sum(map(len, items))
        count += len(items)
    return size_bytes, count


def _consume(process: Process, count: int) -> Sequence[tuple[float, float, int]]:
    """Moment, readings taken so far and RSS, until all are taken."""
    samples: list[tuple[float, float, int]] = []

    def is_done() -> bool:
        taken = deployment.total(process, "readings_in_total")
        samples.append((time.monotonic(), taken, process.rss_bytes()))
        return taken >= count

    deployment.wait_for(is_done, {"transform": process}, 0.1)
    return samples


def measure() -> list[Measurement]:
    """Into a shard by records and by bytes, and out of one."""
    records, size = small(), large()
    out_bytes_per_second, out_rss_bytes = backlog()
    in_share = size.bytes_per_second / buckets.IN_BYTES_PER_SECOND
    out_share = out_bytes_per_second / buckets.OUT_BYTES_PER_SECOND
    return [
        Measurement(
            "2,000 small readings/s into 1,000 records/s: answered 202",
            records.readings_per_second,
            "readings/s",
            at_least=LEAST_SHARE * buckets.IN_RECORDS_PER_SECOND,
        ),
        Measurement("… records written", records.records_per_second, "records/s"),
        Measurement("… peak RSS", records.seen.peak_rss_bytes / MEGABYTE, "MB"),
        Measurement(
            "2 MiB/s into 1 MiB/s: share of the limit", in_share, "of 1", at_least=LEAST_SHARE
        ),
        Measurement("… answered 202", size.readings_per_second, "readings/s"),
        Measurement("… peak RSS", size.seen.peak_rss_bytes / MEGABYTE, "MB"),
        Measurement(
            "backlog out of 2 MiB/s: share of the limit", out_share, "of 1", at_least=LEAST_SHARE
        ),
        Measurement("… peak RSS", out_rss_bytes / MEGABYTE, "MB"),
    ]
