"""The slow path: one item of a document, read leniently where nothing is lost, else refused.

What is lossless (FMS.md of the design, docs/contract.md): "85.2" is 85.2, 5.0 is 5 where an
integer is meant, 1 and 0 or "true" and "false" are booleans. A JSON number is the nearest double.
A value that cannot be converted is left out and reported; without device or time there is no
reading.
"""

import json
import math
import re
from typing import Any, NamedTuple

import msgspec

from telemill.contract import Contract, Field
from telemill.errors import SchemaError
from transform import reasons

MAX_SHOWN = 80
MIN_INT64, MAX_INT64 = -(2**63), 2**63 - 1
MAX_EXACT_FLOAT = 2.0**53

_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?", re.ASCII)
_INTEGER = re.compile(r"-?(?:0|[1-9]\d{0,18})", re.ASCII)
_BOOLEANS = {"true": True, "false": False}

WRONG = object()
"""What `convert` gives for a value that is not of the field's type."""


class Item(NamedTuple):
    """A reading as the fast path would have decoded it.

    Attributes:
        row: Of the contract's struct; a value left out is None.
        wrong_types: Indices into `contract.values` of those left out.
        unknown_fields: Keys the contract does not have.
    """

    row: msgspec.Struct
    wrong_types: tuple[int, ...]
    unknown_fields: int


class Refusal(NamedTuple):
    """Why an item is not a reading."""

    reason: str
    error: str
    device_id: str | None = None


class _Pairs(list[tuple[str, Any]]):
    """A JSON object as it was written: with its duplicate keys."""


class _NotJsonError(ValueError):
    """A number the JSON grammar does not have."""


def _refuse_constant(name: str) -> Any:
    raise _NotJsonError(f"{name} is not JSON")


_PLAIN_JSON = msgspec.json.Decoder()
_JSON = json.JSONDecoder(object_pairs_hook=_Pairs, parse_constant=_refuse_constant)


class ItemReader:
    """Reads items of a contract."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._names = {field.name for field in contract.fields}

    def read(self, item: bytes) -> Item | Refusal:
        """A reading, or why it is none."""
        parsed = parse(item)
        if isinstance(parsed, Refusal):
            return parsed
        return self._conform(parsed)

    def _conform(self, document: dict[str, Any]) -> Item | Refusal:
        contract = self._contract
        device = document.get(contract.device.name)
        if device is None or device == "":
            return Refusal(reasons.MISSING_DEVICE, f"{contract.device.name} is missing")
        try:
            device_id = contract.device_id(device)
        except SchemaError as error:
            return Refusal(reasons.BAD_DEVICE, str(error))
        time = document.get(contract.time.name)
        if refusal := self._refuse_time(time, str(device_id)):
            return refusal
        row, wrong_types = self._row(device_id, str(time), document)
        unknown_fields = sum(name not in self._names for name in document)
        return Item(row, wrong_types, unknown_fields)

    def _refuse_time(self, time: Any, device_id: str) -> Refusal | None:
        name = self._contract.time.name
        if time is None or time == "":
            return Refusal(reasons.MISSING_TIME, f"{name} is missing", device_id)
        if not isinstance(time, str) or not time.isascii():
            return Refusal(
                reasons.BAD_TIME, f"{name} is no RFC 3339 text: {shown(time)}", device_id
            )
        return None

    def _row(
        self, device_id: int | str, time: str, document: dict[str, Any]
    ) -> tuple[msgspec.Struct, tuple[int, ...]]:
        columns: dict[str, Any] = {}
        wrong_types = []
        for index, field in enumerate(self._contract.values):
            value = convert(field, document.get(field.name))
            if value is WRONG:
                wrong_types.append(index)
            columns[field.column] = None if value is WRONG else value
        row = self._contract.reading_struct(device_id=device_id, event_time=time, **columns)
        return row, tuple(wrong_types)


def parse(item: bytes) -> dict[str, Any] | Refusal:
    """An item's keys and values, or why it is not one JSON object without duplicate keys."""
    document = _parse_plainly(item)
    if document is not None:
        return document
    try:
        return _without_repeats(_JSON.decode(item.decode()))
    except UnicodeDecodeError as error:
        return Refusal(reasons.NOT_JSON, f"not UTF-8 at byte {error.start}")
    except RecursionError:
        return Refusal(reasons.NOT_JSON, "nested too deeply")
    except ValueError as error:
        return Refusal(reasons.NOT_JSON, str(error)[:MAX_SHOWN])


def _without_repeats(pairs: Any) -> dict[str, Any] | Refusal:
    if not isinstance(pairs, _Pairs):
        return Refusal(reasons.NOT_OBJECT, f"not a JSON object but {_kind(pairs)}")
    document = dict(pairs)
    if len(document) != len(pairs):
        return Refusal(reasons.DUPLICATE_KEY, f"the key {shown(_repeated(pairs))} is there twice")
    return document


def _parse_plainly(item: bytes) -> dict[str, Any] | None:
    """Three times as fast, for an item whose quotes prove that no key is there twice."""
    try:
        document = _PLAIN_JSON.decode(item)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if type(document) is not dict:
        return None
    texts = sum(type(value) is str for value in document.values())
    return document if item.count(b'"') == 2 * (len(document) + texts) else None


def convert(field: Field, value: Any) -> Any:
    """A value in its field's type: None when it is null, `WRONG` when it is of another type."""
    if value is None:
        return None
    return _CONVERSIONS[field.type](value)


def _to_float(value: Any) -> Any:
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return WRONG
    try:
        number = float(value)
    except OverflowError:
        return WRONG
    return number if math.isfinite(number) else WRONG


def _to_int(value: Any) -> Any:
    is_text = isinstance(value, str) and _INTEGER.fullmatch(value)
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) <= MAX_EXACT_FLOAT
    if is_text or is_whole:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return WRONG
    return value if MIN_INT64 <= value <= MAX_INT64 else WRONG


def _to_bool(value: Any) -> Any:
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _BOOLEANS.get(value.lower(), WRONG)
    return bool(value) if isinstance(value, int | float) and value in {0, 1} else WRONG


def _to_text(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if abs(value) <= MAX_INT64 else WRONG
    if not isinstance(value, str):
        return WRONG
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can spell
        return WRONG
    return value


_CONVERSIONS = {"float64": _to_float, "int64": _to_int, "bool": _to_bool, "string": _to_text}


def _repeated(pairs: _Pairs) -> str:
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            return name
        seen.add(name)
    return ""


def _kind(value: Any) -> str:
    return "an array" if isinstance(value, list) else f"a {type(value).__name__}"


def shown(value: Any) -> str:
    """A bad value for an error text: short and printable, whatever was sent."""
    if not isinstance(value, str | bool | float | int):
        return _kind(value)
    try:
        text = ascii(value)
    except ValueError:  # an integer of more digits than Python prints
        return "a huge number"
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
