"""Event times: RFC 3339 text to UTC microseconds.

Accepted: `T` or a blank between date and time, any number of sub-second digits (kept to the
microsecond, the rest cut off), `Z` or an offset with or without colon; without either it is UTC.
Not accepted: leap seconds, hour 24, anything before 1970 (no clock was set).
"""

import re
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa

SHAPE = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:([Zz])|([+-]\d\d):?(\d\d))?",
    re.ASCII,
)
BAD = -1
"""Stands for "not a time"; real ones are not negative."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_ARROW_SHAPE = re.compile(
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d{1,6})?(Z|[+-]\d\d:?\d\d)?", re.ASCII
)
"""What Arrow's cast reads exactly as `parse_one` does."""
_NAIVE = pa.timestamp("us")
_UTC = pa.timestamp("us", "UTC")

Int64s = npt.NDArray[np.int64]


def parse(texts: pa.StringArray) -> Int64s:
    """Microseconds since 1970 of each text; `BAD` where it is null or not a time.

    The result of a row depends on that row alone. The usual case, all rows of one shape, takes
    one vectorised cast.
    """
    found = _parse_uniform(texts)
    if found is None:
        found = _parse_each(texts)
    return np.where(found < 0, BAD, found)


def parse_one(text: str) -> int:
    """Microseconds since 1970 of one text, or `BAD`."""
    match = SHAPE.fullmatch(text)
    if match is None:
        return BAD
    *civil, fraction, _, offset_hours, offset_minutes = match.groups()
    try:
        local = datetime(*map(int, civil), tzinfo=UTC)  # type: ignore[arg-type,misc]
    except ValueError:
        return BAD
    offset = _offset_minutes(offset_hours, offset_minutes)
    if offset is None:
        return BAD
    microseconds = (local - _EPOCH) // _MICROSECOND + int(f"{fraction or ''}000000"[:6])
    return max(BAD, microseconds - offset * 60_000_000)


def _offset_minutes(hours: str | None, minutes: str | None) -> int | None:
    if hours is None or minutes is None:
        return 0
    if int(hours[1:]) > 23 or int(minutes) > 59:
        return None
    amount = int(hours[1:]) * 60 + int(minutes)
    return -amount if hours[0] == "-" else amount


def _parse_each(texts: pa.StringArray) -> Int64s:
    encoded = texts.dictionary_encode()
    # An added last entry is what a null's index stands for.
    each = [BAD if text is None else parse_one(text) for text in encoded.dictionary.to_pylist()]
    indices = encoded.indices.fill_null(len(each)).to_numpy()
    found: Int64s = np.array([*each, BAD], dtype=np.int64)[indices]
    return found


def _parse_uniform(texts: pa.StringArray) -> Int64s | None:
    """The cast, when every text has the shape of the first; None when it does not apply."""
    if len(texts) == 0 or texts.null_count:
        return None
    first = texts[0].as_py()
    match = _ARROW_SHAPE.fullmatch(first)
    if match is None or not _same_shape(texts, first):
        return None
    try:
        cast = texts.cast(_UTC if match[1] else _NAIVE)
    except pa.ArrowInvalid:
        return None
    microseconds: Int64s = cast.view(pa.int64()).to_numpy()
    return microseconds


def _same_shape(texts: pa.StringArray, first: str) -> bool:
    """Whether all texts are as long as the first and have its punctuation where it has it.

    That the other characters are digits is left to the cast.
    """
    _, offsets_buffer, characters_buffer = texts.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    if (np.diff(offsets) != len(first)).any():
        return False
    characters = np.frombuffer(characters_buffer, np.uint8)[offsets[0] : offsets[-1]]
    rows = characters.reshape(len(texts), len(first))
    places = [place for place, character in enumerate(first) if not character.isdigit()]
    expected = np.frombuffer(first.encode(), np.uint8)[places]
    return bool((rows[:, places] == expected).all())
