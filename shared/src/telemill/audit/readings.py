"""What the row of a raw item has to hold, worked out from its bytes and the contract. Pure.

Written again, apart from the transform: what two programs agree on was not misread by one of them.
The rules are those of docs/contract.md. Where an item cannot be a reading there is no answer.
"""

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from telemill.audit.columns import Bools, Int64s
from telemill.contract import Contract, Field
from telemill.errors import SchemaError

MAX_TEXT_CHARACTERS = 4096
"""A longer text is out of range."""
MAX_EXACT_FLOAT = 2.0**53
MIN_INT64, MAX_INT64 = -(2**63), 2**63 - 1
NO_TIME = -1

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d+))?(?:[Zz]|([+-])(\d\d):?(\d\d))?", re.ASCII
)
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?", re.ASCII)
_INTEGER = re.compile(r"-?(?:0|[1-9]\d{0,18})", re.ASCII)


class Reading(NamedTuple):
    """An item as it came: what makes two items the same reading."""

    device: int | str
    event_us: int
    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Value:
    """One value field of some items.

    Attributes:
        field: Which.
        column: What the rows have to hold.
        problems: The quality bits of the field that they have to show.
    """

    field: Field
    column: pa.Array
    problems: Int64s


@dataclass(frozen=True, slots=True)
class Expected:
    """What the rows of some items have to hold.

    Attributes:
        devices: None where the item has no device or is no JSON object.
        event_us: `NO_TIME` where it has no time.
        values: In the order of the contract.
    """

    devices: list[int | str | None]
    event_us: Int64s
    values: list[Value]


class _RepeatedKeyError(ValueError):
    """An object with a key twice is no reading."""


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise _RepeatedKeyError
    return document


_JSON = json.JSONDecoder(parse_constant=_refuse_constant)
_STRICT_JSON = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_without_repeats)


def _document(body: bytes, decoder: json.JSONDecoder = _JSON) -> dict[str, Any] | None:
    try:
        found = decoder.decode(body.decode())
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


class Reader:
    """Reads items of one contract."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._devices: dict[Any, int | str | None] = {}

    def reading(self, body: bytes) -> Reading | None:
        """One item as it came; None for what can be no reading."""
        document = _document(body, _STRICT_JSON)
        if document is None:
            return None
        device = self._device(document.get(self._contract.device.name))
        event_us = _time(document.get(self._contract.time.name))
        if device is None or event_us == NO_TIME:
            return None
        values = [
            _CONVERSIONS[each.type](document.get(each.name)) for each in self._contract.values
        ]
        return Reading(device, event_us, tuple(values))

    def expected(self, bodies: Sequence[bytes]) -> Expected:
        """What the rows of these items have to hold."""
        documents = [_document(body) or {} for body in bodies]
        devices, times = self._contract.device.name, self._contract.time.name
        return Expected(
            [self._device(each.get(devices)) for each in documents],
            _times([each.get(times) for each in documents]),
            [
                self._value(field, [each.get(field.name) for each in documents])
                for field in self._contract.values
            ],
        )

    def _device(self, value: Any) -> int | str | None:
        if isinstance(value, list | dict):
            return None
        known = (type(value), value)
        if known not in self._devices:
            try:
                self._devices[known] = self._contract.device_id(value)
            except SchemaError:
                self._devices[known] = None
        return self._devices[known]

    def _value(self, field: Field, received: list[Any]) -> Value:
        values, missing = _converted(field, received)
        sentinel = np.zeros(len(values), np.bool_)
        for each in field.sentinels:
            sentinel |= (values == each) & ~missing
        outside = _outside(field, values) & ~missing & ~sentinel
        problems = (
            missing * self._contract.missing_bit(field)
            | sentinel * self._contract.sentinel_bit(field)
            | outside * self._contract.range_bit(field)
        ).astype(np.int64)
        empty = missing | sentinel | outside
        kind = self._contract.table_schema.field(field.column).type
        if field.missing == "default":
            filled = [field.default if gap else v for gap, v in zip(empty, values.tolist())]  # noqa: B905
            return Value(field, pa.array(filled, kind), problems)
        return Value(field, pa.array(values, kind, mask=empty), problems)


def _converted(field: Field, received: list[Any]) -> tuple[npt.NDArray[Any], Bools]:
    """Values in the field's type, and which are missing (with a filler)."""
    if field.type == "float64":
        floats = _floats(received)
        return floats, np.isnan(floats)
    values = [_CONVERSIONS[field.type](value) for value in received]
    missing = np.fromiter((value is None for value in values), np.bool_, len(values))
    filler: Any = {"int64": 0, "bool": False, "string": ""}[field.type]
    kind: Any = {"int64": np.int64, "bool": np.bool_, "string": np.object_}[field.type]
    return np.array([filler if v is None else v for v in values], kind), missing


def _floats(received: list[Any]) -> npt.NDArray[np.float64]:
    # The usual case, numbers and nulls, at once; anything else value by value.
    if set(map(type, received)) <= {float, int, type(None)}:
        try:
            found = np.array(received, np.float64)
        except OverflowError:
            pass
        else:
            found[np.isinf(found)] = np.nan
            return found
    each = (_to_float(value) for value in received)
    return np.fromiter((math.nan if v is None else v for v in each), np.float64, len(received))


def _outside(field: Field, values: npt.NDArray[Any]) -> Bools:
    found = np.zeros(len(values), np.bool_)
    if field.type == "string":
        return np.fromiter((len(v) > MAX_TEXT_CHARACTERS for v in values), np.bool_, len(values))
    if field.low is not None:
        found |= values < field.low
    if field.high is not None:
        found |= values > field.high
    return found


def _times(received: list[Any]) -> Int64s:
    """Event times; at once where all are of the usual form."""
    if received and all(type(text) is str and text[-1:] == "Z" for text in received):
        try:
            cast = pa.array(received, pa.string()).cast(pa.timestamp("us", "UTC"))
        except pa.ArrowInvalid:
            pass
        else:
            found: Int64s = cast.cast(pa.int64()).to_numpy()
            return found
    return np.fromiter(map(_time, received), np.int64, len(received))


def _time(text: Any) -> int:
    match = _TIME.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        return NO_TIME
    date, clock, fraction, sign, hours, minutes = match.groups()
    try:
        local = datetime.fromisoformat(f"{date}T{clock}+00:00")
    except ValueError:
        return NO_TIME
    offset = timedelta()
    if sign:
        if int(hours) > 23 or int(minutes) > 59:
            return NO_TIME
        offset = timedelta(hours=int(hours), minutes=int(minutes)) * (-1 if sign == "-" else 1)
    whole = (local - _EPOCH - offset) // _MICROSECOND
    return max(NO_TIME, whole + int(f"{fraction or ''}000000"[:6]))


def _to_float(value: Any) -> float | None:
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _to_int(value: Any) -> int | None:
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        value = int(value)
    if isinstance(value, float) and value.is_integer() and abs(value) <= MAX_EXACT_FLOAT:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if MIN_INT64 <= value <= MAX_INT64 else None


def _to_bool(value: Any) -> bool | None:
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value.lower())
    return bool(value) if isinstance(value, int | float) and value in {0, 1} else None


def _to_text(value: Any) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if abs(value) <= MAX_INT64 else None
    if not isinstance(value, str):
        return None
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can spell
        return None
    return value


_CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    "float64": _to_float,
    "int64": _to_int,
    "bool": _to_bool,
    "string": _to_text,
}
