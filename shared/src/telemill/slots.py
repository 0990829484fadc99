"""A device's slot: a fixed point of the hash-key range, so that order survives resharding.

A device maps to one of `slot_count` slots, a slot to one hash key (put as ExplicitHashKey).
When a shard splits or merges, whole slots move, so no producer has to know the shard map.
`slot_count` is fixed for a stream's life.
"""

from functools import lru_cache
from hashlib import md5

from telemill.kinesis.records import MAX_HASH_KEY

DEFAULT_SLOT_COUNT = 64
MAX_SLOT_COUNT = 4096


@lru_cache(maxsize=65536)
def slot_of(device_key: str, slot_count: int = DEFAULT_SLOT_COUNT) -> int:
    """The slot of a device: md5 of its canonical key modulo `slot_count`.

    Args:
        device_key: `str(device_id)` of the contract's type: "7", never "7.0" or "07".
        slot_count: Number of slots of the stream.

    Source:
        Kinesis itself hashes partition keys with MD5 (Kinesis API reference, PutRecord).
    """
    digest = md5(device_key.encode(), usedforsecurity=False).digest()
    return int.from_bytes(digest, "big") % slot_count


@lru_cache(maxsize=MAX_SLOT_COUNT)
def hash_key_of(slot: int, slot_count: int = DEFAULT_SLOT_COUNT) -> int:
    """The middle of the slot's part of the hash-key range: never on a shard's border."""
    width = (MAX_HASH_KEY + 1) // slot_count
    return slot * width + width // 2


def slots_in(first_hash_key: int, last_hash_key: int, slot_count: int) -> frozenset[int]:
    """The slots whose hash key lies in an inclusive range of hash keys (a shard's)."""
    return frozenset(
        slot
        for slot in range(slot_count)
        if first_hash_key <= hash_key_of(slot, slot_count) <= last_hash_key
    )
