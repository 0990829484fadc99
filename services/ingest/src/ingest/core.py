"""From bodies to raw records: split, route to slots, pack, encode. Pure.

A body is what one HTTP answer or request holds; an item is one JSON document of it; a raw record
holds items of one slot. Items keep their bytes: nothing here writes JSON.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec

from telemill import errors, slots
from telemill.codec import compression, kpl, raw
from telemill.contract import Contract, Field

RawFormat = Literal["ndjson", "kpl"]

MAX_ITEM_BYTES = 1_000_000
"""So that an item, whatever zstd or KPL framing adds, fits the 1 MiB of a Kinesis record."""

MAX_BATCH_BYTES = 512 * 1024
"""Items packed into one raw record, before compression (a larger item goes alone)."""

MAX_BATCH_ITEMS = 4096

ITEM_OVERHEAD_BYTES = 64
"""More than the KPL format adds to an item, its partition key apart."""

MAX_COMMAS_PER_ITEM = 64
"""Bounds what decoding an array of tiny elements can allocate; a reading has far fewer."""

_BLANK = b" \t\r\n"
_ELEMENTS = msgspec.json.Decoder(list[msgspec.Raw])
_ANYTHING = msgspec.json.Decoder(msgspec.Raw)
_NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_MAX_KNOWN_DEVICES = 65_536


@dataclass(slots=True)
class Group:
    """Items of one slot, in order.

    Attributes:
        slot: Where they belong.
        keys: The device key of each: the partition key of a KPL user record.
        items: Their bytes.
        alone: The one item needs an NDJSON record of its own: among lines it could be misread.
    """

    slot: int
    keys: list[str] = field(default_factory=list)
    items: list[bytes] = field(default_factory=list)
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """An item that cannot be a reading.

    Attributes:
        index: Its place among the items of the body, from 0.
        error: Why; `error.reason` is a bounded label.
    """

    index: int
    error: errors.RecordError


@dataclass(slots=True)
class Routed:
    """A body's items: those that can be readings by slot, and the others in order."""

    groups: dict[int, Group] = field(default_factory=dict)
    refused: list[Refused] = field(default_factory=list)


def split(body: bytes, max_items: int) -> list[bytes]:
    """The items of a pushed body: one object, an array or NDJSON.

    Args:
        body: Decompressed.
        max_items: More are refused.

    Returns:
        Each item's own bytes, at least one unless the body is an empty array. Lines of NDJSON
        need not be JSON; `Router.route` tells.

    Raises:
        DecodeError: Not UTF-8, blank, or an array that is not JSON (NaN, nested too deep, …).
        RecordTooLargeError: More than `max_items` items.
    """
    _require_utf8(body)
    stripped = body.strip(_BLANK)
    if not stripped:
        raise errors.DecodeError("the body is empty")
    # 1. An array: its elements.
    # 2. One line, or one document on several lines: itself.
    # 3. Lines, each an item; also when some or all are broken, so that the answer can say which.
    if stripped.startswith(b"["):
        return _elements(stripped, max_items)
    first_line, line_end, _ = stripped.partition(b"\n")
    if not line_end or (not _is_json(first_line) and _is_json(stripped)):
        return [stripped]
    return _lines(stripped, max_items)


def _require_utf8(body: bytes) -> None:
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise errors.DecodeError(f"not UTF-8 at byte {error.start}") from error


def _elements(body: bytes, max_items: int) -> list[bytes]:
    if body.count(b",") > max_items * MAX_COMMAS_PER_ITEM:
        raise _too_many(max_items)
    try:
        found = _ELEMENTS.decode(body)
    except _NOT_JSON as error:
        raise errors.DecodeError(_why(error)) from error
    if len(found) > max_items:
        raise _too_many(max_items)
    return [bytes(element) for element in found]


def _lines(body: bytes, max_items: int) -> list[bytes]:
    if body.count(b"\n") > max_items * 2:
        raise _too_many(max_items)
    found = [line for line in (line.strip(_BLANK) for line in body.split(b"\n")) if line]
    if len(found) > max_items:
        raise _too_many(max_items)
    return found


def _too_many(max_items: int) -> errors.RecordTooLargeError:
    return errors.RecordTooLargeError(f"more than {max_items} items in one body")


def _is_json(text: bytes) -> bool:
    try:
        _ANYTHING.decode(text)
    except _NOT_JSON:
        return False
    return True


def _why(error: Exception) -> str:
    return "JSON is nested too deep" if isinstance(error, RecursionError) else str(error)


class Router:
    """Says which slot an item belongs to, and whether it can be a reading at all.

    An item can be a reading when it is a JSON object with a device of the contract's type and
    every other required field. Whether its values are good is decided downstream.
    """

    def __init__(self, contract: Contract, slot_count: int) -> None:
        self._contract = contract
        self._slot_count = slot_count
        required = _struct(contract, [each for each in contract.fields if each.required])
        self._decode_required = msgspec.json.Decoder(required).decode
        only_device = _struct(contract, [contract.device])
        self._decode_device = msgspec.json.Decoder(only_device).decode
        self._places: dict[int | str, tuple[int, str]] = {}

    def route(self, items: Iterable[bytes]) -> Routed:
        """Sort pushed items by slot."""
        routed = Routed()
        groups, places, decode = routed.groups, self._places, self._decode_required
        for index, item in enumerate(items):
            try:
                value = decode(item).device_id
                place = places.get(value)
                # Three things the fast path has not seen to: a new device, a float (1.0 and 1 are
                # one dict key), an item that is too large.
                if place is None or type(value) is float or len(item) > MAX_ITEM_BYTES:
                    place = self._place(value, item)
            except (errors.RecordError, *_NOT_JSON) as error:
                routed.refused.append(Refused(index, _as_record_error(error)))
                continue
            slot, key = place
            group = groups.get(slot)
            if group is None:
                group = groups[slot] = Group(slot)
            group.keys.append(key)
            group.items.append(item)
        return routed

    def route_polled(self, device_key: str, body: bytes) -> Group:
        """A polled body, whatever it holds, as a group of one.

        Args:
            device_key: The device that was asked; decides the slot when the body does not say.
            body: As it came. One line end at its end is left to NDJSON, which puts it back.
        """
        line = body.removesuffix(b"\n")
        try:
            slot, key = self._place(self._decode_device(line).device_id, line)
        except (errors.RecordError, *_NOT_JSON):
            return Group(self.slot_of(device_key), [device_key], [body], alone=True)
        if b"\n" in line:
            return Group(slot, [key], [body], alone=True)
        return Group(slot, [key], [line])

    def slot_of(self, device_key: str) -> int:
        """The slot of a device by its canonical key."""
        return slots.slot_of(device_key, self._slot_count)

    def _place(self, value: int | float | str, item: bytes) -> tuple[int, str]:
        """Slot and key of a device."""
        check_size(item)
        key = self._contract.device_key(value)
        place = self.slot_of(key), key
        if not isinstance(value, float):
            if len(self._places) >= _MAX_KNOWN_DEVICES:
                self._places.clear()
            self._places[value] = place
        return place


def check_size(item: bytes) -> None:
    """Refuse an item that does not fit a raw record.

    Raises:
        RecordTooLargeError: It does not.
    """
    if len(item) > MAX_ITEM_BYTES:
        raise errors.RecordTooLargeError(f"larger than {MAX_ITEM_BYTES} bytes")


def _as_record_error(error: Exception) -> errors.RecordError:
    if isinstance(error, errors.RecordError):
        return error
    if isinstance(error, msgspec.ValidationError):
        return errors.SchemaError(str(error))
    return errors.DecodeError(_why(error))


def _struct(contract: Contract, fields: Iterable[Field]) -> Any:
    """A struct of required attributes: decoding names the first that is missing."""
    types: dict[str, Any] = {
        contract.device.column: int | float | str,
        contract.time.column: Annotated[str, msgspec.Meta(min_length=1)],
    }
    chosen = list(fields)
    return msgspec.defstruct(
        "reading",
        [(each.column, types.get(each.column, msgspec.Raw)) for each in chosen],
        rename={each.column: each.name for each in chosen},
        gc=False,
    )


@dataclass(slots=True, eq=False)
class Batch:
    """Items that will be one raw record.

    Attributes:
        slot: The slot of all of them.
        keys: The device key of each.
        items: Their bytes, at least one item.
        size_bytes: What they count towards `MAX_BATCH_BYTES`.
        trace: Context of the one sampled trace that some of them belong to; empty without.
    """

    slot: int
    keys: list[str] = field(default_factory=list)
    items: list[bytes] = field(default_factory=list)
    size_bytes: int = 0
    trace: bytes = b""


class Packer:
    """Gathers items into batches: one open batch a slot, in order of arrival.

    Args:
        raw_format: How batches will be encoded; NDJSON cannot take every item among others.
    """

    def __init__(self, raw_format: RawFormat) -> None:
        self._lines = raw_format == "ndjson"
        self._open: dict[int, Batch] = {}
        self._closed: list[Batch] = []

    def add(self, group: Group, trace: bytes = b"") -> list[Batch]:
        """Put a group's items into batches.

        Args:
            group: The items.
            trace: Their trace. A batch takes at most one: where another begins, it is closed.

        Returns:
            The batches that hold them: one, unless they had to be cut.
        """
        if group.alone and self._lines:
            self._close(group.slot)
        used: list[Batch] = []
        for keys, items, size_bytes in _pieces(group):
            batch = self._room(group.slot, len(items), size_bytes, trace)
            batch.keys += keys
            batch.items += items
            batch.size_bytes += size_bytes
            if not used or used[-1] is not batch:
                used.append(batch)
        if group.alone and self._lines:
            self._close(group.slot)
        return used

    def take_closed(self) -> list[Batch]:
        """The batches which can take no more items; each is given once."""
        taken, self._closed = self._closed, []
        return taken

    def take(self, may_go: Callable[[Batch], bool] = lambda _: True) -> list[Batch]:
        """The batches that may go, in order within each slot; each is given once.

        Args:
            may_go: Asked of each batch that could still take items.
        """
        for slot in [slot for slot, batch in self._open.items() if may_go(batch)]:
            self._close(slot)
        return self.take_closed()

    def _room(self, slot: int, item_count: int, size_bytes: int, trace: bytes) -> Batch:
        batch = self._open.get(slot)
        if batch and (
            batch.size_bytes + size_bytes > MAX_BATCH_BYTES
            or len(batch.items) + item_count > MAX_BATCH_ITEMS
            or (trace and batch.trace and batch.trace != trace)
        ):
            self._close(slot)
            batch = None
        if batch is None:
            batch = self._open[slot] = Batch(slot)
        batch.trace = batch.trace or trace
        return batch

    def _close(self, slot: int) -> None:
        batch = self._open.pop(slot, None)
        if batch is not None:
            self._closed.append(batch)


def _pieces(group: Group) -> Iterator[tuple[list[str], list[bytes], int]]:
    """The group whole when it fits into a batch, else item by item."""
    size_bytes = _size_bytes(group.keys, group.items)
    if size_bytes <= MAX_BATCH_BYTES and len(group.items) <= MAX_BATCH_ITEMS:
        yield group.keys, group.items, size_bytes
        return
    for key, item in zip(group.keys, group.items, strict=True):
        yield [key], [item], _size_bytes([key], [item])


def _size_bytes(keys: list[str], items: list[bytes]) -> int:
    return sum(map(len, items)) + sum(map(len, keys)) + ITEM_OVERHEAD_BYTES * len(items)


def encode(batch: Batch, raw_format: RawFormat, slot_count: int) -> bytes:
    """The raw record of a batch.

    As KPL every user record carries the slot's hash key: the KCL drops an aggregate with a user
    record that hashes outside the shard.
    """
    if raw_format == "kpl":
        hash_key = slots.hash_key_of(batch.slot, slot_count)
        pairs = zip(batch.keys, batch.items, strict=True)
        return kpl.aggregate([kpl.UserRecord(key, hash_key, item) for key, item in pairs])
    if len(batch.items) == 1:
        # Also for an item with line breaks: its bytes stay as they came.
        return compression.zstd_compress(batch.items[0])
    return raw.encode_ndjson(batch.items)


def partition_key(batch: Batch) -> str:
    """The device when the batch is of one; Kinesis routes by the slot's hash key anyway."""
    first = batch.keys[0]
    return first if len(set(batch.keys)) == 1 else f"slot-{batch.slot}"
