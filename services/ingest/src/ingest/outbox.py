"""From routed items to the raw stream: waits a little, packs, puts, says when it is safe."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Protocol

from ingest import core
from telemill import errors, tracing
from telemill.codec import trace as codec_trace
from telemill.metrics import Metrics


class RawWriter(Protocol):
    """The raw stream, as `telemill.kinesis.writer.Writer` serves it."""

    def try_put(self, slot: int, data: bytes, partition_key: str) -> "asyncio.Future[str]":
        """Take a record; the future is done when Kinesis has acknowledged it.

        Raises:
            ServiceUnavailableError: No room; nothing was taken.
        """


HELD_BYTES = 64 * 1024
"""A batch that waits for its slot goes to the writer when it is so large: what waits there is
compressed, and its memory is bounded over all slots."""

CallLater = Callable[[float, Callable[[], None]], Any]


class Outbox:
    """Lingers and packs. One per way in, so that each has a linger of its own.

    While a slot's last record is not acknowledged, its next one goes on taking items: it would only
    wait in the writer. So a slow or throttled stream gets fewer and larger records.

    Args:
        writer: The raw stream.
        raw_format: "ndjson" or "kpl".
        slot_count: Slots of the raw stream.
        linger_seconds: How long the first item of a batch waits for others; 0 does not wait.
        metrics: Counts readings acknowledged.
        call_later: Calls a function after some seconds; the running loop's by default.
        tracer: Of the service; None when it is off.
    """

    def __init__(
        self,
        writer: RawWriter,
        *,
        raw_format: core.RawFormat,
        slot_count: int,
        linger_seconds: float,
        metrics: Metrics,
        call_later: CallLater | None = None,
        tracer: tracing.Tracer | None = None,
    ) -> None:
        self._writer = writer
        self._raw_format = raw_format
        self._slot_count = slot_count
        self._linger_seconds = linger_seconds
        self._metrics = metrics
        self._call_later = call_later
        self._tracer = tracer
        self._packer = core.Packer(raw_format)
        self._waiting: dict[core.Batch, list[_Receipt]] = {}
        self._timer_set = False
        self._in_flight: Counter[int] = Counter()
        self._ripe: set[int] = set()
        self._broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def broken(self) -> None:
        """Return never; raise when the writer failed for a reason that is no TelemillError."""
        await asyncio.shield(self._broken)

    def add(self, groups: Iterable[core.Group], trace: bytes = b"") -> "asyncio.Future[None]":
        """Take items.

        Args:
            groups: The items.
            trace: The context their records shall carry; empty unless they are sampled.

        Returns:
            Done when Kinesis has acknowledged all of them. Fails with the first TelemillError
            that kept some from being taken; others may be taken all the same.
        """
        receipt = _Receipt()
        for group in groups:
            for batch in self._packer.add(group, trace):
                receipt.missing += 1
                self._waiting.setdefault(batch, []).append(receipt)
        if not receipt.missing:
            receipt.done.set_result(None)
        self._put(self._packer.take_closed())
        if self._linger_seconds <= 0:
            self._ripen()
        elif self._waiting and not self._timer_set:
            self._timer_set = True
            call_later = self._call_later or asyncio.get_running_loop().call_later
            call_later(self._linger_seconds, self._linger_over)
        return receipt.done

    def flush(self) -> None:
        """Hand everything to the writer now."""
        self._put(self._packer.take())

    def _linger_over(self) -> None:
        self._timer_set = False
        self._ripen()

    def _ripen(self) -> None:
        """Hand over what may go now; the rest goes when its slot is free."""
        self._put(self._packer.take(self._may_go))
        self._ripe.update(batch.slot for batch in self._waiting)

    def _may_go(self, batch: core.Batch) -> bool:
        return batch.size_bytes >= HELD_BYTES or not self._in_flight[batch.slot]

    def _landed(self, slot: int) -> None:
        """A record of the slot is settled: its next one goes, if it has lingered."""
        self._in_flight[slot] -= 1
        if not self._in_flight[slot]:
            del self._in_flight[slot]
            if slot in self._ripe:
                self._ripe.discard(slot)
                self._put(self._packer.take(lambda batch: batch.slot == slot))

    def _put(self, batches: Iterable[core.Batch]) -> None:
        for batch in batches:
            receipts = self._waiting.pop(batch)
            span = self._span(batch) if batch.trace else tracing.NO_SPAN
            try:
                data = core.encode(batch, self._raw_format, self._slot_count)
                if span.context:
                    data = codec_trace.on_raw(data, span.context)
                written = self._writer.try_put(batch.slot, data, core.partition_key(batch))
            except errors.TelemillError as error:
                span.end(type(error).__name__)
                _fail(receipts, error)
            else:
                if batch.trace:
                    written.add_done_callback(partial(tracing.end_with, span))
                self._in_flight[batch.slot] += 1
                written.add_done_callback(
                    partial(self._settle, batch.slot, receipts, len(batch.items))
                )

    def _span(self, batch: core.Batch) -> tracing.Span:
        if self._tracer is None:
            return tracing.NO_SPAN
        return self._tracer.start(
            "send raw record",
            "producer",
            batch.trace,
            messaging__system=tracing.SYSTEM,
            messaging__operation__type="send",
            telemill__slot=batch.slot,
            telemill__readings=len(batch.items),
        )

    def _settle(
        self,
        slot: int,
        receipts: "list[_Receipt]",
        item_count: int,
        written: "asyncio.Future[str]",
    ) -> None:
        if written.cancelled():
            _fail(receipts, errors.ServiceUnavailableError("the writer was stopped"))
        elif error := written.exception():
            _fail(receipts, error)
            if not isinstance(error, errors.TelemillError) and not self._broken.done():
                self._broken.set_exception(error)
                self._broken.exception()
        else:
            self._metrics.readings_out.inc(item_count)
            for receipt in receipts:
                receipt.acknowledged()
        self._landed(slot)


class _Receipt:
    """What one caller waits for: a number of batches.

    A plain count: a future for each of 64 slots would cost a push more than its decoding.
    """

    __slots__ = ("done", "missing")

    def __init__(self) -> None:
        self.missing = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def acknowledged(self) -> None:
        """One batch is safe."""
        self.missing -= 1
        if not self.missing and not self.done.done():
            self.done.set_result(None)


def _fail(receipts: "list[_Receipt]", error: BaseException) -> None:
    for receipt in receipts:
        if not receipt.done.done():
            receipt.done.set_exception(error)
            # Somebody may have stopped waiting: asyncio must not complain about it.
            receipt.done.exception()
