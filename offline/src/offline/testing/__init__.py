"""A table, a raw stream and runs over them without AWS, and crashes between any two steps."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from prometheus_client import CollectorRegistry

from offline import items
from offline.additions import Additions
from offline.backfill import Backfill
from offline.core import Tally
from offline.derive import Deriver, ItemDeriver
from offline.items import Item, ItemLineage
from offline.live import Passed, list_shards
from offline.pages import Pages, is_last
from offline.places import ForgottenPlaces, Places
from offline.raw_range import TimeRange
from offline.replay import Replay
from sink import parquet
from telemill.contract import Contract
from telemill.health import Health
from telemill.kinesis.calls import StreamCalls
from telemill.kinesis.records import SHARD_END, Chunk, Record, Shard
from telemill.metrics import Metrics
from telemill.stages.owner import StartPosition
from telemill.stages.step import Rejected
from telemill.testing.kinesis import FakeKinesis
from telemill.testing.lake import MemoryCatalog
from transform.core import TransformStep

STREAM = "readings-raw"
START_SECONDS = 1_751_876_490.0
"""2025-07-07T08:21:30Z."""
SUB = "sub_sequence_number"

Step = Callable[[str], Awaitable[None]]
Lineage = tuple[str, str, int]


class Crash(Exception):  # noqa: N818
    """The process dies here: nothing after it happens."""


async def go_on(_name: str) -> None:
    """Yield once, as every real call does."""
    await asyncio.sleep(0)


class MemoryLake:
    """A `offline.lake.Lake` in a dictionary.

    Attributes:
        objects: Body by key.
        step: Called with the name of an operation before it takes effect, and of a creation after.
    """

    def __init__(self, objects: dict[str, bytes] | None = None, step: Step = go_on) -> None:
        self.objects = {} if objects is None else objects
        self.step = step

    async def keys(self, prefix: str) -> list[str]:
        """See Lake."""
        await self.step("keys")
        return sorted(key for key in self.objects if key.startswith(prefix))

    async def fetch(self, key: str, first: int | None, length: int) -> tuple[bytes, int] | None:
        """See Lake."""
        await self.step("fetch")
        body = self.objects.get(key)
        if body is None:
            return None
        start = max(0, len(body) - length) if first is None else first
        return body[start : start + length], len(body)

    async def create(self, key: str, body: bytes, _metadata: Mapping[str, str]) -> bool:
        """See Lake."""
        await self.step("create")
        created = self.objects.setdefault(key, body) is body
        await self.step("created")
        return created

    def rows(self) -> list[dict[str, Any]]:
        """Every row, object by object."""
        return [
            row
            for key in sorted(self.objects)
            for row in pq.read_table(pa.BufferReader(self.objects[key])).to_pylist()
        ]


def fresh_calls(kinesis: Any, stream: str) -> StreamCalls:
    """Calls of a process of its own, which never sleep."""
    return StreamCalls(
        kinesis, stream, metrics=Metrics(CollectorRegistry()), health=Health(), sleep=_no_sleep
    )


async def _no_sleep(_seconds: float) -> None:
    await asyncio.sleep(0)


class World:
    """A raw stream and the table that the live services made of it.

    Args:
        contract: What a reading is.

    Attributes:
        now: Seconds, of the stream's clock.
        kinesis: The streams.
        objects: The table.
    """

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self.now = START_SECONDS
        self.kinesis = FakeKinesis(lambda: self.now, page_size=10)
        self.objects: dict[str, bytes] = {}

    async def create(self, shard_count: int = 1) -> None:
        """Make the raw stream."""
        await self.kinesis.create_stream(StreamName=STREAM, ShardCount=shard_count)

    async def put(self, body: bytes, hash_key: int = 0) -> None:
        """Put a record, a second after the one before."""
        self.now += 1.0
        entry = {"Data": body, "PartitionKey": "k", "ExplicitHashKey": str(hash_key)}
        await self.kinesis.put_records(StreamName=STREAM, Records=[entry])

    async def passed(self) -> Passed:
        """Live services that have read everything."""
        incarnation, shards = await list_shards(self.calls())
        return Passed(incarnation, shards, dict.fromkeys((s.shard_id for s in shards), SHARD_END))

    def calls(self) -> StreamCalls:
        """The raw stream."""
        return fresh_calls(self.kinesis, STREAM)

    async def live(self) -> tuple[pa.Table, list[Item]]:
        """What the live services make of all records: the rows and the quarantine."""
        passed = await self.passed()
        step, deriver = TransformStep(self.contract), Deriver(self.contract)
        rows, states = deriver.open_rows(), dict[str, bytes]()
        found: list[Item] = []
        for shard in passed.shards:
            history = step.restore([states[each] for each in shard.parents], shard)
            chunk = Chunk(shard, await self._records(shard))
            if chunk.records:
                again = step.restore([step.snapshot(history)], shard)
                found += [item_of(shard, each) for each in step.step(chunk, again).rejected]
                deriver.derive(chunk, history, rows)
            states[shard.shard_id] = step.snapshot(history)
        return rows.table(), found

    async def _records(self, shard: Shard) -> list[Record]:
        pages = Pages(self.calls(), shard, StartPosition())
        found: list[Record] = []
        while True:
            page = await pages.next()
            found += page.records
            if is_last(page):
                return found

    def store(self, rows: pa.Table, rows_per_object: int = 3) -> None:
        """Put rows into the table, some an object, as a sink would."""
        for partition, part in parquet.split(rows) if rows.num_rows else ():
            for start in range(0, part.num_rows, rows_per_object):
                key = f"readings/{partition.path}/sink-{len(self.objects):04d}.parquet"
                body = parquet.encode(part.slice(start, rows_per_object)).to_pybytes()
                self.objects[key] = body

    async def backfill(
        self,
        time_range: TimeRange,
        *,
        places: Places | None = None,
        step: Step = go_on,
        dry_run: bool = False,
        cut_records: int = 1_000,
    ) -> Tally:
        """One run in a process of its own."""
        deriver = Deriver(self.contract)
        additions = self.additions(step, dry_run=dry_run)
        return await Backfill(
            self.calls(),
            deriver,
            additions,
            places or ForgottenPlaces(),
            time_range,
            await self.passed(),
            lambda _progress: None,
            cut_records=cut_records,
        ).run()

    async def replay(
        self,
        found: Sequence[Item],
        *,
        contract: Contract | None = None,
        include_conflicts: bool = False,
        step: Step = go_on,
        passed: Passed | None = None,
    ) -> Replay:
        """One replay, as `--yes` does it."""
        replay = Replay(
            ItemDeriver(contract or self.contract),
            self.additions(step, add_conflicts=include_conflicts),
            passed or await self.passed(),
            raw_stream=STREAM,
            readings_stream="readings",
            include_conflicts=include_conflicts,
        )
        await replay.take(items.once(found))
        return replay

    def additions(
        self, step: Step = go_on, *, dry_run: bool = False, add_conflicts: bool = False
    ) -> Additions:
        """The table, as one process sees it."""
        form = Deriver(self.contract).form
        lake = MemoryLake(self.objects, step)
        return Additions(form, lake, MemoryCatalog(), dry_run=dry_run, add_conflicts=add_conflicts)

    def rows(self) -> list[dict[str, Any]]:
        """The table, by lineage."""
        return by_lineage(MemoryLake(self.objects).rows())


def item_of(shard: Shard, rejected: Rejected) -> Item:
    """A rejected item as it comes back from the quarantine."""
    lineage = ItemLineage(
        shard.stream, rejected.shard_id, rejected.sequence_number, rejected.sub_sequence_number
    )
    return Item(
        lineage,
        rejected.reason,
        rejected.error,
        rejected.device_id,
        rejected.arrival_us,
        shard.incarnation,
        rejected.data,
    )


def lineage_of(row: Mapping[str, Any]) -> Lineage:
    """A row's identity."""
    return row["shard_id"], row["sequence_number"], row["sub_sequence_number"]


def by_lineage(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows in an order that does not depend on objects."""
    return sorted(rows, key=lambda row: (row["shard_id"], int(row["sequence_number"]), row[SUB]))


def crash_at(index: int) -> Step:
    """A process that dies at its `index`-th step."""
    steps = 0

    async def step(name: str) -> None:
        nonlocal steps
        await asyncio.sleep(0)
        steps += 1
        if steps > index:
            raise Crash(name)

    return step
