"""Splits and merges of the streams while readings flow: what docs/resharding.md promises.

Needs kinesis-local: `make setup-fault`.
"""

import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from anomaly import settings as anomaly_settings
from anomaly.detection.interface import Batch
from fault import resharding, shards
from fault.resharding import (
    ANOMALY,
    INGEST,
    READERS,
    SINK_READINGS,
    SINK_SCORES,
    STREAMS,
    TRANSFORM,
    WARM_UP_ROWS,
    Deployment,
    Remains,
    Traffic,
)
from telemill import contract, names, slots
from telemill.audit import StoredRow
from telemill.testing import emulator

ROOT = Path(__file__).resolve().parents[2]
DEVICES = 200
REPEATED_BODIES = 3
NEVER_SECONDS = 3600.0
REPLAYED = (
    # Scores first: once parents of readings have ended, anomaly does not go back to them.
    (names.SCORES_STREAM, ANOMALY, SINK_SCORES),
    (names.READINGS_STREAM, TRANSFORM, SINK_READINGS),
)
"""A stream, who writes it, and the sink that reads it."""


@pytest.fixture
def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployment]:
    """Emulators with everything provisioned, two shards a stream; no service yet."""
    if emulator.BINARY_VARIABLE not in os.environ:
        monkeypatch.setenv(emulator.BINARY_VARIABLE, str(ROOT / emulator.DEFAULT_BINARY))
    with resharding.deployed(tmp_path) as made:
        yield made


def traffic_of(deployment: Deployment) -> Traffic:
    """The devices, once all services are ready."""
    deployment.wait_until_ready()
    return Traffic(deployment.processes[INGEST].spec.url, devices=DEVICES)


def wait_for_scores(deployment: Deployment) -> None:
    """Until readings have come the whole way, and every device is past its warm-up."""
    deployment.wait(
        "every device has scores",
        lambda: deployment.metric(SINK_SCORES, "rows_written_total") > WARM_UP_ROWS * DEVICES,
    )


def wait_for_duplicates(deployment: Deployment, traffic: Traffic, *workers: str) -> None:
    """Push the very first readings once more, and wait until transform's workers know them."""

    def known() -> float:
        return sum(deployment.metric(each, "duplicates_total") for each in workers or (TRANSFORM,))

    before = known()
    repeated = traffic.repeat(REPEATED_BODIES)
    deployment.wait(
        "transform recognises readings of ancestor shards", lambda: known() - before >= repeated
    )


def each_reader(deployment: Deployment, *acts: Callable[[Deployment, str], None]) -> None:
    """Do something to every process that reads a stream, then the next thing to every one."""
    for act in acts:
        for name in READERS:
            act(deployment, name)


def kill(deployment: Deployment, name: str) -> None:
    """SIGKILL."""
    deployment.kill(name)


def start_again(deployment: Deployment, name: str) -> None:
    """The same process with the same WORKER_ID."""
    deployment.start(deployment.processes[name].spec)


def assert_as_pushed(traffic: Traffic, remains: Remains) -> None:
    """Both tables hold what was pushed: each reading once, each device's in the order pushed."""
    report = remains.report
    wrong = (report.lost, report.duplicated, report.out_of_order, report.altered)
    assert [len(each) for each in wrong] == [0, 0, 0, 0]
    assert report.ok
    assert not report.uncollected
    assert report.stored + report.duplicates == report.raw_items
    assert report.duplicates >= traffic.repeated
    pushed = _pushed_times(traffic)
    assert len(pushed) == DEVICES
    assert _times_by_device(remains.readings) == pushed
    assert _times_by_device(remains.scores) == pushed


def assert_scored_by_one_detector(remains: Remains) -> None:
    """The scores are those of detectors that saw all readings of a device and never moved."""
    measures = [field.column for field in contract.load(resharding.CONTRACT).measures]
    values = np.array([[row.columns[c] for c in measures] for row in remains.readings], np.float64)
    devices = np.array([row.columns["device_id"] for row in remains.readings])
    event_us = np.array(
        [round(row.columns["event_time"].timestamp() * 1e6) for row in remains.readings]
    )
    chosen = anomaly_settings.AnomalySettings(warm_up_rows=WARM_UP_ROWS)
    detector = chosen.detector(contract.load(resharding.CONTRACT))
    begun = detector.begin(DEVICES + 1, len(measures))
    # As pushed: all devices begin together. One that begins among others would learn from them.
    order = np.argsort(event_us, kind="stable")
    pushed = Batch(values[order], devices[order], event_us[order])
    expected = np.empty(len(order))
    expected[order] = detector.score(pushed, begun)[0].score
    found = {row.lineage: row.columns["score"] for row in remains.scores}
    scores = np.array([found[row.lineage] for row in remains.readings], np.float64)
    assert np.isnan(scores).sum() == WARM_UP_ROWS * DEVICES
    np.testing.assert_allclose(scores, expected, rtol=1e-9)


def _pushed_times(traffic: Traffic) -> dict[int, list[datetime]]:
    found: dict[int, list[datetime]] = {}
    for items in traffic.sent:
        for item in items:
            reading = json.loads(item)
            time = datetime.fromisoformat(reading["time"])
            found.setdefault(reading["DeviceId"], []).append(time)
    return found


def _times_by_device(rows: Sequence[StoredRow]) -> dict[int, list[datetime]]:
    found: dict[int, list[datetime]] = {}
    for row in rows:
        found.setdefault(row.columns["device_id"], []).append(row.columns["event_time"])
    return found


def test_every_stream_reshards_under_load(deployment: Deployment) -> None:
    """2 -> 4 -> 3 -> 4 shards of each stream in mid-flow: exactly once, in order, state moves.

    Nobody is restarted, neither readers nor writers. Duplicates of readings which an ancestor shard
    took are recognised after each step, and no detector begins to learn again.
    """
    deployment.start(*resharding.specs())
    traffic = traffic_of(deployment)
    started = {name: process.pid for name, process in deployment.processes.items()}
    with traffic.flowing():
        wait_for_scores(deployment)
        for shard_count in (4, 3):
            for stream in STREAMS:
                shards.resize(stream, shard_count)
            deployment.wait_until_followed(*STREAMS)
            wait_for_duplicates(deployment, traffic)
        for stream in STREAMS:
            # A fifth of the merged shard's slots to one child, the others to the other one.
            shards.split(stream, shards.open_shards(stream)[0], share=0.2)
        deployment.wait_until_followed(*STREAMS)
        wait_for_duplicates(deployment, traffic)
    deployment.drain()
    remains = resharding.collect(deployment, traffic)
    assert_as_pushed(traffic, remains)
    assert_scored_by_one_detector(remains)
    assert {name: each.pid for name, each in deployment.processes.items()} == started
    assert all(each.exit_status == 0 for each in deployment.processes.values())
    assert all(shards.generations(each)["shardId-000000000008"] == 3 for each in STREAMS)
    slots_used = {slots.slot_of(str(device)) for device in range(1, DEVICES + 1)}
    assert len(slots_used) >= 60


def test_a_reshard_survives_sigkill(deployment: Deployment) -> None:
    """Readers killed right after, long before and in the middle of a reshard lose nothing."""
    deployment.start(*resharding.specs())
    traffic = traffic_of(deployment)
    with traffic.flowing():
        wait_for_scores(deployment)
        # Killed as soon as the parents are closed, in the middle of reading them to their end.
        for stream in STREAMS:
            shards.resize(stream, 4)
        each_reader(deployment, kill, start_again)
        deployment.wait_until_followed(*STREAMS)
        # Dead while the shards are merged: parents have to be finished from where they stood.
        each_reader(deployment, kill)
        for stream in STREAMS:
            shards.resize(stream, 3)
        each_reader(deployment, start_again)
        deployment.wait_until_followed(*STREAMS)
        wait_for_duplicates(deployment, traffic)
        # Killed once they have claimed a child and before they have saved anything of it.
        for app, stream in READERS.items():
            parent = shards.open_shards(stream)[-1]
            shards.split(stream, parent)
            child = shards.open_shards(stream)[-1]["ShardId"]
            deployment.wait(
                f"{app} claims {child}",
                lambda app=app, stream=stream, child=child: (  # type: ignore[misc]
                    child in shards.progress(app, stream)
                ),
            )
            kill(deployment, app)
            start_again(deployment, app)
        deployment.wait_until_followed(*STREAMS)
    deployment.drain()
    remains = resharding.collect(deployment, traffic)
    assert_as_pushed(traffic, remains)
    assert_scored_by_one_detector(remains)


def test_rows_put_again_into_a_child_are_ignored(deployment: Deployment) -> None:
    """A producer that replays across a reshard of its output: watermarks have moved with slots.

    Transform and anomaly save no position until they are killed, so that afterwards both put all
    their rows again, now into child shards.
    """
    deployment.start(*resharding.specs(commit_interval_seconds=NEVER_SECONDS))
    traffic = traffic_of(deployment)
    again = {spec.name: spec for spec in resharding.specs()}
    with traffic.flowing():
        wait_for_scores(deployment)
        for stream, writer, sink in REPLAYED:
            shards.resize(stream, 4)
            deployment.wait(
                f"{sink} has stored rows of every child of {stream}",
                lambda sink=sink, stream=stream: shards.is_followed(sink, stream),  # type: ignore[misc]
            )
            kill(deployment, writer)
            deployment.start(again[writer])
            deployment.wait(
                f"{sink} sees the rows of the warm-up again",
                lambda sink=sink: (  # type: ignore[misc]
                    deployment.metric(sink, "replayed_total") > WARM_UP_ROWS * DEVICES
                ),
            )
    deployment.drain()
    for stream, _, _ in REPLAYED:
        parents = shards.parents(stream)
        crossed = [
            lineage
            for lineage, held_by in resharding.shards_of_rows(stream).items()
            if any(set(parents[shard_id]) & set(held_by) for shard_id in held_by)
        ]
        assert len(crossed) > WARM_UP_ROWS * DEVICES
    remains = resharding.collect(deployment, traffic)
    assert_as_pushed(traffic, remains)
    assert_scored_by_one_detector(remains)


def test_two_workers_share_shards_over_reshards(deployment: Deployment) -> None:
    """Two transform workers: a merge waits for both; one paused at a split is replaced, unharmed.

    The one that woke up takes over in turn when the other dies while shards are being merged.
    """
    workers = {worker: f"{TRANSFORM}-{worker}" for worker in ("a", "b")}
    with shards.dealt(TRANSFORM, names.RAW_STREAM, tuple(workers)):
        deployment.start(*resharding.specs(workers=tuple(workers)))
        traffic = traffic_of(deployment)
        for name in workers.values():
            deployment.wait(
                f"{name} reads a shard",
                lambda name=name: deployment.metric(name, "open_shards") == 1,  # type: ignore[misc]
            )
    with traffic.flowing():
        wait_for_scores(deployment)
        assert owners() == {"a", "b"}
        shards.merge(names.RAW_STREAM, *shards.open_shards(names.RAW_STREAM))
        deployment.wait_until_followed(names.RAW_STREAM)
        wait_for_duplicates(deployment, traffic, *workers.values())

        (first,) = owners()
        (second,) = workers.keys() - owners()
        paused = deployment.processes[workers[first]].pid
        os.kill(paused, signal.SIGSTOP)
        shards.split(names.RAW_STREAM, shards.open_shards(names.RAW_STREAM)[0])
        deployment.wait_until_followed(names.RAW_STREAM)
        assert owners() == {second}
        os.kill(paused, signal.SIGCONT)
        deployment.wait(
            f"{first} notices that it was replaced",
            lambda: deployment.metric(workers[first], "claims_lost_total") == 1,
        )
        wait_for_duplicates(deployment, traffic, *workers.values())

        dead = deployment.kill(workers[second])
        shards.merge(names.RAW_STREAM, *shards.open_shards(names.RAW_STREAM))
        deployment.wait_until_followed(names.RAW_STREAM)
        assert owners() == {first}
        deployment.start(dead)
    deployment.drain()
    remains = resharding.collect(deployment, traffic)
    assert_as_pushed(traffic, remains)
    assert_scored_by_one_detector(remains)


def owners() -> set[str]:
    """The transform workers that read the open shards."""
    saved = shards.progress(TRANSFORM, names.RAW_STREAM)
    return {saved[each["ShardId"]]["owner"] for each in shards.open_shards(names.RAW_STREAM)}
