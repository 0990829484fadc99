"""Groups: devices that fail together are one alert, whatever the chunks and the shards."""

import msgspec
import pytest

from anomaly import groups, messages
from anomaly.groups import Event, Grouper, Grouping, Groups
from anomaly.messages import Alert, GroupAlert, Message

SECOND_US = 1_000_000
BEGIN_US = 1_760_000_100 * SECOND_US
"""The first moment of a stretch of ten windows of 30 s."""


def alert(device: int, state: str = "open", severity: str = "warning", sequence: int = 0) -> Alert:
    """A message of a device's episode."""
    return Alert(
        alert_id=f"alert-{device}",
        state=state,
        severity=severity,
        device_id=str(device),
        since="2025-10-09T08:55:00Z",
        event_time="2025-10-09T08:55:20Z",
        score=0.999,
        fields={"sensor1": 0.9, "motor1": 0.1},
        detector="ensemble/1",
        lineage=("s", "1", device),
        message_id=f"{device}-{sequence}",
        sequence=sequence,
    )


class Shard:
    """One shard's groups, fed with events at seconds after the beginning."""

    def __init__(self, least_devices: int = 3, update_seconds: float = 600.0) -> None:
        self.grouper = Grouper(Grouping(least_devices, 30.0), "fms", update_seconds)
        self.state = Groups()
        self.told: list[Message] = []
        self._group_of: dict[str, str] = {}

    def at(self, second: float, *alerts: Alert) -> list[Message]:
        """What is told when time passes and some messages come."""
        now_us = BEGIN_US + int(second * SECOND_US)
        told = self.grouper.pass_time(self.state, now_us)
        for each in alerts:
            device = int(each.device_id)
            group_id = self._group_of.get(each.device_id, "")
            event = Event(each, device % 4, now_us - 20 * SECOND_US, now_us, group_id)
            more, joined = self.grouper.take(self.state, event)
            self._group_of |= joined
            told = told + more
        self.told += told
        return told


def kinds(told: list[Message]) -> list[tuple[str, str]]:
    """Kind and state of each message."""
    return [(each.kind, each.state) for each in told]


def only(told: list[Message]) -> GroupAlert:
    """The one message, which is a group's."""
    (message,) = told
    assert isinstance(message, GroupAlert)
    return message


def test_a_device_alone_alerts_when_its_window_is_over() -> None:
    """It is held back for the window and not longer; the message is its own, unchanged."""
    shard = Shard()
    assert shard.at(0, alert(1)) == []
    assert shard.at(29.9) == []
    assert shard.at(30) == [alert(1)]
    assert shard.at(40, alert(1, "update", sequence=1)) == [alert(1, "update", sequence=1)]


def test_grouping_can_be_off() -> None:
    """Then nothing is held back."""
    shard = Shard(least_devices=0)
    assert shard.at(0, *(alert(device) for device in range(5))) == [alert(d) for d in range(5)]


def test_twenty_devices_that_fail_together_are_one_alert() -> None:
    """One opening, one update with those that joined, one closing; none of a single device."""
    shard = Shard(least_devices=5)
    for device in range(20):
        shard.at(device, alert(device))
    assert kinds(shard.told) == [("group", "open")]
    assert only(shard.at(60)).devices == 20
    for device in range(20):
        shard.at(100 + device, alert(device, "closed", sequence=1))
    assert kinds(shard.told) == [("group", "open"), ("group", "update"), ("group", "closed")]
    assert len({each.alert_id for each in shard.told}) == 1
    assert [each.sequence for each in shard.told] == [0, 1, 2]
    opened, closed = shard.told[0], shard.told[-1]
    assert isinstance(opened, GroupAlert)
    assert isinstance(closed, GroupAlert)
    assert [each.device_id for each in opened.members] == ["0", "1", "2", "3", "4"]
    assert opened.fields == {"sensor1": 5}
    assert (closed.devices, closed.open_devices) == (20, 0)


def test_devices_that_fail_one_after_the_other_are_no_group() -> None:
    """Fewer than the least number within a window alert alone, each."""
    shard = Shard()
    for place, device in enumerate(range(6)):
        shard.at(place * 20, alert(device))
    shard.at(1000)
    assert kinds(shard.told) == [("device", "open")] * 6


def test_an_episode_that_ends_while_it_waits_is_told_whole() -> None:
    """Opening and closing come together, and it counts for no group any more."""
    shard = Shard()
    shard.at(0, alert(1))
    shard.at(1, alert(2))
    assert kinds(shard.at(2, alert(1, "closed", sequence=1))) == [
        ("device", "open"),
        ("device", "closed"),
    ]
    assert shard.at(3, alert(3)) == []
    assert kinds(shard.at(60)) == [("device", "open")] * 2


def test_a_member_that_becomes_critical_raises_its_group_once() -> None:
    """The group's severity is the highest of its members; it rises once."""
    shard = Shard()
    shard.at(0, alert(1), alert(2), alert(3))
    raised = only(shard.at(5, alert(2, "update", "critical", 1)))
    assert (raised.state, raised.severity) == ("update", "critical")
    assert shard.at(6, alert(3, "update", "critical", 1)) == []


def test_a_group_that_lasts_is_told_again_now_and_then() -> None:
    """At most one update per interval, whichever member asks for it."""
    shard = Shard(update_seconds=600)
    shard.at(0, alert(1), alert(2), alert(3))
    for second in range(10, 2000, 10):
        shard.at(second, alert(second // 10 % 3 + 1, "update", sequence=second))
    assert kinds(shard.told) == [("group", "open")] + [("group", "update")] * 3


def test_a_device_that_comes_back_belongs_to_its_group() -> None:
    """Flapping members do not alert alone while the group is open."""
    shard = Shard()
    shard.at(0, alert(1), alert(2), alert(3))
    shard.at(100, alert(1, "closed", sequence=1))
    shard.at(300, alert(1))
    shard.at(1000)
    assert kinds(shard.told) == [("group", "open"), ("group", "update")]


def test_a_device_long_after_is_no_member() -> None:
    """Who opens later than a window after the last that joined alerts alone."""
    shard = Shard()
    shard.at(0, alert(1), alert(2), alert(3))
    shard.at(31, alert(4))
    assert kinds(shard.at(61)) == [("device", "open")]


def test_shards_give_one_group_one_id() -> None:
    """Parts of one failure have the same alert id, and messages of their own."""
    low, high = Shard(), Shard()
    one = only(low.at(3, alert(1), alert(2), alert(3)))
    other = only(high.at(5, alert(4), alert(5), alert(6)))
    assert one.alert_id == other.alert_id
    assert one.message_id != other.message_id
    later = Shard()
    assert only(later.at(305, alert(1), alert(2), alert(3))).alert_id != one.alert_id


def test_a_second_failure_in_the_same_stretch_opens_the_group_again() -> None:
    """The id comes again, the messages go on counting: none is taken for a repetition."""
    shard = Shard()
    devices = (1, 2, 3)
    shard.at(0, *map(alert, devices))
    shard.at(50, *(alert(device, "closed") for device in devices))
    shard.at(200, *map(alert, devices))
    assert kinds(shard.told) == [("group", "open"), ("group", "closed"), ("group", "open")]
    assert len({each.alert_id for each in shard.told}) == 1
    assert len({each.message_id for each in shard.told}) == 3


def test_closed_groups_are_forgotten() -> None:
    """The state does not grow with the groups that ever were."""
    shard = Shard()
    for round_ in range(20):
        shard.at(round_ * 1000, alert(1), alert(2), alert(3))
        shard.at(round_ * 1000 + 100, *(alert(d, "closed", sequence=1) for d in (1, 2, 3)))
    shard.at(30_000)
    assert shard.state.groups == {}
    assert shard.state.held == {}


def test_a_message_of_a_large_group_is_bounded() -> None:
    """Fifty devices are listed, the others counted."""
    shard = Shard()
    for device in range(300):
        shard.at(0, alert(device))
    told = only(shard.at(31))
    assert (told.devices, len(told.members), told.members_omitted) == (300, 50, 250)
    assert len(msgspec.json.encode(told)) < 64 * 1024


@pytest.mark.parametrize("moment", [0, 1, 2])
def test_groups_survive_a_split_and_a_merge(moment: int) -> None:
    """Nothing that waits is lost or told by two; parts go on apart and come together again."""
    shard = Shard()
    shard.at(0, alert(0), alert(1))
    if moment:
        shard.at(1, alert(2), alert(3))
    if moment == 2:
        shard.at(2, alert(2, "closed", sequence=1))
    before = shard.told[:]
    halves = [groups.union([shard.state], slots) for slots in ({0, 1}, {2, 3})]
    kept = [
        sorted(half.held) + [d for g in half.groups.values() for d in g.members] for half in halves
    ]
    assert kept == [["0", "1"], ["2", "3"] if moment else []]
    merged = groups.union(halves, {0, 1, 2, 3})
    shard.state = merged
    shard.at(40, *(alert(d, "closed", sequence=1) for d in ((0, 1, 3) if moment else (0, 1))))
    told = kinds(shard.told[len(before) :])
    # A split during the window: two wait, alone, and are told with their closing.
    expected = {
        0: [("device", "open")] * 2 + [("device", "closed")] * 2,
        1: [("group", "update")],
        2: [("group", "update"), ("group", "closed")],
    }
    assert told == expected[moment]


def test_parts_after_a_split_do_not_share_message_ids() -> None:
    """Both children go on counting; their messages are different ones."""
    shard = Shard()
    shard.at(0, *(alert(device) for device in range(4)))
    told = []
    for slots in ({0, 1}, {2, 3}):
        child = Shard()
        child.state = groups.union([shard.state], slots)
        (group_id,) = child.state.groups
        child._group_of = dict.fromkeys(map(str, range(4)), group_id)
        told.append(only(child.at(50, *(alert(d, "closed", sequence=1) for d in slots))[-1:]))
    assert {each.state for each in told} == {"closed"}
    assert told[0].alert_id == told[1].alert_id
    assert told[0].message_id != told[1].message_id


def test_the_members_of_a_told_message_do_not_change() -> None:
    """What was told is what was so then."""
    shard = Shard()
    opened = only(shard.at(0, alert(1), alert(2), alert(3)))
    shard.at(50, alert(1, "closed", sequence=1))
    assert {each.state for each in opened.members} == {messages.OPEN}
