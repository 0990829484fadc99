"""Decoding a reading's document: msgspec structs and the device's canonical form."""

from typing import Annotated, Any, Union

import msgspec

from telemill.contract.field import Field
from telemill.errors import SchemaError

MIN_INT64 = -(2**63)
MAX_INT64 = 2**63 - 1
MAX_EXACT_FLOAT = 2.0**53
"""Beyond this a float may stand for several integers, so it names no device."""
MAX_DEVICE_CHARACTERS = 256
"""Length limit of a Kinesis partition key (Kinesis API reference, PutRecords)."""

_PYTHON_TYPES: dict[str, Any] = {
    "int64": Annotated[int, msgspec.Meta(ge=MIN_INT64, le=MAX_INT64)],
    "float64": float,
    "bool": bool,
    "string": str,
    "timestamp": str,
}


def reading_struct(
    name: str, device: Field, time: Field, values: tuple[Field, ...]
) -> type[msgspec.Struct]:
    """A struct of the whole reading: attributes are columns, encoded as the document's names."""
    fields = (device, time, *values)
    attributes = [(each.column, _optional(_PYTHON_TYPES[each.type])) for each in fields]
    return _struct(f"{name}_reading", attributes, {each.column: each.name for each in fields})


def key_struct(name: str, device: Field) -> type[msgspec.Struct]:
    """A struct of the device alone, of any scalar type `device_id` may accept."""
    attributes = [(device.column, _optional(Union[int, float, str]))]  # noqa: UP007
    return _struct(f"{name}_key", attributes, {device.column: device.name})


def _optional(python_type: Any) -> Any:
    return Union[python_type, None, msgspec.UnsetType]  # noqa: UP007


def _struct(
    name: str, attributes: list[tuple[str, Any]], names: dict[str, str]
) -> type[msgspec.Struct]:
    with_defaults = [(attribute, each, msgspec.UNSET) for attribute, each in attributes]
    # Scalars cannot form a reference cycle: the collector need not look at a million structs.
    return msgspec.defstruct(name, with_defaults, rename=names, gc=False)


def device_id(device: Field, value: Any) -> int | str:
    """A device as its column holds it.

    Raises:
        SchemaError: It is missing, cannot be converted without loss or is out of range.
    """
    if value is None or value is msgspec.UNSET or value == "":
        raise SchemaError(f"{device.name} is missing")
    return _text_id(device, value) if device.type == "string" else _integer_id(device, value)


def _integer_id(device: Field, value: Any) -> int:
    number = _lossless_int(value)
    if number is None or not MIN_INT64 <= number <= MAX_INT64:
        raise SchemaError(f"{device.name} must be a 64-bit integer, got {_shown(value)}")
    below = device.low is not None and number < device.low
    above = device.high is not None and number > device.high
    if below or above:
        raise SchemaError(f"{device.name} must be in {device.range_text}, got {number}")
    return number


def _lossless_int(value: Any) -> int | None:
    # Three cases: an integer (but not a boolean), a float that is one, the one text of one.
    if type(value) is int:
        return value
    if type(value) is float and abs(value) <= MAX_EXACT_FLOAT and value.is_integer():
        return int(value)
    if type(value) is str and len(value) <= len(str(MIN_INT64)) and value.isascii():
        digits = value.removeprefix("-")
        return int(value) if digits.isdigit() and str(int(value)) == value else None
    return None


def _text_id(device: Field, value: Any) -> str:
    text = str(value) if type(value) is int else value
    if type(text) is not str or len(text) > MAX_DEVICE_CHARACTERS or not text.isprintable():
        raise SchemaError(
            f"{device.name} must be printable text of at most {MAX_DEVICE_CHARACTERS} characters, "
            f"got {_shown(value)}"
        )
    return text


def _shown(value: Any) -> str:
    """A bad value for an error text: short, whatever was sent."""
    if type(value) is int and value.bit_length() > 128:
        return "a longer one"
    text = repr(value) if type(value) in {bool, int, float, str} else type(value).__name__
    return text if len(text) <= 40 else f"{text[:40]}…"
