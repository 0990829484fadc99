"""Alerts: one per episode, with hysteresis and cool-down, with ids that a replay repeats."""

from anomaly import episodes

HYSTERESIS = episodes.Hysteresis(open_after_rows=3, close_after_rows=2, cool_down_seconds=60.0)


def run(pattern: str, interval_seconds: int = 10) -> list[tuple[int, str]]:
    """Feed a pattern of anomalous (x) and normal (.) readings of one device."""
    state = episodes.empty(1)
    changes = []
    for row, mark in enumerate(pattern):
        event_us = (1000 + row * interval_seconds) * 1_000_000
        change = episodes.advance(state, 0, mark == "x", event_us, HYSTERESIS)
        if change:
            seen = episodes.Observation(event_us, 1.0, {"a": 1.0}, ("s", str(row), 0))
            episodes.announce(state, 0, "7", change, seen, "ensemble/1")
            changes.append((row, change))
    return changes


def test_single_outliers_raise_no_alert() -> None:
    """Fewer anomalous readings in a row than `open_after_rows` are no episode."""
    assert run("..x..xx..x.x.x..") == []


def test_an_episode_opens_once_and_closes_once() -> None:
    """Short gaps inside an episode neither close nor reopen it."""
    assert run("..xxx.xx.xxxx....") == [(4, "open"), (14, "closed")]


def test_cool_down_holds_the_next_alert_back() -> None:
    """After a close nothing is announced until the cool-down is over; then a lasting fault is."""
    assert run("xxx..xxxxxxxxx") == [(2, "open"), (4, "closed"), (10, "open")]


def test_open_and_close_share_an_id_that_a_replay_repeats() -> None:
    """The id follows from detector, device and lineage alone."""

    def alerts() -> list[episodes.Alert]:
        state = episodes.empty(1)
        made = []
        for row, mark in enumerate("xxx.."):
            change = episodes.advance(state, 0, mark == "x", row + 1, HYSTERESIS)
            if change:
                seen = episodes.Observation(row + 1, 0.99999, {"a": 0.2, "b": 0.8}, ("s", "9", row))
                made.append(episodes.announce(state, 0, "7", change, seen, "ensemble/1"))
        return made

    opened, closed = alerts()
    assert (opened.state, closed.state) == ("open", "closed")
    assert opened.alert_id == closed.alert_id
    assert alerts() == [opened, closed]
    assert list(opened.fields) == ["b", "a"]
    assert opened.since == "1970-01-01T00:00:00.000001Z"
