"""Warnings before a field reaches a limit of the plant, by the forecast of its trend. Pure.

A field has limits where the contract's hints say so. A device is looked at with every sixth of its
readings, whatever the chunks: a replay says the same.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol
from uuid import UUID

import numpy as np

from anomaly import messages
from anomaly.detection.interface import Batch, Floats, Ints, State, turns
from anomaly.forecast import Forecast, Prediction
from anomaly.messages import CLOSED, CRITICAL, OPEN, UPDATE, WARNING, LimitAlert
from anomaly.trends import TimeToLimit
from telemill.contract.field import Field

HORIZONS_SECONDS = (60.0, 300.0, 900.0, 3600.0)
"""Of what is said to who asks."""
CHECK_EVERY_ROWS = 6
CLEAR_CHECKS = 10
"""In a row without a trend to the limit that close a warning."""
CRITICAL_SHARE = 1 / 6
"""Of the horizon: with less time left a warning is critical."""

Lineage = Callable[[int], tuple[str, str, int]]


class Followed(Protocol):
    """What goes on with: `anomaly.state.State`.

    Attributes:
        forecast: What is learned of every field.
        limits: What is told, as `begin` made it.
        keys: Canonical device key of each row.
    """

    forecast: State
    limits: State
    keys: list[str]


class _Check(NamedTuple):
    """Devices that are looked at: their rows of the batch, and what the trend says."""

    rows: Ints
    devices: Ints
    times: TimeToLimit
    batch: Batch
    lineage: Lineage


class Outlook(NamedTuple):
    """Where one device is going; fields in the order of the contract's measures.

    Attributes:
        last_us: Event time of its last reading.
        horizons_seconds: h horizons from there on.
        prediction: One device by horizons by fields.
        times: One device by fields.
    """

    last_us: int
    horizons_seconds: Floats
    prediction: Prediction
    times: TimeToLimit


def begin(devices: int, fields: int) -> State:
    """Nothing told: all zeros is a device never seen."""
    return {
        "rows": np.zeros(devices, np.int64),
        "told": np.zeros((devices, fields), np.int64),
        "critical": np.zeros((devices, fields), np.int64),
        "clear": np.zeros((devices, fields), np.int64),
        "alert_id": np.zeros((devices, fields), "V16"),
    }


class Limits:
    """Learns the forecast, and warns where the contract has limits.

    Args:
        measures: Of the contract.
        forecast: Predicts them.
        horizon_seconds: So long before a limit is reached it is said; 0: never.
    """

    def __init__(
        self, measures: Sequence[Field], forecast: Forecast, horizon_seconds: float
    ) -> None:
        self._columns = [each.column for each in measures]
        self._low = _bounds([each.hints.low_limit for each in measures])
        self._high = _bounds([each.hints.high_limit for each in measures])
        self._forecast = forecast
        self._horizon_seconds = horizon_seconds
        self._any = horizon_seconds > 0 and not (
            np.isnan(self._low).all() and np.isnan(self._high).all()
        )

    def take(self, batch: Batch, lineage: Lineage, state: Followed) -> list[LimitAlert]:
        """Learn a chunk's readings; say what its trends lead to."""
        if not self._any:
            state.forecast = self._forecast.learn(batch, state.forecast)
            return []
        told: list[LimitAlert] = []
        for turn in turns(batch.devices):
            part = batch.at(turn)
            state.forecast = self._forecast.learn(part, state.forecast)
            state.limits["rows"][part.devices] += 1
            due = state.limits["rows"][part.devices] % CHECK_EVERY_ROWS == 0
            if due.any():
                devices = part.devices[due]
                check = _Check(turn[due], devices, self.times(devices, state), batch, lineage)
                told += self._tell(check, state)
        return told

    def outlook(self, device: int, state: Followed) -> Outlook:
        """Forecast and limits of one device."""
        devices = np.array([device])
        horizons = np.array(HORIZONS_SECONDS)
        return Outlook(
            int(state.forecast["last_us"][device]),
            horizons,
            self._forecast.predict(state.forecast, devices, horizons),
            self.times(devices, state),
        )

    def times(self, devices: Ints, state: Followed) -> TimeToLimit:
        """When devices' fields reach limits; see `Forecast.time_to_limit`."""
        return self._forecast.time_to_limit(state.forecast, devices, self._low, self._high)

    def _tell(self, check: _Check, state: Followed) -> list[LimitAlert]:
        near = check.times.seconds <= self._horizon_seconds
        is_open = state.limits["told"][check.devices] > 0
        found = [
            self._change(check, int(index), int(field), bool(near[index, field]), state)
            for index, field in np.argwhere(near | is_open)
        ]
        return [alert for alert in found if alert is not None]

    def _change(
        self, check: _Check, index: int, field: int, is_near: bool, state: Followed
    ) -> LimitAlert | None:
        at, limits = (int(check.devices[index]), field), state.limits
        limits["clear"][at] = 0 if is_near else limits["clear"][at] + 1
        left = check.times.seconds[index, field]
        critical = is_near and bool(left <= CRITICAL_SHARE * self._horizon_seconds)
        risen = critical and not limits["critical"][at]
        limits["critical"][at] |= critical
        if limits["told"][at] == 0:
            made = messages.alert_id(
                self._forecast.identity,
                state.keys[at[0]],
                self._columns[field],
                *check.lineage(int(check.rows[index])),
            )
            limits["alert_id"][at] = np.void(made.bytes)
            return self._alert(OPEN, check, index, field, state)
        if risen:
            return self._alert(UPDATE, check, index, field, state)
        if limits["clear"][at] < CLEAR_CHECKS:
            return None
        closed = self._alert(CLOSED, check, index, field, state)
        for name in ("told", "critical", "clear"):
            limits[name][at] = 0
        return closed

    def _alert(
        self, state_name: str, check: _Check, index: int, field: int, state: Followed
    ) -> LimitAlert:
        at, row = (int(check.devices[index]), field), int(check.rows[index])
        alert_id = str(UUID(bytes=state.limits["alert_id"][at].tobytes()))
        sequence = int(state.limits["told"][at])
        state.limits["told"][at] += 1
        # What closes is on its way to no limit, or to one far beyond the horizon.
        seconds, earliest, latest, limit = (
            None if state_name == CLOSED else messages.number(part[index, field])
            for part in check.times
        )
        return LimitAlert(
            alert_id=alert_id,
            state=state_name,
            severity=CRITICAL if state.limits["critical"][at] else WARNING,
            device_id=state.keys[at[0]],
            field=self._columns[field],
            limit=limit,
            event_time=messages.iso(int(check.batch.event_us[row])),
            seen=messages.number(check.batch.values[row, field]),
            in_seconds=seconds,
            earliest_seconds=earliest,
            latest_seconds=latest,
            detector=self._forecast.identity,
            lineage=check.lineage(row),
            message_id=messages.message_id(alert_id, state_name, sequence),
            sequence=sequence,
        )


def _bounds(limits: Sequence[float | None]) -> Floats:
    return np.array([np.nan if limit is None else limit for limit in limits], np.float64)
