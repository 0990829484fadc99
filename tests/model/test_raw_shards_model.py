"""Two raw shards whose sequence numbers know nothing of each other.

Their rows are in one stream, in one slot and in others. Watermarks are kept by raw shard and slot:
with fewer of them rows are lost.
"""

import pytest

from telemill.testing import sink_model, stream_model
from telemill.testing.model_steps import Dedupe, readings
from telemill.testing.reshard_model import ended, rows

MIXED = (sink_model.Shard(rows("A5 B2 A5 B3")),)
"""The sink's input: B's numbers are below A's, and one row of A comes again."""
SLOTS = (sink_model.Shard(rows("A5 A2.1 A5")),)
"""A later row of the raw shard overtook an earlier one of another slot."""
APART = (stream_model.Shard(readings("A7:a A8:b")), stream_model.Shard(readings("B1:a")))
"""The transform's input, both at once, also by the same worker. Duplicates are by raw shard."""


@pytest.mark.parametrize(
    "world",
    [
        sink_model.World(MIXED, takes=2, crashes=1, unanswered=0),
        sink_model.World(MIXED, takes=3, crashes=0, unanswered=0),
        sink_model.World((sink_model.Shard(rows("A5 B2 A5")),), takes=2, crashes=0, unanswered=1),
        sink_model.World(SLOTS, takes=2, crashes=1, unanswered=0),
    ],
    ids=["crash", "three-owners", "ghost", "slots"],
)
def test_rows_of_two_raw_shards_are_stored_once(world: sink_model.World) -> None:
    """However two raw shards' rows are mixed in a stream, each is stored once."""
    found = sink_model.run(world)
    assert found.broken is None, found.path
    assert any(ended(state.items) for state in found.ends), "no run came to its end"


@pytest.mark.parametrize(
    "world",
    [
        stream_model.World(Dedupe(), APART, takes=3, crashes=0, unanswered=0),
        stream_model.World(Dedupe(), APART, takes=2, crashes=1, unanswered=0),
        stream_model.World(Dedupe(), APART, takes=2, crashes=0, unanswered=1),
    ],
    ids=["zombies", "crash", "ghost"],
)
def test_rows_of_two_raw_shards_are_taken_once_and_in_order(world: stream_model.World) -> None:
    """Two raw shards are worked on at once and their rows taken once, each in its own order."""
    found = stream_model.run(world)
    assert found.broken is None, found.path
    assert any(ended(state.items) for state in found.ends), "no run came to its end"


@pytest.mark.parametrize(
    ("variant", "shards", "fault"),
    [
        (sink_model.Variant.ONE_WATERMARK, MIXED, "lost B2"),
        (sink_model.Variant.BLIND_TO_SLOTS, SLOTS, "lost A2"),
        (sink_model.Variant.FORGETFUL, MIXED, "doubled A5"),
    ],
    ids=lambda value: value.name if isinstance(value, sink_model.Variant) else "",
)
def test_a_sink_with_fewer_watermarks_breaks_the_table(
    variant: sink_model.Variant, shards: tuple[sink_model.Shard, ...], fault: str
) -> None:
    """One worker without any trouble is enough to show what a watermark too few does."""
    found = sink_model.run(sink_model.World(shards, 1, 0, 0, variant))
    assert found.broken == fault, found.path


def test_a_consumer_with_one_watermark_a_stream_loses_rows() -> None:
    """Behind the real stage too: the second raw shard's rows look like a replay."""
    variant = stream_model.Variant.ONE_WATERMARK
    found = stream_model.run(stream_model.World(Dedupe(), APART, 2, 0, 0, variant))
    assert found.broken == "lost B1", found.path
