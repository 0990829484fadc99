"""The FMS API over HTTP: one GET, and what came of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple, Protocol
from urllib.parse import quote

import aiohttp
from yarl import URL

from telemill import errors

KEEP_ALIVE_SECONDS = 75.0


class Answer(NamedTuple):
    """What an API host answered.

    Attributes:
        status: HTTP status.
        body: The bytes as they came; empty unless the status is 200.
    """

    status: int
    body: bytes


class Api(Protocol):
    """An FMS API host."""

    async def get(self, device_key: str, timeout_seconds: float) -> Answer:
        """Ask for the device's reading.

        Raises:
            TimeoutError: No complete answer in time.
            ServiceUnavailableError: No connection, or it broke.
            RecordTooLargeError: The body is larger than a raw record.
        """


class HttpApi:
    """`GET base_url/{device}/` on kept-alive connections. Redirects are not followed.

    Args:
        session: Opened by `session`.
        base_url: http:// or https://, with or without a path.
        max_body_bytes: Larger answers are refused, and not read to their end.
    """

    def __init__(self, session: aiohttp.ClientSession, base_url: str, max_body_bytes: int) -> None:
        self._session = session
        self._base_url = base_url.rstrip("/")
        self._max_body_bytes = max_body_bytes
        self._urls: dict[str, URL] = {}

    async def get(self, device_key: str, timeout_seconds: float) -> Answer:
        """See `Api`."""
        url = self._urls.get(device_key)
        if url is None:
            # Parsed once: it is a sixth of what a poll costs.
            path = f"{self._base_url}/{quote(device_key, safe='')}/"
            url = self._urls[device_key] = URL(path, encoded=True)
        try:
            async with (
                asyncio.timeout(timeout_seconds),
                self._session.get(url, allow_redirects=False) as response,
            ):
                body = await self._read(response) if response.status == 200 else b""
                return Answer(response.status, body)
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(error, TimeoutError):
                raise
            raise errors.ServiceUnavailableError(type(error).__name__) from error

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        pieces: list[bytes] = []
        room = self._max_body_bytes
        while piece := await response.content.readany():
            room -= len(piece)
            if room < 0:
                response.close()
                raise errors.RecordTooLargeError(
                    f"the body is larger than {self._max_body_bytes} bytes"
                )
            pieces.append(piece)
        return b"".join(pieces)


@asynccontextmanager
async def session(max_connections: int) -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP session for polling: kept-alive connections, no cookies, no content coding."""
    connector = aiohttp.TCPConnector(limit=max_connections, keepalive_timeout=KEEP_ALIVE_SECONDS)
    async with aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=None),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Accept": "application/json", "Accept-Encoding": "identity"},
    ) as opened:
        yield opened
