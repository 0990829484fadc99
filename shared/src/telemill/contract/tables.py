"""The contract for people: a markdown table."""

import json
from collections.abc import Sequence

from telemill.contract import field
from telemill.contract.field import Field

_HEADINGS = (
    "field",
    "column",
    "type",
    "unit",
    "valid range",
    "no reading",
    "when missing",
    "quality bits",
    "meaning",
)


def markdown(fields: Sequence[Field], values: Sequence[Field]) -> str:
    """One row per field, in the order of the file.

    Args:
        fields: All fields.
        values: Those that have quality bits, in the order of their bits.
    """
    rows = [_row(each, values) for each in fields]
    lines = [_HEADINGS, ("---",) * len(_HEADINGS), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _row(each: Field, values: Sequence[Field]) -> tuple[str, ...]:
    return (
        f"`{_escape(each.name)}`",
        f"`{each.column}`",
        each.type,
        _escape(each.unit),
        each.range_text,
        ", ".join(map(field.number_text, each.sentinels)),
        _missing(each),
        _bits(each, values),
        _escape(each.description),
    )


def _missing(each: Field) -> str:
    if each.required:
        return "record rejected"
    if each.missing == "default":
        return f"default {_escape(json.dumps(each.default, ensure_ascii=False))}"
    return each.missing


def _bits(each: Field, values: Sequence[Field]) -> str:
    if each not in values:
        return ""
    index = values.index(each)
    bits = (field.missing_bit(index), field.sentinel_bit(index), field.range_bit(index))
    return ", ".join(str(bit.bit_length() - 1) for bit in bits)


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("`", "'")
