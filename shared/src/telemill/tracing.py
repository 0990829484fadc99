"""Spans, as services see them; without an endpoint there is no tracer and nothing is made.

What crosses Kinesis is in `telemill.codec.trace`, what talks to a collector in
`telemill.opentelemetry`, which is imported only when tracing is on. docs/tracing.md is the whole.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, Protocol

Kind = Literal["server", "client", "producer", "consumer"]
Attribute = str | int | float
NO_CONTEXT = b""

SYSTEM = "aws_kinesis"
"""As OpenTelemetry's `messaging.system` is written; it has no word of its own for Kinesis."""


class Span(Protocol):
    """One piece of work in a trace."""

    @property
    def context(self) -> bytes:
        """What a record carries so that its next stop is a child; empty unless it is sampled."""

    def note(self, **attributes: Attribute) -> None:
        """Add attributes; a `__` in a name becomes a dot."""

    def link(self, context: bytes) -> None:
        """Say that it belongs with a span of another trace."""

    def end(self, error: str = "") -> None:
        """The work is over; with `error` it failed."""


class Tracer(Protocol):
    """Makes spans. Never waits and never raises for what a collector does."""

    def start(
        self, name: str, kind: Kind, parent: bytes = NO_CONTEXT, **attributes: Attribute
    ) -> Span:
        """Begin a span.

        Args:
            name: As short as there are kinds of work: no ids.
            kind: As OpenTelemetry has it.
            parent: A sampled context; empty begins a trace, which is sampled or not.
            **attributes: As of `Span.note`.
        """

    async def close(self) -> None:
        """Hand over what is left, within a bounded time."""


class NoSpan:
    """What work has that nobody traces."""

    context = NO_CONTEXT

    def note(self, **attributes: Attribute) -> None:
        """Nothing."""

    def link(self, context: bytes) -> None:
        """Nothing."""

    def end(self, error: str = "") -> None:
        """Nothing."""


NO_SPAN = NoSpan()


def end_with(span: Span, written: "asyncio.Future[str]") -> None:
    """End the span of a record that was put, as its acknowledgement says."""
    if written.cancelled():
        span.end("cancelled")
        return
    error = written.exception()
    span.end(type(error).__name__ if error else "")


@contextmanager
def span(tracer: Tracer | None, name: str, kind: Kind, **attributes: Attribute) -> Iterator[Span]:
    """Around work that begins a trace; a failure is noted by its type."""
    if tracer is None:
        yield NO_SPAN
        return
    begun = tracer.start(name, kind, NO_CONTEXT, **attributes)
    try:
        yield begun
    except BaseException as error:
        begun.end(type(error).__name__)
        raise
    begun.end()
