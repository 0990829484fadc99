"""The spans of a stage from stream to stream: only for records that carry a sampled trace.

Two for each: `process`, while it is worked on, and `send`, from then until Kinesis has acknowledged
what came of it. What is sent carries the latter's context, so that the next service's span is its
child. The pure step hands the context of the input on; here it gets its new parent.
"""

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

from telemill import tracing
from telemill.codec import trace, wire
from telemill.kinesis.records import Record, Shard
from telemill.stages.step import Output

Begun = Mapping[bytes, tracing.Span]
"""The spans of some records, by the context each carried."""

NONE: Begun = {}


class StageSpans:
    """What a stage asks.

    Args:
        tracer: None when tracing is off.
    """

    def __init__(self, tracer: tracing.Tracer | None) -> None:
        self._tracer = tracer

    @contextmanager
    def over(self, shard: Shard, records: Sequence[Record]) -> Iterator[Begun]:
        """Around the work on some records, until what came of them is handed to the writer."""
        if self._tracer is None:
            yield NONE
            return
        begun = {
            context: process(self._tracer, shard, record, context)
            for record in records
            if (context := trace.of_record(record.data))
        }
        with ending(begun.values()):
            yield begun

    def sending(self, begun: Begun, output: Output) -> tuple[Output, tracing.Span]:
        """Before an output is put: what to put, and the span that ends with it."""
        above = begun.get(wire.trace_of(output.data)) if begun else None
        if self._tracer is None or above is None:
            return output, tracing.NO_SPAN
        sent = self._tracer.start(
            "send batch",
            "producer",
            above.context,
            messaging__system=tracing.SYSTEM,
            messaging__operation__type="send",
            telemill__slot=output.slot,
            telemill__readings=output.rows,
        )
        _, span_id = trace.parts(sent.context)
        data = wire.with_parent(output.data, span_id.to_bytes(8, "big"))
        return output._replace(data=data), sent


def process(tracer: tracing.Tracer, shard: Shard, record: Record, context: bytes) -> tracing.Span:
    """The span of the work on one record."""
    return tracer.start(
        f"process {shard.stream}",
        "consumer",
        context,
        messaging__system=tracing.SYSTEM,
        messaging__operation__type="process",
        messaging__destination__name=shard.stream,
        messaging__destination__partition__id=shard.shard_id,
        messaging__message__id=record.sequence_number,
        telemill__waited_seconds=round(time.time() - record.arrival_us / 1_000_000, 3),
    )


@contextmanager
def ending(spans: Collection[tracing.Span]) -> Iterator[None]:
    """Around the last of the work on some records: their spans end with it."""
    try:
        yield
    except BaseException as error:
        for each in spans:
            each.end(type(error).__name__)
        raise
    for each in spans:
        each.end()
