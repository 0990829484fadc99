"""What people do not want to hear: muted devices, acknowledged alerts. Pure.

Applied where messages leave, never in the core: what people do is no part of a replay.
"""

from collections.abc import Collection
from typing import Protocol

import msgspec

from anomaly.messages import OPEN, UPDATE, GroupAlert, Message


class Silence(Protocol):
    """What is muted and acknowledged now, as far as is known; may be some seconds old."""

    def muted(self) -> Collection[str]:
        """Canonical device keys."""

    def acknowledged(self) -> Collection[str]:
        """Alert ids."""


class Nothing:
    """Nobody asked for silence."""

    def muted(self) -> Collection[str]:
        """No device."""
        return ()

    def acknowledged(self) -> Collection[str]:
        """No alert."""
        return ()


NOTHING = Nothing()


def heard(message: Message, silence: Silence) -> Message | None:
    """What is published of a message; None when nothing is."""
    if message.state == UPDATE and message.alert_id in silence.acknowledged():
        return None
    muted = silence.muted()
    if isinstance(message, GroupAlert):
        return _without(message, muted)
    return None if message.device_id in muted else message


def _without(message: GroupAlert, muted: Collection[str]) -> GroupAlert | None:
    """A group without its muted devices, as far as they are listed."""
    members = [each for each in message.members if each.device_id not in muted]
    if len(members) == len(message.members):
        return message
    if not members and not message.members_omitted:
        return None
    still_open = sum(each.state == OPEN for each in message.members)
    return msgspec.structs.replace(
        message,
        members=members,
        devices=message.devices - (len(message.members) - len(members)),
        open_devices=message.open_devices
        - still_open
        + sum(each.state == OPEN for each in members),
    )
