"""Spans to an OpenTelemetry collector over OTLP/HTTP, with trace ids that X-Ray takes.

Nothing is global: no provider is registered, no library is instrumented, so only `telemill.tracing`
decides what is a span.

Source:
    OpenTelemetry Python SDK; AWS X-Ray developer guide, "Sending trace data": the first 32 bits of
    a trace id are the time in epoch seconds.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence

import structlog
from opentelemetry import trace as api
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.extension.aws.trace import AwsXRayIdGenerator
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, TraceIdRatioBased

from telemill.codec import trace
from telemill.metrics import Metrics
from telemill.seldom import Seldom
from telemill.tracing import Attribute, Kind

EXPORT_TIMEOUT_SECONDS = 2.0
"""Short: a collector stands beside the service, and a drain must not wait for one that is away."""

EXPORT_INTERVAL_SECONDS = 2.0
QUEUED_SPANS = 4096
"""Kept for a collector that is away, some KiB each; more are dropped."""

SPANS_PER_EXPORT = 512
PATH = "/v1/traces"

_KINDS = {
    "server": api.SpanKind.SERVER,
    "client": api.SpanKind.CLIENT,
    "producer": api.SpanKind.PRODUCER,
    "consumer": api.SpanKind.CONSUMER,
}
log = structlog.get_logger()


class CountedExporter(SpanExporter):
    """Counts what was handed over, and says once in a while that a collector takes nothing.

    Args:
        inner: Talks to the collector.
        metrics: `spans_total`.
    """

    def __init__(self, inner: SpanExporter, metrics: Metrics) -> None:
        self._inner = inner
        self._metrics = metrics
        self._seldom = Seldom()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Called in a thread of the SDK's."""
        result = self._inner.export(spans)
        is_taken = result is SpanExportResult.SUCCESS
        self._metrics.spans.labels("exported" if is_taken else "dropped").inc(len(spans))
        if not is_taken and (times := self._seldom.due("export")):
            log.warning("tracing.spans_dropped", spans=len(spans), times=times)
        return result

    def shutdown(self) -> None:
        """As the inner one."""
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """As the inner one."""
        return self._inner.force_flush(timeout_millis)


class OtelSpan:
    """See `telemill.tracing.Span`."""

    def __init__(self, span: api.Span) -> None:
        self._span = span

    @property
    def context(self) -> bytes:
        """See `telemill.tracing.Span`."""
        found = self._span.get_span_context()
        return trace.context(found.trace_id, found.span_id) if found.trace_flags.sampled else b""

    def note(self, **attributes: Attribute) -> None:
        """See `telemill.tracing.Span`."""
        self._span.set_attributes(_named(attributes))

    def link(self, context: bytes) -> None:
        """See `telemill.tracing.Span`."""
        self._span.add_link(_span_context(context))

    def end(self, error: str = "") -> None:
        """See `telemill.tracing.Span`."""
        if error:
            self._span.set_status(api.StatusCode.ERROR, error)
        self._span.end()


class OtelTracer:
    """See `telemill.tracing.Tracer`.

    Args:
        endpoint: Of the collector, without the path.
        ratio: Share of traces begun here that are sampled.
        resource: Who we are: `service.name` and so on.
        metrics: Of the service.
    """

    def __init__(
        self, endpoint: str, *, ratio: float, resource: Mapping[str, str], metrics: Metrics
    ) -> None:
        _quieten()
        exporter = OTLPSpanExporter(
            endpoint=endpoint.rstrip("/") + PATH, timeout=EXPORT_TIMEOUT_SECONDS
        )
        self._provider = TracerProvider(
            # A parent came with a record, and only sampled ones do.
            sampler=ParentBased(TraceIdRatioBased(ratio), remote_parent_sampled=ALWAYS_ON),
            resource=Resource.create(dict(resource)),
            id_generator=AwsXRayIdGenerator(),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(
                CountedExporter(exporter, metrics),
                max_queue_size=QUEUED_SPANS,
                schedule_delay_millis=EXPORT_INTERVAL_SECONDS * 1000,
                max_export_batch_size=SPANS_PER_EXPORT,
            )
        )
        self._tracer = self._provider.get_tracer("telemill")

    def start(
        self, name: str, kind: Kind, parent: bytes = b"", **attributes: Attribute
    ) -> OtelSpan:
        """See `telemill.tracing.Tracer`."""
        # Never the ambient context: what runs in one task works for many traces.
        around = api.set_span_in_context(api.INVALID_SPAN)
        if parent:
            around = api.set_span_in_context(api.NonRecordingSpan(_span_context(parent)))
        begun = self._tracer.start_span(
            name, context=around, kind=_KINDS[kind], attributes=_named(attributes)
        )
        return OtelSpan(begun)

    async def close(self) -> None:
        """See `telemill.tracing.Tracer`."""
        await asyncio.to_thread(self._provider.shutdown)


def _quieten() -> None:
    """The SDK logs every failed export as an error; `CountedExporter` says it once in a while."""
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)


def _span_context(context: bytes) -> api.SpanContext:
    trace_id, span_id = trace.parts(context)
    return api.SpanContext(
        trace_id, span_id, is_remote=True, trace_flags=api.TraceFlags(api.TraceFlags.SAMPLED)
    )


def _named(attributes: Mapping[str, Attribute]) -> dict[str, Attribute]:
    return {name.replace("__", "."): value for name, value in attributes.items()}
