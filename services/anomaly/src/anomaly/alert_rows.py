"""Rows of the table `alerts`: one for each change of an episode, with its reading's lineage. Pure.

Groups have no rows of their own: a row says which group its device belongs to. So a reading has at
most one row, and readers tell a replayed row from a new one as they do with scores.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from anomaly.alerting import Scored
from anomaly.messages import Alert
from telemill.codec import wire
from telemill.contract import Contract
from telemill.contract.schemas import CONTRIBUTION_PREFIX
from telemill.stages.step import Output

_AS_THEY_ARE = (
    "alert_id",
    "state",
    "sequence",
    "severity",
    "score",
    "peak_score",
    "duration_seconds",
    "readings",
    "anomalous_readings",
    "group_id",
    "detector",
)


class AlertRows(NamedTuple):
    """Rows of one origin, before it is known which devices are muted.

    Attributes:
        header: Of their record.
        batch: Columns of the contract's alerts; nothing is muted.
        devices: Canonical device key of each row.
    """

    header: wire.Header
    batch: pa.RecordBatch
    devices: Sequence[str]

    def output(self, muted: Collection[str]) -> Output:
        """The record, with what is muted by now."""
        marks = pa.array([device in muted for device in self.devices])
        place = self.batch.schema.get_field_index("muted")
        batch = self.batch.set_column(place, self.batch.schema.field(place), marks)
        slot = self.header.slot
        # No readings: the counters count those.
        return Output(slot, wire.encode(self.header, batch), str(slot), 0)


def batch(
    contract: Contract, told: Sequence[tuple[int, Alert]], table: pa.Table, scored: Scored
) -> tuple[pa.RecordBatch, Sequence[str]]:
    """The rows of a chunk's alerts, and their devices.

    Args:
        contract: Gives the schema.
        told: Reading and alert of each row.
        table: The readings.
        scored: The same with their scores.
    """
    numbers, alerts = [row for row, _ in told], [alert for _, alert in told]
    readings = table.take(pa.array(numbers))
    made: dict[str, Any] = {
        name: [getattr(alert, name) for alert in alerts] for name in _AS_THEY_ARE
    }
    made["since"] = [datetime.fromisoformat(alert.since) for alert in alerts]
    made["muted"] = [False] * len(alerts)
    made["top_field"] = [next(iter(alert.fields), "") for alert in alerts]
    for name in ("seen", "expected"):
        values = [getattr(alert, name) for alert in alerts]
        made[name] = [
            each.get(field) for each, field in zip(values, made["top_field"], strict=True)
        ]
    shares = scored.scores.contributions[numbers].astype(np.float32)
    for index, measure in enumerate(contract.measures):
        made[CONTRIBUTION_PREFIX + measure.column] = np.ascontiguousarray(shares[:, index])
    schema = contract.alert_stream_schema
    arrays = [
        pa.array(made[each.name], each.type)
        if each.name in made
        else readings.column(each.name).combine_chunks()
        for each in schema
    ]
    rows = pa.RecordBatch.from_arrays(arrays, schema=schema)
    return rows, [alert.device_id for alert in alerts]


def split(
    rows: tuple[pa.RecordBatch, Sequence[str]], headers: Sequence[wire.Header], app_id: str
) -> list[AlertRows]:
    """Rows by runs of one origin.

    Args:
        rows: As `batch` gives them.
        headers: Of the record of each row's reading.
        app_id: Who writes them.
    """
    whole, devices = rows
    made, start = [], 0
    for header, run in groupby(headers):
        count = len(list(run))
        ours = replace(header, kind="alerts", producer=app_id)
        part = whole.slice(start, count)
        made.append(AlertRows(ours, part, devices[start : start + count]))
        start += count
    return made
