"""The official engine decides: Amazon's MultiLangDaemon leases shards, we process them."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import structlog

from telemill import errors
from telemill.kcl.daemon_log import DaemonLog, Line
from telemill.kinesis import backoff, prefetch, reader
from telemill.kinesis.calls import Readiness, StreamCalls
from telemill.kinesis.coordinators.base import Listener
from telemill.kinesis.coordinators.kcl_lease import Channel, Lease
from telemill.kinesis.coordinators.outstanding import Outstanding
from telemill.kinesis.coordinators.watch import (
    DEFAULT_SILENCE_SECONDS,
    Clock,
    DaemonEndedError,
    Probe,
    Watch,
)
from telemill.kinesis.records import Shard
from telemill.metrics import Metrics
from telemill.stages.owner import ShardOwner, StartPosition

DEFAULT_DRAIN_SECONDS = 10.0
CLAIM_INTERVAL_SECONDS = 0.5

log = structlog.get_logger()

Serve = Callable[[Channel], Coroutine[Any, Any, None]]
Heard = Callable[[Line], None]


class Engine(Protocol):
    """A daemon, as `coordinators.daemon.Daemon` is one."""

    @property
    def log(self) -> DaemonLog:
        """Its last lines."""

    async def start(self) -> None:
        """Start it; raises ConfigurationError."""

    async def wait(self) -> int:
        """Its exit status, once it has ended."""

    def terminate(self) -> None:
        """Ask it to hand over its shards and end."""

    async def end(self) -> None:
        """Kill what still runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long things may take.

    Attributes:
        failover_seconds: The daemon's; a lease that is still ours so long after its claim proved
            void ends the process.
        silence_seconds: A daemon that says nothing for so long hangs.
        drain_seconds: How long a shard handed over may be worked off before.
    """

    failover_seconds: float
    silence_seconds: float = DEFAULT_SILENCE_SECONDS
    drain_seconds: float = DEFAULT_DRAIN_SECONDS


class KclCoordinator:
    """Reads what the daemon leases to this worker; see `coordinators.base.Coordinator`."""

    def __init__(
        self,
        client: Any,
        stream: str,
        owner: ShardOwner,
        *,
        saved: Callable[[Shard], str | None],
        make_engine: Callable[[Serve, Heard], Engine],
        probe_lease_table: Probe,
        metrics: Metrics,
        health: Readiness,
        timing: Timing,
        prefetch_bytes: int = prefetch.DEFAULT_PREFETCH_BYTES,
        max_chunk_bytes: int = reader.DEFAULT_MAX_CHUNK_BYTES,
        clock: Clock | None = None,
    ) -> None:
        """Wire the coordinator.

        Args:
            client: aiobotocore's Kinesis client, or one like it: shards are described by it.
            stream: What to read.
            owner: Claims and processes the shards.
            saved: The position the owner saved last; still known after `close`.
            make_engine: Makes the daemon from what serves a shard's pipes and what is told its log.
            probe_lease_table: Asks for the lease table, as `aws.probe_table`.
            metrics: The service's metrics.
            health: Told while a shard cannot be claimed.
            timing: How long things may take.
            prefetch_bytes: Most bytes received and not yet processed, over all shards.
            max_chunk_bytes: Most data in one chunk.
            clock: Of the process.
        """
        self.stream = stream
        self.prefetch = Outstanding(prefetch_bytes)
        self._owner = owner
        self._saved = saved
        self._metrics = metrics
        self._health = health
        self._timing = timing
        self._max_chunk_bytes = max_chunk_bytes
        self._clock = clock or Clock()
        self._sleep = self._clock.sleep
        self._calls = StreamCalls(client, stream, metrics=metrics, health=health, sleep=self._sleep)
        self._watch = Watch(
            health=health,
            probe_stream=self._calls.incarnation,
            probe_lease_table=probe_lease_table,
            quiet_since=self._quiet_since,
            silence_seconds=timing.silence_seconds,
            clock=self._clock,
        )
        self._engine = make_engine(self._serve, self._watch.logged)
        self._known: dict[str, Shard] = {}
        self._incarnation: int | None = None
        self._listing = asyncio.Lock()
        self._leases: set[Lease] = set()
        self._left = asyncio.Event()
        self._closings: dict[str, asyncio.Task[None]] = {}
        self._close_errors: dict[str, errors.TransientError] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: Listener | None = None
        self._stopping = False
        self._abandoned = False

    # Coordinator.

    async def start(self, listener: Listener) -> None:
        """Start the daemon."""
        self._listener = listener
        self._watch.begin()
        self._spawn(self._supervise())
        self._spawn(self._watch.run())

    def drop(self, shard: Shard) -> None:
        """The owner's claim is void: answer the daemon without working until the lease is gone."""
        for lease in tuple(self._leases):
            if lease.shard == shard:
                lease.drop()

    async def stop(self, *, drain: bool) -> None:
        """End the daemon; with `drain`, it asks each shard to shut down first.

        Raises:
            TransientError: A shard could not be closed.
        """
        self._stopping = True
        try:
            if drain:
                for lease in self._leases:
                    lease.stop()
                self._engine.terminate()
                # The daemon itself lingers for its fail-over time with nothing left to do.
                while self._leases:
                    self._left.clear()
                    await self._left.wait()
        finally:
            # What is not closed by now was cut off: the claim must not look given up in good order.
            self._abandoned = True
            self._listener = None
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._engine.end()
        await asyncio.gather(*self._closings.values())
        for error in self._close_errors.values():
            raise error

    # What a lease asks (`kcl_lease.Host`).

    async def describe(self, shard_id: str) -> Shard | None:
        """The shard as the stream lists it; None when it is past its retention."""
        async with self._listing:
            if shard_id not in self._known:
                await self._list()
        return self._known.get(shard_id)

    async def open(self, shard: Shard, void: asyncio.Event) -> StartPosition | None:
        """Ask the owner until it opens the shard; None when `void` was set meanwhile."""
        name = f"claim of {shard.shard_id}"
        failures = 0
        while not void.is_set():
            if shard.shard_id in self._closings:
                await self._closings[shard.shard_id]
            try:
                start = await self._owner.open(shard)
            except errors.TransientError as error:
                failures += 1
                self._say_waiting(name, shard, error, failures)
                await self._sleep(_wait_after(error, failures))
            else:
                self._health.clear(name)
                self._close_errors.pop(shard.shard_id, None)
                return start
        return None

    def close(self, shard: Shard) -> "asyncio.Task[None]":
        """Begin to close and release; the task never fails. Nothing is, once abandoned."""
        closing = asyncio.create_task(self._close(shard))
        self._closings[shard.shard_id] = closing
        closing.add_done_callback(partial(self._closed, shard.shard_id))
        return closing

    def saved(self, shard: Shard) -> str | None:
        """The position the owner saved last."""
        return self._saved(shard)

    def spoke(self) -> None:
        """The daemon said something."""
        self._watch.spoke()

    async def is_sound(self) -> bool:
        """Whether the daemon has left nothing out before what was just received of it."""
        # It logs that before it goes on, but on another pipe: let the line that is there be read.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return self._watch.trouble is None

    def expect_loss(self, lease: Lease) -> None:
        """Nothing is worked on though the lease is ours: that must not last."""
        self._spawn(self._expect_loss(lease))

    # The rest.

    async def _supervise(self) -> None:
        await self._engine.start()
        status = await self._engine.wait()
        if not self._stopping:
            raise DaemonEndedError(
                f"the MultiLangDaemon ended with status {status}: {self._engine.log.tail()}"
            )

    def _quiet_since(self) -> float | None:
        """When the longest silent of our shards was heard last, of those the daemon owes a word."""
        return min(
            (lease.waiting_since for lease in self._leases if lease.waiting_since is not None),
            default=None,
        )

    async def _serve(self, channel: Channel) -> None:
        """One connection; what it fails with is the worker's failure."""
        if self._listener is None:
            return
        lease = Lease(
            channel,
            self,
            self._listener,
            self._owner,
            queue=self.prefetch,
            metrics=self._metrics,
            max_chunk_bytes=self._max_chunk_bytes,
            drain_seconds=self._timing.drain_seconds,
            clock=self._clock,
        )
        self._leases.add(lease)
        self._metrics.open_shards.set(len(self._leases))
        if self._stopping:
            lease.stop()
        try:
            await lease.run()
        except Exception as error:  # whatever it is, nobody reads this shard now
            self._fail(error)
        finally:
            self._leases.discard(lease)
            self._left.set()
            self._metrics.open_shards.set(len(self._leases))

    async def _list(self) -> None:
        now = await self._calls.persist("DescribeStreamSummary", self._calls.incarnation)
        if self._incarnation not in {None, now}:
            raise errors.LeaseLostError(
                f"stream {self.stream} was deleted and created again: start afresh"
            )
        self._incarnation = now
        listed = await self._calls.persist("ListShards", lambda: self._calls.list_shards(now))
        self._known = {shard.shard_id: shard for shard in listed}

    def _say_waiting(
        self, name: str, shard: Shard, error: errors.TransientError, failures: int
    ) -> None:
        # The last owner lives and drains, or died a moment ago: that is no trouble of ours.
        if isinstance(error, errors.ClaimHeldError):
            self._health.clear(name)
        else:
            self._health.set(name, str(error))
            self._metrics.retries.labels(operation="Claim").inc()
        if failures == 1:
            log.info("coordinator.claim_waits", shard_id=shard.shard_id, why=str(error))

    async def _close(self, shard: Shard) -> None:
        if self._abandoned:
            return
        try:
            await self._owner.close(shard, release=True)
        except errors.TransientError as error:
            log.warning("coordinator.close_failed", shard_id=shard.shard_id, error=str(error))
            self._close_errors[shard.shard_id] = error
        except Exception as error:  # a void claim is no error; this is another
            self._fail(error)

    def _closed(self, shard_id: str, closing: "asyncio.Task[None]") -> None:
        if self._closings.get(shard_id) is closing:
            del self._closings[shard_id]

    async def _expect_loss(self, lease: Lease) -> None:
        await self._sleep(self._timing.failover_seconds)
        if lease in self._leases:
            raise DaemonEndedError(
                f"{lease.shard.shard_id if lease.shard else None} is given up since"
                f" {self._timing.failover_seconds:g} s and the KCL has not taken its lease away"
            )

    def _fail(self, error: BaseException) -> None:
        if self._listener is not None and not self._stopping:
            self._listener.failed(error)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._fail(error)


def _wait_after(error: errors.TransientError, failures: int) -> float:
    if isinstance(error, errors.ClaimHeldError):
        return CLAIM_INTERVAL_SECONDS
    return backoff.full_jitter(failures, random.random)
