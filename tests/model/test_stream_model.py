"""The stream stage over one shard: every interleaving (`telemill.testing.stream_model`)."""

import pytest

from telemill.testing import stream_model
from telemill.testing.model_steps import Dedupe, readings
from telemill.testing.reshard_model import ended
from telemill.testing.stream_model import Shard, Variant, World

DEDUPE = Dedupe()
THREE = (Shard(readings("A1:a A2:a A3:b")),)
FOUR = (Shard(readings("A1:a A2.1:b A3:a A4:c")),)


@pytest.mark.parametrize(
    "world",
    [
        World(DEDUPE, FOUR, takes=2, crashes=0, unanswered=0),
        World(DEDUPE, THREE, takes=3, crashes=1, unanswered=0),
        World(DEDUPE, THREE, takes=2, crashes=0, unanswered=1),
        World(DEDUPE, THREE, takes=2, crashes=1, unanswered=1),
    ],
    ids=["zombies", "crashes", "ghosts", "crash-and-ghost"],
)
def test_every_row_is_taken_once_and_in_order_whatever_happens(world: World) -> None:
    """In no reachable state does the consumer have a row twice, out of order, or too late."""
    found = stream_model.run(world)
    assert found.broken is None, found.path
    assert any(ended(state.items) for state in found.ends), "no run came to its end"


@pytest.mark.parametrize(
    ("variant", "world", "fault"),
    [
        (Variant.STATE_APART, World(DEDUPE, THREE, 2, 1, 0), "taken A1 A2 of A1 A3"),
        (Variant.TWO_IN_FLIGHT, World(DEDUPE, THREE, 1, 0, 0), "taken A3 of A1 A3"),
        (Variant.POSITION_FIRST, World(DEDUPE, THREE, 1, 0, 0), "lost A1"),
        (Variant.NO_WATERMARK, World(DEDUPE, THREE, 2, 1, 0), "taken A1 A1 of A1 A3"),
    ],
    ids=lambda value: value.name if isinstance(value, Variant) else "",
)
def test_a_rejected_protocol_loses_doubles_or_reorders_rows(
    variant: Variant, world: World, fault: str
) -> None:
    """Each shortcut that looks harmless has a run that the consumer can see."""
    found = stream_model.run(world._replace(variant=variant))
    assert found.broken == fault, found.path
