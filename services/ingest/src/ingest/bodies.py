"""Receives a pushed body within bounds: bytes of one, bytes of all, and time."""

import asyncio

from aiohttp import web

from ingest.problem import ProblemError
from telemill import errors
from telemill.codec import compression

CONTENT_TYPES = (
    "application/json",
    "application/x-ndjson",
    "application/ndjson",
    "application/jsonl",
    "application/octet-stream",
    "text/plain",
)
"""What a body really is, is told from its bytes: clients are not consistent about its name.
`application/octet-stream` is also what aiohttp takes a missing Content-Type for."""

CODINGS = {"gzip": compression.GZIP_MAGIC, "zstd": compression.ZSTD_MAGIC}
RETRY_AFTER = {"Retry-After": "2"}


class Room:
    """The memory all bodies share."""

    def __init__(self, max_bytes: int) -> None:
        self._free_bytes = max_bytes

    def take(self, size_bytes: int) -> None:
        """Take room for a piece.

        Raises:
            ProblemError: There is none left.
        """
        if size_bytes > self._free_bytes:
            detail = "too many bodies wait for the raw stream"
            raise ProblemError("unavailable", detail, headers=RETRY_AFTER)
        self._free_bytes -= size_bytes

    def give_back(self, size_bytes: int) -> None:
        """Give back what was taken."""
        self._free_bytes += size_bytes


class Body:
    """One body, for the length of a `with` block.

    Args:
        room: What it takes its memory from.
        max_bytes: Most bytes, as sent and decompressed.
    """

    def __init__(self, room: Room, max_bytes: int) -> None:
        self._room = room
        self._max_bytes = max_bytes
        self._taken_bytes = 0

    def __enter__(self) -> "Body":
        return self

    def __exit__(self, *_exception: object) -> None:
        self._room.give_back(self._taken_bytes)

    async def receive(self, request: web.Request, timeout_seconds: float) -> bytes:
        """Read and decompress the request's body.

        Raises:
            ProblemError: Unsupported type or coding, too large, too slow, or not as encoded.
        """
        coding = _coding(request)
        # Refused before a byte of it is read, when the client says how much it will send.
        self._check(request.content_length or 0)
        try:
            async with asyncio.timeout(timeout_seconds):
                sent = await self._receive(request)
        except TimeoutError as error:
            detail = f"the body did not arrive within {timeout_seconds:g} seconds"
            raise ProblemError("body-timeout", detail) from error
        return self._decoded(sent, coding) if coding else sent

    async def _receive(self, request: web.Request) -> bytes:
        received = bytearray()
        async for piece in request.content.iter_any():
            self._check(len(received) + len(piece))
            self._take(len(piece))
            received += piece
        return bytes(received)

    def _decoded(self, sent: bytes, coding: str) -> bytes:
        if not sent.startswith(CODINGS[coding]):
            raise ProblemError("malformed-body", f"Content-Encoding is {coding}, the body is not")
        try:
            decoded = compression.decompress(sent, limit=self._max_bytes)
        except errors.RecordTooLargeError as error:
            raise ProblemError("too-large", str(error)) from error
        except errors.DecodeError as error:
            raise ProblemError("malformed-body", str(error)) from error
        self._take(max(len(decoded) - len(sent), 0))
        return decoded

    def _check(self, size_bytes: int) -> None:
        if size_bytes > self._max_bytes:
            raise ProblemError("too-large", f"takes at most {self._max_bytes} bytes")

    def _take(self, size_bytes: int) -> None:
        self._room.take(size_bytes)
        self._taken_bytes += size_bytes


def _coding(request: web.Request) -> str:
    """The content coding, "" for none."""
    if request.content_type not in CONTENT_TYPES:
        raise ProblemError("unsupported-type", f"takes {', '.join(CONTENT_TYPES)}")
    coding = request.headers.get("Content-Encoding", "").strip().lower()
    if coding in {"", "identity"}:
        return ""
    if coding not in CODINGS:
        takes = ", ".join(CODINGS)
        raise ProblemError("unsupported-type", f"takes {takes}", headers={"Accept-Encoding": takes})
    return coding
