"""The progress table as the models of tests/model see it: writes that may arrive at any moment."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from telemill.progress import rules


class Claim(NamedTuple):
    """A take-over on its way to the table; `shard` is an index of the model."""

    shard: int
    seen: rules.Progress | None
    taken: rules.Progress

    def __str__(self) -> str:
        return f"claim {self.shard} epoch {self.taken.epoch}"


class Save(NamedTuple):
    """Any other write on its way to the table; `previous` is the write it follows."""

    shard: int
    wanted: rules.Progress
    previous: str

    def __str__(self) -> str:
        wanted = self.wanted
        cut = f" cut {wanted.intent.name}" if wanted.intent else ""
        return f"save {wanted.position} state {wanted.state!r}{cut}"


Write = Claim | Save


def arrive(item: rules.Progress | None, write: Write) -> rules.Progress | None:
    """The item after a write arrived; None when its condition does not hold."""
    if isinstance(write, Claim):
        held = rules.unchanged(item, write.seen)
        return rules.claimed(item, write.taken) if held else None
    if item is None or not rules.writable(item, write.wanted.epoch, write.previous):
        return None
    return rules.moved(item, write.wanted)


def took_effect(found: rules.Progress | None, write: Write) -> bool:
    """As `telemill.progress.store.ConditionalStore` after a refusal: whether it was this write."""
    wanted = write.taken if isinstance(write, Claim) else write.wanted
    return rules.took_effect(wanted, found)


def interleave(
    state: Any,
    workers: int,
    moves: Callable[[Any, Any], Iterable[tuple[str, Any, Any]]],
    arrives: Callable[[Any, Any], tuple[Any, bool]],
) -> Iterator[tuple[str, Any]]:
    """Whatever may happen next: a move of any worker, or a late effect that still has one.

    Args:
        state: A named tuple with `workers` and the effects that are `late`.
        workers: How many of them may move.
        moves: What one worker may do: its name, the state and the worker after it.
        arrives: The state after an effect arrived, and whether its condition held.
    """
    for index, worker in enumerate(state.workers[:workers]):
        for name, after, moved in moves(state, worker):
            others = after.workers
            changed = (*others[:index], moved, *others[index + 1 :])
            yield f"{worker.name} {name}", after._replace(workers=changed)
    for effect in state.late:
        after, held = arrives(state, effect)
        if held:
            yield f"late {effect}", after._replace(late=state.late - {effect})
