"""A 64-bit hash of a reading's values, the same in every process and version.

It is taken over the values as they came, after type conversion and before anything is nulled: -1
and 999 are different readings even when both become null. An absent value, a null and one of
another type are alike, 0.0 and -0.0 are alike. Changing it makes every reading read again after an
upgrade a conflict: a new hash needs a new snapshot format.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

from transform.validate import Column

UInt64s = npt.NDArray[np.uint64]

# The finaliser of splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators,
# OOPSLA 2014; constants of Stafford's Mix13).
_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))
_NULL = np.uint64(0x7FF8_0000_0000_0001)
"""A bit pattern no double from JSON has; an integer of this value hashes like a null."""


def hash_rows(columns: Sequence[Column], row_count: int) -> UInt64s:
    """One hash a row, over the columns in order."""
    mixed = np.zeros(row_count, np.uint64)
    for index, column in enumerate(columns):
        mixed ^= _bits(column)
        mixed += np.uint64((index + 1) * _GOLDEN % 2**64)
        _mix(mixed)
    return mixed


def _mix(bits: UInt64s) -> None:
    bits ^= bits >> _SHIFTS[0]
    bits *= _FIRST
    bits ^= bits >> _SHIFTS[1]
    bits *= _SECOND
    bits ^= bits >> _SHIFTS[2]


def _bits(column: Column) -> UInt64s:
    values = column.values
    bits: UInt64s
    if values.dtype == np.float64:
        bits = (values + 0.0).view(np.uint64)  # adding zero takes the sign off -0.0
    elif values.dtype == np.object_:
        bits = _text_bits(values)
    else:
        bits = values.astype(np.int64).view(np.uint64)
    return np.where(column.null, _NULL, bits) if column.null.any() else bits


def _text_bits(values: npt.NDArray[Any]) -> UInt64s:
    known: dict[str, int] = {}
    for text in values:
        if text not in known:
            digest = blake2b(text.encode(), digest_size=8).digest()
            known[text] = int.from_bytes(digest, "little")
    return np.fromiter((known[text] for text in values), np.uint64, len(values))
