"""How rows get into a table beside others who write: each lacking row once, whoever adds it.

The rows added to a partition are a chain of objects, `backfill-000001.parquet`, `-000002` and so
on. Whoever adds lists the partition, screens its rows against every object in it, and creates the
next of the chain, which S3 does for one writer only. Who comes second looks again. So what was
screened against is what is there when the object is created, whatever other runs, crashed ones or
ones that slept did meanwhile; the live path adds no such row any more (`offline.live`).
"""

import asyncio
import re
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from offline import lake as lakes
from offline.core import COMPARED_COLUMNS, Screen, Tally
from offline.lake import Lake, StoredObject
from sink import parquet
from sink.core import Form
from sink.parquet import Partition

CHAIN = "backfill-"
_CHAIN_NAME = re.compile(rf"{CHAIN}(\d+)\.parquet")
MAX_REMEMBERED_SPANS = 100_000


class Catalog(Protocol):
    """Where readers look partitions up."""

    async def ensure_partitions(self, partitions: Iterable[Partition]) -> None:
        """See `sink.cutting.Catalog`."""


class Additions:
    """Adds what a table lacks.

    Args:
        form: The table.
        lake: Its objects.
        catalog: Its partitions.
        dry_run: Find out what is lacking, write nothing.
        add_conflicts: Rows that differ from the stored one of their device and time, too.
    """

    def __init__(
        self,
        form: Form,
        lake: Lake,
        catalog: Catalog,
        *,
        dry_run: bool = False,
        add_conflicts: bool = False,
    ) -> None:
        self._form = form
        self._lake = lake
        self._catalog = catalog
        self._dry_run = dry_run
        self._add_conflicts = add_conflicts
        self._event_spans: OrderedDict[str, tuple[Any, Any] | None] = OrderedDict()

    async def add(self, rows: pa.Table, tally: Tally) -> None:
        """Add what is lacking of some rows, partition by partition.

        When this raises or is cancelled some rows may be added: the next call sees them as stored.

        Args:
            rows: In the table's schema, in order of acceptance.
            tally: What happened is added.
        """
        if not rows.num_rows:
            return
        tally.rows += rows.num_rows
        for partition, part in parquet.split(rows):
            await self._add(partition, part, tally)

    async def _add(self, partition: Partition, rows: pa.Table, tally: Tally) -> None:
        prefix = f"{self._form.table}/{partition.path}/"
        while True:
            keys = await self._lake.keys(prefix)
            screen = Screen(rows, self._form.contract, add_conflicts=self._add_conflicts)
            await self._screen(screen, rows, keys)
            lacking, outcomes = screen.finish()
            if await self._create(partition, next_key(prefix, keys), lacking):
                break
        tally.outcomes.update(outcomes)
        tally.added += lacking.num_rows
        tally.objects += lacking.num_rows > 0

    async def _create(self, partition: Partition, key: str, rows: pa.Table) -> bool:
        """Whether nothing is left to do; False when somebody else created the key."""
        if self._dry_run or not rows.num_rows:
            return True
        await self._catalog.ensure_partitions([partition])
        body = await asyncio.to_thread(_encode, rows)
        return await self._lake.create(key, body, _origin(rows))

    async def _screen(self, screen: Screen, rows: pa.Table, keys: list[str]) -> None:
        span = pc.min_max(rows["event_time"]).as_py()
        for key in keys:
            if self._is_apart(key, span["min"], span["max"]):
                continue
            stored = await lakes.open_object(self._lake, key)
            if stored is None:
                continue
            self._remember(stored)
            if not self._is_apart(key, span["min"], span["max"]):
                await _compare(screen, stored, self._form)

    def _is_apart(self, key: str, oldest: Any, newest: Any) -> bool:
        """Whether an object is known to hold none of some event times."""
        span = self._event_spans.get(key)
        return span is not None and (span[1] < oldest or newest < span[0])

    def _remember(self, stored: StoredObject) -> None:
        # An object of the sink never changes. One of ours, once deleted, may be another one.
        if CHAIN in stored.key.rpartition("/")[2]:
            return
        self._event_spans[stored.key] = stored.event_span()
        if len(self._event_spans) > MAX_REMEMBERED_SPANS:
            self._event_spans.popitem(last=False)


async def _compare(screen: Screen, stored: StoredObject, form: Form) -> None:
    keys = await stored.read(COMPARED_COLUMNS)
    if keys is None:
        return
    rows, places = await asyncio.to_thread(screen.match, keys)
    if not len(rows):
        return
    names = [value.column for value in form.contract.values if value.column in stored.columns]
    values = await stored.read(["quality", *names])
    if values is not None:
        await asyncio.to_thread(screen.judge, rows, places, values)


def next_key(prefix: str, keys: Iterable[str]) -> str:
    """The name of the next object of a partition's chain.

    Args:
        prefix: Of the partition, with a slash at the end.
        keys: Every object in it.
    """
    found = (_CHAIN_NAME.fullmatch(key.removeprefix(prefix)) for key in keys)
    last = max((int(match[1]) for match in found if match), default=0)
    return f"{prefix}{CHAIN}{last + 1:06d}.parquet"


def _encode(rows: pa.Table) -> bytes:
    body: bytes = parquet.encode(rows.combine_chunks()).to_pybytes()
    return body


def _origin(rows: pa.Table) -> dict[str, str]:
    """First and last lineage, for who looks at the object."""
    return {
        f"telemill-{which}": ":".join(
            str(rows[name][place].as_py())
            for name in ("shard_id", "sequence_number", "sub_sequence_number")
        )
        for which, place in (("first", 0), ("last", -1))
    }
