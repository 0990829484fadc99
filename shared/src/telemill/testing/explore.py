"""Walk through every state a small model can reach, and show the shortest way to a broken one."""

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

State = TypeVar("State", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Exploration(Generic[State]):
    """What was found.

    Attributes:
        states: How many different states were reached.
        broken: What is wrong in the first broken state; None when every state is sound.
        path: The steps that lead there, from the initial state on.
        ends: The reached states from which nothing more can happen; all of them, unless broken.
    """

    states: int
    broken: str | None = None
    path: list[str] = field(default_factory=list)
    ends: list[State] = field(default_factory=list)


def explore(
    initial: State,
    steps: Callable[[State], Iterable[tuple[str, State]]],
    broken: Callable[[State], str | None],
) -> Exploration[State]:
    """Breadth first, each state once.

    Args:
        initial: Where the model begins.
        steps: Whatever may happen next in a state: what it is called, and the state after it.
        broken: What is wrong in a state, None when nothing is.
    """
    came_from: dict[State, tuple[str, State] | None] = {initial: None}
    queue = deque([initial])
    ends: list[State] = []
    while queue:
        state = queue.popleft()
        fault = broken(state)
        if fault is not None:
            return Exploration(len(came_from), fault, _path(came_from, state))
        following = list(steps(state))
        if not following:
            ends.append(state)
        for name, after in following:
            # Hashing a state is most of the work: once does.
            known = len(came_from)
            came_from.setdefault(after, (name, state))
            if len(came_from) > known:
                queue.append(after)
    return Exploration(len(came_from), ends=ends)


def _path(came_from: dict[State, tuple[str, State] | None], state: State) -> list[str]:
    path: list[str] = []
    step = came_from[state]
    while step is not None:
        name, state = step
        path.append(name)
        step = came_from[state]
    return path[::-1]
