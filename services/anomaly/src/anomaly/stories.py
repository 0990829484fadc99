"""What an episode comes to while it lasts: severity, peak, length; and when to tell it. Pure."""

import uuid
from collections.abc import Sequence

import msgspec
import numpy as np

from anomaly import messages
from anomaly.episodes import Episodes
from anomaly.messages import (
    CLOSED,
    CRITICAL,
    CRITICAL_SCORE,
    OPEN,
    UPDATE,
    US_PER_SECOND,
    WARNING,
    Alert,
    Observation,
)

PEAK_FIELDS = 5


class Story(msgspec.Struct, array_like=True):
    """A run of anomalous readings, and the episode that it becomes.

    Attributes:
        slot: Of its device.
        readings: How many so far.
        anomalous: How many of them were anomalous.
        last_us: Event time of the newest anomalous one.
        peak: Largest score.
        peak_fields: Largest shares of the reading that had it.
        is_critical: Whether any reading was.
        sequence: Messages told.
        told_us: Event time of the last message.
        told_critical: Whether it said so.
        group_id: Of the group that tells it; empty while it is told alone.
    """

    slot: int
    readings: int = 0
    anomalous: int = 0
    last_us: int = 0
    peak: float = 0.0
    peak_fields: dict[str, float] = {}
    is_critical: bool = False
    sequence: int = 0
    told_us: int = 0
    told_critical: bool = False
    group_id: str = ""

    @property
    def severity(self) -> str:
        """The highest so far."""
        return CRITICAL if self.is_critical else WARNING


def observe(story: Story, seen: Observation, anomalous: bool) -> None:
    """Take one reading of the run or episode."""
    story.readings += 1
    if not anomalous:
        return
    story.anomalous += 1
    story.last_us = max(story.last_us, seen.event_us)
    story.is_critical = story.is_critical or seen.score >= CRITICAL_SCORE
    if seen.score > story.peak:
        story.peak = seen.score
        story.peak_fields = messages.largest_first(seen.fields, PEAK_FIELDS)


def is_due(story: Story, seen: Observation, anomalous: bool, update_seconds: float) -> bool:
    """Whether an open episode is told again: it became critical, or it lasts."""
    if story.is_critical and not story.told_critical:
        return True
    lasts = seen.event_us - story.told_us >= update_seconds * US_PER_SECOND
    return anomalous and update_seconds > 0 and lasts


def announce(
    story: Story,
    episodes: Episodes,
    device: int,
    device_id: str,
    state: str,
    seen: Observation,
    detector: str,
    recent: Sequence[messages.RecentReading] = (),
) -> Alert:
    """The next message of an episode; ends the bookkeeping of a closed one."""
    since_us = int(episodes.opened_us[device])
    if state == OPEN:
        made = messages.alert_id(detector, device_id, *seen.lineage)
        episodes.alert_id[device] = np.void(made.bytes)
    alert_id = str(uuid.UUID(bytes=episodes.alert_id[device].tobytes()))
    fields = messages.largest_first(seen.fields)
    alert = Alert(
        alert_id=alert_id,
        state=state,
        severity=story.severity,
        device_id=device_id,
        since=messages.iso(since_us),
        event_time=messages.iso(seen.event_us),
        score=messages.number(seen.score),
        fields=fields,
        detector=detector,
        lineage=seen.lineage,
        seen=messages.known(fields, seen.seen),
        expected=messages.known(fields, seen.expected),
        message_id=messages.message_id(alert_id, state, story.sequence),
        sequence=story.sequence,
        peak_score=story.peak,
        peak_fields=story.peak_fields,
        duration_seconds=max(0, story.last_us - since_us) / US_PER_SECOND,
        readings=story.readings,
        anomalous_readings=story.anomalous,
        recent=list(recent),
        group_id=story.group_id or None,
    )
    story.sequence += 1
    story.told_us, story.told_critical = seen.event_us, story.is_critical
    if state == CLOSED:
        episodes.opened_us[device] = 0
        episodes.alert_id[device] = np.void(bytes(16))
    return alert


__all__ = ["CLOSED", "OPEN", "UPDATE", "Story", "announce", "is_due", "observe"]
