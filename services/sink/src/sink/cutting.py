"""How a sealed cut becomes durable: encoding, intent, partitions, objects, position, in this order.

Each step may be repeated, by this process or by the next owner: the objects of a cut are a pure
function of its records and of the state before it, their names say which cut they are of, and an
object that exists is left alone. So a crash anywhere loses no row and doubles none. The objects are
made before the intent is declared: what a record can break, it breaks while it may still be left
out of the cut (`telemill.progress.suspicion`).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

import pyarrow as pa
import structlog

from sink import parquet
from sink.lake import Lake
from sink.lane import SealedCut
from sink.parquet import Partition
from telemill.kinesis.records import Shard
from telemill.metrics import Metrics
from telemill.progress.rules import Cut
from telemill.stages import spans
from telemill.stages.guard import Guard
from telemill.stages.outlet import Outlet
from telemill.stages.step import StepResult

PARALLEL_PUTS = 8
"""Objects of one cut on their way at once."""

Insist = Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]
"""Calls something until it succeeds or cannot heal."""

T = TypeVar("T")
log = structlog.get_logger()


class Catalog(Protocol):
    """Where readers look partitions up."""

    async def ensure_partitions(self, partitions: Iterable[Partition]) -> None:
        """Return when all of them are known to readers. Idempotent.

        Raises:
            TransientError: Try again.
            ConfigurationError: The table is not the contract's, or a permission is missing.
        """


class CutClaim(Protocol):
    """What the protocol needs of a `telemill.progress.claims.Claim`."""

    async def declare(self, cut: Cut) -> None:
        """Write the intent."""

    async def save(self, position: str, state: bytes) -> None:
        """Move position and state together and clear the intent."""


@dataclass(frozen=True, slots=True)
class Naming:
    """What the names of objects begin with.

    Attributes:
        table: The prefix in the bucket.
        app: The application: two sinks may fill one lake.
        beside: The prefix of the other table that the same cuts fill, if any.
    """

    table: str
    app: str
    beside: str = ""

    def cut_id(self, shard: Shard, cut: Cut) -> str:
        """Names a cut for ever: application, stream incarnation, shard and range."""
        return f"{self.app}-{shard.incarnation}-{shard.shard_id}-{cut.name}"

    def object_key(self, partition: Partition, cut_id: str, *, beside: bool = False) -> str:
        """Where the rows of one hour of a cut are, or those of the table beside."""
        table = self.beside if beside else self.table
        return f"{table}/{partition.path}/{cut_id}.parquet"


@dataclass(frozen=True, slots=True)
class _Object:
    """The rows of one hour of a cut, ready to be put. A cut's take a fraction of its rows."""

    partition: Partition
    rows: int
    body: bytes
    beside: bool = False


class Cutter:
    """Makes cuts durable.

    Args:
        naming: How objects are called.
        lake: Where they go.
        catalog: Where their partitions are known.
        quarantine: Where records go that hold no rows.
        metrics: The service's metrics.
        beside: Where partitions of the other table are known, if there is one.
        guard: Around every encoding.
        wall: Epoch seconds, for latency only.
    """

    def __init__(
        self,
        naming: Naming,
        lake: Lake,
        catalog: Catalog,
        quarantine: Outlet,
        metrics: Metrics,
        *,
        beside: Catalog | None = None,
        guard: Guard | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._beside = beside
        self._naming = naming
        self._lake = lake
        self._catalog = catalog
        self._quarantine = quarantine
        self._metrics = metrics
        self._guard = guard or Guard()
        self._wall = wall
        # One at a time: an encoder holds a copy of its rows.
        self._encoding = asyncio.Lock()

    async def commit(self, claim: CutClaim, sealed: SealedCut, insist: Insist) -> None:
        """Carry out the protocol for one cut.

        Args:
            claim: On the shard.
            sealed: The cut.
            insist: Repeats a step while it may heal. What was done is not begun again: a cut whose
                position may be saved is never declared a second time.

        Raises:
            PositionError: The claim is void, nothing more may be written.
            TransientError: `insist` gave up.
            ConfigurationError: As the catalogue and the lake say.
        """
        with spans.ending(sealed.spans):
            await self._carry_out(claim, sealed, insist)

    async def _carry_out(self, claim: CutClaim, sealed: SealedCut, insist: Insist) -> None:
        if sealed.cut is not None and sealed.count:
            objects = await self._encode(sealed)
            await insist(partial(claim.declare, sealed.cut))
            cut_id = self._naming.cut_id(sealed.shard, sealed.cut)
            await insist(partial(self._write, objects, cut_id))
        if sealed.rejected:
            await self._quarantine.write(sealed.shard, StepResult(rejected=[*sealed.rejected]))
            await insist(partial(self._quarantine.flush, sealed.shard))
        await insist(partial(claim.save, sealed.position, sealed.state))
        self._report(sealed)

    async def _encode(self, sealed: SealedCut) -> list[_Object]:
        async with self._encoding, self._guard.together(f"{sealed.shard.shard_id}: encoding"):
            return await asyncio.to_thread(_objects, sealed)

    async def _write(self, objects: Sequence[_Object], cut_id: str) -> None:
        await self._catalog.ensure_partitions(_partitions(objects, beside=False))
        if self._beside is not None and (hours := _partitions(objects, beside=True)):
            await self._beside.ensure_partitions(hours)

        async def put(each: _Object) -> None:
            key = self._naming.object_key(each.partition, cut_id, beside=each.beside)
            await self._put(key, each)

        await _each(objects, put)

    async def _put(self, key: str, made: _Object) -> None:
        created = await self._lake.create(key, made.body)
        if created:
            self._metrics.objects_written.inc()
            self._metrics.object_bytes.inc(len(made.body))
        else:
            self._metrics.objects_existing.inc()
        log.info(
            "sink.object_written", key=key, rows=made.rows, bytes=len(made.body), created=created
        )

    def _report(self, sealed: SealedCut) -> None:
        now = self._wall()
        shard_id, rows = sealed.shard.shard_id, sealed.count
        self._metrics.last_commit_timestamp_seconds.labels(shard=shard_id).set(now)
        self._metrics.state_bytes.labels(shard=shard_id).set(len(sealed.state))
        if not rows or sealed.cut is None:
            return
        self._metrics.rows_written.inc(rows)
        self._metrics.readings_out.inc(sealed.rows.count)
        for oldest_us in sealed.oldest_event_us:
            self._metrics.lag_seconds.observe(max(0.0, now - oldest_us / 1_000_000))
        log.info(
            "sink.cut_committed",
            cut_id=self._naming.cut_id(sealed.shard, sealed.cut),
            shard_id=shard_id,
            committed_at=int(now * 1000),
            rows=rows,
        )


def _objects(sealed: SealedCut) -> list[_Object]:
    return [
        _Object(partition, part.num_rows, _encode(part), rows is sealed.beside)
        for rows in (sealed.rows, sealed.beside)
        if rows is not None and rows.count
        for partition, part in parquet.split(rows.table())
    ]


def _partitions(objects: Sequence[_Object], *, beside: bool) -> list[Partition]:
    return [each.partition for each in objects if each.beside == beside]


def _encode(table: pa.Table) -> bytes:
    body: bytes = parquet.encode(table).to_pybytes()
    # The encoder's buffers are gone; without this the allocator keeps their pages until the next.
    pa.default_memory_pool().release_unused()
    return body


async def _each(items: Sequence[T], work: Callable[[T], Awaitable[None]]) -> None:
    """Work on all items, a few at once; when some fail, raise one failure after all have ended."""
    waiting = iter(items)

    async def worker() -> None:
        for item in waiting:
            await work(item)

    workers = (worker() for _ in range(min(PARALLEL_PUTS, len(items))))
    results = await asyncio.gather(*workers, return_exceptions=True)
    for failure in results:
        if failure is not None:
            raise failure
