"""The anomaly core: deterministic, restorable anywhere, deaf to replays."""

import dataclasses
import functools
import math

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from anomaly import alerting, core, groups
from anomaly import state as anomaly_state
from anomaly.detection import ensemble, forest, monitor, novelty
from telemill import contract, errors, slots
from telemill.codec import compression, wire
from telemill.kinesis.records import Chunk, Record, Shard

CONTRACT = contract.load("contracts/fms.yaml")
SHARD = Shard("readings", 1, "shardId-000000000000")
FIRST_US = 1_760_000_000_000_000
SLOT_COUNT = 64
DETECTOR = ensemble.default(
    len(CONTRACT.measures),
    monitor.Tuning(warm_up_rows=10, prior_warm_up_rows=10),
    novelty.Tuning(warm_up_rows=10),
)
WITH_FOREST = ensemble.default(
    len(CONTRACT.measures), trees=forest.Tuning(trees=5, sample_points=16, warm_up_rows=30)
)


def make_step(detector: ensemble.Ensemble = DETECTOR) -> core.AnomalyStep:
    """The core as the service builds it, quick to warm up."""
    return core.AnomalyStep(
        CONTRACT,
        app_id="anomaly",
        slot_count=SLOT_COUNT,
        raw_retention_hours=168,
        detector=detector,
        threshold=ensemble.THRESHOLD,
        policy=alerting.Policy(grouping=groups.Grouping(0)),
    )


def batch(device: int, rows: range, shift: float = 0.0) -> pa.RecordBatch:
    """Readings of one device, one a second."""
    random = np.random.default_rng([device, rows.start])
    count = len(rows)
    times = pa.array([FIRST_US + row * 1_000_000 for row in rows], pa.timestamp("us", "UTC"))
    columns = {
        "device_id": pa.array([device] * count, pa.int64()),
        "event_time": times,
        "ingest_time": times,
        "is_fail": pa.array([False] * count),
        "quality": pa.array([0] * count, pa.int64()),
        "sequence_number": pa.array([str(10**55 + row) for row in rows]),
        "sub_sequence_number": pa.array([0] * count, pa.int64()),
    }
    for field in CONTRACT.measures:
        columns[field.column] = pa.array(random.normal(50.0 + shift, 2.0, count))
    schema = CONTRACT.stream_schema
    return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)


def record(number: int, device: int, rows: range, shift: float = 0.0) -> Record:
    """A record of the readings stream."""
    header = wire.Header(
        kind="readings",
        contract=CONTRACT.name,
        version=CONTRACT.version,
        slot=slots.slot_of(str(device), SLOT_COUNT),
        producer="transform",
        raw_stream="readings-raw",
        raw_incarnation=1,
        raw_shard_id="shardId-000000000000",
        trace=b"",
    )
    data = wire.encode(header, batch(device, rows, shift))
    return Record(str(10**55 + number), FIRST_US + number, data, "p")


def records() -> list[Record]:
    """Three devices; device 2 fails from row 60 on."""
    made = []
    for number in range(10):
        rows = range(number * 10, number * 10 + 10)
        for device in (1, 2, 3):
            shift = 30.0 if device == 2 and number >= 6 else 0.0
            made.append(record(len(made), device, rows, shift))
    return made


def scores_of(outputs: list) -> pa.Table:
    """All score rows put out."""
    decoded = [wire.decode(each.data, lambda _: CONTRACT.score_stream_schema) for each in outputs]
    return pa.Table.from_batches([rows for _, rows in decoded])


def test_every_reading_gets_one_score_with_its_lineage() -> None:
    """A score's identity is its reading's lineage, in the reading's slot."""
    step = make_step()
    result = step.step(Chunk(SHARD, records()), step.restore([], SHARD))
    table = scores_of(result.outputs)
    assert table.num_rows == 300
    assert sum(each.rows for each in result.outputs) == 300
    columns = (table["device_id"].to_pylist(), table["sequence_number"].to_pylist())
    keys = set(zip(*columns, strict=True))
    assert len(keys) == 300
    for each in result.outputs:
        assert wire.read_header(each.data).slot == each.slot


def test_a_failing_device_raises_one_alert_that_names_it() -> None:
    """A lasting shift of one device opens one alert, of that device."""
    step = make_step()
    result = step.step(Chunk(SHARD, records()), step.restore([], SHARD))
    assert [(alert.state, alert.device_id) for alert in result.alerts] == [("open", "2")]


def test_an_alert_carries_what_was_seen_and_what_was_expected() -> None:
    """The values beside each other tell the operator how far out the device is."""
    step = make_step()
    (alert,) = step.step(Chunk(SHARD, records()), step.restore([], SHARD)).alerts
    assert list(alert.seen) == list(alert.expected) == list(alert.fields)
    for name in alert.fields:
        assert alert.seen[name] == pytest.approx(80.0, abs=8.0)
        assert alert.expected[name] == pytest.approx(50.0, abs=4.0)


@pytest.mark.parametrize("detector", [DETECTOR, WITH_FOREST], ids=["default", "with a forest"])
@pytest.mark.parametrize("cut", [1, 7, 15, 29])
def test_restoring_a_snapshot_continues_exactly(cut: int, detector: ensemble.Ensemble) -> None:
    """State that went through a snapshot gives byte-identical scores and the same alerts."""
    step, all_records = make_step(detector), records()
    state = step.restore([], SHARD)
    first = step.step(Chunk(SHARD, all_records[:cut]), state)
    snapshot = step.snapshot(state)
    kept = step.step(Chunk(SHARD, all_records[cut:]), state)
    restored = step.step(Chunk(SHARD, all_records[cut:]), step.restore([snapshot], SHARD))
    assert kept.outputs == restored.outputs
    assert kept.alerts == restored.alerts
    assert step.snapshot(step.restore([snapshot], SHARD)) == snapshot
    assert sum(each.rows for each in first.outputs + kept.outputs) == 300


def test_a_state_without_devices_can_be_restored() -> None:
    """A shard that ended before any device came hands its children a state like any other."""
    step = make_step()
    empty = step.snapshot(step.restore([], SHARD))
    learned = step.restore([], SHARD)
    step.step(Chunk(SHARD, [record(1, 3, range(20))]), learned)
    both = step.restore([empty, step.snapshot(learned)], SHARD)
    assert step.snapshot(both) == step.snapshot(learned)
    assert step.snapshot(step.restore([empty], SHARD)) == empty


def test_rows_seen_again_are_not_scored_again() -> None:
    """A replay by the producer changes neither scores nor state."""
    step, all_records = make_step(), records()
    state = step.restore([], SHARD)
    step.step(Chunk(SHARD, all_records), state)
    before = step.snapshot(state)
    again = step.step(
        Chunk(SHARD, [each._replace(sequence_number=str(10**55 + 500)) for each in all_records]),
        state,
    )
    assert again.outputs == []
    assert again.counts["replayed",] == 300
    assert step.snapshot(state) == before


def test_a_split_shares_the_devices_out() -> None:
    """Each child keeps exactly the devices and watermarks of its own slots."""
    step = make_step()
    state = step.restore([], SHARD)
    step.step(Chunk(SHARD, records()), state)
    snapshot = step.snapshot(state)
    middle = 2**127
    low = step.restore([snapshot], Shard("readings", 1, "low", (), 0, middle - 1))
    high = step.restore([snapshot], Shard("readings", 1, "high", (), middle, 2**128 - 1))
    assert sorted(low.keys + high.keys) == ["1", "2", "3"]
    union = step.restore([step.snapshot(low), step.snapshot(high)], SHARD)
    assert sorted(union.keys) == ["1", "2", "3"]
    assert union.watermarks.marks == state.watermarks.marks


def test_a_broken_record_is_rejected_and_the_rest_scored() -> None:
    """Bytes that are no batch go to the quarantine, whole."""
    step = make_step()
    broken = Record(str(10**55 + 1), FIRST_US, b"not a batch", "p")
    chunk = Chunk(SHARD, [record(0, 1, range(5)), broken, record(2, 1, range(5, 9))])
    result = step.step(chunk, step.restore([], SHARD))
    assert [each.data for each in result.rejected] == [b"not a batch"]
    assert result.rejected[0].shard_id == SHARD.shard_id
    assert sum(each.rows for each in result.outputs) == 9


def test_a_field_more_keeps_what_was_learned() -> None:
    """State saved under a contract with fewer measures goes on, the new field starting empty."""
    step = make_step()
    state = step.restore([], SHARD)
    step.step(Chunk(SHARD, records()), state)
    snapshot = step.snapshot(state)
    own = slots.slots_in(SHARD.first_hash_key, SHARD.last_hash_key, SLOT_COUNT)
    more, fewer = (
        functools.partial(DETECTOR.begin, fields=len(CONTRACT.measures) + change)
        for change in (1, -1)
    )
    wider = anomaly_state.restore([snapshot], more, own, len(CONTRACT.measures) + 1).detector
    devices = len(state.keys)
    level = state.detector["monitor.level"][:devices]
    assert np.array_equal(wider["monitor.level"][:devices, :-1], level)
    covariance = state.detector["monitor.covariance"][:devices]
    assert np.array_equal(wider["monitor.covariance"][:devices, :-1, :-1], covariance)
    assert not wider["monitor.level"][:, -1].any()
    assert not wider["monitor.covariance"][:, -1].any()
    with pytest.raises(errors.DecodeError, match="another contract"):
        anomaly_state.restore([snapshot], fewer, own, len(CONTRACT.measures) - 1)


def test_a_state_of_the_first_version_keeps_devices_episodes_and_watermarks() -> None:
    """Detectors of the first version are of another kind and begin anew; nothing else is lost."""
    step = make_step()
    state = step.restore([], SHARD)
    step.step(Chunk(SHARD, records()), state)
    made = msgspec.msgpack.decode(compression.decompress(step.snapshot(state)))
    made[0] = 1
    old = ("streak", "opened_us", "closed_us", "first_us", "alert_id")
    made[3] = {name: made[3][name][1] for name in old} | {
        "mean": bytes(8 * len(state.keys) * len(CONTRACT.measures))
    }
    del made[5:]
    first = compression.zstd_compress(msgspec.msgpack.encode(made))
    migrated = step.restore([first], SHARD)
    assert migrated.keys == state.keys
    assert migrated.watermarks.marks == state.watermarks.marks
    assert np.array_equal(migrated.episodes.opened_us, state.episodes.opened_us)
    assert not any(array.any() for array in migrated.detector.values())


@pytest.mark.parametrize("version", [0, 3])
def test_a_state_of_an_unknown_version_is_refused(version: int) -> None:
    """What a newer service saved is not read by guess."""
    step = make_step()
    made = msgspec.msgpack.decode(compression.decompress(step.snapshot(step.restore([], SHARD))))
    made[0] = version
    with pytest.raises(errors.DecodeError, match=f"version {version} is not known"):
        step.restore([compression.zstd_compress(msgspec.msgpack.encode(made))], SHARD)


def test_stops_at_a_batch_of_a_newer_contract() -> None:
    """A sound batch of another version ends the process; it is not put aside."""
    step = make_step()
    made = record(0, 1, range(5))
    header = dataclasses.replace(wire.read_header(made.data), version=99)
    newer = made._replace(data=wire.encode(header, batch(1, range(5))))
    with pytest.raises(errors.ConfigurationError, match="update this service"):
        step.step(Chunk(SHARD, [newer]), step.restore([], SHARD))


def test_null_fields_are_tolerated() -> None:
    """Readings whose fields were nulled get finite scores."""
    step = make_step()
    rows = batch(1, range(40))
    index = rows.schema.get_field_index("sensor1")
    nulled = rows.set_column(index, rows.schema.field(index), pa.nulls(40, pa.float64()))
    made = record(0, 1, range(40))
    header = wire.read_header(made.data)
    result = step.step(
        Chunk(SHARD, [made._replace(data=wire.encode(header, nulled))]), step.restore([], SHARD)
    )
    scores = scores_of(result.outputs)["score"].drop_null().to_pylist()
    assert len(scores) == 30
    assert all(math.isfinite(score) for score in scores)
