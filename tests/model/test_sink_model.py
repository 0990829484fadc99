"""The sink of one raw shard: every interleaving in small worlds (`telemill.testing.sink_model`)."""

import pytest

from telemill.testing import sink_model
from telemill.testing.reshard_model import Row, ended
from telemill.testing.sink_model import Shard, Variant, World


def one_shard(*numbers: int) -> tuple[Shard, ...]:
    """A shard with rows of one raw shard."""
    return (Shard(tuple(Row("A", number) for number in numbers)),)


@pytest.mark.parametrize(
    "world",
    [
        World(one_shard(1, 3, 1, 4), takes=2, crashes=1, unanswered=0),
        World(one_shard(1, 3, 1), takes=3, crashes=1, unanswered=0),
        World(one_shard(1, 3), takes=2, crashes=0, unanswered=2),
        World(one_shard(1, 3, 1), takes=2, crashes=1, unanswered=1),
    ],
    ids=["zombies", "three-owners", "ghosts", "crash-and-ghost"],
)
def test_every_row_is_stored_once_whatever_happens(world: World) -> None:
    """In no reachable state is a row in two objects, or missing at or below the position."""
    found = sink_model.run(world)
    assert found.broken is None, found.path
    assert any(ended(state.items) for state in found.ends), "no run came to its end"


@pytest.mark.parametrize(
    ("variant", "world", "fault"),
    [
        (Variant.STATE_APART, World(one_shard(1, 3, 1), 2, 1, 0), "doubled A1"),
        (Variant.STATE_IN_INTENT, World(one_shard(1, 3), 2, 1, 0), "lost"),
        (Variant.SPLIT_BY_SIZE, World(one_shard(1, 3), 2, 1, 0), "doubled A3"),
        (Variant.NO_INTENT, World(one_shard(1, 3), 2, 1, 0), "doubled"),
        (Variant.INTENT_IGNORED, World(one_shard(1, 3), 2, 1, 0), "doubled"),
        (Variant.UNCONDITIONAL, World(one_shard(1, 3), 2, 0, 0), "doubled"),
        (Variant.EPOCH_ALONE, World(one_shard(1, 3, 1), 2, 1, 1), "doubled A3"),
        (Variant.UNSETTLED, World(one_shard(1, 3), 1, 0, 1), "a position went back"),
    ],
    ids=lambda value: value.name if isinstance(value, Variant) else "",
)
def test_a_rejected_protocol_loses_or_doubles_rows(
    variant: Variant, world: World, fault: str
) -> None:
    """Each shortcut that looks harmless has a run that breaks the tables; the protocol has none."""
    found = sink_model.run(world._replace(variant=variant))
    assert (found.broken or "").startswith(fault), found.path
