"""An OpenTelemetry collector's receiver (OTLP over HTTP) that keeps the spans it was sent."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from opentelemetry.proto.trace.v1 import trace_pb2


@dataclass(frozen=True, slots=True)
class Received:
    """One span.

    Attributes:
        service: `service.name` of who sent it.
        span: As it came.
    """

    service: str
    span: trace_pb2.Span

    @property
    def attributes(self) -> dict[str, str | int | float]:
        """Its attributes by name."""
        found: dict[str, str | int | float] = {}
        for each in self.span.attributes:
            kind = each.value.WhichOneof("value")
            found[each.key] = getattr(each.value, kind) if kind else ""
        return found


@dataclass(slots=True)
class Collector:
    """What came.

    Attributes:
        url: Where it listens, without the path.
        refuses: Answer 503 instead of taking spans.
        spans: In order of arrival.
        refused: Requests answered 503.
    """

    url: str = ""
    refuses: bool = False
    spans: list[Received] = field(default_factory=list)
    refused: int = 0
    _came: asyncio.Event = field(default_factory=asyncio.Event)

    async def next(self) -> None:
        """Wait until the next request has come."""
        self._came.clear()
        await self._came.wait()

    async def take(self, request: web.Request) -> web.Response:
        """`POST /v1/traces`."""
        body = await request.read()
        if self.refuses:
            self.refused += 1
            self._came.set()
            return web.Response(status=503)
        sent = trace_service_pb2.ExportTraceServiceRequest.FromString(body)
        for resource_spans in sent.resource_spans:
            named = {each.key: each.value for each in resource_spans.resource.attributes}
            service = named["service.name"].string_value
            self.spans += [
                Received(service, span)
                for scope in resource_spans.scope_spans
                for span in scope.spans
            ]
        self._came.set()
        answer = trace_service_pb2.ExportTraceServiceResponse()
        return web.Response(body=answer.SerializeToString(), content_type="application/x-protobuf")


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    """A collector on a free loopback port."""
    collector = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", collector.take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    collector.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield collector
    finally:
        await runner.cleanup()
