"""A sink without AWS: what outlives its process, and crashes between any two steps of it."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from prometheus_client import CollectorRegistry

from sink.core import Form
from sink.cutting import Cutter, Naming
from sink.stage import Limits, TableStage
from telemill import errors
from telemill.codec import wire
from telemill.health import Health
from telemill.kinesis.records import Chunk, Record, Shard
from telemill.metrics import Metrics
from telemill.progress import rules
from telemill.progress.claims import Claims, Host
from telemill.testing import batches
from telemill.testing.lake import MemoryCatalog, MemoryLake, MemoryOutlet
from telemill.testing.progress import (
    MemoryProgressStore,
    MemoryProgressTable,
    MemorySnapshotStore,
)

APP = "sink-readings"
NOON = 1_751_889_600_000_000
"""2025-07-07T12:00:00Z."""
HOUR_US = 3_600_000_000
Step = Callable[[str], Awaitable[None]]


class Crash(Exception):  # noqa: N818
    """The process dies here: nothing after it happens."""


class StoredRow(NamedTuple):
    """The identity of a row in the lake."""

    shard_id: str
    sequence_number: str
    sub_sequence_number: int


class _SteppedTable(MemoryProgressTable):
    """Tells of every write of an owner, before and after its effect."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self._step = step

    async def put_progress(self, progress: rules.Progress, previous: str) -> bool:
        name = "save" if progress.intent is None else "declare"
        await self._step(f"before {name}")
        done = await super().put_progress(progress, previous)
        await self._step(f"after {name}")
        return done


class World:
    """Everything that outlives a sink process, its clock, and where the process dies.

    Attributes:
        now: Seconds, of every clock.
        steps: Every step of I/O so far.
        crash_at: Index of the step at which the process dies; None for never.
        limits: Of the stages made from now on.
        metrics: Of all stages together.
        health: Of all stages together.
    """

    def __init__(self, form: Form, limits: Limits | None = None) -> None:
        self.form = form
        self.now = 1_000.0
        self.steps: list[str] = []
        self.crash_at: int | None = None
        self.limits = limits or Limits()
        self.metrics = Metrics(CollectorRegistry())
        self.health = Health()
        self.progress = _SteppedTable(self.step)
        self.snapshots = MemorySnapshotStore()
        self.lake, self.catalog, self.outlet = MemoryLake(), MemoryCatalog(), MemoryOutlet()
        for place in (self.lake, self.catalog, self.outlet):
            place.before = self._named("before")
            place.after = self._named("after")

    async def step(self, name: str) -> None:
        """A step of I/O; raises Crash where the process is to die."""
        self.steps.append(name)
        await asyncio.sleep(0)
        if self.crash_at is not None and len(self.steps) > self.crash_at:
            raise Crash(name)

    def _named(self, when: str) -> Step:
        return lambda name: self.step(f"{when} {name}")

    def stage(self, worker_id: str = "worker") -> TableStage:
        """A new process. The same worker id takes its own claims over at once."""
        host = Host(monotonic=lambda: self.now, wall=lambda: self.now, sleep=self.sleep)
        store = MemoryProgressStore(self.progress)
        beside = self.form.beside
        naming = Naming(self.form.table, APP, beside.table if beside else "")
        return TableStage(
            self.form,
            claims=Claims(store, self.snapshots, APP, worker_id, host=host),
            cutter=Cutter(
                naming,
                self.lake,
                self.catalog,
                self.outlet,
                self.metrics,
                beside=self.catalog if beside else None,
                wall=host.wall,
            ),
            limits=self.limits,
            metrics=self.metrics,
            health=self.health,
            monotonic=host.monotonic,
            wall=host.wall,
            sleep=self.sleep,
            jitter=lambda: 1.0,
        )

    async def sleep(self, seconds: float) -> None:
        """Let the clock run on."""
        self.now += seconds
        await asyncio.sleep(0)

    def rows(self, table: str = "") -> list[StoredRow]:
        """All rows of the lake, or of a table, object by object, in the order they stand there."""
        bodies = [body for key, body in self.lake.objects.items() if key.startswith(table)]
        return [row for body in bodies for row in rows_of(body)]

    def item(self, shard: Shard) -> rules.Progress:
        """The shard's progress item."""
        return self.progress.items[APP, rules.shard_key(shard)]


def record_of(form: Form, index: int, lineage: Sequence[tuple[int, int]], slot: int = 0) -> Record:
    """The index-th record of the input stream, with rows of these raw records and places.

    Rows of raw records with odd numbers are in the hour after the others: a cut has two partitions.
    """
    times = [NOON + (raw % 2) * HOUR_US + sub for raw, sub in lineage]
    rows = batches.batch(form.stream_schema, lineage, times)
    return batches.record(
        index, wire.encode(batches.header(form.contract, form.table, slot=slot), rows)
    )


def stored_rows(*lineage: tuple[int, int]) -> list[StoredRow]:
    """What the lake then holds of these raw records and places."""
    number = batches.sequence_number
    return [StoredRow(batches.RAW_SHARD_ID, number(raw), sub) for raw, sub in lineage]


def rows_of(body: bytes) -> list[StoredRow]:
    """The rows of one object."""
    table = pq.read_table(pa.BufferReader(body), columns=list(StoredRow._fields))
    return [StoredRow(**row) for row in table.to_pylist()]


def chunked(shard: Shard, records: Sequence[Record], sizes: Iterable[int]) -> list[Chunk]:
    """Records in chunks of these sizes; what is left over is the last."""
    chunks, rest = [], list(records)
    for size in sizes:
        if not rest:
            break
        chunks.append(Chunk(shard, rest[:size]))
        rest = rest[size:]
    return [*chunks, Chunk(shard, rest)] if rest else chunks


def after(position: str | None, records: Sequence[Record]) -> list[Record]:
    """The records a reader gets that begins after a position."""
    return [each for each in records if rules.order(each.sequence_number) > rules.order(position)]


async def run_once(
    world: World,
    shard: Shard,
    records: Sequence[Record],
    sizes: Sequence[int] = (),
    *,
    cut_after: frozenset[int] = frozenset(),
    ends: bool = False,
) -> bool:
    """A process from its start to its clean end, or to its crash.

    Args:
        world: Where it runs.
        shard: What it reads.
        records: All records of the shard.
        sizes: Of the chunks they come in.
        cut_after: Indices of chunks after which the flush interval passes.
        ends: The shard is closed behind the last record.

    Returns:
        Whether it came to a clean end.
    """
    stage = world.stage()
    try:
        start = await stage.open(shard)
        chunks = [] if start.finished else chunked(shard, after(start.after, records), sizes)
        if ends and not start.finished:
            chunks = _ending(shard, chunks)
        for index, chunk in enumerate(chunks):
            await stage.process(chunk)
            world.now += world.limits.flush_interval_seconds if index in cut_after else 0.01
            stage.tick()
            await stage.settle()
            stage.tick()
        await stage.close(shard, release=True)
    except (Crash, errors.PositionError):
        return False
    return True


def _ending(shard: Shard, chunks: list[Chunk]) -> list[Chunk]:
    if not chunks:
        return [Chunk(shard, [], ends_shard=True)]
    return [*chunks[:-1], replace(chunks[-1], ends_shard=True)]
