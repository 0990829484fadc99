"""Lines that repeat are written now and then."""

from telemill.seldom import Seldom


class Clock:
    """Seconds that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_minute_of_failures_is_a_handful_of_lines_that_tell_how_many() -> None:
    """The first is said at once, the others once an interval, and none is left uncounted."""
    clock = Clock()
    seldom = Seldom(10.0, clock)
    said = []
    for _ in range(601):
        if times := seldom.due("push_refused"):
            said.append(times)
        clock.now += 0.1
    assert said[0] == 1
    assert 6 <= len(said) <= 7
    assert sum(said) >= 500


def test_names_do_not_hide_each_other() -> None:
    """What is said of one name says nothing of another."""
    seldom = Seldom(10.0, Clock())
    assert [seldom.due(name) for name in ("put", "get", "put")] == [1, 1, 0]
