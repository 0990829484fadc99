"""What the proxy has learnt about streams: shards by hash key, shards by iterator. Pure."""

import re
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from telemill.testing.faults import cbor
from telemill.testing.faults.buckets import ShardLimits

REFRESH_SECONDS = 2.0
MAX_ITERATORS = 20_000
"""More than are in use within an iterator's life of 5 minutes at 60 calls a second."""
_JSON_ITERATOR = re.compile(rb'"NextShardIterator"\s*:\s*"([^"\\]*)"')
_CBOR_ITERATOR = cbor.encode("NextShardIterator")


class Place(NamedTuple):
    """A shard of a stream."""

    stream: str
    shard_id: str

    def __str__(self) -> str:
        return f"shard {self.shard_id} in stream {self.stream}"


class _Map(NamedTuple):
    learnt_at: float
    firsts: list[int]
    lasts: list[int]
    shard_ids: list[str]


class ShardMap:
    """Open shards of each stream, as last listed."""

    def __init__(self) -> None:
        self._maps: dict[str, _Map] = {}

    def learn(self, stream: str, listed: Sequence[Mapping[str, Any]], now: float) -> None:
        """Take over what ListShards answered: at least one open shard."""
        opened = sorted(
            (int(keys["StartingHashKey"]), int(keys["EndingHashKey"]), str(shard["ShardId"]))
            for shard in listed
            if not shard["SequenceNumberRange"].get("EndingSequenceNumber")
            for keys in (shard["HashKeyRange"],)
        )
        firsts, lasts, shard_ids = (list(column) for column in zip(*opened, strict=True))
        self._maps[stream] = _Map(now, firsts, lasts, shard_ids)

    def forget(self, stream: str) -> None:
        """Its shards may have changed."""
        self._maps.pop(stream, None)

    def is_stale(self, stream: str, now: float) -> bool:
        """Whether it should be listed again."""
        known = self._maps.get(stream)
        return known is None or now - known.learnt_at >= REFRESH_SECONDS

    def knows(self, stream: str, shard_id: str) -> bool:
        """Whether a shard is among the open ones."""
        known = self._maps.get(stream)
        return known is not None and shard_id in known.shard_ids

    def place(self, stream: str, hash_key: int) -> Place | None:
        """The open shard a hash key falls into."""
        known = self._maps.get(stream)
        if known is None:
            return None
        at = bisect_right(known.firsts, hash_key) - 1
        if at < 0 or hash_key > known.lasts[at]:
            return None
        return Place(stream, known.shard_ids[at])


class Iterators:
    """Which shard an iterator is of. The oldest are forgotten."""

    def __init__(self, most: int = MAX_ITERATORS) -> None:
        self._places: OrderedDict[str, Place] = OrderedDict()
        self._most = most

    def remember(self, iterator: str, place: Place) -> None:
        """An iterator that was given out."""
        self._places[iterator] = place
        self._places.move_to_end(iterator)
        if len(self._places) > self._most:
            self._places.popitem(last=False)

    def place(self, iterator: str) -> Place | None:
        """Its shard, if known."""
        return self._places.get(iterator)


class Limits:
    """The buckets of every shard seen."""

    def __init__(self) -> None:
        self._shards: dict[Place, ShardLimits] = {}

    def of(self, place: Place, now: float) -> ShardLimits:
        """A shard's buckets, full when first asked for."""
        found = self._shards.get(place)
        if found is None:
            found = self._shards[place] = ShardLimits(now)
        return found


def next_iterator(body: bytes, form: str) -> str | None:
    """The next iterator in a GetRecords answer, found without parsing the records.

    Quotes inside JSON strings are escaped, so the JSON member is found and nothing else. In CBOR a
    record's data could hold the same bytes; then a shard's calls go uncounted, no more.
    """
    if form == "json":
        at = body.rfind(b'"NextShardIterator"')
        found = _JSON_ITERATOR.match(body, at) if at >= 0 else None
        return found.group(1).decode() if found else None
    at = body.rfind(_CBOR_ITERATOR)
    if at < 0:
        return None
    try:
        iterator = cbor.decode(body[at + len(_CBOR_ITERATOR) :])
    except cbor.CborError:
        return None
    return iterator if isinstance(iterator, str) else None
