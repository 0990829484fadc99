"""A quarantined item: as it stands in the quarantine, and which ones are meant. Pure."""

import base64
import binascii
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import msgspec

from telemill import errors
from telemill.quarantine import Row

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY_US = 86_400_000_000

_decode_row = msgspec.json.Decoder(Row).decode


class ItemLineage(NamedTuple):
    """What makes an item one item, however often it was written.

    Attributes:
        stream: The stream its record is of.
        shard_id: The record's shard.
        sequence_number: The record's.
        sub_sequence_number: Of the item in the record.
    """

    stream: str
    shard_id: str
    sequence_number: str
    sub_sequence_number: int

    def __str__(self) -> str:
        return f"{self.shard_id}:{self.sequence_number}:{self.sub_sequence_number}"


@dataclass(frozen=True, slots=True)
class Item:
    """One item of the quarantine.

    Attributes:
        lineage: Which one it is.
        reason: Why it was put aside, as a label.
        error: Why, for a person.
        device_id: Canonical key; None when it could not be known.
        arrival_us: When Kinesis took its record.
        incarnation: Of the stream; None when the object's name does not say.
        body: The original bytes.
    """

    lineage: ItemLineage
    reason: str
    error: str
    device_id: str | None
    arrival_us: int
    incarnation: int | None
    body: bytes

    @property
    def order(self) -> tuple[str, str, int, int]:
        """Sorts items as their shards accepted them."""
        stream, shard_id, number, sub = self.lineage
        return stream, shard_id, int(number), sub


@dataclass(frozen=True, slots=True)
class Selection:
    """Which items are meant; what is empty or None excludes nothing.

    Attributes:
        from_us: First arrival.
        to_us: Arrival before which.
        reasons: Any of these.
        devices: Any of these canonical keys.
        lineages: (shard, sequence number, sub-sequence number or None for all of the record).
    """

    from_us: int | None = None
    to_us: int | None = None
    reasons: frozenset[str] = frozenset()
    devices: frozenset[str] = frozenset()
    lineages: frozenset[tuple[str, str, int | None]] = frozenset()

    def has_object(self, day: str, reason: str) -> bool:
        """Whether an object of this day and reason may hold a meant item."""
        if self.reasons and reason not in self.reasons:
            return False
        if self.from_us is not None and day < _day(self.from_us):
            return False
        return self.to_us is None or day <= _day(self.to_us)

    def has(self, item: Item) -> bool:
        """Whether an item is meant."""
        if self.reasons and item.reason not in self.reasons:
            return False
        if self.devices and item.device_id not in self.devices:
            return False
        if self.from_us is not None and item.arrival_us < self.from_us:
            return False
        if self.to_us is not None and item.arrival_us >= self.to_us:
            return False
        _, shard_id, number, sub = item.lineage
        wanted = {(shard_id, number, sub), (shard_id, number, None)}
        return not self.lineages or not self.lineages.isdisjoint(wanted)


def parse(lines: bytes, key: str) -> Iterator[Item]:
    """The items of one object.

    Args:
        lines: Its decompressed bytes.
        key: Its name, for the incarnation and for errors.

    Raises:
        DecodeError: It is not what the quarantine writes.
    """
    for line in lines.splitlines():
        try:
            row = _decode_row(line)
            yield _item(row, key)
        except (msgspec.MsgspecError, ValueError) as error:
            raise errors.DecodeError(f"{key}: not an object of the quarantine: {error}") from error


def _item(row: Row, key: str) -> Item:
    try:
        body = base64.b64decode(row.body, validate=True)
    except binascii.Error as error:
        raise ValueError(f"body: {error}") from error
    return Item(
        lineage=ItemLineage(row.stream, row.shard_id, row.sequence_number, row.sub_sequence_number),
        reason=row.reason,
        error=row.error,
        device_id=row.device_id,
        arrival_us=(datetime.fromisoformat(row.arrival_time) - EPOCH) // timedelta(microseconds=1),
        incarnation=_incarnation(row, key),
        body=body,
    )


def _incarnation(row: Row, key: str) -> int | None:
    """The object's name begins with stream, incarnation and the shard the record was read from."""
    name = key.rpartition("/")[2].removeprefix(f"{row.stream}-")
    text = name.partition(f"-{row.shard_id}-")[0]
    return int(text) if text.isdecimal() else None


def once(items: Iterable[Item]) -> list[Item]:
    """Each item once (the quarantine is at-least-once), in order of lineage.

    Of repeats the one that sorts first is kept: a replay must not depend on the order of objects.
    """
    found: dict[ItemLineage, Item] = {}
    for item in items:
        kept = found.get(item.lineage)
        if kept is None or (item.reason, item.error) < (kept.reason, kept.error):
            found[item.lineage] = item
    return sorted(found.values(), key=lambda item: item.order)


def _day(at_us: int) -> str:
    return (EPOCH + timedelta(microseconds=at_us)).date().isoformat()
