"""Polls every device once an interval, each at its own phase.

A poll is one visit to one device: up to `attempts` requests inside its interval, and one outcome.
What was answered with 200 goes to the raw stream as it came; the poll counts as `ok` when Kinesis
has acknowledged it. Every other outcome is a reading not collected.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import structlog

from ingest import core
from ingest.api import Answer, Api
from ingest.breaker import Breaker
from ingest.devices import Timetable, UnknownDevices
from telemill import errors, tracing
from telemill.metrics import Metrics

OK = "ok"
NOT_FOUND = "not_found"
TIMEOUT = "timeout"
HTTP_ERROR = "http_error"
REFUSED = "refused"
TOO_LARGE = "too_large"
SKIPPED = "skipped"
BUSY = "busy"
UNWRITTEN = "unwritten"

OUTCOMES = {
    OK: "Kinesis acknowledged the body",
    NOT_FOUND: "404: the API does not know the device",
    TIMEOUT: "no complete answer in time",
    HTTP_ERROR: "another status than 200 and 404",
    REFUSED: "no connection, or it broke",
    TOO_LARGE: "the body does not fit a raw record",
    SKIPPED: "the circuit breaker is open",
    BUSY: "the device's last poll, or all connections, took too long",
    UNWRITTEN: "the raw stream did not take it",
}

_SHORTEST_ATTEMPT_SECONDS = 0.05
log = structlog.get_logger()


class Assignment(Protocol):
    """Which devices this replica polls."""

    def may_poll(self, device_key: str) -> bool:
        """Whether the device is ours for at least as long as one request can take."""


class Collector(Protocol):
    """Where bodies go: `ingest.outbox.Outbox`."""

    def add(self, groups: Iterable[core.Group], trace: bytes = b"") -> "asyncio.Future[None]":
        """Take items; the future is done when all of them are acknowledged."""


class Result(NamedTuple):
    """What one request came to.

    Attributes:
        outcome: One of `OUTCOMES`.
        body: As it came, when the outcome is OK.
        host_failed: The host did not do its part: tell the breaker.
        why: More about a failure, when there is more to say.
    """

    outcome: str
    body: bytes = b""
    host_failed: bool = False
    why: str = ""

    @property
    def may_heal(self) -> bool:
        """Whether to try again; an open breaker may close inside the interval."""
        return self.host_failed or self.outcome == SKIPPED


def judge(answer: Answer) -> Result:
    """What an answer means."""
    if answer.status == 200:
        return Result(OK, answer.body)
    if answer.status == 404:
        return Result(NOT_FOUND)
    overloaded = answer.status == 429 or answer.status >= 500
    return Result(HTTP_ERROR, host_failed=overloaded, why=f"status {answer.status}")


@dataclass(frozen=True, slots=True)
class Host:
    """An API host and the breaker in front of it."""

    api: Api
    breaker: Breaker


@dataclass(frozen=True, slots=True)
class Policy:
    """How hard to try.

    Attributes:
        timeout_seconds: For one request.
        attempts: Requests in one poll at the most.
        backoff_seconds: Longest wait before the first retry; doubled for each further one.
        concurrency: Requests at one time.
    """

    timeout_seconds: float = 5.0
    attempts: int = 3
    backoff_seconds: float = 0.5
    concurrency: int = 100


@dataclass(frozen=True, slots=True)
class Clock:
    """Time, as the poller needs it; tests have their own.

    Attributes:
        now: Epoch seconds. The process's wall clock at start plus monotonic time since: it
            never jumps.
        sleep: Waits.
        uniform: A random number between two.
    """

    now: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    uniform: Callable[[float, float], float] = random.uniform


def steady_clock() -> Clock:
    """The clock of a process."""
    offset = time.time() - time.monotonic()
    return Clock(lambda: offset + time.monotonic())


class Poller:
    """Runs the timetable.

    Args:
        host: Who is asked.
        router: Finds a body's slot.
        collector: Where bodies go.
        timetable: Devices and phases.
        assignment: Which of them are ours at the moment.
        policy: How hard to try.
        metrics: Polls by outcome, seconds of a request, retries.
        clock: Time.
        tracer: Begins a trace a poll; None when it is off.
    """

    def __init__(
        self,
        *,
        host: Host,
        router: core.Router,
        collector: Collector,
        timetable: Timetable,
        assignment: Assignment,
        policy: Policy,
        metrics: Metrics,
        clock: Clock,
        tracer: tracing.Tracer | None = None,
    ) -> None:
        self._api = host.api
        self._breaker = host.breaker
        self._router = router
        self._collector = collector
        self._timetable = timetable
        self._assignment = assignment
        self._policy = policy
        self._metrics = metrics
        self._clock = clock
        self._tracer = tracer
        self._unknown = UnknownDevices(timetable.interval_seconds)
        self._connections = asyncio.Semaphore(policy.concurrency)
        self._visits: dict[str, asyncio.Task[None]] = {}
        self._ticking: asyncio.Task[None] | None = None
        self._stopping = False
        self._since_log: Counter[str] = Counter()
        self._logged_at = clock.now()

    async def run(self) -> None:
        """Poll until `stop`, then until no poll is under way.

        Raises:
            ExceptionGroup: A bug. What the API does is an outcome, never an exception.
        """
        async with asyncio.TaskGroup() as visits:
            self._ticking = visits.create_task(self._tick(visits))

    def stop(self) -> None:
        """Begin no more polls, and try no failed one again."""
        self._stopping = True
        if self._ticking is not None:
            self._ticking.cancel()

    def is_polling(self, device_key: str) -> bool:
        """Whether a poll of the device is under way."""
        return device_key in self._visits

    async def _tick(self, visits: asyncio.TaskGroup) -> None:
        if not len(self._timetable) or self._stopping:
            return
        place = self._timetable.place_after(self._clock.now())
        while True:
            due, device = self._timetable.stop(place)
            if (wait := due - self._clock.now()) > 0:
                await self._clock.sleep(wait)
            elif -wait > self._timetable.interval_seconds:
                # We stood still: what was missed is missed, a burst would help nobody.
                place = self._timetable.place_after(self._clock.now())
                continue
            self._begin(visits, device, due)
            self._log_now_and_then()
            place += 1

    def _begin(self, visits: asyncio.TaskGroup, device: str, due: float) -> None:
        if not self._assignment.may_poll(device) or not self._unknown.may_ask(device, due):
            return
        if device in self._visits:
            self._count(BUSY)
            return
        visit = visits.create_task(self._visit(device, due))
        self._visits[device] = visit
        visit.add_done_callback(lambda _visit: self._visits.pop(device))

    async def _visit(self, device: str, due: float) -> None:
        with tracing.span(self._tracer, "poll", "client", telemill__device=device) as span:
            await self._visit_in(span, device, due)

    async def _visit_in(self, span: tracing.Span, device: str, due: float) -> None:
        ends = due + self._timetable.interval_seconds
        result = await self._request(device, self._policy.timeout_seconds)
        for retry in range(self._policy.attempts - 1):
            if result is None or not result.may_heal or self._stopping:
                break
            await self._clock.sleep(self._clock.uniform(0, self._policy.backoff_seconds * 2**retry))
            left = ends - self._clock.now()
            if left < _SHORTEST_ATTEMPT_SECONDS:
                break
            self._metrics.retries.labels("poll").inc()
            result = await self._request(device, min(left, self._policy.timeout_seconds))
        if result is not None:
            span.note(telemill__outcome=result.outcome)
            self._conclude(device, result, span)

    async def _request(self, device: str, timeout_seconds: float) -> Result | None:
        """One request; None when the device has become another replica's while we waited."""
        async with self._connections:
            if not self._assignment.may_poll(device):
                return None
            started = self._clock.now()
            permit = self._breaker.admit(started)
            if permit is None:
                return Result(SKIPPED)
            try:
                result = await self._ask(device, timeout_seconds)
            except BaseException:
                self._breaker.abandoned(permit)
                raise
            now = self._clock.now()
            self._metrics.poll_seconds.observe(now - started)
            if result.host_failed:
                self._breaker.failed(permit, now, result.why or result.outcome)
            else:
                self._breaker.answered(permit, now)
            return result

    async def _ask(self, device: str, timeout_seconds: float) -> Result:
        try:
            return judge(await self._api.get(device, timeout_seconds))
        except TimeoutError:
            return Result(TIMEOUT, host_failed=True)
        except errors.ServiceUnavailableError as error:
            return Result(REFUSED, host_failed=True, why=str(error))
        except errors.RecordTooLargeError:
            return Result(TOO_LARGE)

    def _conclude(self, device: str, result: Result, span: tracing.Span) -> None:
        if result.outcome == NOT_FOUND:
            wait = self._unknown.add(device, self._clock.now())
            log.warning("ingest.device_unknown", device_id=device, asked_again_seconds=wait)
        elif result.outcome == OK and self._unknown.discard(device):
            log.info("ingest.device_known", device_id=device)
        self._metrics.devices_unknown.set(len(self._unknown))
        if result.outcome == OK:
            self._collect(device, result.body, span.context)
        else:
            self._count(result.outcome)

    def _collect(self, device: str, body: bytes, context: bytes) -> None:
        self._metrics.records_in.inc()
        self._metrics.readings_in.inc()
        acknowledged = self._collector.add([self._router.route_polled(device, body)], context)
        acknowledged.add_done_callback(self._acknowledged)

    def _acknowledged(self, acknowledged: "asyncio.Future[None]") -> None:
        failed = acknowledged.cancelled() or acknowledged.exception() is not None
        self._count(UNWRITTEN if failed else OK)

    def _count(self, outcome: str) -> None:
        self._metrics.polls.labels(outcome).inc()
        self._since_log[outcome] += 1

    def _log_now_and_then(self) -> None:
        now = self._clock.now()
        if now - self._logged_at < self._timetable.interval_seconds:
            return
        log.info("ingest.polled", breaker=self._breaker.state.name.lower(), **self._since_log)
        self._since_log.clear()
        self._logged_at = now
