"""`POST /v1/readings`: readings over HTTP, answered 202 only after Kinesis acknowledged them."""

import asyncio
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog
from aiohttp import web

from ingest import auth, bodies, core, problem
from ingest.outbox import Outbox
from ingest.problem import ItemError, ProblemError
from telemill import errors, tracing
from telemill.codec import trace
from telemill.metrics import Metrics
from telemill.seldom import Seldom

MAX_WAIT_SHARE = 0.5
"""Of the time-out: records of a slot that wait for so long make a push of that slot hopeless."""

PATH = "/v1/readings"
log = structlog.get_logger()


class RawStream(Protocol):
    """How the raw stream is, as `telemill.kinesis.writer.Writer` tells it."""

    @property
    def unavailable_since(self) -> float | None:
        """Monotonic seconds of the first failure since Kinesis last took a record."""

    def waited_seconds(self, slot: int) -> float:
        """How long the slot's oldest record has waited to be written."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request, and all together, may ask for.

    Attributes:
        max_body_bytes: Of one body, as sent and decompressed.
        max_items: Of one body.
        max_held_bytes: Of all bodies being received or waiting for Kinesis.
        timeout_seconds: For the body to arrive, and again for the acknowledgement.
    """

    max_body_bytes: int = 4 * 2**20
    max_items: int = 20_000
    max_held_bytes: int = 32 * 2**20
    timeout_seconds: float = 10.0


@dataclass(frozen=True, slots=True)
class Door:
    """Who may push, and how much. Nobody when there are no keys."""

    keys: Collection[auth.ApiKey]
    rates: auth.RateLimits


class Push:
    """The handlers.

    Args:
        door: Who may push.
        router: Finds each item's slot.
        outbox: Where items go.
        stream: Whether it can be written to.
        limits: What a request may ask for.
        metrics: Answers by status, seconds, readings.
        monotonic: The clock of `stream.unavailable_since`.
        tracer: Begins a trace a request; None when it is off.
    """

    def __init__(
        self,
        *,
        door: Door,
        router: core.Router,
        outbox: Outbox,
        stream: RawStream,
        limits: Limits,
        metrics: Metrics,
        monotonic: Callable[[], float] = time.monotonic,
        tracer: tracing.Tracer | None = None,
    ) -> None:
        self._door = door
        self._router = router
        self._outbox = outbox
        self._stream = stream
        self._limits = limits
        self._metrics = metrics
        self._monotonic = monotonic
        self._tracer = tracer
        self._room = bodies.Room(limits.max_held_bytes)
        self._closed_because = "the service is starting"
        self._seldom = Seldom(monotonic=monotonic)

    def add_routes(self, app: web.Application) -> None:
        """Put the handlers, and problem details for every refusal, on an application."""
        app.middlewares.append(problem.middleware)
        app.router.add_post(PATH, self.post_readings)

    def open(self) -> None:
        """Take readings; before, every push is answered 503."""
        self._closed_because = ""

    def close(self) -> None:
        """Take no more readings: 503 for whatever is not in the outbox yet."""
        self._closed_because = "the service is stopping"

    async def post_readings(self, request: web.Request) -> web.Response:
        """Take readings and answer when they are safe."""
        started = self._monotonic()
        status = 500
        try:
            response = await self._take(request)
            status = response.status
        except ProblemError as refusal:
            status = refusal.kind.status
            if times := self._seldom.due(refusal.name):
                log.info("ingest.push_refused", status=status, problem=refusal.name, times=times)
            raise
        finally:
            self._metrics.pushes.labels(str(status)).inc()
        self._metrics.push_seconds.observe(self._monotonic() - started)
        return response

    async def _take(self, request: web.Request) -> web.Response:
        key = self._admit(request)
        with tracing.span(self._tracer, f"POST {PATH}", "server") as span:
            # Linked and not its child: who may push does not decide what we record.
            if span.context and (caller := trace.of_traceparent(_traceparent(request))):
                span.link(caller)
            return await self._take_from(key, request, span)

    async def _take_from(
        self, key: auth.ApiKey, request: web.Request, span: tracing.Span
    ) -> web.Response:
        partial = _partial(request)
        with bodies.Body(self._room, self._limits.max_body_bytes) as body:
            received = await body.receive(request, self._limits.timeout_seconds)
            routed = self._route(key, received)
            refused = _item_errors(routed.refused)
            if refused and not (partial and routed.groups):
                raise _not_readings(refused, any_good=bool(routed.groups))
            span.note(telemill__readings=_count(routed), telemill__refused=len(refused))
            accepted = await self._write(key, routed, span.context)
        log.info("ingest.pushed", key=key.name, readings=accepted, refused=len(refused))
        return _accepted(accepted, refused)

    def _admit(self, request: web.Request) -> auth.ApiKey:
        """Everything that can be refused before the body is read."""
        key = auth.authenticate(request.headers.get("Authorization"), self._door.keys)
        if key is None:
            raise ProblemError(
                "unauthorized",
                "send Authorization: Bearer with a key of this service",
                headers={"WWW-Authenticate": 'Bearer realm="telemill"'},
            )
        if wait := self._door.rates.wait_seconds(key):
            raise ProblemError(
                "rate-limited",
                "the key has used up its readings per second",
                headers={"Retry-After": str(math.ceil(wait))},
            )
        self._require_stream()
        return key

    def _require_stream(self) -> None:
        if self._closed_because:
            raise _unavailable(self._closed_because)
        since = self._stream.unavailable_since
        if since is not None and self._monotonic() - since > self._limits.timeout_seconds:
            raise _unavailable("the raw stream cannot be written to")

    def _route(self, key: auth.ApiKey, body: bytes) -> core.Routed:
        self._metrics.records_in.inc()
        try:
            items = core.split(body, self._limits.max_items)
        except errors.RecordTooLargeError as error:
            raise ProblemError("too-large", str(error)) from error
        except errors.DecodeError as error:
            raise ProblemError("malformed-body", str(error)) from error
        self._metrics.readings_in.inc(len(items))
        self._door.rates.spend(key, len(items))
        routed = self._router.route(items)
        for reason, count in Counter(each.error.reason for each in routed.refused).items():
            self._metrics.rejected.labels(reason).inc(count)
        return routed

    def _require_pace(self, taken: Collection[int]) -> None:
        """Refuse at once what would wait in vain: its client will come again, and find room.

        Without this a stream that is slower than its clients would have a queue longer than their
        patience: all is answered 503 and sent again, and what is written helps nobody.
        """
        longest_seconds = self._limits.timeout_seconds * MAX_WAIT_SHARE
        if any(self._stream.waited_seconds(slot) > longest_seconds for slot in taken):
            raise _unavailable("the raw stream is behind")

    async def _write(self, key: auth.ApiKey, routed: core.Routed, context: bytes) -> int:
        self._require_stream()
        self._require_pace(routed.groups)
        acknowledged = self._outbox.add(routed.groups.values(), context)
        count = _count(routed)
        try:
            async with asyncio.timeout(self._limits.timeout_seconds):
                await acknowledged
        except (errors.TelemillError, TimeoutError) as error:
            why = str(error) or "not in time"
            if times := self._seldom.due("not acknowledged"):
                log.warning(
                    "ingest.push_not_acknowledged",
                    key=key.name,
                    readings=count,
                    error=why,
                    times=times,
                )
            raise _unavailable("Kinesis has not acknowledged all readings") from error
        return count


def _count(routed: core.Routed) -> int:
    return sum(len(group.items) for group in routed.groups.values())


def _traceparent(request: web.Request) -> str:
    return request.headers.get("traceparent", "")


def _partial(request: web.Request) -> bool:
    value = request.query.get("partial", "false")
    if value not in {"true", "false"}:
        raise ProblemError("bad-parameter", "partial: takes true or false")
    return value == "true"


def _item_errors(refused: Sequence[core.Refused]) -> list[ItemError]:
    return [ItemError(each.index, each.error.reason, str(each.error)) for each in refused]


def _not_readings(refused: Sequence[ItemError], *, any_good: bool) -> ProblemError:
    if not any_good and all(each.reason == errors.DecodeError.reason for each in refused):
        return ProblemError("malformed-body", "no item of the body is JSON", errors=refused)
    detail = f"{len(refused)} items cannot be readings; nothing was written"
    return ProblemError("not-readings", detail, errors=refused)


def _unavailable(detail: str) -> ProblemError:
    return ProblemError("unavailable", detail, headers=bodies.RETRY_AFTER)


def _accepted(count: int, refused: Sequence[ItemError]) -> web.Response:
    answer = {"accepted": count}
    if refused:
        answer |= {"refused": len(refused), **problem.error_members(refused)}
    return web.Response(
        status=202, body=json.dumps(answer).encode(), content_type="application/json"
    )
