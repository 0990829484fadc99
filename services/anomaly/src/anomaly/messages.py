"""What an operator is told: alerts of a device and of a group, with ids a replay repeats. Pure."""

import math
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import msgspec

ALERT_NAMESPACE = uuid.UUID("6f1c3c0e-53a5-5f0e-9d1b-6b0b6d2c0a11")
US_PER_SECOND = 1_000_000
CRITICAL_SCORE = 0.999999

MAX_FIELDS = 50
"""Fields of one alert, largest share first: with `MAX_RECENT_FIELDS` it stays below 20 KB, far
from what SNS takes (256 KiB)."""
MAX_RECENT_FIELDS = 20
MAX_MEMBERS = 50
"""Devices listed in one message of a group; the others are counted."""

WARNING, CRITICAL = "warning", "critical"
OPEN, UPDATE, CLOSED = "open", "update", "closed"
DEVICE, GROUP, LIMIT = "device", "group", "limit"


class RecentReading(msgspec.Struct, frozen=True):
    """One of the last readings.

    Attributes:
        event_time: ISO 8601 UTC.
        score: Null while the device warmed up.
        values: By field, in the order of the alert's `fields`; null where there was none.
    """

    event_time: str
    score: float | None
    values: dict[str, float | None]


class Alert(msgspec.Struct, frozen=True):
    """One message about one device; equal whenever the same rows are read again.

    Attributes:
        alert_id: Of the episode: from detector, device and the lineage of the opening reading.
        state: "open", "update" or "closed".
        severity: "warning" or "critical": the highest of the episode so far.
        device_id: Canonical device key.
        since: Event time of the first anomalous reading, ISO 8601 UTC.
        event_time: Event time of the reading that this message is about.
        score: Score of that reading; null when it has none.
        fields: Share of each field in the score, largest first.
        detector: Name and version.
        lineage: Shard, sequence number, sub-sequence number of that reading.
        seen: That reading's values, in the order of `fields`; null where there was none.
        expected: What would have been normal; null where that is not known.
        message_id: Of this message; a repeated message has the same.
        sequence: 0 for the opening message, 1 more for each later one of the episode.
        peak_score: Largest score of the episode so far.
        peak_fields: The five largest shares of the reading that had it.
        duration_seconds: Event time from `since` to the newest anomalous reading.
        readings: Readings of the episode so far.
        anomalous_readings: Those of them that were anomalous.
        recent: The last readings up to this one, oldest first.
        group_id: Alert id of the group that the device belongs to; null when it is alone.
        kind: Always "device".
    """

    alert_id: str
    state: str
    severity: str
    device_id: str
    since: str
    event_time: str
    score: float | None
    fields: dict[str, float]
    detector: str
    lineage: tuple[str, str, int]
    seen: dict[str, float | None] = {}
    expected: dict[str, float | None] = {}
    message_id: str = ""
    sequence: int = 0
    peak_score: float = 0.0
    peak_fields: dict[str, float] = {}
    duration_seconds: float = 0.0
    readings: int = 0
    anomalous_readings: int = 0
    recent: list[RecentReading] = []
    group_id: str | None = None
    kind: str = DEVICE


class Member(msgspec.Struct):
    """A device of a group.

    Attributes:
        device_id: Canonical device key.
        alert_id: Of the device's own episode.
        state: "open" or "closed".
        severity: Highest of its episode so far.
        since: Event time of its first anomalous reading.
        field: The field with the largest share when its episode opened.
    """

    device_id: str
    alert_id: str
    state: str
    severity: str
    since: str
    field: str


class GroupAlert(msgspec.Struct, frozen=True):
    """One message about devices that fail together.

    Attributes:
        alert_id: Of the group: from contract and a window of time, the same in every shard.
        state: "open", "update" or "closed".
        severity: The highest of its devices so far.
        contract: What the devices are.
        since: Event time of the first anomalous reading of any of them.
        event_time: Event time of the newest change of any of them.
        devices: How many belong to it, as far as this part knows.
        open_devices: How many of them are still open.
        members: The devices, at most `MAX_MEMBERS`, in the order they joined.
        members_omitted: How many are not listed.
        fields: How many devices have which field as their leading one, most first.
        part: Devices are spread over shards: each tells of its own part, under one alert id.
        message_id: Of this message; a repeated message has the same.
        sequence: 0 for the opening message of this part, 1 more for each later one.
        kind: Always "group".
    """

    alert_id: str
    state: str
    severity: str
    contract: str
    since: str
    event_time: str
    devices: int
    open_devices: int
    members: list[Member]
    members_omitted: int
    fields: dict[str, int]
    part: str
    message_id: str
    sequence: int
    kind: str = GROUP


class LimitAlert(msgspec.Struct, frozen=True):
    """One message about a field that is on its way to a limit of the plant.

    Attributes:
        alert_id: Of the warning: from device, field and the lineage of the opening reading.
        state: "open", "update" (it became critical) or "closed".
        severity: "warning", or "critical" with little time left; the highest so far.
        device_id: Canonical device key.
        field: Which measure.
        limit: Which limit of the contract; null when there is no trend any more.
        event_time: Event time of the reading that this message is about.
        seen: Its value; null when it has none.
        in_seconds: From that reading until the limit is reached; 0 when it is; null as `limit`.
        earliest_seconds: Lower end of an 80 % interval; null as `limit`.
        latest_seconds: Upper end; null, too, where the trend may be none.
        detector: Name and version of the forecast.
        lineage: Shard, sequence number, sub-sequence number of that reading.
        message_id: Of this message; a repeated message has the same.
        sequence: 0 for the opening message, 1 more for each later one.
        kind: Always "limit".
    """

    alert_id: str
    state: str
    severity: str
    device_id: str
    field: str
    limit: float | None
    event_time: str
    seen: float | None
    in_seconds: float | None
    earliest_seconds: float | None
    latest_seconds: float | None
    detector: str
    lineage: tuple[str, str, int]
    message_id: str
    sequence: int
    kind: str = LIMIT


Message = Alert | GroupAlert | LimitAlert


class Observation(NamedTuple):
    """One reading of an episode.

    Attributes:
        event_us: Its event time.
        score: Its score; NaN when it has none.
        fields: Share of each field in the score.
        lineage: Shard, sequence number, sub-sequence number.
        seen: Its value of each field; NaN where there was none.
        expected: The normal value of each field; NaN where that is not known.
    """

    event_us: int
    score: float
    fields: Mapping[str, float]
    lineage: tuple[str, str, int]
    seen: Mapping[str, float] = {}
    expected: Mapping[str, float] = {}


def largest_first(fields: Mapping[str, float], most: int = MAX_FIELDS) -> dict[str, float]:
    """The largest shares."""
    return dict(sorted(fields.items(), key=lambda item: -item[1])[:most])


def known(names: Iterable[str], values: Mapping[str, float]) -> dict[str, float | None]:
    """Values in the order of the names; what is no number, JSON cannot hold."""
    return {name: number(values[name]) for name in names if name in values}


def number(value: float) -> float | None:
    """A finite number, or None."""
    return float(value) if math.isfinite(value) else None


def alert_id(*parts: object) -> uuid.UUID:
    """The id of an alert made of what it is about."""
    return uuid.uuid5(ALERT_NAMESPACE, "/".join(map(str, parts)))


def message_id(of_alert: str, state: str, sequence: int, part: str = "") -> str:
    """The id of one message of an alert."""
    return str(alert_id(of_alert, state, sequence, part))


def iso(epoch_us: int) -> str:
    """A time as messages have it."""
    instant = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=epoch_us)
    return instant.isoformat().replace("+00:00", "Z")
