"""The part of CBOR that the AWS SDK for Java speaks to Kinesis (`application/x-amz-cbor-1.1`).

Source:
    RFC 8949.
"""

import struct
from typing import Any, NamedTuple

MAX_DEPTH = 32
_BREAK = 0xFF
_INDEFINITE = 31
_FLOATS = {25: (">e", 2), 26: (">f", 4), 27: (">d", 8)}
_CONSTANTS = {20: False, 21: True, 22: None, 23: None}


class CborError(ValueError):
    """The bytes are not CBOR, or of a kind AWS does not use."""


class Tagged(NamedTuple):
    """A value with a tag; 1 is a time since the epoch (AWS: in milliseconds)."""

    tag: int
    value: Any


def decode(data: bytes) -> Any:
    """The first item of some bytes.

    Raises:
        CborError: There is none.
    """
    try:
        return _Reader(data).item(0)
    except CborError:
        raise
    except (IndexError, struct.error, TypeError, ValueError) as error:
        raise CborError(f"no CBOR: {error}") from error


def encode(value: Any) -> bytes:
    """A value as CBOR, lengths first."""
    out = bytearray()
    _write(out, value)
    return bytes(out)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def item(self, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise CborError("no CBOR: nested too deeply")
        initial = self._data[self._at]
        self._at += 1
        major, info = initial >> 5, initial & 31
        if major == 7:
            return self._simple(info)
        length = None if info == _INDEFINITE else self._argument(info)
        return self._of(major, length, depth)

    def _of(self, major: int, length: int | None, depth: int) -> Any:
        if major in (2, 3):
            return self._text(major, length, depth)
        if major == 4:
            return self._items(length, depth)
        if major == 5:
            flat = self._items(None if length is None else 2 * length, depth)
            return dict(zip(flat[::2], flat[1::2], strict=True))
        if length is None:
            raise CborError("no CBOR: a number without end")
        if major == 6:
            return Tagged(length, self.item(depth + 1))
        return -1 - length if major == 1 else length

    def _items(self, length: int | None, depth: int) -> list[Any]:
        if length is not None:
            return [self.item(depth + 1) for _ in range(length)]
        found = []
        while self._data[self._at] != _BREAK:
            found.append(self.item(depth + 1))
        self._at += 1
        return found

    def _text(self, major: int, length: int | None, depth: int) -> Any:
        if length is None:
            parts = self._items(None, depth)
            return "".join(parts) if major == 3 else b"".join(parts)
        raw = self._take(length)
        return raw.decode() if major == 3 else raw

    def _simple(self, info: int) -> Any:
        if info in _FLOATS:
            form, size = _FLOATS[info]
            return struct.unpack(form, self._take(size))[0]
        if info in _CONSTANTS:
            return _CONSTANTS[info]
        raise CborError(f"no CBOR: simple value {info}")

    def _argument(self, info: int) -> int:
        if info < 24:
            return info
        if info > 27:
            raise CborError(f"no CBOR: additional information {info}")
        return int.from_bytes(self._take(1 << (info - 24)), "big")

    def _take(self, length: int) -> bytes:
        taken = self._data[self._at : self._at + length]
        if len(taken) < length:
            raise CborError("no CBOR: cut off")
        self._at += length
        return taken


def _write(out: bytearray, value: Any) -> None:
    if value is None or isinstance(value, bool):
        out.append({False: 0xF4, True: 0xF5, None: 0xF6}[value])
    elif isinstance(value, int):
        _head(out, 1 if value < 0 else 0, -1 - value if value < 0 else value)
    elif isinstance(value, float):
        out += struct.pack(">Bd", 0xFB, value)
    elif isinstance(value, str):
        raw = value.encode()
        _head(out, 3, len(raw))
        out += raw
    elif isinstance(value, bytes):
        _head(out, 2, len(value))
        out += value
    else:
        _write_composed(out, value)


def _write_composed(out: bytearray, value: Any) -> None:
    if isinstance(value, Tagged):
        _head(out, 6, value.tag)
        _write(out, value.value)
    elif isinstance(value, dict):
        _head(out, 5, len(value))
        for pair in value.items():
            _write(out, pair[0])
            _write(out, pair[1])
    elif isinstance(value, list):
        _head(out, 4, len(value))
        for item in value:
            _write(out, item)
    else:
        raise CborError(f"no CBOR for a {type(value).__name__}")


def _head(out: bytearray, major: int, argument: int) -> None:
    if argument < 24:
        out.append(major << 5 | argument)
        return
    for info, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if argument < 1 << (8 * size):
            out.append(major << 5 | info)
            out += argument.to_bytes(size, "big")
            return
    raise CborError(f"no CBOR: {argument} is too large")
