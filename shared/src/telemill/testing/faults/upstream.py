"""The emulators behind the proxy."""

import email.utils
import io
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from telemill.testing.faults.answers import Answer

CONNECT_TIMEOUT_SECONDS = 5.0
KEEPALIVE_SECONDS = 2.0
"""Below every emulator's own: else a call meets a connection that is just being closed."""
LARGE_BODY_BYTES = 256 * 1024
HOP_BY_HOP = frozenset(
    {
        "connection",
        "expect",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""RFC 9110, section 7.6.1, and `Expect`, which we answer ourselves."""

Body = bytes | AsyncIterator[bytes] | None


class UpstreamError(Exception):
    """The emulator gave no answer."""


class Upstream:
    """Passes requests on as they are, but for the connection's own headers.

    Args:
        url: The emulator's.
        elsewhere: Services that have another.
    """

    def __init__(self, url: str, elsewhere: Mapping[str, str]) -> None:
        self._url = url.rstrip("/")
        self._elsewhere = {service: its.rstrip("/") for service, its in elsewhere.items()}
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Begin; inside the event loop."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_SECONDS),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        )

    async def close(self) -> None:
        """End every connection."""
        if self._session is not None:
            await self._session.close()

    @asynccontextmanager
    async def stream(
        self,
        service: str,
        request: web.BaseRequest,
        body: Body,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer to a request, its body still to be read.

        Args:
            service: Decides where it goes.
            request: Method, path and headers.
            body: In place of the request's.
            headers: In place of the request's.

        Raises:
            UpstreamError: No answer, or it broke off.
        """
        if self._session is None:
            raise UpstreamError("not open")
        url = URL(self._elsewhere.get(service, self._url) + request.raw_path, encoded=True)
        sent = onward(request.headers if headers is None else headers)
        if isinstance(body, bytes):
            sent.popall("Content-Length", None)
        try:
            async with self._session.request(
                request.method, url, headers=sent, data=_piecewise(body), allow_redirects=False
            ) as response:
                yield response
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamError(str(error) or type(error).__name__) from error

    async def answer(
        self,
        service: str,
        request: web.BaseRequest,
        body: Body,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """The whole answer to a request: `stream`, read to its end."""
        async with self.stream(service, request, body, headers) as response:
            whole = await response.read()
            return Answer(response.status, onward(response.headers), whole)


def onward(headers: Mapping[str, str]) -> CIMultiDict[str]:
    """Headers without those that are about one connection."""
    kept = CIMultiDict(headers.items())
    for name in HOP_BY_HOP:
        kept.popall(name, None)
    return kept


def date_header(skew_seconds: float) -> str:
    """The Date of a service whose clock is ahead."""
    return email.utils.formatdate(time.time() + skew_seconds, usegmt=True)


def _piecewise(body: Body) -> Any:
    """Large bytes as a file: aiohttp sends them in pieces, and others get their turn."""
    if isinstance(body, bytes) and len(body) > LARGE_BODY_BYTES:
        return io.BytesIO(body)
    return body
