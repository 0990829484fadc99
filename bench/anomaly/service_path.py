"""Scores recordings as the service does: records of the readings stream through its core."""

import time
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from anomaly import settings
from anomaly.__main__ import step_of
from anomaly.alert_rows import AlertRows
from anomaly.messages import Message
from bench.anomaly.layout import Recording
from telemill import contract, slots
from telemill.codec import wire
from telemill.kinesis.records import Chunk, Record, Shard
from telemill.stages.step import Output

Ints = npt.NDArray[np.int64]

SHARD = Shard("readings", 1, "shardId-000000000000")
ROWS_PER_RECORD = 500
FIRST_SEQUENCE_NUMBER = 10**55


class Scored(NamedTuple):
    """What the service says of each row; the score of warm-up is NaN."""

    scores: npt.NDArray[np.float64]
    flags: npt.NDArray[np.bool_]


class Change(NamedTuple):
    """A change of an episode.

    Attributes:
        alert_id: Of the episode.
        state: "open", "update" or "closed".
        device: Key.
        since_us: Event time of the first anomalous reading.
        event_us: Of the reading that made the change.
        top_field: The leading column then.
    """

    alert_id: str
    state: str
    device: str
    since_us: int
    event_us: int
    top_field: str


class FleetScored(NamedTuple):
    """What the service says of many devices; all but the alerts are ticks by devices.

    Attributes:
        scores: NaN in warm-up and where there was no reading.
        flags: At the built-in threshold.
        leading: Index of the field with the largest contribution; −1 where there is none.
        changes: Rows of the table of alerts, in order: of each device, also in a group.
        messages: What operators are sent.
        snapshot_bytes: Size of the saved state at the end of each `snapshot_every` ticks.
        seconds: CPU time of the core.
    """

    scores: npt.NDArray[np.float32]
    flags: npt.NDArray[np.bool_]
    leading: npt.NDArray[np.int8]
    changes: list[Change]
    messages: list[Message]
    snapshot_bytes: list[int]
    seconds: float


class Readings(NamedTuple):
    """Readings of one slot in order of arrival.

    Attributes:
        devices: Key of each.
        event_us: Time of each.
        values: Rows by measures; NaN where there is none.
    """

    devices: list[str]
    event_us: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]


def score(recording: Recording, readings: contract.Contract) -> Scored:
    """Score a recording as one new device of the contract, with the service's default settings."""
    chosen = settings.AnomalySettings()
    step = step_of(chosen, readings)
    state = step.restore([], SHARD)
    made: list[pa.RecordBatch] = []
    device = recording.path.as_posix()
    slot = slots.slot_of(device, chosen.slot_count)
    for first in range(0, len(recording.stamps), ROWS_PER_RECORD):
        rows = slice(first, first + ROWS_PER_RECORD)
        event_us = recording.event_us[rows]
        part = Readings([device] * len(event_us), event_us, recording.values[rows])
        record = _record(part, slot, first, readings)
        made += _scores(step.step(Chunk(SHARD, [record]), state).outputs, readings)
    table = pa.Table.from_batches(made, readings.score_stream_schema)
    scores = table["score"].to_numpy().astype(np.float64)
    return Scored(scores, table["is_anomaly"].to_numpy().astype(bool))


def score_fleet(
    values: npt.NDArray[np.float64],
    present: npt.NDArray[np.bool_],
    event_us: npt.NDArray[np.int64],
    readings: contract.Contract,
    *,
    ticks_per_chunk: int = 60,
    snapshot_every: int = 8640,
) -> FleetScored:
    """Score devices "1", "2", … of one shard, with the service's default settings.

    Args:
        values: Ticks by devices by measures, valid by the contract or NaN.
        present: Ticks by devices; whether there is a reading.
        event_us: Time of each tick.
        readings: What they are.
        ticks_per_chunk: Readings of a device that come together.
        snapshot_every: Ticks.
    """
    chosen = settings.AnomalySettings()
    step = step_of(chosen, readings)
    state = step.restore([], SHARD)
    found = _nothing(present.shape)
    keys = [str(row + 1) for row in range(present.shape[1])]
    slot_of = np.array([slots.slot_of(key, chosen.slot_count) for key in keys])
    number, seconds = 0, 0.0
    for first in range(0, len(present), ticks_per_chunk):
        place = _by_slot(present[first : first + ticks_per_chunk], first, slot_of)
        records = []
        for ticks, devices in place:
            part = Readings(
                [keys[each] for each in devices], event_us[ticks], values[ticks, devices]
            )
            records.append(_record(part, int(slot_of[devices[0]]), number, readings))
            number += len(ticks)
        if records:
            started = time.process_time()
            result = step.step(Chunk(SHARD, records), state)
            seconds += time.process_time() - started
            ticks, devices = (np.concatenate(parts) for parts in zip(*place, strict=True))
            _keep(_scores(result.outputs, readings), (ticks, devices), readings, found)
            found.messages.extend(result.alerts)
            for rows in result.alert_rows:
                found.changes.extend(_changes(rows))
        if (first + ticks_per_chunk) % snapshot_every == 0:
            found.snapshot_bytes.append(len(step.snapshot(state)))
    return found._replace(seconds=seconds)


def _nothing(shape: tuple[int, ...]) -> FleetScored:
    scores, flags = np.full(shape, np.nan, np.float32), np.zeros(shape, bool)
    return FleetScored(scores, flags, np.full(shape, -1, np.int8), [], [], [], 0.0)


def _by_slot(present: npt.NDArray[np.bool_], first: int, slot_of: Ints) -> list[tuple[Ints, Ints]]:
    """Ticks and devices of the readings of each slot, in order of time."""
    ticks, devices = np.nonzero(present)
    slot = slot_of[devices]
    chosen = [np.flatnonzero(slot == each) for each in np.unique(slot)]
    return [(ticks[rows] + first, devices[rows]) for rows in chosen]


def _keep(
    made: list[pa.RecordBatch],
    place: tuple[Ints, Ints],
    readings: contract.Contract,
    found: FleetScored,
) -> None:
    table = pa.Table.from_batches(made, readings.score_stream_schema)
    found.scores[place] = table["score"].to_numpy()
    found.flags[place] = table["is_anomaly"].to_numpy()
    shares = np.column_stack(
        [table[f"contribution_{field.column}"].to_numpy() for field in readings.measures]
    )
    shares = np.nan_to_num(shares)
    found.leading[place] = np.where(shares.any(axis=1), shares.argmax(axis=1), -1)


def _changes(rows: AlertRows) -> list[Change]:
    table, instants = rows.batch, ("since", "event_time")
    times = [table.column(name).cast(pa.int64()).to_pylist() for name in instants]
    names = [table.column(name).to_pylist() for name in ("alert_id", "state", "top_field")]
    return [
        Change(alert_id, state, device, since, event, top)
        for alert_id, state, top, device, since, event in zip(
            *names, rows.devices, *times, strict=True
        )
    ]


def _scores(outputs: list[Output], readings: contract.Contract) -> list[pa.RecordBatch]:
    schema = readings.score_stream_schema
    return [wire.decode(each.data, lambda _: schema)[1] for each in outputs]


def _record(part: Readings, slot: int, first: int, readings: contract.Contract) -> Record:
    batch = _batch(part, first, readings)
    header = wire.Header(
        kind="readings",
        contract=readings.name,
        version=readings.version,
        slot=slot,
        producer="bench",
        raw_stream="readings-raw",
        raw_incarnation=1,
        raw_shard_id=SHARD.shard_id,
        trace=b"",
    )
    sequence_number = batch.column("sequence_number")[0].as_py()
    arrival_us = int(part.event_us[0])
    return Record(sequence_number, arrival_us, wire.encode(header, batch), "0")


def _batch(part: Readings, first: int, readings: contract.Contract) -> pa.RecordBatch:
    count = len(part.event_us)
    times = pa.array(part.event_us, pa.timestamp("us", "UTC"))
    columns = {
        readings.device.column: pa.array(part.devices),
        readings.time.column: times,
        "ingest_time": times,
        "quality": pa.array(np.zeros(count, np.int64)),
        "sequence_number": pa.array([str(FIRST_SEQUENCE_NUMBER + first + n) for n in range(count)]),
        "sub_sequence_number": pa.array(np.zeros(count, np.int64)),
    }
    for field in readings.fields:
        if field.role == "flag":
            columns[field.column] = pa.nulls(count)
    for index, field in enumerate(readings.measures):
        values = part.values[:, index]
        columns[field.column] = pa.array(values, mask=np.isnan(values))
    schema = readings.stream_schema
    arrays = [columns[name].cast(schema.field(name).type) for name in schema.names]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
