"""telemill.slots: fixed points of the hash-key range."""

import json
from pathlib import Path
from typing import Any

import pytest

from telemill import slots
from telemill.kinesis.records import MAX_HASH_KEY

VECTORS = Path(__file__).parents[1] / "vectors" / "slots.json"
COUNTS = pytest.mark.parametrize("slot_count", [1, 2, 3, 64, 1000, slots.MAX_SLOT_COUNT])


@pytest.mark.parametrize("vector", json.loads(VECTORS.read_text()), ids=str)
def test_slots_never_change(vector: dict[str, Any]) -> None:
    """A device's slot and a slot's hash key are what they were when its stream was made."""
    slot = slots.slot_of(vector["device_key"], vector["slot_count"])
    assert slot == vector["slot"]
    assert str(slots.hash_key_of(slot, vector["slot_count"])) == vector["explicit_hash_key"]


@COUNTS
def test_hash_keys_rise_inside_the_range(slot_count: int) -> None:
    """Each slot has its own hash key, all inside the 128 bits."""
    keys = [slots.hash_key_of(slot, slot_count) for slot in range(slot_count)]
    assert keys == sorted(set(keys))
    assert keys[0] >= 0
    assert keys[-1] <= MAX_HASH_KEY


@COUNTS
def test_every_slot_is_in_exactly_one_of_two_halves(slot_count: int) -> None:
    """Splitting a shard anywhere moves whole slots and loses none."""
    every = slots.slots_in(0, MAX_HASH_KEY, slot_count)
    assert every == frozenset(range(slot_count))
    for border in (1, MAX_HASH_KEY // 3, MAX_HASH_KEY // 2, MAX_HASH_KEY):
        lower = slots.slots_in(0, border - 1, slot_count)
        upper = slots.slots_in(border, MAX_HASH_KEY, slot_count)
        assert lower | upper == every
        assert not lower & upper


def test_a_hash_key_is_never_on_a_border_of_equal_shards() -> None:
    """Shards made by equal splits up to the slot count have their slots well inside."""
    for shard_count in (1, 2, 4, 8, 16, 32, 64):
        width = (MAX_HASH_KEY + 1) // shard_count
        for slot in range(64):
            assert width // 128 <= slots.hash_key_of(slot, 64) % width <= width - width // 128


def test_devices_spread_over_the_slots() -> None:
    """A thousand devices leave no slot of 64 empty or with five times its share."""
    held = [0] * 64
    for device in range(1, 1001):
        held[slots.slot_of(str(device))] += 1
    assert min(held) > 0
    assert max(held) < 5 * 1000 / 64
