"""The Faust producer: `topic.send()` through our writers. Services use the writers directly."""

# ruff: noqa: ARG002  # Faust's signatures
import asyncio
from collections.abc import Mapping
from typing import Any

from faust.exceptions import ProducerSendError
from faust.transport.producer import Producer as FaustProducer
from faust.types import TP, RecordMetadata

from telemill import errors, slots
from telemill.kinesis.writer import Writer


class Producer(FaustProducer):
    """Sends to the streams a `Writer` is given for. A Faust partition is a slot here."""

    def __init__(self, transport: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(transport, *args, **kwargs)
        self._writers: Mapping[str, Writer] = transport.writers
        self._in_flight: set[asyncio.Future[RecordMetadata]] = set()

    async def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        partition: int | None,
        timestamp: float | None,
        headers: Any,
        *,
        transactional_id: str | None = None,
    ) -> "asyncio.Future[RecordMetadata]":
        """Queue with the stream's writer, which keeps order per slot; the future is its ack."""
        writer = self._writers.get(topic)
        if writer is None:
            raise errors.ConfigurationError(f"no writer was given for stream {topic}")
        partition_key = (key or b"-").decode()
        slot = slots.slot_of(partition_key, writer.slot_count) if partition is None else partition
        acknowledged = await writer.put(slot, value or b"", partition_key)
        sent = asyncio.ensure_future(_metadata(topic, slot, acknowledged))
        self._in_flight.add(sent)
        sent.add_done_callback(self._done)
        return sent

    async def send_and_wait(self, *args: Any, **kwargs: Any) -> RecordMetadata:
        """Queue, and wait for the acknowledgement."""
        return await (await self.send(*args, **kwargs))

    async def flush(self) -> None:
        """Wait for what is in flight now: a snapshot, or with more sent it would never end.

        Faust calls it before each commit. Stock Faust ignores failures here: we raise.
        """
        await self.buffer.flush()
        in_flight = tuple(self._in_flight)
        results = await asyncio.gather(*in_flight, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise ProducerSendError(str(result)) from result

    async def create_topic(self, *_args: Any, **_kwargs: Any) -> None:
        """Streams are created by whoever deploys."""

    def key_partition(self, topic: str, key: bytes) -> TP:
        """The slot of a key."""
        writer = self._writers[topic]
        return TP(topic, slots.slot_of(key.decode(), writer.slot_count))

    def _done(self, sent: "asyncio.Future[RecordMetadata]") -> None:
        self._in_flight.discard(sent)
        if not sent.cancelled():
            sent.exception()  # whoever awaits it sees it; asyncio shall not warn about others


async def _metadata(topic: str, slot: int, acknowledged: "asyncio.Future[str]") -> RecordMetadata:
    sequence_number = await acknowledged
    return RecordMetadata(
        topic=topic,
        partition=slot,
        topic_partition=TP(topic, slot),
        offset=int(sequence_number),
    )
