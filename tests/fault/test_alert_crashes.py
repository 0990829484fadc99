"""The service is killed while episodes are open: each alert is told, and none as something new."""

import hashlib
import json
import urllib.request
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import boto3
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from anomaly.__main__ import step_of
from anomaly.alert_rows import AlertRows
from anomaly.settings import AnomalySettings
from demo import topology
from fault import plant
from fault.plant import ANOMALY, SINK_SCORES, Plant
from telemill import contract, names, slots
from telemill.codec import wire
from telemill.kinesis.records import Chunk, Record, Shard
from telemill.testing import batches, processes

FMS = contract.load(plant.CONTRACT)
FIRST_US = 1_760_000_000_000_000
DEVICES = range(1, 9)
KEY = "of the test"
SETTINGS = {
    "ANOMALY_GROUP_DEVICES": "3",
    "ANOMALY_GROUP_WINDOW_SECONDS": "10",
    "ANOMALY_UPDATE_SECONDS": "30",
    "ANOMALY_COOL_DOWN_SECONDS": "0",
    "ANOMALY_WARM_UP_ROWS": str(plant.WARM_UP_ROWS),
    "ANOMALY_API_KEY_HASHES": f"test:{hashlib.sha256(KEY.encode()).hexdigest()}",
}
PATIENCE_SECONDS = 90.0
COMMIT_SECONDS = 3.0
"""Longer than a message needs to arrive: most deaths come between a message and its position."""

PHASES = (
    ({}, 80),
    ({2: 14.0}, 12),
    ({2: 30.0}, 40),
    ({2: 30.0, 4: 25.0, 5: 25.0, 6: 25.0, 7: 25.0}, 30),
    ({}, 260),
)
"""Shift by device, and how many seconds: normal; one device, then critically; four more; normal."""


def phases() -> list[list[bytes]]:
    """The readings of each phase as records of the readings stream, ten seconds in each."""
    random = np.random.default_rng(20260101)
    places, made, second = count(), [], 0
    for shifts, seconds in PHASES:
        records = []
        for first in range(second, second + seconds, 10):
            for device in DEVICES:
                rows = range(first, min(first + 10, second + seconds))
                records.append(_record(random, device, rows, shifts.get(device, 0.0), places))
        second += seconds
        made.append(records)
    return made


def _record(random: Any, device: int, seconds: range, shift: float, places: Iterator[int]) -> bytes:
    lineage = [(next(places), 0) for _ in seconds]
    times = [FIRST_US + each * 1_000_000 for each in seconds]
    rows = batches.batch(FMS.stream_schema, lineage, times)
    changed = {"device_id": pa.array([device] * len(seconds), pa.int64())}
    for measure in FMS.measures:
        changed[measure.column] = pa.array(random.normal(50.0 + shift, 2.0, len(seconds)))
    columns = [changed.get(name, rows.column(name)) for name in rows.schema.names]
    header = batches.header(FMS, slot=slots.slot_of(str(device)))
    return wire.encode(header, pa.RecordBatch.from_arrays(columns, schema=rows.schema))


def told(records: list[bytes]) -> tuple[dict[str, Any], Counter[tuple[str, int, str]]]:
    """What an undisturbed service tells: messages by id, and the rows of its table."""
    step = step_of(AnomalySettings(), FMS)
    shard = Shard(names.READINGS_STREAM, 1, "shardId-000000000000")
    held = [Record(str(place + 1), FIRST_US, data, "p") for place, data in enumerate(records)]
    result = step.step(Chunk(shard, held), step.restore([], shard))
    messages = {each.message_id: json.loads(msgspec.json.encode(each)) for each in result.alerts}
    rows: Counter[tuple[str, int, str]] = Counter()
    for each in result.alert_rows:
        assert isinstance(each, AlertRows)
        rows.update(_keys(each.batch))
    return messages, rows


def _keys(table: Any) -> list[tuple[str, int, str]]:
    return list(
        zip(
            *(table.column(name).to_pylist() for name in ("alert_id", "sequence", "state")),
            strict=True,
        )
    )


class Subscriber:
    """A queue behind the topic."""

    def __init__(self) -> None:
        self._sqs = boto3.client("sqs")
        self._url = self._sqs.create_queue(QueueName="alert-crashes")["QueueUrl"]
        attributes = self._sqs.get_queue_attributes(
            QueueUrl=self._url, AttributeNames=["QueueArn"]
        )["Attributes"]
        sns = boto3.client("sns")
        arn = sns.create_topic(Name=names.ALERT_TOPIC)["TopicArn"]
        sns.subscribe(TopicArn=arn, Protocol="sqs", Endpoint=attributes["QueueArn"])
        self.messages: list[dict[str, Any]] = []

    def ids(self) -> set[str]:
        """Of the messages that came so far."""
        while got := self._sqs.receive_message(QueueUrl=self._url, MaxNumberOfMessages=10).get(
            "Messages", ()
        ):
            for each in got:
                self.messages.append(json.loads(json.loads(each["Body"])["Message"]))
                self._sqs.delete_message(QueueUrl=self._url, ReceiptHandle=each["ReceiptHandle"])
        return {each["message_id"] for each in self.messages}


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plant]:
    """The anomaly service and the sink of scores, over one shard."""
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    pace = plant.Pace(commit_interval_seconds=COMMIT_SECONDS)
    with plant.running(tmp_path, pace=pace, shards=1) as made:
        monkeypatch.setitem(plant.READERS, ANOMALY, _without_settings())
        made.start_all([made.add(ANOMALY), made.add(SINK_SCORES)])
        yield made


def _without_settings() -> plant.Reader:
    """Settings come from the environment, where the test's own step finds them, too."""
    return plant.Reader(ANOMALY, "anomaly", names.READINGS_STREAM)


def put(records: list[bytes]) -> None:
    """On the readings stream, in order."""
    kinesis = boto3.client("kinesis")
    for data in records:
        slot = wire.read_header(data).slot
        kinesis.put_record(
            StreamName=names.READINGS_STREAM,
            Data=data,
            PartitionKey=str(slot),
            ExplicitHashKey=str(slots.hash_key_of(slot)),
        )


def stored_rows() -> Counter[tuple[str, int, str]]:
    """The table `alerts`."""
    return Counter(key for table in stored_tables() for key in _keys(table))


def stored_tables() -> Iterator[pa.Table]:
    """Its objects."""
    s3 = boto3.client("s3")
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=names.LAKE_BUCKET, Prefix="alerts/")
    for page in pages:
        for each in page.get("Contents", ()):
            body = s3.get_object(Bucket=names.LAKE_BUCKET, Key=each["Key"])["Body"].read()
            yield pq.read_table(pa.BufferReader(body))


@pytest.mark.parametrize("failpoint", ["", "alert.before:1", "alert.after:1"])
def test_a_death_in_an_open_episode_repeats_and_loses_no_alert(
    running: Plant, failpoint: str
) -> None:
    """SIGKILL after openings, updates and closings, or at the very moment: one story comes out.

    Every message of an undisturbed run comes; what comes twice is equal; nothing else comes. The
    table has each row once.
    """
    subscriber, sent, previous = Subscriber(), list[bytes](), set[str]()
    for records in phases():
        sent += records
        wanted = set(told(sent)[0])
        if failpoint and wanted != previous:
            running.arm(ANOMALY, failpoint)
        put(records)
        if wanted != previous:
            _die(running, subscriber, failpoint, previous)
        _wait(running, subscriber, wanted)
        previous = wanted
    messages, rows = told(sent)
    states = {(each["kind"], each["state"]) for each in messages.values()}
    assert states == {
        (kind, state) for kind in ("device", "group") for state in ("open", "update", "closed")
    }
    _drain(running)
    assert {each["message_id"] for each in subscriber.messages} == set(messages)
    for each in subscriber.messages:
        assert each == messages[each["message_id"]]
    if failpoint.startswith("alert.after"):
        # It died after telling and before it was noted: the test has seen what it is about.
        assert len(subscriber.messages) > len(messages)
    assert stored_rows() == rows


def test_a_muted_device_stays_silent_through_a_crash(running: Plant) -> None:
    """What one process was asked by HTTP, the next one keeps: no message, and rows that say so."""
    subscriber, (normal, *faulty) = Subscriber(), phases()
    put(normal)
    ends = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    asked = urllib.request.Request(  # noqa: S310
        f"{running.url(ANOMALY)}/v1/devices/2/mute",
        json.dumps({"until": ends, "reason": "bearing change"}).encode(),
        {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"},
        method="PUT",
    )
    with urllib.request.urlopen(asked, timeout=10) as answer:  # noqa: S310
        assert json.loads(answer.read())["device_id"] == "2"
    running.processes[ANOMALY].kill()
    running.start(ANOMALY)
    running.wait_until_ready(ANOMALY)
    put([data for records in faulty for data in records])
    _drain(running)
    subscriber.ids()
    devices = {each.get("device_id") for each in subscriber.messages}
    assert subscriber.messages
    assert "2" not in devices
    muted = {
        device: marked
        for table in stored_tables()
        for device, marked in zip(
            table.column("device_id").to_pylist(), table.column("muted").to_pylist(), strict=True
        )
    }
    assert muted[2] is True
    assert not any(marked for device, marked in muted.items() if device != 2)


def _die(running: Plant, subscriber: Subscriber, failpoint: str, previous: set[str]) -> None:
    """Kill the service as soon as it tells something new, and start it again."""
    process = running.processes[ANOMALY]
    if failpoint:
        assert processes.wait_until(lambda: not process.is_running(), PATIENCE_SECONDS, 0.05)
        assert running.died_at(ANOMALY) == failpoint.partition(":")[0]
    else:
        news = processes.wait_until(lambda: subscriber.ids() > previous, PATIENCE_SECONDS, 0.05)
        assert news, process.tail()
        process.kill()
    running.start(ANOMALY)
    running.wait_until_ready(ANOMALY)


def _wait(running: Plant, subscriber: Subscriber, wanted: set[str]) -> None:
    running.wait(
        lambda: subscriber.ids() >= wanted, "all messages come", [ANOMALY], PATIENCE_SECONDS, 0.2
    )


def _drain(running: Plant) -> None:
    for app, stream in ((ANOMALY, names.READINGS_STREAM), (SINK_SCORES, names.SCORES_STREAM)):
        running.wait(
            lambda app=app, stream=stream: topology.has_consumed(app, stream),  # type: ignore[misc]
            f"{app} reaches the end",
            [app],
            PATIENCE_SECONDS,
            0.5,
        )
