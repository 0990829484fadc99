"""The transform core: raw records and a shard's history in, batches of `readings` out.

Reading order: `decode` (records to columns; `items` is its slow path), `readings` and `times`
(what has a device and a time), `hashing` and `dedupe` (what was there before), `validate` and
`carry` (which values are valid), `batches` (rows to wire records); here they are put together. No
I/O, clock or randomness: "now" is a record's arrival time, so the same records after the same
history give the same bytes. Where chunks are cut decides how rows are packed, never the rows.
"""

from collections.abc import Sequence

import numpy as np

from telemill import slots
from telemill.contract import QUALITY_LATE, Contract
from telemill.kinesis.records import Chunk, Shard
from telemill.stages.step import Rejected, StepResult
from transform import batches, carry, decode, dedupe, hashing, reasons, snapshot, validate
from transform.dedupe import DAY_US, History
from transform.items import Refusal
from transform.portion import Portion, Refused
from transform.readings import MICROSECONDS, Conformer, Readings, refused_row
from transform.validate import Column, Int64s

DEFAULT_DEDUPE_WINDOW = 512
DEFAULT_MAX_DEVICES = 10_000
DEFAULT_KEEP_DAYS = 8
"""A day more than raw records are usually kept."""
PRODUCER = "transform"


class TransformStep:
    """The step of `telemill.stages.step` for raw records.

    Args:
        contract: What a reading is.
        producer: The application's id, for the header of what it puts out.
        slot_count: Of the output stream.
        dedupe_window: Event times remembered a device.
        max_devices: Devices remembered a shard.
        keep_days: Days of arrival after which a silent device is forgotten.
    """

    def __init__(
        self,
        contract: Contract,
        *,
        producer: str = PRODUCER,
        slot_count: int = slots.DEFAULT_SLOT_COUNT,
        dedupe_window: int = DEFAULT_DEDUPE_WINDOW,
        max_devices: int = DEFAULT_MAX_DEVICES,
        keep_days: int = DEFAULT_KEEP_DAYS,
    ) -> None:
        self._contract = contract
        self._dedupe_window = dedupe_window
        self._max_devices = max_devices
        self._keep_days = keep_days
        self._late_us = round(contract.late_after_seconds * MICROSECONDS)
        self._carry_count = sum(value.missing == "carry" for value in contract.values)
        self._decoder = decode.Decoder(contract)
        self._conformer = Conformer(contract, slot_count)
        self._batcher = batches.Batcher(contract, producer)

    def restore(self, states: Sequence[bytes], shard: Shard) -> History:  # noqa: ARG002
        """The union of the states: the raw stream is not slotted, so nothing is left out."""
        history = History(self._dedupe_window, self._max_devices, self._carry_count)
        snapshot.restore(history, states)
        return history

    def snapshot(self, state: History) -> bytes:
        """The history as bytes; equal histories give equal bytes."""
        return snapshot.pack(state)

    def step(self, chunk: Chunk, state: History) -> StepResult:
        """Take consecutive records; see `telemill.stages.step.Step.step`."""
        result = StepResult()
        portion = Portion()
        for record in chunk.records:
            day = record.arrival_us // DAY_US
            if portion.is_full or day > state.day:
                self._process(portion, state, chunk.shard, result)
                portion = Portion()
            if day > state.day:
                state.advance_to(day, self._keep_days)
            self._decoder.add(portion, record, chunk.shard)
        self._process(portion, state, chunk.shard, result)
        result.counts["records_in",] += len(chunk.records)
        result.counts = +result.counts
        return result

    def _process(
        self, portion: Portion, history: History, shard: Shard, result: StepResult
    ) -> None:
        decoded = self._decoder.finish(portion)
        readings, refused = self._conformer.conform(portion, decoded)
        counts = result.counts
        counts["readings_in",] += len(decoded.rows) + len(portion.refused)
        counts["outside_shard",] += portion.outside_shard
        counts["field", "other", "unknown"] += portion.unknown_fields
        conflicts = []
        if len(readings):
            conflicts = self._take(portion, readings, history, shard, result)
        _reject(portion, [*portion.refused, *refused, *conflicts], shard, result)

    def _take(
        self,
        portion: Portion,
        readings: Readings,
        history: History,
        shard: Shard,
        result: StepResult,
    ) -> list[Refused]:
        """Put out what is new; returns the conflicts."""
        devices = _history_rows(readings, history)
        history.seen(devices, readings.arrival_us)
        hashes = hashing.hash_rows(readings.values, len(readings))
        verdicts = history.screen(devices, readings.event_us, hashes)
        kept = verdicts.outcome == dedupe.KEEP
        result.counts["duplicate",] += int((verdicts.outcome == dedupe.DUPLICATE).sum())
        result.counts["out_of_order",] += int(verdicts.out_of_order.sum())
        result.counts["field", "device_id", "untracked"] += int((devices < 0).sum())
        if kept.any():
            self._put_out(portion, readings.take(kept), devices[kept], history, shard, result)
        return [
            refused_row(portion, readings, row, _conflict(readings, row))
            for row in np.flatnonzero(verdicts.outcome == dedupe.CONFLICT).tolist()
        ]

    def _put_out(
        self,
        portion: Portion,
        readings: Readings,
        devices: Int64s,
        history: History,
        shard: Shard,
        result: StepResult,
    ) -> None:
        checked = validate.check(self._contract, readings.values, readings.wrong_types)
        result.counts.update(checked.counts)
        late = readings.arrival_us - readings.event_us > self._late_us
        checked.quality[late] |= QUALITY_LATE
        result.counts["late",] += int(late.sum())
        values = self._filled(checked, devices, history)
        result.outputs += self._batcher.outputs(portion, readings, values, checked.quality, shard)
        oldest, newest = int(readings.event_us.min()), int(readings.event_us.max())
        result.oldest_event_us = min(oldest, result.oldest_event_us or oldest)
        result.newest_event_us = max(newest, result.newest_event_us or newest)

    def _filled(
        self, checked: validate.Validated, devices: Int64s, history: History
    ) -> list[Column]:
        """The policies for missing values."""
        filled = []
        carried = iter(range(self._carry_count))
        for value, column in zip(self._contract.values, checked.columns, strict=True):
            if value.missing == "carry":
                previous = history.carried[:, next(carried)]
                filled.append(carry.fill_previous(column, checked.quality, devices, previous))
            else:
                filled.append(validate.fill_default(value, column, checked.quality))
        return filled


def _history_rows(readings: Readings, history: History) -> Int64s:
    """Each reading's row in the history; new devices get theirs in order of appearance."""
    codes, first = np.unique(readings.codes, return_index=True)
    codes = codes[np.argsort(first)]
    rows = np.empty(len(readings.devices), np.int64)
    rows[codes] = history.rows_of([readings.devices[code].key for code in codes.tolist()])
    found: Int64s = rows[readings.codes]
    return found


def _conflict(readings: Readings, row: int) -> Refusal:
    key = readings.devices[readings.codes[row]].key
    error = "other values than a reading taken before of the same device and time"
    return Refusal(reasons.CONFLICT, error, key)


def _reject(portion: Portion, refused: list[Refused], shard: Shard, result: StepResult) -> None:
    for place, row, refusal, data in sorted(refused, key=lambda each: each[:2]):
        record = portion.records[place]
        result.counts["rejected", refusal.reason] += 1
        result.rejected.append(
            Rejected(
                reason=refusal.reason,
                error=refusal.error,
                data=data,
                device_id=refusal.device_id,
                shard_id=shard.shard_id,
                sequence_number=record.sequence_number,
                sub_sequence_number=portion.sub_sequence_number(place, row),
                arrival_us=record.arrival_us,
            )
        )
