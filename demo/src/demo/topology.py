"""Which processes make up the demo, with which settings, and in which order they stop."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3

from demo.settings import DemoSettings
from telemill import names
from telemill.kinesis import records
from telemill.testing.emulator import free_port
from telemill.testing.processes import Spec

CONTRACT = "contracts/fms.yaml"

SIMULATOR = "simulator"
INGEST = "ingest"
TRANSFORM = "transform"
SINK_READINGS = "sink-readings"
ANOMALY = "anomaly"
SINK_SCORES = "sink-scores"
WORKER_ID = "demo"
WARM_UP_ROWS = 25
"""A short demo cannot wait for the default; a few false anomalies are the price."""
GROUP_DEVICES = 3
GROUP_WINDOW_SECONDS = 5
"""Few devices and little time, over two shards."""
PUSH_KEY = "demo-only"
"""The key for HTTP push; a real one comes from `telemill-ingest key`."""


@dataclass(frozen=True, slots=True)
class Stop:
    """One process, and what has to be used up before it may stop: (application, stream) pairs."""

    name: str
    consumes: tuple[tuple[str, str], ...] = ()


STOP_ORDER = (
    Stop(INGEST),
    Stop(SIMULATOR),
    Stop(TRANSFORM, ((TRANSFORM, names.RAW_STREAM),)),
    Stop(SINK_READINGS, ((SINK_READINGS, names.READINGS_STREAM),)),
    Stop(ANOMALY, ((ANOMALY, names.READINGS_STREAM),)),
    Stop(SINK_SCORES, ((SINK_SCORES, names.SCORES_STREAM),)),
)


def specs(settings: DemoSettings, directory: Path, topic: str) -> list[Spec]:
    """The processes, in the order they start: ingest last."""
    flush = f"{settings.flush_interval_seconds:g}"
    simulator = _spec(
        SIMULATOR,
        "simulator",
        "SIMULATOR_",
        {
            "DEVICE_COUNT": settings.devices,
            "INTERVAL_SECONDS": f"{settings.interval_seconds:g}",
            "CHAOS": settings.chaos,
            "LOG": directory / "served.ndjson",
        },
        common={},
    )
    return [
        simulator,
        _spec(TRANSFORM, "transform", "TRANSFORM_", {}),
        _spec(
            SINK_READINGS, "sink", "SINK_", {"TABLE": "readings", "FLUSH_INTERVAL_SECONDS": flush}
        ),
        _spec(
            ANOMALY,
            "anomaly",
            "ANOMALY_",
            {
                "ALERT_TOPIC": topic,
                "WARM_UP_ROWS": WARM_UP_ROWS,
                "GROUP_DEVICES": GROUP_DEVICES,
                "GROUP_WINDOW_SECONDS": GROUP_WINDOW_SECONDS,
            },
        ),
        _spec(SINK_SCORES, "sink", "SINK_", {"TABLE": "scores", "FLUSH_INTERVAL_SECONDS": flush}),
        _spec(
            INGEST,
            "ingest",
            "INGEST_",
            {
                "BASE_URL": simulator.url,
                "DEVICES": f"1-{settings.devices}",
                "POLL_INTERVAL_SECONDS": f"{settings.interval_seconds:g}",
                "API_KEY_HASHES": f"demo:{hashlib.sha256(PUSH_KEY.encode()).hexdigest()}",
            },
        ),
    ]


def _spec(
    name: str,
    module: str,
    prefix: str,
    own: Mapping[str, object],
    common: Mapping[str, object] | None = None,
) -> Spec:
    port = free_port()
    shared = {"CONTRACT": CONTRACT, "WORKER_ID": WORKER_ID} if common is None else common
    chosen = {"HTTP_PORT": port, **shared, **own}
    environment = {f"{prefix}{key}": str(value) for key, value in chosen.items()}
    return Spec(name, module, (), environment, port)


def has_consumed(app: str, stream: str) -> bool:
    """Whether an application's saved positions have reached the end of every shard of a stream.

    A sink saves its position when it cuts, so this can take a flush interval.
    """
    kinesis, dynamodb = boto3.client("kinesis"), boto3.client("dynamodb")
    saved = _positions(dynamodb, app, stream)
    for page in kinesis.get_paginator("list_shards").paginate(StreamName=stream):
        for shard in page["Shards"]:
            if _has_more(kinesis, stream, shard["ShardId"], saved.get(shard["ShardId"])):
                return False
    return True


def _positions(dynamodb: Any, app: str, stream: str) -> dict[str, str]:
    """Saved position by shard id."""
    found: dict[str, str] = {}
    query = dynamodb.get_paginator("query").paginate(
        TableName=names.PROGRESS_TABLE,
        KeyConditionExpression="app = :app",
        ExpressionAttributeValues={":app": {"S": app}},
        ConsistentRead=True,
    )
    for page in query:
        for item in page["Items"]:
            name, _, shard_id = item["shard"]["S"].rpartition("/")
            if name.partition("/")[0] == stream and "S" in item.get("position", {}):
                found[shard_id] = item["position"]["S"]
    return found


def _has_more(kinesis: Any, stream: str, shard_id: str, position: str | None) -> bool:
    """Whether records stand behind a position (None: behind the trim horizon)."""
    if position == records.SHARD_END:
        return False
    where = (
        {"ShardIteratorType": "TRIM_HORIZON"}
        if position is None
        else {"ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "StartingSequenceNumber": position}
    )
    iterator = kinesis.get_shard_iterator(StreamName=stream, ShardId=shard_id, **where)
    answer = kinesis.get_records(ShardIterator=iterator["ShardIterator"], Limit=1)
    return bool(answer["Records"]) or answer["MillisBehindLatest"] > 0
