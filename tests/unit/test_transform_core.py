"""The transform step: records and a history in, batches and refusals out."""

import json
from collections import Counter
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from telemill import contract, slots
from telemill.codec import kpl, raw, wire
from telemill.contract import QUALITY_IMPUTED, QUALITY_LATE
from telemill.kinesis.records import Chunk, Record, Shard
from telemill.metrics import Metrics
from telemill.stages.step import StepResult
from telemill.testing import batches as wire_batches
from transform import batches, reasons, testing
from transform.core import TransformStep
from transform.dedupe import DAY_US

PLANT = testing.plant()
HEAT = PLANT.values[0]


def run(*data: bytes, step: TransformStep | None = None) -> StepResult:
    """One chunk of records through an empty history."""
    step = step or TransformStep(PLANT)
    return step.step(testing.chunk(*data), step.restore([], testing.SHARD))


def rejected(result: StepResult) -> list[tuple[str, int]]:
    """(reason, sub-sequence number) of each refusal."""
    return [(each.reason, each.sub_sequence_number) for each in result.rejected]


def test_a_reading_and_its_lineage() -> None:
    """A row holds the values, when it was taken and accepted, and where it came from."""
    result = run(b"not json", testing.ndjson([testing.reading(1), testing.reading(2)]))
    (row,) = [row for row in testing.rows([result], PLANT) if row["device_id"] == 2]
    assert row["event_time"].isoformat() == "2025-07-07T08:21:29+00:00"
    assert row["ingest_time"].isoformat() == "2025-07-07T08:21:30+00:00"
    assert (row["heat"], row["speed"], row["count"], row["mode"]) == (85.5, 1.5, 3, "run")
    assert row["is_fail"] is False
    assert row["quality"] == 0
    assert row["sequence_number"] == wire_batches.sequence_number(1)
    assert row["sub_sequence_number"] == 1


def test_header_says_where_rows_come_from() -> None:
    """A batch is of one slot, one raw shard, one contract, and names its producer."""
    (output,) = run(testing.ndjson([testing.reading(7)])).outputs
    header = wire.read_header(output.data)
    assert header == wire.Header(
        kind="readings",
        contract="plant",
        version=1,
        slot=slots.slot_of("7"),
        producer="transform",
        raw_stream="readings-raw",
        raw_incarnation=testing.SHARD.incarnation,
        raw_shard_id=testing.SHARD.shard_id,
    )
    assert (output.slot, output.rows) == (header.slot, 1)
    assert output.partition_key == str(header.slot)


def test_batches_never_mix_slots_and_keep_order() -> None:
    """Every row is in its device's slot, and a slot's rows are in the order of their lineage."""
    documents = [testing.reading(device) for device in range(1, 200)]
    result = run(testing.ndjson(documents[:150]), testing.ndjson(documents[150:]))
    seen = 0
    for output in result.outputs:
        _, batch = wire.decode(output.data, lambda _: PLANT.stream_schema)
        rows = batch.to_pylist()
        assert {slots.slot_of(str(row["device_id"])) for row in rows} == {output.slot}
        lineage = [(int(row["sequence_number"]), row["sub_sequence_number"]) for row in rows]
        assert lineage == sorted(lineage)
        seen += len(rows)
    assert seen == 199
    assert len({output.slot for output in result.outputs}) == len(result.outputs)


def test_large_batches_are_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records stay within Kinesis' limit: a batch too large is cut, in order."""
    monkeypatch.setattr(batches, "MAX_RECORD_BYTES", 2_000)
    step = TransformStep(PLANT, slot_count=1)
    documents = [testing.reading(device, heat=device * 0.37) for device in range(1, 500)]
    result = run(testing.ndjson(documents), step=step)
    assert len(result.outputs) > 1
    assert all(len(output.data) <= 2_000 for output in result.outputs)
    subs = [
        number
        for output in result.outputs
        for number in wire.decode(output.data, lambda _: PLANT.stream_schema)[1][
            "sub_sequence_number"
        ].to_pylist()
    ]
    assert subs == list(range(499))


@pytest.mark.parametrize(
    ("time", "reason", "quality"),
    [
        ("2025-07-07T08:22:30Z", None, 0),
        ("2025-07-07T08:22:30.000001Z", reasons.FUTURE, 0),
        ("2025-07-07T08:20:30Z", None, 0),
        ("2025-07-07T08:20:29.999999Z", None, QUALITY_LATE),
        ("yesterday", reasons.BAD_TIME, 0),
        ("", reasons.MISSING_TIME, 0),
        (None, reasons.MISSING_TIME, 0),
    ],
)
def test_time_against_arrival(time: str | None, reason: str | None, quality: int) -> None:
    """The arrival is now: ahead of it by more than allowed is refused, behind it is late."""
    result = run(testing.ndjson([testing.reading(1, time)]))
    assert [each.reason for each in result.rejected] == ([reason] if reason else [])
    assert [row["quality"] for row in testing.rows([result], PLANT)] == (
        [] if reason else [quality]
    )
    assert result.counts["late",] == (1 if quality else 0)


def test_refused_item_has_its_original_bytes_and_lineage() -> None:
    """A refusal carries what a person needs to find and mend the item."""
    lines = testing.ndjson([testing.reading(1), testing.reading(2, "soon"), testing.reading(3)])
    (refused,) = run(raw.encode_ndjson(lines.split(b"\n"))).rejected
    assert refused.data == lines.split(b"\n")[1]
    assert refused.device_id == "2"
    assert refused.shard_id == testing.SHARD.shard_id
    assert refused.sequence_number == wire_batches.sequence_number(0)
    assert refused.sub_sequence_number == 1
    assert refused.arrival_us == testing.NOW_US
    assert "soon" in refused.error


def test_conflict_keeps_the_first() -> None:
    """Of readings with the same key and other values the first is stored, the other refused."""
    documents = [testing.reading(1), testing.reading(1, heat=1.0), testing.reading(1)]
    result = run(testing.ndjson(documents))
    assert [row["heat"] for row in testing.rows([result], PLANT)] == [85.5]
    assert rejected(result) == [(reasons.CONFLICT, 1)]
    assert json.loads(result.rejected[0].data)["heat"] == 1.0
    assert result.counts["duplicate",] == 1


def test_values_are_compared_as_received() -> None:
    """-1 and 999 both become null, yet they contradict each other; "85.5" and 85.5 do not."""
    documents = [testing.reading(1, heat=-1), testing.reading(1, heat=999)]
    documents += [testing.reading(2, heat=85.5), testing.reading(2, heat="85.5")]
    result = run(testing.ndjson(documents))
    assert rejected(result) == [(reasons.CONFLICT, 1)]
    assert result.counts["duplicate",] == 1


def test_refused_readings_leave_no_trace_in_the_history() -> None:
    """A reading from the future does not make the real one a conflict."""
    step = TransformStep(PLANT)
    state = step.restore([], testing.SHARD)
    ahead = testing.ndjson([testing.reading(1, "2025-07-07T09:00:00Z", heat=1.0)])
    assert step.step(testing.chunk(ahead), state).rejected
    later = Record(wire_batches.sequence_number(9), testing.NOW_US + 3_600_000_000, b"", "k")
    real = later._replace(data=testing.ndjson([testing.reading(1, "2025-07-07T09:00:00Z")]))
    assert step.step(Chunk(testing.SHARD, [real]), state).rejected == []


def test_policies_and_bits() -> None:
    """Carry and default fill, null does not, and each says so in the quality."""
    first = testing.reading(1, "2025-07-07T08:21:28Z", speed=2.5)
    second = testing.reading(1, speed=None, isFail=None, heat=-1)
    result = run(testing.ndjson([first, second]))
    row = testing.rows([result], PLANT)[1]
    by_name = {value.name: value for value in PLANT.values}
    assert (row["heat"], row["speed"], row["is_fail"]) == (None, 2.5, False)
    assert row["quality"] == (
        QUALITY_IMPUTED
        | PLANT.sentinel_bit(HEAT)
        | PLANT.missing_bit(by_name["speed"])
        | PLANT.missing_bit(by_name["isFail"])
    )


def test_carried_values_survive_a_restart() -> None:
    """The previous value is part of the state."""
    step = TransformStep(PLANT)
    state = step.restore([], testing.SHARD)
    step.step(testing.chunk(testing.ndjson([testing.reading(1, speed=2.5)])), state)
    again = step.restore([step.snapshot(state)], testing.SHARD)
    after = testing.reading(1, "2025-07-07T08:21:30Z", speed=None)
    chunk = Chunk(testing.SHARD, [testing.record(5, testing.ndjson([after]))])
    assert testing.rows([step.step(chunk, again)], PLANT)[0]["speed"] == 2.5


def test_counts_add_up() -> None:
    """What came in went out, or was refused, or was a duplicate; and every count is a metric."""
    documents: list[dict[str, Any]] = [testing.reading(device) for device in (1, 2, 3, 3)]
    documents += [testing.reading(4, heat="hot", extra=1), testing.reading(5, "never")]
    result = run(testing.ndjson(documents), b"\x1f\x8bbroken", b"")
    counts = result.counts
    out = sum(output.rows for output in result.outputs)
    assert counts["records_in",] == 3
    assert counts["readings_in",] == 8
    assert out == 4
    assert counts["duplicate",] == 1
    assert Counter(each.reason for each in result.rejected) == {
        reasons.BAD_TIME: 1,
        reasons.DECODE: 1,
        reasons.NOT_JSON: 1,
    }
    assert counts["field", "heat", "wrong_type"] == 1
    assert counts["field", "other", "unknown"] == 1
    assert counts["reading", "problem"] == 1
    assert set(reasons.ALL) >= {key[1] for key in counts if key[0] == "rejected"}
    _metrics().apply(counts)


def _metrics() -> Metrics:
    return Metrics(CollectorRegistry(), "transform")


def test_event_range_of_what_is_put_out() -> None:
    """The oldest and newest event time are of rows put out, over all of the chunk."""
    times = ["2025-07-07T08:21:29Z", "2025-07-07T08:21:20Z", "2025-07-07T08:25:00Z"]
    data = [testing.ndjson([testing.reading(n, time)]) for n, time in enumerate(times)]
    result = run(*data)
    assert result.oldest_event_us == 1_751_876_480_000_000
    assert result.newest_event_us == 1_751_876_489_000_000
    assert run(b"x").oldest_event_us is None


def test_empty_chunk() -> None:
    """The last chunk of a closed shard may hold nothing."""
    result = run()
    assert (result.outputs, result.rejected, dict(result.counts)) == ([], [], {})


def test_aggregates_outside_the_shard_are_dropped_and_counted() -> None:
    """The KCL's rule: an aggregate with a user record of another shard's hash range is dropped."""
    low = Shard("readings-raw", 1, "shardId-000000000001", last_hash_key=9)
    data = kpl.aggregate([kpl.UserRecord("a", 10, testing.ndjson([testing.reading(1)]))])
    step = TransformStep(PLANT)
    result = step.step(Chunk(low, [testing.record(0, data)]), step.restore([], low))
    assert result.outputs == []
    assert result.counts["outside_shard",] == 1


def test_device_is_forgotten_on_the_day_of_arrival() -> None:
    """Forgetting follows arrival times: a replay forgets at the same record."""
    step = TransformStep(PLANT, keep_days=1)
    state = step.restore([], testing.SHARD)
    data = testing.ndjson([testing.reading(1)])
    days = [0, 0, 1, 3]
    results = [
        step.step(
            Chunk(testing.SHARD, [testing.record(n, data, testing.NOW_US + day * DAY_US)]), state
        )
        for n, day in enumerate(days)
    ]
    assert [len(result.outputs) for result in results] == [1, 0, 0, 1]


def test_devices_beyond_the_limit_flow_on() -> None:
    """A device that is not remembered is still put out, and counted."""
    result = run(
        testing.ndjson([testing.reading(1), testing.reading(2), testing.reading(2)]),
        step=TransformStep(PLANT, max_devices=1),
    )
    assert sum(output.rows for output in result.outputs) == 3
    assert result.counts["field", "device_id", "untracked"] == 2


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"DeviceId": 101}, reasons.BAD_DEVICE),
        ({"DeviceId": 0}, reasons.BAD_DEVICE),
        ({"DeviceId": None}, reasons.MISSING_DEVICE),
        ({}, reasons.MISSING_DEVICE),
    ],
)
def test_device_range_of_the_contract(document: dict[str, Any], reason: str) -> None:
    """Where the contract lists the devices, any other one is refused."""
    ranged = contract.loads(
        testing.FMS_YAML.replace("type: int64, desc", "type: int64, range: [1, 100], desc", 1)
    )
    result = run(testing.ndjson([document | {"time": testing.TIME}]), step=TransformStep(ranged))
    assert rejected(result) == [(reason, 0)]


def test_published_contracts() -> None:
    """The two contracts that ship run through the same code."""
    for path in ("contracts/fms.yaml", "contracts/skab.yaml"):
        loaded = contract.load(path)
        document: dict[str, Any] = {
            value.name: 1.0 if value.type == "float64" else False for value in loaded.values
        }
        device = 5 if loaded.device.type == "int64" else "rig-5"
        document |= {loaded.time.name: testing.TIME, loaded.device.name: device}
        result = run(testing.ndjson([document]), step=TransformStep(loaded))
        assert result.rejected == []
        assert testing.rows([result], loaded)[0]["device_id"] == device
