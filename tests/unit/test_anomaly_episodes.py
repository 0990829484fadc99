"""Episodes: one alert each, with hysteresis, cool-down and a story that a replay repeats."""

import numpy as np
import pytest

from anomaly import episodes, messages, stories
from anomaly.messages import Alert, Observation
from anomaly.stories import Story

HYSTERESIS = episodes.Hysteresis(open_after_rows=3, close_after_rows=2, cool_down_seconds=60.0)
CRITICAL = 0.9999999


def changes(pattern: str, interval_seconds: int = 10) -> list[tuple[int, str]]:
    """Feed a pattern of anomalous (x) and normal (.) readings of one device."""
    state = episodes.empty(1)
    found = []
    for row, mark in enumerate(pattern):
        event_us = (1000 + row * interval_seconds) * 1_000_000
        change = episodes.advance(state, 0, mark == "x", event_us, HYSTERESIS)
        if change:
            found.append((row, change))
        if change == "closed":
            state.opened_us[0] = 0
    return found


def tell(scores: list[float], update_seconds: float = 0.0, interval_us: int = 1) -> list[Alert]:
    """The messages of one device's readings; scores from 0.9 are anomalies."""
    state, story, made = episodes.empty(1), None, []
    for row, score in enumerate(scores):
        event_us, anomalous = 1 + row * interval_us, score >= 0.9
        was_open = bool(state.opened_us[0])
        change = episodes.advance(state, 0, anomalous, event_us, HYSTERESIS)
        story = story or Story(0)
        seen = Observation(event_us, score, {"a": 0.2, "b": 0.8}, ("s", "9", row))
        stories.observe(story, seen, anomalous)
        if was_open and not change and stories.is_due(story, seen, anomalous, update_seconds):
            change = "update"
        if change:
            made.append(stories.announce(story, state, 0, "7", change, seen, "ensemble/1"))
    return made


def test_single_outliers_raise_no_alert() -> None:
    """Fewer anomalous readings in a row than `open_after_rows` are no episode."""
    assert changes("..x..xx..x.x.x..") == []


def test_an_episode_opens_once_and_closes_once() -> None:
    """Short gaps inside an episode neither close nor reopen it."""
    assert changes("..xxx.xx.xxxx....") == [(4, "open"), (14, "closed")]


def test_cool_down_holds_the_next_alert_back() -> None:
    """After a close nothing is announced until the cool-down is over; then a lasting fault is."""
    assert changes("xxx..xxxxxxxxx") == [(2, "open"), (4, "closed"), (10, "open")]


def test_the_messages_of_an_episode_share_an_id_that_a_replay_repeats() -> None:
    """The id follows from detector, device and lineage alone; each message has one, too."""
    opened, closed = made = tell([0.95, 0.95, 0.95, 0.1, 0.1])
    assert (opened.state, closed.state) == ("open", "closed")
    assert opened.alert_id == closed.alert_id
    assert opened.message_id != closed.message_id
    assert [each.sequence for each in made] == [0, 1]
    assert tell([0.95, 0.95, 0.95, 0.1, 0.1]) == made
    assert list(opened.fields) == ["b", "a"]
    assert opened.since == "1970-01-01T00:00:00.000001Z"


def test_an_episode_that_becomes_critical_says_so_once() -> None:
    """A critical reading inside a warning is one update; more of them are no news."""
    made = tell([0.95, 0.95, 0.95, CRITICAL, 0.95, CRITICAL, 0.1, 0.1])
    assert [(each.state, each.severity) for each in made] == [
        ("open", "warning"),
        ("update", "critical"),
        ("closed", "critical"),
    ]


def test_a_critical_reading_before_the_opening_makes_it_critical() -> None:
    """The severity is the highest of the run, not of the reading that completes it."""
    assert [each.severity for each in tell([CRITICAL, 0.95, 0.95])] == ["critical"]


def test_the_closing_message_tells_what_the_episode_came_to() -> None:
    """Peak, length from first to last anomaly, and how many readings were anomalous."""
    closed = tell([0.95, 0.95, 0.95, 0.1, 0.97, 0.1, 0.1], interval_us=10_000_000)[-1]
    assert (closed.state, closed.peak_score) == ("closed", 0.97)
    assert (closed.readings, closed.anomalous_readings) == (7, 4)
    assert closed.duration_seconds == 40.0
    assert closed.peak_fields == {"b": 0.8, "a": 0.2}


@pytest.mark.parametrize(("update_seconds", "updates"), [(0.0, 0), (30.0, 3), (3600.0, 0)])
def test_a_lasting_episode_is_told_again_now_and_then(update_seconds: float, updates: int) -> None:
    """At most one update per interval of event time; with 0 there is none."""
    made = tell([0.95] * 13, update_seconds, interval_us=10_000_000)
    assert [each.state for each in made] == ["open"] + ["update"] * updates


def test_what_is_no_number_becomes_null() -> None:
    """JSON has no NaN: a reading without score or values says null."""
    state, story = episodes.empty(1), Story(0)
    state.opened_us[0] = 5
    seen = Observation(7, np.nan, {"a": 0.0}, ("s", "1", 0), {"a": np.nan}, {"a": np.inf})
    alert = stories.announce(story, state, 0, "7", "closed", seen, "ensemble/1")
    assert (alert.score, alert.seen, alert.expected) == (None, {"a": None}, {"a": None})


def test_a_message_lists_a_bounded_number_of_fields() -> None:
    """A contract with thousands of measures makes no message that SNS refuses."""
    many = {f"f{place}": place / 5000 for place in range(5000)}
    found = messages.largest_first(many)
    assert len(found) == messages.MAX_FIELDS
    assert next(iter(found)) == "f4999"
