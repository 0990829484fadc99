"""Warnings before a limit is reached: when, once, the same after a crash, in words."""

import copy
import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from anomaly import core, limits, messages, outlooks, wording
from anomaly.alerting import Policy
from anomaly.detection import ensemble, rules
from anomaly.messages import LimitAlert
from telemill import contract, slots
from telemill.codec import wire
from telemill.contract import Contract
from telemill.contract.hints import Hints
from telemill.kinesis.records import Chunk, Record, Shard
from telemill.testing import batches

FMS = contract.load("contracts/fms.yaml")
SHARD = Shard("readings", 1, "shardId-000000000000")
FIRST_US = 1_760_000_000_000_000
INTERVAL_US = 10_000_000
SLOT_COUNT = 64
LIMIT = 90.0
UNITS = {measure.column: measure.unit for measure in FMS.measures}


def hinted(hints: Hints) -> Contract:
    """FMS with hints for its temperature."""
    fields = [
        dataclasses.replace(each, hints=hints) if each.column == "sensor1" else each
        for each in FMS.fields
    ]
    return dataclasses.replace(FMS, fields=tuple(fields))


def make_step(readings: Contract, limit_seconds: float = 3600.0) -> core.AnomalyStep:
    """The core as the service builds it."""
    return core.AnomalyStep(
        readings,
        app_id="anomaly",
        slot_count=SLOT_COUNT,
        raw_retention_hours=168,
        detector=ensemble.Ensemble([rules.Rules()]),
        threshold=ensemble.THRESHOLD,
        policy=Policy(),
        limit_seconds=limit_seconds,
    )


def warming(rows: int = 2450, from_row: int = 1800, per_row: float = 0.06) -> Any:
    """Six fields in normal running; the first begins to climb."""
    random = np.random.default_rng(4)
    values = 50.0 + random.normal(0.0, 1.0, (rows, len(FMS.measures)))
    values[:, 0] += np.maximum(0, np.arange(rows) - from_row) * per_row
    return values


def records(values: Any, per_record: int = 50) -> list[Record]:
    """Of one device."""
    made = []
    for first in range(0, len(values), per_record):
        part = values[first : first + per_record]
        event_us = FIRST_US + (first + np.arange(len(part))) * INTERVAL_US
        header = batches.header(FMS, slot=slots.slot_of("17", SLOT_COUNT))
        data = wire.encode(header, _batch(part, event_us, first))
        made.append(batches.record(first, data, int(event_us[-1])))
    return made


def _batch(values: Any, event_us: Any, first: int) -> pa.RecordBatch:
    lineage = [(first + row, 0) for row in range(len(values))]
    made = batches.batch(FMS.stream_schema, lineage, event_us.tolist())
    columns = {"device_id": [17] * len(values)}
    columns |= {each.column: values[:, at] for at, each in enumerate(FMS.measures)}
    for name, column in columns.items():
        place = made.schema.get_field_index(name)
        made = made.set_column(place, made.schema.field(place), pa.array(column))
    return made


def told(readings: Contract, values: Any, per_chunk: int = 7) -> list[LimitAlert]:
    """The warnings of a device's readings."""
    step = make_step(readings)
    state = step.restore([], SHARD)
    everything = records(values)
    found: list[Any] = []
    for at in range(0, len(everything), per_chunk):
        found += step.step(Chunk(SHARD, everything[at : at + per_chunk]), state).alerts
    return [each for each in found if isinstance(each, LimitAlert)]


def test_a_climbing_value_is_told_before_it_reaches_its_limit() -> None:
    """One warning opens well before the limit, is right about the time, and becomes critical."""
    values = warming()
    alerts = told(hinted(Hints(high_limit=LIMIT)), values)
    assert [(each.state, each.severity) for each in alerts] == [
        ("open", "warning"),
        ("update", "critical"),
    ]
    reached = 1800 + (LIMIT - 50.0) / 0.06
    opened_row = (_us(alerts[0]) - FIRST_US) / INTERVAL_US
    really = (reached - opened_row) * 10.0
    assert 1800 < opened_row < reached - 60
    assert alerts[0].earliest_seconds <= really
    assert alerts[0].in_seconds == pytest.approx(really, rel=0.5)
    assert alerts[0].limit == LIMIT
    assert {each.alert_id for each in alerts} == {alerts[0].alert_id}
    assert len({each.message_id for each in alerts}) == 2


def test_it_closes_when_the_trend_is_over() -> None:
    """A value that comes to rest below its limit closes every warning."""
    values = warming(2300)
    rest = np.random.default_rng(5).normal(50.0, 1.0, (1500, len(FMS.measures)))
    rest[:, 0] += 500 * 0.06
    alerts = told(hinted(Hints(high_limit=LIMIT)), np.concatenate([values, rest]))
    assert [each.state for each in alerts][-1] == "closed"
    assert alerts[-1].in_seconds is None
    for alert_id in {each.alert_id for each in alerts}:
        states = [each.state for each in alerts if each.alert_id == alert_id]
        assert (states[0], states[-1]) == ("open", "closed")


def test_without_limits_nothing_is_said() -> None:
    """A contract without limits, and a horizon of 0, warn of nothing."""
    assert told(FMS, warming()) == []
    step = make_step(hinted(Hints(high_limit=LIMIT)), limit_seconds=0.0)
    result = step.step(Chunk(SHARD, records(warming())), step.restore([], SHARD))
    assert not any(isinstance(each, LimitAlert) for each in result.alerts)


def test_normal_running_reaches_no_limit() -> None:
    """Noise below a limit raises nothing in half a day."""
    assert told(hinted(Hints(high_limit=60.0)), warming(4320, from_row=10**6)) == []


@pytest.mark.parametrize("per_chunk", [1, 13, 48])
def test_chunks_and_snapshots_change_no_warning(per_chunk: int) -> None:
    """However the stream is cut, and wherever a crash restores it, the messages are the same."""
    readings, values = hinted(Hints(high_limit=LIMIT)), warming()
    step, everything = make_step(readings), records(values)
    state, found = step.restore([], SHARD), []
    for at in range(0, len(everything), per_chunk):
        found += step.step(Chunk(SHARD, everything[at : at + per_chunk]), state).alerts
        state = step.restore([step.snapshot(state)], SHARD)
    assert [each for each in found if isinstance(each, LimitAlert)] == told(readings, values)


def test_warnings_are_told_in_words() -> None:
    """People read which value of which device reaches which limit, and about when."""
    opened = told(hinted(Hints(high_limit=LIMIT)), warming())[0]
    text = wording.short(opened, UNITS)
    assert text.startswith("warning: device 17: sensor1 reaches 90.00 °C in ~")
    assert wording.subject(opened) == "warning: device 17 limit open (sensor1)"
    assert "(80 %)" in wording.mail(opened, UNITS)
    reached = copy.copy(opened)
    done = messages.LimitAlert(
        **{name: getattr(reached, name) for name in opened.__struct_fields__} | {"in_seconds": 0.0}
    )
    assert "has reached 90.00 °C" in wording.short(done, UNITS)


def test_the_outlook_of_a_device_has_every_field_and_horizon() -> None:
    """Who asks gets median, intervals and limit of each measure, and None for a stranger."""
    readings = hinted(Hints(high_limit=LIMIT))
    step = make_step(readings)
    state = step.restore([], SHARD)
    step.step(Chunk(SHARD, records(warming())), state)
    assert step.outlook(state, "18") is None
    outlook = step.outlook(state, "17")
    assert outlook is not None
    document = outlooks.document("17", outlook, readings)
    assert document["last_reading"] == messages.iso(FIRST_US + 2449 * INTERVAL_US)
    assert list(document["fields"]) == [each.column for each in readings.measures]
    climbing = document["fields"]["sensor1"]
    assert [each["in_seconds"] for each in climbing["forecast"]] == list(limits.HORIZONS_SECONDS)
    for each in climbing["forecast"]:
        low, high = each["intervals"]["95%"]
        assert low <= each["median"] <= high
    assert climbing["limit"]["limit"] == LIMIT
    assert document["fields"]["motor3"]["limit"] is None


def _us(alert: LimitAlert) -> int:
    moment = np.datetime64(alert.event_time.removesuffix("Z"), "us")
    return int(moment.astype(np.int64))
