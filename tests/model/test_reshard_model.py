"""Reshards: of the sink's stream, of the raw stream, and of a scoring stage's input.

A shard splits into two by slot, or two merge into one. What a child starts with, and when, is
where rows are lost, doubled or altered.
"""

import pytest

from telemill.testing import sink_model, stream_model
from telemill.testing.model_steps import Dedupe, Score, readings
from telemill.testing.reshard_model import ended, rows

ZERO, ONE = frozenset({0}), frozenset({1})

# --- the sink, over a reshard of `readings` ---

SINK_CHILD = (sink_model.Shard(rows("A1 A2")), sink_model.Shard(rows("A1 A3"), (0,)))
SINK_SPLIT = (
    sink_model.Shard(rows("A1 B2.1")),
    sink_model.Shard(rows("A1 A3"), (0,), ZERO),
    sink_model.Shard(rows("B2.1"), (0,), ONE),
)
SINK_MERGE = (
    sink_model.Shard(rows("A5"), (), ZERO),
    sink_model.Shard(rows("B2.1"), (), ONE),
    sink_model.Shard(rows("A5 B2.1"), (0, 1)),
)
RAW_PARENT_AGAIN = (sink_model.Shard(rows("P1 P2 C5 P2")),)
"""Of the raw stream: rows of the parent are replayed after the child's first."""


@pytest.mark.parametrize(
    "world",
    [
        sink_model.World(SINK_CHILD, takes=4, crashes=0, unanswered=0),
        sink_model.World(SINK_CHILD, takes=3, crashes=1, unanswered=0),
        sink_model.World(SINK_SPLIT, takes=3, crashes=0, unanswered=0),
        sink_model.World(SINK_SPLIT, takes=3, crashes=1, unanswered=0),
        sink_model.World(SINK_MERGE, takes=4, crashes=0, unanswered=0),
        sink_model.World(SINK_MERGE, takes=3, crashes=0, unanswered=1),
        sink_model.World(RAW_PARENT_AGAIN, takes=2, crashes=1, unanswered=0),
    ],
    ids=["child", "child-crash", "split", "split-crash", "merge", "merge-ghost", "raw-parent"],
)
def test_a_reshard_loses_and_doubles_no_stored_row(world: sink_model.World) -> None:
    """Rows replayed on a child shard are known there; new ones are stored once."""
    found = sink_model.run(world)
    assert found.broken is None, found.path
    assert any(ended(state.items) for state in found.ends), "no run came to its end"


@pytest.mark.parametrize(
    ("variant", "world", "fault"),
    [
        (sink_model.Variant.ORPHAN, sink_model.World(SINK_CHILD, 2, 0, 0), "doubled A1"),
        (sink_model.Variant.ORPHAN, sink_model.World(SINK_SPLIT, 3, 0, 0), "doubled A1"),
        (sink_model.Variant.ONE_PARENT, sink_model.World(SINK_MERGE, 3, 0, 0), "doubled B2"),
        (sink_model.Variant.EAGER_CHILD, sink_model.World(SINK_CHILD, 2, 0, 0), "doubled A1"),
        (sink_model.Variant.FORGETFUL, sink_model.World(RAW_PARENT_AGAIN, 1, 0, 0), "doubled P2"),
    ],
    ids=lambda value: value.name if isinstance(value, sink_model.Variant) else "",
)
def test_a_rejected_reshard_doubles_stored_rows(
    variant: sink_model.Variant, world: sink_model.World, fault: str
) -> None:
    """A child with less than its parents' whole final state takes a replay for new rows."""
    found = sink_model.run(world._replace(variant=variant))
    assert found.broken == fault, found.path


# --- the transform, over a reshard of the raw stream ---

RAW_CHILD = (
    stream_model.Shard(readings("P1:a P2:b")),
    stream_model.Shard(readings("C3:a C4:c"), (0,)),
)
RAW_SPLIT = (
    stream_model.Shard(readings("P1:a")),
    stream_model.Shard(readings("C3:a C4:c"), (0,)),
    stream_model.Shard(readings("D2:d"), (0,)),
)
RAW_MERGE = (
    stream_model.Shard(readings("P1:a")),
    stream_model.Shard(readings("Q2:b")),
    stream_model.Shard(readings("C3:b C4:c"), (0, 1)),
)

# --- a scoring stage, over a reshard of `readings` ---

SCORE_CHILD = (
    stream_model.Shard(readings("A1 B1")),
    stream_model.Shard(readings("A1 A2"), (0,)),
)
SCORE_SPLIT = (
    stream_model.Shard(readings("A1 B1.1")),
    stream_model.Shard(readings("A1 A2"), (0,), ZERO),
    stream_model.Shard(readings("B2.1"), (0,), ONE),
)
SCORE_MERGE = (
    stream_model.Shard(readings("A1"), (), ZERO),
    stream_model.Shard(readings("B1.1"), (), ONE),
    stream_model.Shard(readings("A1 B2.1"), (0, 1)),
)
SCORE_SPLIT_AND_MERGE = (
    stream_model.Shard(readings("A1 B1.1")),
    stream_model.Shard(readings("A2"), (0,), ZERO),
    stream_model.Shard(readings("B1.1"), (0,), ONE),
    stream_model.Shard(readings("A3"), (1, 2)),
)


@pytest.mark.parametrize(
    "world",
    [
        stream_model.World(Dedupe(), RAW_CHILD, takes=3, crashes=0, unanswered=0),
        stream_model.World(Dedupe(), RAW_CHILD, takes=2, crashes=1, unanswered=0),
        stream_model.World(Dedupe(), RAW_CHILD, takes=2, crashes=0, unanswered=1),
        stream_model.World(Dedupe(), RAW_SPLIT, takes=4, crashes=0, unanswered=0),
        stream_model.World(Dedupe(), RAW_MERGE, takes=3, crashes=1, unanswered=0),
        stream_model.World(Score(), SCORE_CHILD, takes=2, crashes=1, unanswered=0),
        stream_model.World(Score(), SCORE_SPLIT, takes=3, crashes=0, unanswered=0),
        stream_model.World(Score(), SCORE_MERGE, takes=4, crashes=0, unanswered=0),
        stream_model.World(Score(), SCORE_SPLIT_AND_MERGE, takes=4, crashes=0, unanswered=0),
    ],
    ids=[
        "raw-child",
        "raw-child-crash",
        "raw-child-ghost",
        "raw-split",
        "raw-merge-crash",
        "score-child-crash",
        "score-split",
        "score-merge",
        "score-split-and-merge",
    ],
)
def test_a_reshard_of_the_input_loses_doubles_and_alters_nothing(
    world: stream_model.World,
) -> None:
    """Along every path of parents and children, rows are taken once, in order and unaltered."""
    found = stream_model.run(world)
    assert found.broken is None, found.path
    assert any(ended(state.items) for state in found.ends), "no run came to its end"


@pytest.mark.parametrize(
    ("variant", "world", "fault"),
    [
        (
            stream_model.Variant.ORPHAN,
            stream_model.World(Dedupe(), RAW_CHILD, 2, 0, 0),
            "taken P1 P2 C3 of P1 P2 C4",
        ),
        (
            stream_model.Variant.ONE_PARENT,
            stream_model.World(Dedupe(), RAW_MERGE, 3, 0, 0),
            "taken P1 C3 of P1 C4",
        ),
        (
            stream_model.Variant.EAGER_CHILD,
            stream_model.World(Dedupe(), RAW_CHILD, 2, 0, 0),
            "taken C3 of P1 P2 C4",
        ),
        (
            stream_model.Variant.FORGETFUL,
            stream_model.World(Dedupe(), RAW_CHILD, 3, 0, 0),
            "taken P1 P2 C4 P1 of P1 P2 C4",
        ),
        (
            stream_model.Variant.ORPHAN,
            stream_model.World(Score(), SCORE_SPLIT, 3, 0, 0),
            "taken B1=1 B2=1 of B1=1",
        ),
        (
            stream_model.Variant.ONE_PARENT,
            stream_model.World(Score(), SCORE_MERGE, 3, 0, 0),
            "taken B2=1 of B2=2",
        ),
        (
            stream_model.Variant.EAGER_CHILD,
            stream_model.World(Score(), SCORE_CHILD, 2, 0, 0),
            "taken A1=1 A2=2 of A1=1 B1=2 A2=3",
        ),
        (
            stream_model.Variant.UNFILTERED,
            stream_model.World(Score(), SCORE_SPLIT_AND_MERGE, 4, 0, 0),
            "taken A1=1 A2=2 A3=2 of A1=1 A2=2 A3=3",
        ),
    ],
    ids=lambda value: value.name if isinstance(value, stream_model.Variant) else "",
)
def test_a_rejected_reshard_of_the_input_shows_in_what_is_taken(
    variant: stream_model.Variant, world: stream_model.World, fault: str
) -> None:
    """A child with another state, or begun too early, puts out what no sound run puts out."""
    found = stream_model.run(world._replace(variant=variant))
    assert found.broken == fault, found.path
