"""A paced load on ingest's door, by clients who do not give up: what is pushed is answered 202.

Half of the readings are an hour old, so that the sink's cuts hold two hours and so two objects;
some items are no readings, so that the quarantine has work; one device after the other runs hot for
a while, so that there are alerts.
"""

import asyncio
import hashlib
import itertools
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from http import HTTPStatus

import aiohttp
import msgspec

from bench.fleet import Fleet
from telemill.testing.processes import EndedEarlyError

KEY = "fault"
KEY_HASH = f"fault:{hashlib.sha256(KEY.encode()).hexdigest()}"
CONNECTIONS = 64
MAX_OUTSTANDING = 200
"""Bodies that clients hold back at most while ingest is away; then they read devices later."""

RETRY_SECONDS = 0.25
POST_TIMEOUT_SECONDS = 15.0
PAUSE_TIMEOUT_SECONDS = 120.0
OLD_BY = timedelta(hours=1)
HOT_TICKS = 12
"""More than open an alert, fewer than the detector takes for the new normal."""
HOT = {"sensor1": 180.0, "sensor3": 140.0, "motor1": 1900.0, "motor3": 2300.0}
TICKS_PER_BROKEN = 5
BROKEN = b'{"time":"never %d","DeviceId":%d}'
"""Passes ingest, which looks at the device only; transform rejects it."""


def bodies(devices: int, interval_seconds: float, start: datetime, seed: int) -> Iterator[bytes]:
    """NDJSON bodies without end: one reading of each device, now and an hour ago by turns."""
    now = Fleet(devices, interval_seconds, start, seed)
    old = Fleet(devices, interval_seconds, start - OLD_BY, seed + 1)
    endless = 1 << 40
    pairs = zip(now.ticks(endless), old.ticks(endless), strict=True)
    for number, items in enumerate(itertools.chain.from_iterable(pairs)):
        hot = number // HOT_TICKS % devices
        items[hot] = msgspec.json.encode({**msgspec.json.decode(items[hot]), **HOT})
        if number % TICKS_PER_BROKEN == 0:
            items.append(BROKEN % (number, 1 + number % devices))
        yield b"\n".join(items)


class Load:
    """Pushes in a thread of its own, from `start` to `stop`, with pauses.

    Attributes:
        accepted: Bodies answered 202, in the order of the answers.
        accepted_at: When the last of them was, monotonic.
        offered: Readings that were due so far.
        readings_per_body: Of each, but for what is broken.
        attempts: Requests that were not answered 202 and came again.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        devices: int,
        readings_per_second: float,
        seed: int,
        ticks_per_body: int = 1,
    ) -> None:
        self.accepted: list[bytes] = []
        self.accepted_at = 0.0
        self.offered = 0
        self.attempts = 0
        self._urls = urls
        self._ticks_per_body = ticks_per_body
        self.readings_per_body = devices * ticks_per_body
        self._interval_seconds = self.readings_per_body / readings_per_second
        tick_seconds = devices / readings_per_second
        # Old and new readings take turns, so a device's next reading of its own hour comes later.
        self._bodies = bodies(devices, 2 * tick_seconds, datetime.now(UTC), seed)
        self._outstanding = 0
        self._flows = threading.Event()
        self._stops = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)

    @property
    def outstanding(self) -> int:
        """Bodies sent and not yet answered 202."""
        return self._outstanding

    def start(self) -> None:
        """Begin to push."""
        self._flows.set()
        self._thread.start()

    def pause(self) -> None:
        """Send nothing new; returns when everything sent is answered 202.

        Raises:
            EndedEarlyError: Ingest refused a body, or does not answer for a long time.
        """
        self._flows.clear()
        deadline = time.monotonic() + PAUSE_TIMEOUT_SECONDS
        while self._outstanding and time.monotonic() < deadline and self._failure is None:
            time.sleep(RETRY_SECONDS / 2)
        if self._outstanding or self._failure:
            why = self._failure or f"{self._outstanding} bodies were not taken"
            raise EndedEarlyError(f"the load: {why}")

    def resume(self) -> None:
        """Push on."""
        self._flows.set()

    def stop(self) -> None:
        """End the thread; what is not answered is given up."""
        self._stops.set()
        self._flows.set()
        if self._thread.is_alive():
            self._thread.join()

    def _work(self) -> None:
        try:
            asyncio.run(self._push())
        except BaseException as error:  # told by `pause`
            self._failure = error

    async def _push(self) -> None:
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/x-ndjson"}
        limits = aiohttp.ClientTimeout(total=POST_TIMEOUT_SECONDS)
        connector = aiohttp.TCPConnector(limit=CONNECTIONS)
        urls = itertools.cycle(self._urls)
        async with (
            aiohttp.ClientSession(connector=connector, headers=headers, timeout=limits) as session,
            asyncio.TaskGroup() as posts,
        ):
            async for body in self._due():
                posts.create_task(self._post(session, next(urls), body))

    async def _due(self) -> AsyncIterator[bytes]:
        due = time.monotonic()
        while not self._stops.is_set():
            if not self._flows.is_set() or self._outstanding >= MAX_OUTSTANDING:
                await asyncio.sleep(RETRY_SECONDS / 2)
                due = time.monotonic()
                continue
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            due += self._interval_seconds
            body = b"\n".join(itertools.islice(self._bodies, self._ticks_per_body))
            self.offered += self.readings_per_body
            self._outstanding += 1
            yield body

    async def _post(self, session: aiohttp.ClientSession, url: str, body: bytes) -> None:
        """Push one body until it is taken: a dead ingest comes back."""
        while not self._stops.is_set():
            try:
                async with session.post(f"{url}/v1/readings", data=body) as answer:
                    status, text = answer.status, await answer.text()
                    pause = float(answer.headers.get("Retry-After", RETRY_SECONDS))
            except (aiohttp.ClientError, TimeoutError):
                status, text, pause = int(HTTPStatus.SERVICE_UNAVAILABLE), "", RETRY_SECONDS
            if status == HTTPStatus.ACCEPTED:
                self.accepted.append(body)
                self.accepted_at = time.monotonic()
                self._outstanding -= 1
                return
            if status not in {HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS}:
                raise EndedEarlyError(f"ingest answered {status}: {text}")
            self.attempts += 1
            await asyncio.sleep(pause)
