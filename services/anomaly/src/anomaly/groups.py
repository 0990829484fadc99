"""Devices that fail together are one alert: opened episodes wait a moment for others. Pure.

Time here is arrival in the raw stream, the largest so far: one clock for all devices, whatever
theirs say, and a replay repeats it. Nothing depends on how readings are cut into chunks: what is
due by time is told before the next reading of an episode is looked at, or at the chunk's end.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from anomaly import messages
from anomaly.messages import (
    CLOSED,
    CRITICAL,
    MAX_MEMBERS,
    OPEN,
    UPDATE,
    US_PER_SECOND,
    WARNING,
    Alert,
    GroupAlert,
    Member,
    Message,
)

WINDOWS_PER_ID = 10
"""Shards whose groups begin in one stretch of so many windows give them one id."""


@dataclass(frozen=True, slots=True)
class Grouping:
    """When devices fail together.

    Attributes:
        least_devices: Of one shard, opened within a window; 0 groups nothing and holds nothing.
        window_seconds: How long an opened episode waits for others, by arrival.
    """

    least_devices: int = 5
    window_seconds: float = 30.0

    @property
    def window_us(self) -> int:
        """The window in the unit of times."""
        return int(self.window_seconds * US_PER_SECOND)


class Held(msgspec.Struct, array_like=True):
    """The messages of an episode that waits for others.

    Attributes:
        slot: Of its device.
        opened_us: When it opened, by arrival.
        since_us: Event time of its first anomalous reading.
        event_us: Event time of its newest message.
        alerts: In order; the first opens it.
    """

    slot: int
    opened_us: int
    since_us: int
    event_us: int
    alerts: list[Alert]


class _Part(msgspec.Struct, array_like=True):
    """A member and the slot of its device."""

    slot: int
    member: Member


class Group(msgspec.Struct, array_like=True):
    """One shard's part of a group.

    Attributes:
        part: A device of this part: tells its messages from those of other parts.
        ends_us: Until when another group would get the same id.
        since_us: Event time of the first anomalous reading of any member.
        event_us: Event time of the newest change of any member.
        joined_us: When the last device joined, by arrival.
        told_us: When the last message was told, by arrival.
        due_us: When members that joined since are told; 0 when there are none.
        sequence: Messages told.
        is_open: Whether any member is open.
        is_critical: Whether any member was.
        members: By device, in the order they joined; none when closed.
    """

    part: str
    ends_us: int
    since_us: int
    event_us: int = 0
    joined_us: int = 0
    told_us: int = 0
    due_us: int = 0
    sequence: int = 0
    is_open: bool = False
    is_critical: bool = False
    members: dict[str, _Part] = {}


class Groups(msgspec.Struct, array_like=True):
    """What one shard holds back and tells together.

    Attributes:
        now_us: Latest arrival.
        held: By device.
        groups: By alert id; a closed one is kept while its id could be given again.
    """

    now_us: int = 0
    held: dict[str, Held] = {}
    groups: dict[str, Group] = {}


class Event(NamedTuple):
    """A message of one device, before it is known who tells it.

    Attributes:
        slot: Of the device.
        since_us: Event time of the episode's first anomalous reading.
        event_us: Event time of the reading that the message is about.
        group_id: Of the group that the episode was told by so far.
    """

    alert: Alert
    slot: int
    since_us: int
    event_us: int
    group_id: str = ""


class Grouper:
    """Decides who tells: a device alone, or its group.

    Args:
        grouping: When.
        contract: Name of the contract: devices of different contracts have no group.
        update_seconds: Least time between two messages about a group that only lasts.
    """

    def __init__(self, grouping: Grouping, contract: str, update_seconds: float) -> None:
        self._grouping = grouping
        self._contract = contract
        self._update_us = int(update_seconds * US_PER_SECOND)

    def pass_time(self, groups: Groups, now_us: int) -> list[Message]:
        """What is due by time; to be called before every event with the event's arrival."""
        groups.now_us = max(groups.now_us, now_us)
        told: list[Message] = []
        oldest_us = groups.now_us - self._grouping.window_us
        for device in _by_opening(groups.held):
            if groups.held[device].opened_us <= oldest_us:
                told += groups.held.pop(device).alerts
        for group_id, group in sorted(groups.groups.items()):
            if group.due_us and group.due_us <= groups.now_us:
                told.append(self._tell(group_id, group, UPDATE, group.due_us))
            if not group.is_open and group.ends_us <= groups.now_us:
                del groups.groups[group_id]
        return told

    def take(self, groups: Groups, event: Event) -> tuple[list[Message], Mapping[str, str]]:
        """Take a device's message.

        Returns:
            What is told now, and the group's alert id by device for those that joined one.
        """
        if event.alert.state == OPEN:
            return self._opened(groups, event)
        return self._went_on(groups, event), {}

    def _opened(self, groups: Groups, event: Event) -> tuple[list[Message], Mapping[str, str]]:
        device = event.alert.device_id
        if not self._grouping.least_devices:
            return [event.alert], {}
        found = self._joinable(groups, device)
        if found is not None:
            group = groups.groups[found]
            self._join(group, event, groups.now_us)
            group.due_us = group.due_us or groups.now_us + self._grouping.window_us
            return self._raise(found, group, event.alert, groups.now_us), {device: found}
        groups.held[device] = Held(
            event.slot, groups.now_us, event.since_us, event.event_us, [event.alert]
        )
        if len(groups.held) < self._grouping.least_devices:
            return [], {}
        return self._form(groups)

    def _joinable(self, groups: Groups, device: str) -> str | None:
        """The open group that a device belongs to: it did before, or it opens with the others."""
        found = None
        for group_id, group in sorted(groups.groups.items()):
            if group.is_open and device in group.members:
                return group_id
            if group.is_open and groups.now_us <= group.joined_us + self._grouping.window_us:
                found = group_id
        return found

    def _form(self, groups: Groups) -> tuple[list[Message], Mapping[str, str]]:
        """All that wait become a group."""
        devices = _by_opening(groups.held)
        first = groups.held[devices[0]]
        span_us = max(1, self._grouping.window_us * WINDOWS_PER_ID)
        place = first.opened_us // span_us
        group_id = str(messages.alert_id("group", self._contract, place * span_us))
        group = groups.groups.setdefault(
            group_id, Group(devices[0], (place + 1) * span_us, first.since_us)
        )
        state = UPDATE if group.is_open else OPEN
        if state == OPEN:
            group.part, group.since_us, group.is_critical = devices[0], first.since_us, False
        for device in devices:
            held = groups.held.pop(device)
            self._join(
                group,
                Event(held.alerts[-1], held.slot, held.since_us, held.event_us),
                groups.now_us,
            )
            group.is_critical |= held.alerts[-1].severity == CRITICAL
        group.is_open = True
        told = self._tell(group_id, group, state, groups.now_us)
        return [told], dict.fromkeys(devices, group_id)

    def _join(self, group: Group, event: Event, now_us: int) -> None:
        alert = event.alert
        group.members[alert.device_id] = _Part(
            event.slot,
            Member(
                device_id=alert.device_id,
                alert_id=alert.alert_id,
                state=OPEN,
                severity=alert.severity,
                since=alert.since,
                field=next(iter(alert.peak_fields or alert.fields), ""),
            ),
        )
        group.since_us = min(group.since_us, event.since_us)
        group.event_us = max(group.event_us, event.event_us)
        group.joined_us = now_us

    def _went_on(self, groups: Groups, event: Event) -> list[Message]:
        alert = event.alert
        held = groups.held.get(alert.device_id)
        if held is not None:
            held.alerts.append(alert)
            held.event_us = event.event_us
            return [*groups.held.pop(alert.device_id).alerts] if alert.state == CLOSED else []
        group = groups.groups.get(event.group_id)
        if group is None or alert.device_id not in group.members:
            return [alert]
        return self._member_went_on(groups, event, group)

    def _member_went_on(self, groups: Groups, event: Event, group: Group) -> list[Message]:
        member = group.members[event.alert.device_id].member
        member.severity = event.alert.severity
        group.event_us = max(group.event_us, event.event_us)
        if event.alert.state != CLOSED:
            if self._update_us and groups.now_us - group.told_us >= self._update_us:
                group.is_critical |= event.alert.severity == CRITICAL
                return [self._tell(event.group_id, group, UPDATE, groups.now_us)]
            return self._raise(event.group_id, group, event.alert, groups.now_us)
        member.state = CLOSED
        if any(part.member.state == OPEN for part in group.members.values()):
            return []
        group.is_open = False
        told = self._tell(event.group_id, group, CLOSED, groups.now_us)
        group.members = {}
        return [told]

    def _raise(self, group_id: str, group: Group, alert: Alert, now_us: int) -> list[Message]:
        """An update at once when a member makes the group critical."""
        if group.is_critical or alert.severity != CRITICAL:
            return []
        group.is_critical = True
        return [self._tell(group_id, group, UPDATE, now_us)]

    def _tell(self, group_id: str, group: Group, state: str, now_us: int) -> GroupAlert:
        members = [part.member for part in group.members.values()]
        # Copies: a member changes, a message does not.
        listed = [msgspec.structs.replace(member) for member in members[:MAX_MEMBERS]]
        told = GroupAlert(
            alert_id=group_id,
            state=state,
            severity=CRITICAL if group.is_critical else WARNING,
            contract=self._contract,
            since=messages.iso(group.since_us),
            event_time=messages.iso(group.event_us),
            devices=len(members),
            open_devices=sum(member.state == OPEN for member in members),
            members=listed,
            members_omitted=len(members) - len(listed),
            fields=dict(Counter(member.field for member in members).most_common()),
            part=group.part,
            message_id=messages.message_id(group_id, state, group.sequence, group.part),
            sequence=group.sequence,
        )
        group.sequence += 1
        group.told_us, group.due_us = now_us, 0
        return told


def _by_opening(held: Mapping[str, Held]) -> list[str]:
    return sorted(held, key=lambda device: (held[device].opened_us, device))


def union(parts: Iterable[Groups], own_slots: Collection[int]) -> Groups:
    """What goes on in a shard with these slots, from what went on before in others."""
    whole = Groups()
    for each in parts:
        whole.now_us = max(whole.now_us, each.now_us)
        whole.held |= {name: held for name, held in each.held.items() if held.slot in own_slots}
        for group_id, group in each.groups.items():
            ours = {name: part for name, part in group.members.items() if part.slot in own_slots}
            if group.is_open and not _any_open(ours):
                continue
            _unite(whole, group_id, _restricted(group, ours))
    return whole


def _any_open(members: Mapping[str, _Part]) -> bool:
    return any(part.member.state == OPEN for part in members.values())


def _restricted(group: Group, members: dict[str, _Part]) -> Group:
    part = group.part if group.part in members or not members else min(members)
    return msgspec.structs.replace(group, part=part, members=members)


def _unite(whole: Groups, group_id: str, group: Group) -> None:
    found = whole.groups.get(group_id)
    if found is None:
        whole.groups[group_id] = group
        return
    dues = [due for due in (found.due_us, group.due_us) if due]
    whole.groups[group_id] = Group(
        part=min(found.part, group.part),
        ends_us=found.ends_us,
        since_us=min(found.since_us, group.since_us),
        event_us=max(found.event_us, group.event_us),
        joined_us=max(found.joined_us, group.joined_us),
        told_us=max(found.told_us, group.told_us),
        due_us=min(dues, default=0),
        sequence=max(found.sequence, group.sequence),
        is_open=found.is_open or group.is_open,
        is_critical=found.is_critical or group.is_critical,
        members={**found.members, **group.members},
    )
