"""One push is one trace through the whole path; tracing that is off, or cannot, changes nothing."""

import asyncio
import contextlib
import hashlib
import itertools
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import aiohttp
import boto3
import pytest
from prometheus_client import CollectorRegistry

from ingest.__main__ import main as ingest_main
from telemill import errors, names, provision, tracing
from telemill.codec import trace
from telemill.metrics import Metrics
from telemill.opentelemetry import OtelTracer
from telemill.testing import collector, emulator
from telemill.testing.processes import Process, Spec, stop_in_order
from transform.__main__ import main as transform_main

KEY = "a key"
SERVICES = {"ingest", "transform", "sink-readings", "anomaly", "sink-scores"}
CALLER = "00-11112222333344445555666677778888-1234567812345678-01"


def specs(endpoint: str, directory: Path) -> list[Spec]:
    """The five processes, traced to a collector; each run has applications of its own."""
    boto3.client("sns").create_topic(Name="tracing-alerts")
    run = uuid4().hex[:6]

    def spec(name: str, module: str, **own: str) -> Spec:
        port = emulator.free_port()
        prefix = module.upper()
        chosen = {"TRACE_ENDPOINT": endpoint, "HTTP_PORT": str(port), "WORKER_ID": name, **own}
        environment = {f"{prefix}_{key}": value for key, value in chosen.items()}
        return Spec(name, module, (), environment, port)

    flush = {"FLUSH_INTERVAL_SECONDS": "1"}
    hashed = hashlib.sha256(KEY.encode()).hexdigest()
    return [
        spec("transform", "transform", APP_ID=f"transform-{run}"),
        spec("sink-readings", "sink", APP_ID=f"sink-readings-{run}", **flush),
        spec("anomaly", "anomaly", APP_ID=f"anomaly-{run}", ALERT_TOPIC="tracing-alerts"),
        spec("sink-scores", "sink", APP_ID=f"sink-scores-{run}", TABLE="scores", **flush),
        spec("ingest", "ingest", DEVICES="", TRACE_RATIO="1", API_KEY_HASHES=f"test:{hashed}"),
    ]


@contextmanager
def running(endpoint: str, directory: Path) -> Iterator[dict[str, Process]]:
    """All of them, drained at the end."""
    provision.provision(provision.Resources(), lambda _: None)
    started = {each.name: Process(each, directory) for each in specs(endpoint, directory)}
    try:
        yield started
    finally:
        stop_in_order([started[name] for name in ("ingest", *sorted(SERVICES - {"ingest"}))])


async def push(process: Process, device: int) -> None:
    """One reading, once ingest is ready; 202 says that it is on the stream."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    body = f'{{"time":"{now}","DeviceId":{device},"sensor1":80.5}}'.encode()
    async with aiohttp.ClientSession(
        headers={"Authorization": f"Bearer {KEY}", "traceparent": CALLER}
    ) as session:
        while True:
            try:
                url = f"{process.spec.url}/v1/readings"
                async with session.post(url, data=body) as answer:
                    if answer.status == 202:
                        return
            except aiohttp.ClientConnectionError:
                assert process.is_running(), process.tail()
            await asyncio.sleep(0.1)


def raw_records() -> list[bytes]:
    """What is on the raw stream."""
    kinesis = boto3.client("kinesis")
    found: list[bytes] = []
    for shard in kinesis.list_shards(StreamName=names.RAW_STREAM)["Shards"]:
        iterator = kinesis.get_shard_iterator(
            StreamName=names.RAW_STREAM,
            ShardId=shard["ShardId"],
            ShardIteratorType="TRIM_HORIZON",
        )["ShardIterator"]
        found += [each["Data"] for each in kinesis.get_records(ShardIterator=iterator)["Records"]]
    return found


async def through_every_service(
    received: collector.Collector, started: dict[str, Process]
) -> bytes:
    """The trace of which every service has sent a span, once there is one."""
    while True:
        by_trace: dict[bytes, set[str]] = {}
        for each in received.spans:
            by_trace.setdefault(each.span.trace_id, set()).add(each.service)
        for trace_id, services in by_trace.items():
            if services >= SERVICES:
                return trace_id
        dead = [process.tail() for process in started.values() if not process.is_running()]
        assert not dead
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(received.next(), 1.0)


async def test_a_push_is_one_trace_through_every_service(aws: str, tmp_path: Path) -> None:
    """Ingest, transform, both sinks and anomaly send spans of one trace, each below the one before.

    The trace id is one that X-Ray takes, and the caller's own trace is linked.
    """
    began = int(time.time())
    async with collector.collecting() as received:
        with running(received.url, tmp_path) as started:
            await push(started["ingest"], device=11)
            trace_id = await through_every_service(received, started)
        # Ended by now: what was still on its way to the collector was handed over.
        spans = [each for each in received.spans if each.span.trace_id == trace_id]
    assert began <= int.from_bytes(trace_id[:4], "big") <= int(time.time())
    named = {(each.service, each.span.name): each for each in spans}
    way = [
        ("ingest", "POST /v1/readings"),
        ("ingest", "send raw record"),
        ("transform", "process readings-raw"),
        ("transform", "send batch"),
    ]
    for above, below in itertools.pairwise(way):
        assert named[below].span.parent_span_id == named[above].span.span_id, below
    for below in (("sink-readings", "process readings"), ("anomaly", "process readings")):
        assert named[below].span.parent_span_id == named[way[-1]].span.span_id
    scores = named["anomaly", "send batch"]
    assert scores.span.parent_span_id == named["anomaly", "process readings"].span.span_id
    assert named["sink-scores", "process scores"].span.parent_span_id == scores.span.span_id
    assert named[way[0]].span.parent_span_id == b""
    (link,) = named[way[0]].span.links
    assert link.trace_id.hex() == CALLER.split("-")[1]
    worked = named["sink-readings", "process readings"].attributes
    assert worked["messaging.destination.name"] == names.READINGS_STREAM
    assert isinstance(worked["telemill.waited_seconds"], float)
    assert all(each.span.end_time_unix_nano >= each.span.start_time_unix_nano for each in spans)
    assert any(trace.of_record(record) for record in raw_records())


def tracer(endpoint: str, ratio: float, registry: CollectorRegistry) -> OtelTracer:
    """One of ingest's."""
    return OtelTracer(
        endpoint,
        ratio=ratio,
        resource={"service.name": "ingest"},
        metrics=Metrics(registry, "ingest"),
    )


async def test_only_sampled_traces_leave_the_process() -> None:
    """A trace that is not sampled has no context, so no record carries it, and sends no span."""
    async with collector.collecting() as received:
        never, always = (tracer(received.url, ratio, CollectorRegistry()) for ratio in (0.0, 1.0))
        for each in (never, always):
            begun = each.start("poll", "client")
            assert bool(begun.context) is (each is always)
            begun.end()
            await each.close()
    assert len(received.spans) == 1


async def test_a_parent_in_a_record_decides_downstream() -> None:
    """Whatever the ratio here, a span whose parent came with a record is sent."""
    parent = trace.context(0x6A21F0C4_0123456789ABCDEF01234567, 5)
    async with collector.collecting() as received:
        subject = tracer(received.url, 0.0, CollectorRegistry())
        subject.start("process readings", "consumer", parent, telemill__slot=3).end()
        await subject.close()
    (sent,) = received.spans
    assert (
        trace.context(
            int.from_bytes(sent.span.trace_id, "big"),
            int.from_bytes(sent.span.parent_span_id, "big"),
        )
        == parent
    )
    assert sent.attributes == {"telemill.slot": 3}


async def test_a_collector_that_is_away_costs_spans_and_nothing_else() -> None:
    """Spans that are refused are counted, and neither the work nor the end waits for them."""
    registry = CollectorRegistry()
    async with collector.collecting() as received:
        received.refuses = True
        subject = tracer(received.url, 1.0, registry)
        with tracing.span(subject, "poll", "client") as begun:
            assert begun.context
        await subject.close()
    assert received.refused
    assert not received.spans
    dropped = registry.get_sample_value("telemill_spans_total", {"outcome": "dropped"})
    assert dropped == 1


async def test_failed_work_is_a_failed_span() -> None:
    """An exception ends the span with its type as the status."""
    async with collector.collecting() as received:
        subject = tracer(received.url, 1.0, CollectorRegistry())
        with pytest.raises(errors.DecodeError), tracing.span(subject, "poll", "client"):
            raise errors.DecodeError("secret contents")
        await subject.close()
    (sent,) = received.spans
    assert (sent.span.status.code, sent.span.status.message) == (2, "DecodeError")


@pytest.mark.parametrize(
    "endpoint", ["127.0.0.1:4318", "ftp://a", "http://", "http://a:x", "http://a:4318/v1/traces"]
)
def test_a_bad_endpoint_is_refused(
    endpoint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2, one line, the setting's name."""
    monkeypatch.setenv("TRANSFORM_TRACE_ENDPOINT", endpoint)
    with pytest.raises(SystemExit) as ended:
        transform_main(["--check"])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("telemill-transform: TRANSFORM_TRACE_ENDPOINT: ")


@pytest.mark.parametrize("ratio", ["-0.1", "1.5", "all"])
def test_a_bad_ratio_is_refused(
    ratio: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2, one line, the setting's name."""
    monkeypatch.setenv("INGEST_TRACE_RATIO", ratio)
    with pytest.raises(SystemExit) as ended:
        ingest_main(["--check"])
    assert ended.value.code == 2
    assert "INGEST_TRACE_RATIO" in capsys.readouterr().err


def test_a_process_that_does_not_trace_loads_no_tracing_library() -> None:
    """Off costs nothing: the libraries are not even imported."""
    code = "import sys, transform.__main__, ingest.__main__, sink.__main__, anomaly.__main__;"
    code += "sys.exit('opentelemetry' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
