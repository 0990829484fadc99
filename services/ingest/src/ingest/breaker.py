"""The circuit breaker in front of an API host: one pure state machine.

Closed: polls pass. After `failures` consecutive failed requests it opens: nothing is sent, so a
host in trouble is left alone and polls fail at once. After a wait it is half open: one probe goes
out. If that is answered the breaker closes, else it opens again for twice the wait.
"""

import enum
import random
from collections.abc import Callable
from dataclasses import dataclass


class State(enum.IntEnum):
    """Values are those of the metric `telemill_breaker_state`."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class Event(enum.Enum):
    """What can happen to a breaker."""

    TRIPPED = "tripped"
    WAITED = "waited"
    ANSWERED = "answered"
    FAILED = "failed"


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.CLOSED, Event.TRIPPED): State.OPEN,
    (State.OPEN, Event.WAITED): State.HALF_OPEN,
    (State.HALF_OPEN, Event.ANSWERED): State.CLOSED,
    (State.HALF_OPEN, Event.FAILED): State.OPEN,
}


@dataclass(frozen=True, slots=True)
class Policy:
    """When it opens and for how long.

    Attributes:
        failures: Consecutive failed requests that open it.
        open_seconds: First wait; doubled after each failed probe.
        longest_open_seconds: No wait is longer.
    """

    failures: int = 10
    open_seconds: float = 1.0
    longest_open_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class Permit:
    """Leave to send one request. Its outcome counts only in the state it was given in."""

    generation: int


class Breaker:
    """One host's breaker. Time comes in as an argument (monotonic seconds).

    Attributes:
        state: Where it is.
        last_failure: Why the last request failed; "" before any has.

    Args:
        policy: When it opens and for how long.
        uniform: Spreads the replicas' probes; tests pass a constant.
        changed: Told old and new state and the wait in seconds (0 unless open).
    """

    def __init__(
        self,
        policy: Policy,
        uniform: Callable[[float, float], float] = random.uniform,
        changed: Callable[[State, State, float], None] = lambda _old, _new, _wait: None,
    ) -> None:
        self.state = State.CLOSED
        self.last_failure = ""
        self._policy = policy
        self._uniform = uniform
        self._changed = changed
        self._generation = 0
        self._failures = 0
        self._probing = False
        self._waits = 0
        self._probe_at = 0.0

    def admit(self, now: float) -> Permit | None:
        """Leave to send a request now, or None. Every permit is given back by one of the others."""
        if self.state is State.OPEN and now >= self._probe_at:
            self._move(Event.WAITED, now)
        if self.state is State.CLOSED:
            return Permit(self._generation)
        if self.state is State.HALF_OPEN and not self._probing:
            self._probing = True
            return Permit(self._generation)
        return None

    def answered(self, permit: Permit, now: float) -> None:
        """The host answered, be it with 404."""
        if permit.generation != self._generation:
            return
        self._failures = 0
        if self.state is State.HALF_OPEN:
            self._move(Event.ANSWERED, now)

    def failed(self, permit: Permit, now: float, why: str = "") -> None:
        """No answer in time, a broken connection or a 5xx."""
        self.last_failure = why
        if permit.generation != self._generation:
            return
        self._failures += 1
        if self.state is State.HALF_OPEN:
            self._move(Event.FAILED, now)
        elif self._failures >= self._policy.failures:
            self._move(Event.TRIPPED, now)

    def abandoned(self, permit: Permit) -> None:
        """The request was cancelled by us: it says nothing about the host."""
        if permit.generation == self._generation:
            self._probing = False

    def _move(self, event: Event, now: float) -> None:
        before, self.state = self.state, TRANSITIONS[self.state, event]
        self._generation += 1
        self._probing = False
        self._failures = 0
        self._waits = 0 if self.state is State.CLOSED else self._waits
        wait = self._open(now) if self.state is State.OPEN else 0.0
        self._changed(before, self.state, wait)

    def _open(self, now: float) -> float:
        policy = self._policy
        full = min(policy.open_seconds * 2**self._waits, policy.longest_open_seconds)
        # Capped where doubling no longer matters: a host can be away for months.
        self._waits = min(self._waits + 1, 32)
        wait = self._uniform(full / 2, full)
        self._probe_at = now + wait
        return wait
