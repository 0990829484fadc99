"""Polling, with a clock and an API of the test's own."""

import asyncio
import heapq
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from ingest import core, poller
from ingest.api import Answer
from ingest.breaker import Breaker, State
from ingest.breaker import Policy as BreakerPolicy
from ingest.devices import Timetable, phase_of
from telemill import contract, errors
from telemill.metrics import Metrics

FMS = contract.load(Path("contracts/fms.yaml"))
START = 1000.0
BODY = b'{"DeviceId":7}'


async def settle() -> None:
    """Let everything run that does not wait for time."""
    for _ in range(30):
        await asyncio.sleep(0)


class FakeTime:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = START
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    async def sleep(self, seconds: float) -> None:
        """Wait until time has been advanced enough."""
        wake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now + seconds, next(self._order), wake))
        await wake

    async def advance(self, seconds: float) -> None:
        """Let time pass, stopping wherever somebody waits for."""
        until = self.now + seconds
        while self._sleepers and self._sleepers[0][0] <= until:
            at, _, wake = heapq.heappop(self._sleepers)
            self.now = max(self.now, at)
            if not wake.done():
                wake.set_result(None)
            await settle()
        self.now = until
        await settle()


Script = Callable[[str], "Answer | Exception | float"]


class FakeApi:
    """Answers as scripted; a number is how long it keeps silent before it answers."""

    def __init__(self, time: FakeTime, script: Script) -> None:
        self.script = script
        self.asked: list[tuple[float, str]] = []
        self.running = 0
        self.most_running = 0
        self._time = time

    async def get(self, device_key: str, timeout_seconds: float) -> Answer:
        """As the real one."""
        self.asked.append((self._time.now, device_key))
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            return await self._answer(self.script(device_key), timeout_seconds)
        finally:
            self.running -= 1

    async def _answer(self, scripted: Answer | Exception | float, timeout_seconds: float) -> Answer:
        if isinstance(scripted, float):
            await self._time.sleep(min(scripted, timeout_seconds))
            if scripted > timeout_seconds:
                raise TimeoutError
            return Answer(200, BODY)
        if isinstance(scripted, Exception):
            raise scripted
        return scripted


class Collected:
    """Takes bodies; acknowledges at once, or fails."""

    def __init__(self) -> None:
        self.items: list[bytes] = []
        self.error: Exception | None = None

    def add(self, groups: Iterable[core.Group], trace: bytes = b"") -> "asyncio.Future[None]":
        """As the outbox."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.error:
            done.set_exception(self.error)
            return done
        self.items += [item for group in groups for item in group.items]
        done.set_result(None)
        return done


class Assigned:
    """May poll whatever is not taken away."""

    def __init__(self) -> None:
        self.taken_away: set[str] = set()

    def may_poll(self, device_key: str) -> bool:
        """As leases."""
        return device_key not in self.taken_away


class Fixture:
    """A poller and everything around it."""

    def __init__(self, script: Script, devices: Iterable[str], **policy: int) -> None:
        self.time = FakeTime()
        self.api = FakeApi(self.time, script)
        self.collected = Collected()
        self.assigned = Assigned()
        self.registry = CollectorRegistry()
        self.breaker = Breaker(
            BreakerPolicy(failures=4, open_seconds=15.0), uniform=lambda _low, high: high
        )
        self.poller = poller.Poller(
            host=poller.Host(self.api, self.breaker),
            router=core.Router(FMS, 64),
            collector=self.collected,
            timetable=Timetable(devices, 10.0),
            assignment=self.assigned,
            policy=poller.Policy(timeout_seconds=5.0, backoff_seconds=0.5, **policy),
            metrics=Metrics(self.registry, "ingest"),
            clock=poller.Clock(
                lambda: self.time.now, self.time.sleep, uniform=lambda _low, high: high
            ),
        )

    @property
    def outcomes(self) -> dict[str, int]:
        """Polls by outcome."""
        found = {
            name: self.registry.get_sample_value("telemill_polls_total", {"outcome": name})
            for name in poller.OUTCOMES
        }
        return {name: int(count) for name, count in found.items() if count}


@asynccontextmanager
async def running(fixture: Fixture) -> AsyncIterator[Fixture]:
    """Run the poller for the block, then stop it as SIGTERM does."""
    run = asyncio.create_task(fixture.poller.run())
    await settle()
    try:
        yield fixture
    finally:
        fixture.poller.stop()
        await fixture.time.advance(60.0)
        await run


def ok(_device: str) -> Answer:
    """A healthy API."""
    return Answer(200, BODY)


async def test_polls_each_device_once_an_interval_at_its_phase() -> None:
    """In every interval each device is asked once, at the same phase."""
    devices = [str(n) for n in range(20)]
    async with running(Fixture(ok, devices)) as fixture:
        await fixture.time.advance(30.0)
        asked = list(fixture.api.asked)
    assert Counter(device for _, device in asked) == dict.fromkeys(devices, 3)
    for at, device in asked:
        assert at % 10.0 == pytest.approx(phase_of(device, 10.0))


async def test_a_body_counts_when_kinesis_has_it() -> None:
    """`ok` is an acknowledged reading; one the stream did not take is `unwritten`."""
    async with running(Fixture(ok, ["7"])) as fixture:
        await fixture.time.advance(10.0)
        assert fixture.outcomes == {"ok": 1}
        assert fixture.collected.items == [BODY]
        fixture.collected.error = errors.ServiceUnavailableError("full")
        await fixture.time.advance(10.0)
        assert fixture.outcomes == {"ok": 1, "unwritten": 1}


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (Answer(500, b""), "http_error"),
        (Answer(429, b""), "http_error"),
        (errors.ServiceUnavailableError("reset"), "refused"),
        (60.0, "timeout"),
    ],
)
async def test_a_failing_host_is_tried_again_inside_the_interval(
    answer: Answer | Exception | float, outcome: str
) -> None:
    """Up to three requests, all begun before the device's next poll; one outcome."""
    fixture = Fixture(lambda _device: answer, ["7"])
    async with running(fixture):
        await fixture.time.advance(phase_of("7", 10.0) + 9.9)
        attempts = [at for at, _ in fixture.api.asked]
    assert 2 <= len(attempts) <= 3
    assert attempts[-1] - attempts[0] < 10.0
    assert fixture.outcomes == {outcome: 1}


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (Answer(401, b""), "http_error"),
        (Answer(302, b""), "http_error"),
        (errors.RecordTooLargeError("large"), "too_large"),
    ],
)
async def test_what_a_retry_cannot_heal_is_not_retried(
    answer: Answer | Exception, outcome: str
) -> None:
    """The host did answer: one request, and the breaker hears no failure."""
    async with running(Fixture(lambda _device: answer, ["7"])) as fixture:
        await fixture.time.advance(50.0)
        assert len(fixture.api.asked) == 5
        assert fixture.outcomes == {outcome: 5}
        assert fixture.breaker.state is State.CLOSED


async def test_a_retry_that_succeeds_collects_the_reading() -> None:
    """A poll whose second request is answered is one `ok`."""
    answers = iter([Answer(503, b""), Answer(200, BODY)])
    async with running(Fixture(lambda _device: next(answers), ["7"])) as fixture:
        await fixture.time.advance(10.0)
        assert fixture.outcomes == {"ok": 1}


async def test_an_unknown_device_is_left_alone_ever_longer() -> None:
    """404 is asked again after 1, 2, 4 intervals; when it is known, every interval."""
    fixture = Fixture(lambda _device: Answer(404, b""), ["7"])
    async with running(fixture):
        await fixture.time.advance(80.0)
        assert fixture.outcomes == {"not_found": 4}
        fixture.api.script = ok
        await fixture.time.advance(110.0)
        assert fixture.outcomes["ok"] >= 4
        assert fixture.breaker.state is State.CLOSED
    assert fixture.registry.get_sample_value("telemill_devices_unknown") == 0


async def test_an_open_breaker_sends_nothing() -> None:
    """A dead host is left alone but for its probes, and polled again once one is answered."""
    fixture = Fixture(
        lambda _device: errors.ServiceUnavailableError("dead"), [str(n) for n in range(40)]
    )
    async with running(fixture):
        await fixture.time.advance(20.0)
        # Four requests open it; a probe follows 15 s later.
        assert len(fixture.api.asked) <= 4 + fixture.api.most_running + 3
        assert fixture.outcomes["skipped"] > 20
        fixture.api.script = ok
        await fixture.time.advance(60.0)
        assert fixture.breaker.state is State.CLOSED
        assert fixture.outcomes["ok"] > 40


async def test_a_poll_held_back_is_tried_again_inside_its_interval() -> None:
    """A breaker that closes again soon costs no reading: the poll it held back is repeated."""
    fixture = Fixture(ok, ["7"])
    async with running(fixture):
        await fixture.time.advance(phase_of("7", 10.0) - 0.1)
        permits = [fixture.breaker.admit(fixture.time.now) for _ in range(4)]
        for permit in permits:
            assert permit is not None
            fixture.breaker.failed(permit, fixture.time.now - 14.5)
        await fixture.time.advance(9.0)
        assert fixture.outcomes == {"ok": 1}
        assert len(fixture.api.asked) == 1


async def test_concurrency_is_bounded() -> None:
    """However slow the host, no more requests than allowed are under way."""
    fixture = Fixture(lambda _device: 4.0, [str(n) for n in range(50)], concurrency=3)
    async with running(fixture):
        await fixture.time.advance(30.0)
        assert fixture.api.most_running == 3
        assert fixture.outcomes["busy"] > 0


async def test_a_device_is_never_polled_twice_at_once() -> None:
    """A poll which outlasts the interval makes the next one `busy`."""
    fixture = Fixture(lambda _device: 4.9, ["7"], attempts=1)
    fixture.poller._timetable = Timetable(["7"], 2.0)
    async with running(fixture):
        await fixture.time.advance(20.0)
        assert fixture.api.most_running == 1
        assert fixture.outcomes["busy"] >= 4


async def test_a_device_taken_away_is_not_asked() -> None:
    """Neither at its phase nor for a retry; and it is nobody's failure."""
    fixture = Fixture(lambda _device: Answer(500, b""), ["7", "8"])
    async with running(fixture):
        fixture.assigned.taken_away = {"8"}
        await fixture.time.advance(phase_of("7", 10.0))
        fixture.assigned.taken_away = {"7", "8"}
        await fixture.time.advance(30.0)
        assert [device for _, device in fixture.api.asked] == ["7"]


async def test_after_standing_still_it_does_not_catch_up() -> None:
    """A process that was frozen for a minute polls each device once, not six times."""
    fixture = Fixture(ok, ["7", "8", "9"])
    async with running(fixture):
        await fixture.time.advance(10.0)
        fixture.time.now += 60.0
        await fixture.time.advance(10.0)
        assert len(fixture.api.asked) <= 9


async def test_stopping_waits_for_the_answer_under_way() -> None:
    """After stop no poll begins, and the reading being answered is still collected."""
    fixture = Fixture(lambda _device: 3.0, ["7"])
    run = asyncio.create_task(fixture.poller.run())
    await settle()
    await fixture.time.advance(phase_of("7", 10.0))
    fixture.poller.stop()
    await settle()
    assert fixture.poller.is_polling("7")
    assert not run.done()
    await fixture.time.advance(30.0)
    await run
    assert fixture.outcomes == {"ok": 1}
    assert len(fixture.api.asked) == 1


async def test_cancelling_breaks_off_polls_and_leaves_the_breaker_well() -> None:
    """Cancelled in a request, the poller ends; a probe cut off does not block the breaker."""
    fixture = Fixture(lambda _device: 3.0, ["7"])
    run = asyncio.create_task(fixture.poller.run())
    await settle()
    await fixture.time.advance(phase_of("7", 10.0))
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert not fixture.poller.is_polling("7")
    assert fixture.breaker.admit(START) is not None


async def test_a_bug_ends_the_poller() -> None:
    """An unexpected exception is not swallowed with its poll."""
    fixture = Fixture(lambda _device: ZeroDivisionError(), ["7"])
    run = asyncio.create_task(fixture.poller.run())
    await settle()
    await fixture.time.advance(10.0)
    with pytest.raises(ExceptionGroup):
        await run


async def test_no_devices_is_no_work() -> None:
    """An empty list polls nothing and ends when stopped."""
    async with running(Fixture(ok, [])) as fixture:
        await fixture.time.advance(30.0)
        assert not fixture.api.asked
