"""The circuit breaker's state machine."""

from ingest.breaker import TRANSITIONS, Breaker, Event, Permit, Policy, State

POLICY = Policy(failures=3, open_seconds=5.0, longest_open_seconds=12.0)


def breaker(seen: list[tuple[State, State, float]] | None = None) -> Breaker:
    """One which waits the full wait."""
    changes = [] if seen is None else seen
    return Breaker(
        POLICY, uniform=lambda _low, high: high, changed=lambda *change: changes.append(change)
    )


def admitted(subject: Breaker, now: float) -> Permit:
    """A permit that must be given."""
    permit = subject.admit(now)
    assert permit is not None
    return permit


def opened(subject: Breaker, now: float = 0.0) -> None:
    """Make it fail until it opens."""
    for _ in range(POLICY.failures):
        subject.failed(admitted(subject, now), now)


def test_the_table_names_every_state() -> None:
    """Each state can be left and reached; nothing leads from closed to half open."""
    assert {state for state, _ in TRANSITIONS} == set(State) == set(TRANSITIONS.values())
    assert {event for _, event in TRANSITIONS} == set(Event)


def test_opens_after_consecutive_failures() -> None:
    """Failures with an answer between them do not open it; enough in a row do."""
    subject = breaker()
    for _ in range(5):
        subject.failed(admitted(subject, 0), 0)
        subject.failed(admitted(subject, 0), 0)
        subject.answered(admitted(subject, 0), 0)
    assert subject.state is State.CLOSED
    opened(subject)
    assert subject.state is State.OPEN
    assert subject.admit(4.9) is None


def test_one_probe_closes_it() -> None:
    """After the wait one request goes out, no second one; its answer closes the breaker."""
    seen: list[tuple[State, State, float]] = []
    subject = breaker(seen)
    opened(subject)
    probe = admitted(subject, 5.0)
    assert subject.state is State.HALF_OPEN
    assert subject.admit(5.0) is None
    subject.answered(probe, 5.1)
    assert subject.state is State.CLOSED
    assert seen == [
        (State.CLOSED, State.OPEN, 5.0),
        (State.OPEN, State.HALF_OPEN, 0.0),
        (State.HALF_OPEN, State.CLOSED, 0.0),
    ]


def test_failed_probes_double_the_wait() -> None:
    """Each failed probe doubles the wait up to the longest; closing begins anew."""
    seen: list[tuple[State, State, float]] = []
    subject = breaker(seen)
    opened(subject)
    for at in (5.0, 15.0, 27.0):
        subject.failed(admitted(subject, at), at)
    waits = [wait for _, state, wait in seen if state is State.OPEN]
    assert waits == [5.0, 10.0, 12.0, 12.0]
    subject.answered(admitted(subject, 39.0), 39.0)
    opened(subject, 40.0)
    assert seen[-1][2] == 5.0


def test_late_outcomes_do_not_count() -> None:
    """A request begun before the breaker opened says nothing about the probe."""
    subject = breaker()
    old = admitted(subject, 0)
    opened(subject)
    probe = admitted(subject, 5.0)
    subject.failed(old, 5.1)
    assert subject.state is State.HALF_OPEN
    subject.answered(old, 5.1)
    assert subject.state is State.HALF_OPEN
    subject.answered(probe, 5.2)
    assert subject.state is State.CLOSED


def test_an_abandoned_probe_frees_its_place() -> None:
    """A cancelled probe lets the next one out."""
    subject = breaker()
    opened(subject)
    subject.abandoned(admitted(subject, 5.0))
    assert subject.admit(5.0) is not None
