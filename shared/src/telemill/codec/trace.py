"""Trace contexts in records: which trace a record belongs to. Pure bytes, no tracing library.

A context is 25 bytes: trace id 16, span id 8, flags 1, as W3C's `traceparent` without its texts.
Internal batches carry it in their header (`telemill.codec.wire`). Raw records have no header of
ours, so it goes where readers that know nothing of it skip it: behind a zstd frame in a skippable
frame, in a KPL aggregate in a field of an unknown number (docs/wire-format.md).

Source:
    W3C Trace Context; RFC 8878 section 3.1.2; protobuf.dev/programming-guides/proto3#unknowns.
"""

import re

from telemill.codec import compression, kpl, wire

CONTEXT_BYTES = wire.TRACE_BYTES
_SAMPLED = 1
_TRACEPARENT = re.compile("[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_KPL_MAGIC, _ZSTD_MAGIC = kpl.MAGIC, compression.ZSTD_MAGIC
_NAME = b"TMTC"
_CONTENT_BYTES = len(_NAME) + CONTEXT_BYTES

_SKIPPABLE = b"\x5d\x2a\x4d\x18" + _CONTENT_BYTES.to_bytes(4, "little") + _NAME
_FRAME_BYTES = len(_SKIPPABLE) + CONTEXT_BYTES
_FRAME_BEGINS = slice(-_FRAME_BYTES, -CONTEXT_BYTES)
"""Every zstd record is looked at here: one slice and one comparison."""

_FIELD = b"\xc2\x3e" + bytes([_CONTENT_BYTES]) + _NAME
"""Field 1000 of `AggregatedRecord`, length-delimited: a tag of two bytes (1000 << 3 | 2)."""
_FIELD_BYTES = len(_FIELD) + CONTEXT_BYTES


def context(trace_id: int, span_id: int) -> bytes:
    """The context of a sampled span."""
    return trace_id.to_bytes(16, "big") + span_id.to_bytes(8, "big") + bytes([_SAMPLED])


def parts(trace: bytes) -> tuple[int, int]:
    """Trace id and span id of a context."""
    return int.from_bytes(trace[:16], "big"), int.from_bytes(trace[16:24], "big")


def of_traceparent(text: str) -> bytes:
    """The context in a header of HTTP; empty when it is none, or the caller does not record it."""
    found = _TRACEPARENT.fullmatch(text)
    return sampled(bytes.fromhex("".join(found.group(1, 2, 3)))) if found else b""


def of_record(data: bytes) -> bytes:
    """The context a record carries, raw or internal; empty without one, or if nobody records it.

    Never raises: what is not a sound record is for the decoders to say.
    """
    return sampled(wire.trace_of(data) if data.startswith(wire.MAGIC) else of_raw(data))


def of_raw(data: bytes) -> bytes:
    """The context of a raw record: of one in another format than ours, and of most, empty."""
    if data[_FRAME_BEGINS] == _SKIPPABLE and data.startswith(_ZSTD_MAGIC):
        return sampled(data[-CONTEXT_BYTES:])
    if data.startswith(_KPL_MAGIC):
        end = len(data) - kpl.DIGEST_BYTES
        if data[end - _FIELD_BYTES : end].startswith(_FIELD):
            return sampled(data[end - CONTEXT_BYTES : end])
    return b""


def on_raw(data: bytes, trace: bytes) -> bytes:
    """A raw record of ingest's formats (one zstd frame, or a KPL aggregate) with a context."""
    if data.startswith(_KPL_MAGIC):
        return kpl.with_field(data, _FIELD + trace)
    return data + _SKIPPABLE + trace


def without(data: bytes) -> bytes:
    """A zstd record without its context; anything else as it is.

    Decoders skip it by themselves, but not on the fast way of one frame with a known size.
    """
    if data[_FRAME_BEGINS] == _SKIPPABLE and data.startswith(_ZSTD_MAGIC):
        return data[:-_FRAME_BYTES]
    return data


def sampled(trace: bytes) -> bytes:
    """The context if it is one that somebody records: ids that are not zero, and the flag."""
    is_sound = len(trace) == CONTEXT_BYTES and any(trace[:16]) and any(trace[16:24])
    return trace if is_sound and trace[-1] & _SAMPLED else b""
