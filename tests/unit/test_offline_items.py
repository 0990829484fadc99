"""Quarantined items: read, chosen, and made rows with their original lineage."""

import base64
import json
from typing import Any

import pytest

from offline import items
from offline.derive import SPLITS, UNDECODABLE, ItemDeriver
from offline.items import Item, ItemLineage, Selection
from offline.live import Passed
from offline.testing import World
from telemill import contract, errors
from telemill.codec import compression, wire
from telemill.testing import batches
from transform.testing import FMS_YAML, NOW_US, SHARD, ndjson, plant, reading

PLANT = plant()
NUMBER = batches.sequence_number(3)
DAY_US = 86_400_000_000


def item(body: bytes, sub: int = 0, number: str = NUMBER, **changes: Any) -> Item:
    """An item of the raw shard of `transform.testing`."""
    stream = changes.pop("stream", SHARD.stream)
    fields: dict[str, Any] = {
        "lineage": ItemLineage(stream, SHARD.shard_id, number, sub),
        "reason": "future",
        "error": "it was",
        "device_id": "1",
        "arrival_us": NOW_US,
        "incarnation": SHARD.incarnation,
        "body": body,
    }
    return Item(**(fields | changes))


def line(**changes: Any) -> bytes:
    """A line as `telemill.quarantine` writes it."""
    row = {
        "reason": "not_json",
        "error": "no",
        "body": base64.b64encode(b"{").decode(),
        "device_id": None,
        "stream": "a-b",
        "shard_id": "shardId-1",
        "sequence_number": "12",
        "sub_sequence_number": 4,
        "arrival_time": "2025-07-07T08:21:30.000001Z",
    }
    return json.dumps(row | changes).encode()


def test_an_object_is_read() -> None:
    """A line becomes an item; the stream's incarnation is in the object's name."""
    key = "quarantine/dt=2025-07-07/reason=not_json/a-b-175-shardId-1-12.4-12.4.ndjson.zst"
    (found,) = items.parse(line(), key)
    assert found.lineage == ItemLineage("a-b", "shardId-1", "12", 4)
    assert (found.arrival_us, found.body, found.incarnation) == (NOW_US + 1, b"{", 175)
    assert next(items.parse(line(), "another name")).incarnation is None


@pytest.mark.parametrize("broken", [b"{", line(body="*"), line(arrival_time="soon")])
def test_a_foreign_object_is_named(broken: bytes) -> None:
    """What the quarantine did not write is an error that names the object."""
    with pytest.raises(errors.DecodeError, match="some-key"):
        list(items.parse(broken, "some-key"))


def test_repeats_count_once() -> None:
    """The quarantine is at-least-once: one item a lineage, in numeric order of lineage."""
    found = [item(b"b", 1), item(b"a", number="9"), item(b"b", 1), item(b"a")]
    assert [each.lineage.sub_sequence_number for each in items.once(found)] == [0, 0, 1]
    assert items.once(found)[0].lineage.sequence_number == "9"


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(), True),
        (Selection(from_us=NOW_US, to_us=NOW_US + 1), True),
        (Selection(to_us=NOW_US), False),
        (Selection(from_us=NOW_US + 1), False),
        (Selection(reasons=frozenset({"future"}), devices=frozenset({"1"})), True),
        (Selection(reasons=frozenset({"decode"})), False),
        (Selection(devices=frozenset({"2"})), False),
        (Selection(lineages=frozenset({(SHARD.shard_id, NUMBER, None)})), True),
        (Selection(lineages=frozenset({(SHARD.shard_id, NUMBER, 1)})), False),
    ],
)
def test_selection(selection: Selection, expected: bool) -> None:
    """All filters must hold; the end of a time range is not in it."""
    assert selection.has(item(b"{}")) is expected


def test_a_days_objects_are_looked_at_when_they_may_hold_an_item() -> None:
    """Days and reasons outside the selection are not read."""
    selection = Selection(NOW_US, NOW_US + DAY_US, frozenset({"future"}))
    days = ("2025-07-06", "2025-07-07", "2025-07-08", "2025-07-09")
    assert [selection.has_object(day, "future") for day in days] == [False, True, True, False]
    assert not selection.has_object("2025-07-07", "decode")


def test_items_of_one_record_keep_their_numbers() -> None:
    """Items stepped together come back under their own sequence and sub-sequence numbers."""
    found = [item(ndjson([reading(time=f"2025-07-07T08:21:{sub:02}Z")]), sub) for sub in (7, 9)]
    derived = ItemDeriver(PLANT).derive(found, SHARD)
    assert derived.rows["sub_sequence_number"].to_pylist() == [7, 9]
    assert set(derived.rows["sequence_number"].to_pylist()) == {NUMBER}
    assert set(derived.rows["shard_id"].to_pylist()) == {SHARD.shard_id}


def test_a_record_put_aside_whole_gets_the_numbers_it_would_have_had() -> None:
    """A whole record that decodes today gives every row its place in the record."""
    body = compression.zstd_compress(ndjson([reading(1), reading(2)]))
    derived = ItemDeriver(PLANT).derive([item(body, reason="decode")], SHARD)
    assert derived.rows["sub_sequence_number"].to_pylist() == [0, 1]


def test_an_item_that_splits_is_not_taken() -> None:
    """One item that now decodes to two would take the number of its neighbour: rejected."""
    body = json.dumps([reading(1), reading(2)]).encode()
    derived = ItemDeriver(PLANT).derive([item(body, 5, reason="not_object"), item(b"no", 6)], SHARD)
    assert derived.rows.num_rows == 0
    assert derived.rejected == {SPLITS: 1, "not_json": 1}


def test_duplicates_are_not_judged_between_items() -> None:
    """Two items of one device and time both become rows: the table decides, not a history."""
    found = [item(ndjson([reading(heat=heat)]), sub) for sub, heat in enumerate((1.0, 2.0, 1.0))]
    assert ItemDeriver(PLANT).derive(found, SHARD).rows.num_rows == 3


async def test_a_record_of_readings_is_taken_when_it_decodes() -> None:
    """A batch that a consumer could not read comes in with its rows' lineage, or is named."""
    world = World(PLANT)
    await world.create()
    batch = batches.batch(PLANT.stream_schema, [(1, 0), (2, 0)], [NOW_US, NOW_US + 1])
    sound = item(wire.encode(batches.header(PLANT), batch), stream="readings", reason="decode")
    broken = item(b"\xd7TM", stream="readings", number="9", reason="decode")
    foreign = item(b"x", stream="scores")
    replay = await world.replay([sound, broken, foreign])
    assert replay.tally.added == 2
    assert replay.undecodable == [broken]
    assert replay.tally.rejected == {UNDECODABLE: 1}
    assert replay.left.foreign == 1
    assert {row["shard_id"] for row in world.rows()} == {batches.RAW_SHARD_ID}
    assert (await world.replay([sound])).tally.added == 0


async def test_items_above_the_live_positions_are_left() -> None:
    """What the live path may still bring is not replayed; a shard no longer listed is passed."""
    world = World(PLANT)
    await world.create()
    (shard,) = (await world.passed()).shards
    later = contract.loads(FMS_YAML)
    body = ndjson([reading()])
    number = batches.sequence_number(5)
    lineage = ItemLineage(shard.stream, shard.shard_id, number, 0)
    waiting = item(body, lineage=lineage, incarnation=shard.incarnation)
    position = batches.sequence_number(4)
    passed = Passed(shard.incarnation, [shard], {shard.shard_id: position})
    replay = await world.replay([waiting, item(body)], contract=later, passed=passed)
    assert replay.left.above == [waiting]
    assert replay.tally.added == 1
    older = item(body, lineage=lineage, incarnation=shard.incarnation - 1, arrival_us=NOW_US)
    replay = await world.replay([older], contract=later, passed=passed)
    assert not replay.left.above
