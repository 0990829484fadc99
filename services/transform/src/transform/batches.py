"""Readings to records of the output stream: one slot a batch, each record within Kinesis' limit."""

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from telemill.codec import raw, wire
from telemill.contract import Contract
from telemill.kinesis.records import Shard
from telemill.stages.step import Output
from transform.portion import Int32s, Portion
from transform.readings import Readings
from transform.validate import Column, Int64s

MAX_ROWS = 20_000
MAX_RECORD_BYTES = 2**20 - 16
"""A Kinesis record is at most 1 MiB with its partition key (PutRecord); a slot has four digits."""


class Batcher:
    """Packs rows into wire records.

    The partition key is the slot's number: the explicit hash key decides the shard, and a batch is
    of many devices, so there is no better one. Inside a slot rows and records keep their order.
    """

    def __init__(self, contract: Contract, producer: str) -> None:
        self._contract = contract
        self._schema = contract.stream_schema
        self._producer = producer

    def outputs(
        self,
        portion: Portion,
        readings: Readings,
        values: list[Column],
        quality: Int64s,
        shard: Shard,
    ) -> Iterator[Output]:
        """Records slot by slot; `values` and `quality` are of the same rows as `readings`."""
        slots = np.array([device.slot for device in readings.devices], np.uint16)[readings.codes]
        order = np.argsort(slots, kind="stable")
        batch = self._batch(portion, readings, values, quality, order)
        ordered = slots[order]
        bounds = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1], True]).tolist()
        contexts = list(dict.fromkeys(context for _, _, context in portion.traces))
        marks = _trace_marks(portion, contexts, readings.places[order]) if contexts else None
        for start, end in itertools.pairwise(bounds):
            header = self._header(int(ordered[start]), shard)
            runs = [(start, end, b"")] if marks is None else _runs(contexts, marks, start, end)
            for first, last, context in runs:
                traced = replace(header, trace=context) if context else header
                yield from _pieces(traced, batch, first, last)

    def _batch(
        self,
        portion: Portion,
        readings: Readings,
        values: list[Column],
        quality: Int64s,
        order: npt.NDArray[np.intp],
    ) -> pa.RecordBatch:
        schema = self._schema
        ids = [device.id if device.key else None for device in readings.devices]
        device_ids = pa.array(ids, schema.field("device_id").type)
        measured = [
            column.take(order).array(schema.field(value.column).type)
            for value, column in zip(self._contract.values, values, strict=True)
        ]
        return pa.RecordBatch.from_arrays(
            [
                device_ids.take(pa.array(readings.codes[order])),
                pa.array(readings.event_us[order], schema.field("event_time").type),
                pa.array(readings.arrival_us[order], schema.field("ingest_time").type),
                *measured,
                pa.array(quality[order], pa.int64()),
                *_lineage(portion, readings, order),
            ],
            schema=schema,
        )

    def _header(self, slot: int, shard: Shard) -> wire.Header:
        return wire.Header(
            kind="readings",
            contract=self._contract.name,
            version=self._contract.version,
            slot=slot,
            producer=self._producer,
            raw_stream=shard.stream,
            raw_incarnation=shard.incarnation,
            raw_shard_id=shard.shard_id,
        )


def _pieces(header: wire.Header, batch: pa.RecordBatch, start: int, end: int) -> Iterator[Output]:
    for first in range(start, end, MAX_ROWS):
        yield from _encoded(header, batch.slice(first, min(MAX_ROWS, end - first)))


def _trace_marks(portion: Portion, contexts: list[bytes], places: Int32s) -> Int32s:
    """For each row, which of the contexts it carries, from 1; 0 for none."""
    numbers = {context: number for number, context in enumerate(contexts, 1)}
    of_place = np.zeros(len(portion.records), np.int32)
    for first, last, context in portion.traces:
        of_place[first:last] = numbers[context]
    marks: Int32s = of_place[places]
    return marks


def _runs(
    contexts: list[bytes], marks: Int32s, start: int, end: int
) -> Iterator[tuple[int, int, bytes]]:
    """A slot's rows cut where a second trace begins: a batch belongs to one trace at the most.

    Rows nobody traces stay where they are, in front of or behind traced ones.
    """
    found = start + np.flatnonzero(marks[start:end])
    is_another = np.flatnonzero(marks[found[1:]] != marks[found[:-1]]) + 1
    begins = [start, *found[is_another].tolist()]
    firsts = [*found[:1].tolist(), *begins[1:]]
    for first, last, row in itertools.zip_longest(begins, [*begins[1:], end], firsts):
        yield first, last, contexts[marks[row] - 1] if row is not None else b""


def _lineage(
    portion: Portion, readings: Readings, order: npt.NDArray[np.intp]
) -> tuple[pa.Array, pa.Array]:
    """Sequence number and sub-sequence number of each row."""
    numbers = pa.array([record.sequence_number for record in portion.records], pa.string())
    places = readings.places[order]
    first = raw.sub_sequence_number(1, 0) * np.array(portion.indexes, np.int64)
    return (
        numbers.take(pa.array(places)),
        pa.array(first[places] + readings.rows[order], pa.int64()),
    )


def _encoded(header: wire.Header, batch: pa.RecordBatch) -> Iterator[Output]:
    """One record, or two of half the rows each where it would be too large."""
    data = wire.encode(header, batch)
    if len(data) > MAX_RECORD_BYTES and batch.num_rows > 1:
        half = batch.num_rows // 2
        yield from _encoded(header, batch.slice(0, half))
        yield from _encoded(header, batch.slice(half))
        return
    yield Output(header.slot, data, str(header.slot), batch.num_rows)
