"""What scored readings have to tell: episodes, groups, and rows of the table `alerts`. Pure."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from anomaly import episodes, groups, messages, recent, stories
from anomaly.detection.interface import Batch, Scores
from anomaly.episodes import Episodes
from anomaly.groups import Event, Grouper, Grouping, Groups
from anomaly.messages import CLOSED, MAX_RECENT_FIELDS, UPDATE, Alert, Message, RecentReading
from anomaly.stories import Story
from telemill import errors


@dataclass(frozen=True, slots=True)
class Policy:
    """When alerts open, close, are told again and are told together.

    Attributes:
        hysteresis: Of episodes.
        update_seconds: Event time between two messages about one that only lasts; 0: none.
        grouping: Of devices that fail together.
    """

    hysteresis: episodes.Hysteresis = field(default_factory=episodes.Hysteresis)
    update_seconds: float = 1800.0
    grouping: Grouping = field(default_factory=Grouping)


class Telling(msgspec.Struct, array_like=True):
    """What goes on in one shard beyond the arrays of `Episodes`.

    Attributes:
        stories: Runs and episodes by device.
        groups: What is held back and told together.
    """

    stories: dict[str, Story] = {}
    groups: Groups = msgspec.field(default_factory=Groups)

    def encode(self) -> bytes:
        """For a snapshot; what goes on in the same way gives the same bytes."""
        return msgspec.msgpack.encode(self)


def restore(parts: Iterable[bytes], own_slots: Collection[int]) -> Telling:
    """The union of what was encoded, for devices of some slots; empty bytes are nothing.

    Raises:
        DecodeError: A part is damaged.
    """
    try:
        decoded = [msgspec.msgpack.decode(part, type=Telling) for part in parts if part]
    except msgspec.MsgspecError as error:
        raise errors.DecodeError(f"anomaly state: alerts: {error}") from error
    return Telling(
        {
            device: story
            for each in decoded
            for device, story in each.stories.items()
            if story.slot in own_slots
        },
        groups.union([each.groups for each in decoded], own_slots),
    )


class Followed(Protocol):
    """What alerting goes on with: `anomaly.state.State`.

    Attributes:
        episodes: One row per device.
        telling: What goes on beyond them.
        keys: Canonical device key of each row.
        slots: Slot of each row.
    """

    episodes: Episodes
    telling: Telling
    keys: list[str]
    slots: list[int]


class Scored(NamedTuple):
    """A chunk's readings with what the detector said of them.

    Attributes:
        batch: n readings.
        scores: Of each.
        anomalous: n; which are anomalies.
        arrival_us: n; when the raw stream took each.
        lineage: Shard, sequence number and sub-sequence number of a row.
    """

    batch: Batch
    scores: Scores
    anomalous: npt.NDArray[np.bool_]
    arrival_us: npt.NDArray[np.int64]
    lineage: Callable[[int], tuple[str, str, int]]


class Told(NamedTuple):
    """What a chunk had to tell.

    Attributes:
        messages: For people, in order.
        rows: Reading and alert of each row of the table, in order: one reading has one at most.
    """

    messages: list[Message]
    rows: list[tuple[int, Alert]]


class Alerting:
    """Follows the episodes of one contract's devices.

    Args:
        policy: When what is told.
        columns: Measures, in the order of the detector.
        contract: Its name.
        detector: Name and version.
    """

    def __init__(
        self, policy: Policy, columns: Sequence[str], contract: str, detector: str
    ) -> None:
        self._policy = policy
        self._columns = columns
        self._detector = detector
        self._grouper = Grouper(policy.grouping, contract, policy.update_seconds)

    def take(self, scored: Scored, state: Followed) -> Told:
        """Take a chunk.

        Args:
            scored: At least one reading.
            state: Episodes and telling go on.
        """
        told = Told([], [])
        now_us = np.maximum.accumulate(scored.arrival_us)
        concerned = episodes.concerns(scored.anomalous, scored.batch.devices, state.episodes)
        for row in concerned.tolist():
            # Nothing can be due that is not there: most chunks have no episode.
            told.messages.extend(self._grouper.pass_time(state.telling.groups, int(now_us[row])))
            self._take_reading(scored, row, state, told)
        told.messages.extend(self._grouper.pass_time(state.telling.groups, int(now_us[-1])))
        recent.remember(scored.batch, scored.scores.score, state.episodes)
        return told

    def _take_reading(self, scored: Scored, row: int, state: Followed, told: Told) -> None:
        device, anomalous = int(scored.batch.devices[row]), bool(scored.anomalous[row])
        key = state.keys[device]
        was_open = bool(state.episodes.opened_us[device])
        change = episodes.advance(
            state.episodes,
            device,
            anomalous,
            int(scored.batch.event_us[row]),
            self._policy.hysteresis,
        )
        if not (anomalous or was_open):
            state.telling.stories.pop(key, None)
            return
        story = state.telling.stories.get(key)
        if story is None:
            story = state.telling.stories[key] = Story(state.slots[device])
        seen = self._observation(scored, row)
        stories.observe(story, seen, anomalous)
        if change is None and was_open:
            due = stories.is_due(story, seen, anomalous, self._policy.update_seconds)
            change = UPDATE if due else None
        if change is not None:
            self._tell(scored, row, state, story, change, seen, told)

    def _tell(
        self,
        scored: Scored,
        row: int,
        state: Followed,
        story: Story,
        change: str,
        seen: messages.Observation,
        told: Told,
    ) -> None:
        device = int(scored.batch.devices[row])
        since_us = int(state.episodes.opened_us[device])
        alert = stories.announce(
            story,
            state.episodes,
            device,
            state.keys[device],
            change,
            seen,
            self._detector,
            self._recent(scored, row, seen, state),
        )
        event = Event(alert, story.slot, since_us, seen.event_us, story.group_id)
        now, joined = self._grouper.take(state.telling.groups, event)
        for key, group_id in joined.items():
            state.telling.stories[key].group_id = group_id
        if story.group_id != (alert.group_id or ""):
            alert = msgspec.structs.replace(alert, group_id=story.group_id)
        told.messages.extend(now)
        told.rows.append((row, alert))
        if change == CLOSED:
            del state.telling.stories[state.keys[device]]

    def _observation(self, scored: Scored, row: int) -> messages.Observation:
        batch, scores, _, _, lineage = scored
        parts = (scores.contributions, batch.values, scores.expected)
        fields, seen, expected = (
            dict(zip(self._columns, part[row].tolist(), strict=True)) for part in parts
        )
        return messages.Observation(
            int(batch.event_us[row]), float(scores.score[row]), fields, lineage(row), seen, expected
        )

    def _recent(
        self, scored: Scored, row: int, seen: messages.Observation, state: Followed
    ) -> list[RecentReading]:
        names = list(messages.largest_first(seen.fields, MAX_RECENT_FIELDS))
        places = [self._columns.index(name) for name in names]
        found = recent.up_to(row, scored.batch, scored.scores.score, state.episodes)
        return [
            RecentReading(
                messages.iso(int(event_us)),
                messages.number(score),
                {
                    name: messages.number(values[place])
                    for name, place in zip(names, places, strict=True)
                },
            )
            for event_us, score, values in zip(*found, strict=True)
        ]
