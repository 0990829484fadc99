"""The Faust consumer: hands a coordinator's chunks to the agents. All traps of Faust are here.

Positions are the shard owners' business (`telemill.stages.owner`); Faust's acks are flow control:
they free room in the prefetch queue and tell what a drain has to wait for. Every override says in
one line what stock Faust would do. `tests/contract/test_faust_internals.py` pins what is relied on.
"""

# ruff: noqa: ARG002, ASYNC109  # Faust's signatures
import asyncio
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import structlog
from faust.sensors.base import Sensor
from faust.transport.consumer import Consumer as FaustConsumer
from faust.types import TP, ConsumerMessage, Message

from telemill import errors
from telemill.kinesis.coordinators.base import Coordinator
from telemill.kinesis.ledger import FIRST_OFFSET, Ledger
from telemill.kinesis.prefetch import Prefetch
from telemill.kinesis.records import Chunk, Shard

DEFAULT_DRAIN_TIMEOUT_SECONDS = 10.0
CHUNKS_PER_FETCH = 16
TIMESTAMP_TYPE = 1
"""Kafka's "log append time": Kinesis stamps the arrival, not the creation."""

log = structlog.get_logger()


class Handed(NamedTuple):
    """A chunk under its local offset, on its way into Faust."""

    offset: int
    chunk: Chunk


class Consumer(FaustConsumer):
    """One per app; also the coordinator's listener.

    Attributes:
        drain_timeout_seconds: How long stopping may take: chunks in process, then closing shards.
        drain_error: Why the drain failed; None when it did not.
    """

    def __init__(self, transport: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(transport, *args, **kwargs)
        self.drain_timeout_seconds = DEFAULT_DRAIN_TIMEOUT_SECONDS
        self.drain_error: BaseException | None = None
        self._coordinator: Coordinator = transport.coordinator
        self._prefetch: Prefetch = transport.coordinator.prefetch
        self._open: dict[str, TP] = {}
        self._ledgers: dict[TP, Ledger] = {}
        self._assigned: set[TP] = set()
        self._again: dict[TP, list[Handed]] = {}
        self._partitions = itertools.count()
        self._changed = asyncio.Event()
        self._settled = asyncio.Event()
        self._flows = asyncio.Event()
        self._progressed = asyncio.Event()
        self._follower: asyncio.Future[None] | None = None
        self._deadline: float | None = None
        self._poisoned = False
        self._frozen = False
        self._closing: asyncio.Future[None] | None = None

    # What the coordinator tells.

    def assigned(self, shard: Shard) -> None:
        """Give the shard a partition of its own; a shard claimed again gets another one."""
        tp = TP(shard.stream, next(self._partitions))
        self._open[shard.shard_id] = tp
        self._ledgers[tp] = Ledger()
        self._changed.set()

    def revoked(self, shard: Shard) -> None:
        """Forget the shard; whatever Faust still holds of it is void."""
        tp = self._open.pop(shard.shard_id, None)
        if tp is not None:
            self._forget(tp)
        self._changed.set()

    def failed(self, error: BaseException) -> None:
        """End the process: without its coordinator it would look alive and read nothing."""
        self._poison()
        self.add_future(self.crash(error))

    # What the agent and the app tell.

    def holds(self, tp: TP) -> bool:
        """Whether a chunk of this partition may still be processed."""
        return tp in self._ledgers and not self._poisoned

    def drop(self, shard: Shard) -> None:
        """The owner's claim on a shard is void."""
        self._coordinator.drop(shard)
        self.revoked(shard)

    def processed(self, tp: TP, offset: int) -> None:
        """An agent has acknowledged a chunk. Once poisoned or frozen, that means nothing."""
        if self._poisoned or self._frozen:
            return
        ledger = self._ledgers.get(tp)
        chunk = ledger.ack(offset) if ledger is not None else None
        if chunk is not None:
            self._prefetch.done(chunk)
        self._progressed.set()

    def rebalanced(self) -> None:
        """The app has taken up the last assignment and flows again."""
        self._settled.set()
        self._flows.set()

    async def sleep(self, n: Any) -> None:
        """Stock Faust looks once a second for its first partitions; let it when they have come."""
        if not n or (self._assigned and self._settled.is_set()):
            await super().sleep(n)
            return
        self._flows.clear()
        await self.wait(self._flows, timeout=n)

    # Assignment.

    async def subscribe(self, topics: Iterable[str]) -> None:
        """Begin to assign. Not awaited: the app's assigned-hook waits for this to return."""
        unknown = set(topics) - {self._coordinator.stream}
        if unknown:
            raise errors.ConfigurationError(
                f"agents read {sorted(unknown)}; the coordinator reads {self._coordinator.stream}"
            )
        if self._follower is None:
            self._follower = self.add_future(self._follow())

    async def _follow(self) -> None:
        """Start with no shards, which lets the app start; then one rebalance for all changes."""
        await self._rebalance()
        if not self.app.should_stop:
            await self._coordinator.start(self)
        while not self.app.should_stop:
            await self._changed.wait()
            await self._rebalance()

    async def _rebalance(self) -> None:
        # The order Faust needs. It waits for begun chunks and empties the agents' queues; what
        # was in them comes again through `seek_to_committed`.
        self.app.on_rebalance_start()
        await self.on_partitions_revoked(self.assignment())
        self._changed.clear()
        self._settled.clear()
        self._assigned = set(self._open.values())
        self.app.consumer_generation_id += 1
        await self.on_partitions_assigned(self.assignment(), self.app.consumer_generation_id)
        await self._settled.wait()

    def assignment(self) -> set[TP]:
        """The shards in Faust's hands. Stock drivers raise before there are any; Faust asks."""
        return set(self._assigned)

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Hand out again what Faust dropped from its queues; stock drivers seek the broker.

        Called when a rebalance ends, and when a fetch found the flow stopped.
        """
        begun = {(message.tp, message.offset) for message in self._begun()}
        self._again = {}
        for tp in self._assigned & self._ledgers.keys():
            offsets = {offset for of_tp, offset in begun if of_tp == tp}
            redelivered = self._ledgers[tp].redeliver(offsets)
            if redelivered:
                self._again[tp] = [Handed(offset, chunk) for offset, chunk in redelivered]
        return {}

    def _forget(self, tp: TP) -> None:
        for chunk in self._ledgers.pop(tp).pending():
            self._prefetch.done(chunk)
        self._again.pop(tp, None)
        self._progressed.set()

    # Fetching.

    async def _getmany(
        self, active_partitions: set[TP] | None, timeout: float
    ) -> Mapping[TP, Sequence[Handed]]:
        # Chunks of shards not assigned yet wait in their ledger for the rebalance under way.
        if self._again:
            return self._given_back()
        chunks = await self._prefetch.take(timeout, CHUNKS_PER_FETCH)
        # A rebalance while we waited gave back what comes before these.
        handed = self._given_back()
        for chunk in chunks:
            tp = self._open.get(chunk.shard.shard_id)
            if tp is None:
                self._prefetch.done(chunk)
                continue
            offset = self._ledgers[tp].deliver(chunk)
            if tp in self._assigned:
                handed.setdefault(tp, []).append(Handed(offset, chunk))
        return handed

    def _given_back(self) -> dict[TP, list[Handed]]:
        again, self._again = self._again, {}
        return again

    def _to_message(self, tp: TP, record: Handed) -> ConsumerMessage:
        # The generation lets streams skip what was fetched before a rebalance.
        return ConsumerMessage(
            topic=tp.topic,
            partition=tp.partition,
            offset=record.offset,
            timestamp=_arrival_seconds(record.chunk),
            timestamp_type=TIMESTAMP_TYPE,
            headers=None,
            key=None,
            value=record.chunk,
            checksum=None,
            tp=tp,
            generation_id=self.app.consumer_generation_id,
        )

    def on_buffer_full(self, tp: TP) -> None:
        """Stock Faust stops fetching and sleeps a whole second; our queue is bounded already."""

    def on_buffer_drop(self, tp: TP) -> None:
        """Nothing was stopped in `on_buffer_full`."""

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Stock Faust writes every missing offset into a tree; ours are void ones, never acked."""

    # Acknowledging.

    def ack(self, message: Message) -> bool:
        """Streams acknowledge without this method; `event.ack()` comes here and counts too."""
        acknowledged: bool = super().ack(message)
        self.processed(message.tp, message.offset)
        return acknowledged

    def _new_offset(self, tp: TP) -> int | None:
        # Stock Faust derives it from its own list, off by one with concurrency, and keeps the list
        # for ever; the ledger knows.
        acked = self._acked[tp]
        self._acked_index[tp].difference_update(acked)
        acked.clear()
        ledger = self._ledgers.get(tp)
        if ledger is None or self._poisoned or self._frozen or not ledger.watermark:
            return None
        return ledger.watermark + 1

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        # Faust takes offsets for committed whatever this returns. Nothing to do: positions are
        # moved by the shard owners, when their output is durable.
        return True

    async def on_task_error(self, exc: BaseException) -> None:
        """Let nothing count any more; the supervisor crashes the app next.

        Stock Faust commits here, and the stream acks the event the agent crashed on: lost records.
        """
        log.error("consumer.agent_crashed", error=repr(exc))
        self._poison()

    def _poison(self) -> None:
        self._poisoned = True
        self._progressed.set()

    # Stopping.

    async def wait_empty(self) -> None:
        """Wait for chunks in process; when the app stops, close the shards too and freeze.

        Stock Faust waits for ever and swallows its cancellation, and an agent cancelled after it
        acks the event it was at: so there is a deadline, and after it no ack counts.
        """
        if not self.app.should_stop:
            await self._until_idle(self.loop.time() + self.drain_timeout_seconds)
            return
        if self._deadline is None:
            self._deadline = self.loop.time() + self.drain_timeout_seconds
        await self._until_idle(self._deadline)
        await self._close_once(self._deadline)

    async def _until_idle(self, deadline: float) -> None:
        try:
            async with asyncio.timeout_at(deadline):
                while self._begun() and not self._poisoned:
                    self._progressed.clear()
                    await self._progressed.wait()
        except TimeoutError:
            log.warning("consumer.chunks_in_process", count=len(self._begun()))

    def _begun(self) -> list[Message]:
        """What agents have taken from their queues and not acknowledged."""
        return [message for message in self._unacked_messages if not message.acked]

    async def _close_once(self, deadline: float) -> None:
        """A rebalance under way and the stopping app may both come here: one closes, both wait."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close(deadline))
        await asyncio.shield(self._closing)

    async def _close(self, deadline: float) -> None:
        self._frozen = True
        is_idle = not self._begun()
        if not is_idle and not self._poisoned:
            self.drain_error = errors.ServiceUnavailableError(
                f"a chunk was still being processed after {self.drain_timeout_seconds:g} seconds"
            )
        drain = is_idle and not self._poisoned
        try:
            async with asyncio.timeout_at(deadline if drain else None):
                await self._coordinator.stop(drain=drain)
        except (errors.TelemillError, TimeoutError) as error:
            log.exception("consumer.drain_failed")
            self.drain_error = error

    # What Faust asks of a broker.

    def highwater(self, tp: TP) -> int:
        """For Faust's own statistics; the real lag is MillisBehindLatest."""
        ledger = self._ledgers.get(tp)
        return ledger.delivered if ledger is not None else 0

    async def highwaters(self, *partitions: TP) -> Mapping[TP, int]:
        """For Faust's own statistics."""
        return {tp: self.highwater(tp) for tp in partitions}

    async def earliest_offsets(self, *partitions: TP) -> Mapping[TP, int]:
        """For Faust's own statistics."""
        return dict.fromkeys(partitions, FIRST_OFFSET)

    async def position(self, tp: TP) -> int | None:
        """The next local offset to read."""
        return self.highwater(tp) + 1

    async def _seek(self, partition: TP, offset: int) -> None:
        raise NotImplementedError("local offsets cannot be sought: claim the shard again")

    async def seek_wait(self, partitions: Mapping[TP, int]) -> None:
        """Tables seek their changelogs; there are none."""
        if partitions:
            raise NotImplementedError("Faust tables are not supported on Kinesis")

    def topic_partitions(self, topic: str) -> int | None:
        """Unknown: shards come and go."""
        return None

    def key_partition(self, topic: str, key: bytes | None, partition: int | None = None) -> int:
        """Unknown to the consumer; writers use slots."""
        return partition or 0

    def _new_topicpartition(self, topic: str, partition: int) -> TP:
        return TP(topic, partition)

    async def create_topic(self, *_args: Any, **_kwargs: Any) -> None:
        """Streams are created by whoever deploys."""


class Acks(Sensor):
    """Hears of every acknowledgement: the compiled stream acks without calling the consumer."""

    def __init__(self, app: Any) -> None:
        super().__init__()
        self._app = app

    def on_message_out(self, tp: TP, offset: int, message: Message) -> None:
        """An agent is done with a chunk."""
        self._app.consumer.processed(tp, offset)


def _arrival_seconds(chunk: Chunk) -> float:
    return chunk.records[-1].arrival_us / 1_000_000 if chunk.records else 0.0
