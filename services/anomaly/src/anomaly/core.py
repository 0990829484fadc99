"""Score readings: batches of the readings stream in, batches of scores and alerts out. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from anomaly import alert_rows, alerting, messages
from anomaly.detection.interface import Batch, Detector, Floats, Ints, Scores
from anomaly.forecast import Forecast
from anomaly.forecast import Tuning as ForecastTuning
from anomaly.limits import Limits, Outlook
from anomaly.state import State, restore, snapshot
from telemill import errors, slots
from telemill.codec import wire
from telemill.contract import Contract
from telemill.kinesis.records import Chunk, Record, Shard
from telemill.stages import internal
from telemill.stages.step import Output, StepResult

MAX_ROWS_PER_RECORD = 5000
"""Keeps a record far below the service's limit of 1 MiB: a score row takes some 60 bytes."""


@dataclass(frozen=True, slots=True)
class Taken:
    """New rows of one stream record."""

    header: wire.Header
    batch: pa.RecordBatch


class AnomalyStep:
    """The pure core of the service; see `telemill.stages.step.Step`."""

    def __init__(
        self,
        contract: Contract,
        *,
        app_id: str,
        slot_count: int,
        raw_retention_hours: float,
        detector: Detector,
        threshold: float,
        policy: alerting.Policy,
        limit_seconds: float = 0.0,
    ) -> None:
        """Fix what does not change.

        Args:
            contract: What the readings are.
            app_id: The producer named in the headers of the scores.
            slot_count: Slots of the readings stream.
            raw_retention_hours: How long a replay can reach back.
            detector: Scores the readings.
            threshold: Score from which a reading is an anomaly.
            policy: Of the alerts.
            limit_seconds: So long before a limit of the contract is reached it is said; 0: never.
        """
        self._contract = contract
        self._app_id = app_id
        self._slot_count = slot_count
        self._raw_retention_hours = raw_retention_hours
        self._detector = detector
        self._threshold = threshold
        self._columns = [field.column for field in contract.measures]
        # Novelty alone is said once, in one reading: waiting for a run would never alert.
        alone = len(self._columns) == 1
        if alone:
            policy = replace(policy, hysteresis=replace(policy.hysteresis, open_after_rows=1))
        forecast = Forecast(ForecastTuning(interval_seconds=contract.interval_seconds))
        self._forecast = forecast
        self._limits = Limits(contract.measures, forecast, limit_seconds)
        self._alerting = alerting.Alerting(policy, self._columns, contract.name, detector.identity)

    def restore(self, states: Sequence[bytes], shard: Shard) -> State:
        """Go on from a snapshot, or begin a child with its parents' slots."""
        own = slots.slots_in(shard.first_hash_key, shard.last_hash_key, self._slot_count)
        measures = len(self._columns)
        detect = partial(self._detector.begin, fields=measures)
        foresee = partial(self._forecast.begin, fields=measures)
        return restore(states, detect, own, measures, foresee)

    def snapshot(self, state: State) -> bytes:
        """Everything that decides what comes next."""
        return snapshot(state)

    def outlook(self, state: State, device_key: str) -> Outlook | None:
        """Where a device is going; None when the shard has no such device."""
        row = state.rows.get(device_key)
        return None if row is None else self._limits.outlook(row, state)

    def step(self, chunk: Chunk, state: State) -> StepResult:
        """Score the new rows of a chunk."""
        result = StepResult()
        taken = [
            each
            for record in chunk.records
            for each in self._take(record, chunk.shard, state, result)
        ]
        if chunk.records:
            state.watermarks.expire(chunk.records[-1].arrival_us, self._raw_retention_hours)
        if taken:
            self._score(taken, state, result)
        return result

    def _take(self, record: Record, shard: Shard, state: State, result: StepResult) -> list[Taken]:
        try:
            header, batch = internal.decode(record.data, self._schema_for)
        except errors.RecordError as error:
            result.counts["rejected", error.reason] += 1
            result.rejected.append(internal.rejected(record, shard, error))
            return []
        new = state.watermarks.take(header, batch, record.arrival_us)
        result.counts["records_in",] += 1
        result.counts["readings_in",] += new.num_rows
        result.counts["replayed",] += batch.num_rows - new.num_rows
        return [Taken(header, new)] if new.num_rows else []

    def _schema_for(self, header: wire.Header) -> pa.Schema:
        contract = self._contract
        known = (header.contract, header.version, header.kind)
        if known != (contract.name, contract.version, "readings"):
            raise errors.SchemaError(f"{known} is not readings of {contract.name}")
        return contract.stream_schema

    def _score(self, taken: list[Taken], state: State, result: StepResult) -> None:
        table = pa.Table.from_batches([each.batch for each in taken]).combine_chunks()
        devices = self._device_rows(table, taken, state)
        event_us = table.column("event_time").cast(pa.int64()).to_numpy()
        readings = Batch(_matrix(table, self._columns), devices, event_us)
        scores, state.detector = self._detector.score(readings, state.detector)
        # NaN, of a device in warm-up, is no anomaly.
        anomalous = scores.score >= self._threshold
        result.counts["anomaly",] += int(anomalous.sum())
        arrival_us = table.column("ingest_time").cast(pa.int64()).to_numpy()
        lineage = _lineage_of(table, taken)
        scored = alerting.Scored(readings, scores, anomalous, arrival_us, lineage)
        self._alert(table, taken, scored, state, result)
        warnings = self._limits.take(readings, lineage, state)
        result.alerts += warnings
        for warning in warnings:
            result.counts["alert", warning.severity] += warning.state == messages.OPEN
        batch = self._score_batch(table, scores, anomalous)
        result.outputs = self._outputs(batch, taken)
        bounds = pc.min_max(table.column("event_time").cast(pa.int64())).as_py()
        result.oldest_event_us, result.newest_event_us = bounds["min"], bounds["max"]

    def _device_rows(self, table: pa.Table, taken: list[Taken], state: State) -> Ints:
        column = table.column(self._contract.device.column).combine_chunks()
        encoded = column.dictionary_encode()
        slot_of_row = np.repeat(
            [each.header.slot for each in taken], [each.batch.num_rows for each in taken]
        )
        codes = encoded.indices.to_numpy()
        first_rows = np.unique(codes, return_index=True)[1]
        rows = [
            state.row_of(str(device), int(slot_of_row[first]))
            for device, first in zip(encoded.dictionary.to_pylist(), first_rows, strict=True)
        ]
        mapped: Ints = np.asarray(rows, np.int64)[codes]
        return mapped

    def _alert(
        self,
        table: pa.Table,
        taken: list[Taken],
        scored: alerting.Scored,
        state: State,
        result: StepResult,
    ) -> None:
        told = self._alerting.take(scored, state)
        result.alerts += told.messages
        for _, alert in told.rows:
            result.counts["alert", alert.severity] += alert.state == messages.OPEN
        if told.rows:
            rows = alert_rows.batch(self._contract, told.rows, table, scored)
            headers = [each.header for each in taken for _ in range(each.batch.num_rows)]
            result.alert_rows = alert_rows.split(
                rows, [headers[row] for row, _ in told.rows], self._app_id
            )

    def _score_batch(self, table: pa.Table, scores: Scores, anomalous: Any) -> pa.RecordBatch:
        warm = ~np.isnan(scores.score)
        made = {
            "score": pa.array(scores.score, mask=~warm),
            "is_anomaly": pa.array(anomalous),
            "detector": pa.repeat(self._detector.identity, table.num_rows),
        }
        for index, column in enumerate(self._columns):
            made[f"contribution_{column}"] = pa.array(
                np.ascontiguousarray(scores.contributions[:, index], np.float32), mask=~warm
            )
        schema = self._contract.score_stream_schema
        arrays = [
            made[name] if name in made else table.column(name).combine_chunks()
            for name in schema.names
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=schema)

    def _outputs(self, batch: pa.RecordBatch, taken: list[Taken]) -> list[Output]:
        """One record per run of rows of one origin, in the order of the input."""
        outputs, start = [], 0
        for header, group in groupby(taken, key=lambda each: each.header):
            rows = sum(each.batch.num_rows for each in group)
            for offset in range(start, start + rows, MAX_ROWS_PER_RECORD):
                count = min(MAX_ROWS_PER_RECORD, start + rows - offset)
                outputs.append(self._output(header, batch.slice(offset, count)))
            start += rows
        return outputs

    def _output(self, header: wire.Header, batch: pa.RecordBatch) -> Output:
        made = wire.Header(
            kind="scores",
            contract=header.contract,
            version=header.version,
            slot=header.slot,
            producer=self._app_id,
            raw_stream=header.raw_stream,
            raw_incarnation=header.raw_incarnation,
            raw_shard_id=header.raw_shard_id,
            trace=header.trace,
        )
        return Output(header.slot, wire.encode(made, batch), str(header.slot), batch.num_rows)


def _matrix(table: pa.Table, columns: Sequence[str]) -> Floats:
    """Values as n by fields; null becomes NaN."""
    matrix: Floats = np.column_stack(
        [table.column(column).to_numpy().astype(np.float64, copy=False) for column in columns]
    )
    return matrix


def _lineage_of(table: pa.Table, taken: list[Taken]) -> Callable[[int], tuple[str, str, int]]:
    ends = np.cumsum([each.batch.num_rows for each in taken])

    def lineage(row: int) -> tuple[str, str, int]:
        return (
            taken[int(np.searchsorted(ends, row, side="right"))].header.raw_shard_id,
            table.column("sequence_number")[row].as_py(),
            table.column("sub_sequence_number")[row].as_py(),
        )

    return lineage
