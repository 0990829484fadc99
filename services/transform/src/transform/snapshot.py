"""A shard's history as bytes: what is known of each device, oldest first, compressed.

Format 1: one zstd frame over a msgpack header and, after it, two blocks over all devices in the
order of the header: event times as int64 little endian, each the difference to the one before of
the same device; and the value hashes as uint64 little endian.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from telemill import errors
from telemill.codec import compression
from transform import dedupe
from transform.dedupe import Entry, History

FORMAT_VERSION = 1
MAX_SNAPSHOT_BYTES = 1 << 30
_LENGTH_BYTES = 4
_INT64, _UINT64 = np.dtype("<i8"), np.dtype("<u8")


class _Header(msgspec.Struct, array_like=True):
    version: int
    day: int
    keys: list[str]
    counts: list[int]
    newest_us: list[int]
    last_seen_us: list[int]
    carried: list[list[Any]]


def pack(history: History) -> bytes:
    """Equal histories give equal bytes."""
    entries = history.entries()
    header = msgspec.msgpack.encode(
        _Header(
            FORMAT_VERSION,
            history.day,
            list(entries),
            [len(entry.event_us) for entry in entries.values()],
            [entry.newest_us for entry in entries.values()],
            [entry.last_seen_us for entry in entries.values()],
            [list(entry.carried) for entry in entries.values()],
        )
    )
    zero = np.zeros(1, np.int64)
    times = [np.diff(entry.event_us, prepend=zero) for entry in entries.values()]
    hashes = [entry.hashes for entry in entries.values()]
    return compression.zstd_compress(
        b"".join(
            [
                len(header).to_bytes(_LENGTH_BYTES, "little"),
                header,
                *(each.astype(_INT64, copy=False).tobytes() for each in times),
                *(each.astype(_UINT64, copy=False).tobytes() for each in hashes),
            ]
        )
    )


def restore(into: History, snapshots: Sequence[bytes]) -> None:
    """Put the union of snapshots into an empty history.

    Raises:
        DecodeError: A snapshot is damaged or of another format.
    """
    together: dict[str, Entry] = {}
    for data in snapshots:
        day, entries = unpack(data)
        into.day = max(into.day, day)
        for key, entry in entries.items():
            known = together.get(key)
            together[key] = entry if known is None else dedupe.union(known, entry)
    for key in sorted(together):
        into.put(key, together[key])


def unpack(data: bytes) -> tuple[int, dict[str, Entry]]:
    """The day and the entries of a snapshot."""
    content = compression.decompress(data, limit=MAX_SNAPSHOT_BYTES)
    start = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "little")
    try:
        header = msgspec.msgpack.decode(content[_LENGTH_BYTES:start], type=_Header)
        if header.version != FORMAT_VERSION:
            raise errors.DecodeError(f"a state of format {header.version}, not {FORMAT_VERSION}")
        return header.day, _entries(header, content, start)
    except (msgspec.MsgspecError, ValueError) as error:
        raise errors.DecodeError(f"broken state: {error}") from error


def _entries(header: _Header, content: bytes, start: int) -> dict[str, Entry]:
    total = sum(header.counts)
    deltas = np.frombuffer(content, _INT64, total, start)
    hashes = np.frombuffer(content, _UINT64, total, start + deltas.nbytes)
    ends = list(itertools.accumulate(header.counts, initial=0))
    found = {}
    for index, key in enumerate(header.keys):
        part = slice(ends[index], ends[index + 1])
        found[key] = Entry(
            np.cumsum(deltas[part], dtype=np.int64),
            hashes[part].astype(np.uint64),
            header.newest_us[index],
            header.last_seen_us[index],
            tuple(header.carried[index]),
        )
    return found
