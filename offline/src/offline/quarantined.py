"""Reads the quarantine: day by day, each item once."""

import re
from collections.abc import AsyncIterator, Iterator
from itertools import groupby

from offline import items
from offline.items import Item, Selection
from offline.lake import S3Lake
from telemill.codec import compression
from telemill.quarantine import PREFIX

MAX_OBJECT_BYTES = 1 << 30
_KEY = re.compile(rf"{PREFIX}/dt=(?P<day>[^/]+)/reason=(?P<reason>[^/]+)/[^/]+\.ndjson\.zst")


async def read(lake: S3Lake, selection: Selection) -> AsyncIterator[list[Item]]:
    """The items meant, a day of arrival at a time, each once and in order of lineage.

    An item's repeats are all of one day, so a day is what is held in memory.

    Raises:
        DecodeError: An object is not what the quarantine writes.
    """
    keys = [key async for key in lake.iterate(f"{PREFIX}/")]
    for _, of_day in groupby(sorted(_meant(keys, selection)), key=lambda named: named[0]):
        found: list[Item] = []
        for _, key in of_day:
            found += await _read_object(lake, key, selection)
        if found:
            yield items.once(found)


def _meant(keys: list[str], selection: Selection) -> Iterator[tuple[str, str]]:
    for key in keys:
        named = _KEY.fullmatch(key)
        if named and selection.has_object(named["day"], named["reason"]):
            yield named["day"], key


async def _read_object(lake: S3Lake, key: str, selection: Selection) -> list[Item]:
    body = await lake.read(key)
    if body is None:
        return []
    lines = compression.decompress(body, limit=MAX_OBJECT_BYTES)
    return [item for item in items.parse(lines, key) if selection.has(item)]
