"""Problem details for HTTP APIs (RFC 9457): how every refusal looks."""

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from aiohttp import web

CONTENT_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:telemill:problem:"
MAX_ERRORS = 100
"""Item errors listed in one answer; `errors_omitted` counts the rest."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ItemError:
    """Why one item of a body cannot be a reading.

    Attributes:
        index: Its place in the body, from 0; blank lines do not count.
        reason: "decode", "schema" or "too_large": the reason the quarantine would give.
        error: For people. Says what was expected, never quotes the item.
    """

    index: int
    reason: str
    error: str


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of problem: what its `type` URN stands for."""

    status: int
    title: str
    description: str


KINDS = {
    "malformed-body": Kind(400, "Malformed body", "No JSON, not UTF-8, or not as encoded."),
    "bad-parameter": Kind(400, "Bad query parameter", "A query parameter has no known value."),
    "unauthorized": Kind(401, "Unauthorized", "No API key, or none we know."),
    "not-found": Kind(404, "Not found", "No such resource."),
    "method-not-allowed": Kind(405, "Method not allowed", "The resource has no such method."),
    "body-timeout": Kind(408, "Body time-out", "The body did not arrive in time."),
    "too-large": Kind(413, "Body too large", "Too many bytes, also decompressed, or items."),
    "unsupported-type": Kind(415, "Unsupported body", "Unknown content type or coding."),
    "not-readings": Kind(422, "Not readings", "Items cannot be readings; nothing was written."),
    "rate-limited": Kind(429, "Rate limited", "The key's readings per second are used up."),
    "internal": Kind(500, "Internal error", "Our fault; readings may or may not be written."),
    "unavailable": Kind(503, "Stream unavailable", "Not acknowledged in time: send it again."),
}


class ProblemError(Exception):
    """Ends a request with problem details.

    Args:
        name: One of `KINDS`.
        detail: About this occurrence.
        headers: For the response: Retry-After, WWW-Authenticate.
        errors: Item errors, all of them.
    """

    def __init__(
        self,
        name: str,
        detail: str,
        *,
        headers: dict[str, str] | None = None,
        errors: Sequence[ItemError] = (),
    ) -> None:
        super().__init__(detail)
        self.name = name
        self.kind = KINDS[name]
        self.detail = detail
        self.headers = headers or {}
        self.errors = errors

    def response(self) -> web.Response:
        """The answer to send."""
        document: dict[str, Any] = {
            "type": TYPE_PREFIX + self.name,
            "title": self.kind.title,
            "status": self.kind.status,
            "detail": self.detail,
        }
        if self.errors:
            document |= error_members(self.errors)
        return web.Response(
            status=self.kind.status,
            body=json.dumps(document).encode(),
            headers={"Content-Type": CONTENT_TYPE, **self.headers},
        )


def error_members(errors: Sequence[ItemError]) -> dict[str, Any]:
    """The members `errors` and, when not all are listed, `errors_omitted`."""
    listed = [
        {"index": error.index, "reason": error.reason, "error": error.error}
        for error in errors[:MAX_ERRORS]
    ]
    members: dict[str, Any] = {"errors": listed}
    if len(errors) > MAX_ERRORS:
        members["errors_omitted"] = len(errors) - MAX_ERRORS
    return members


@web.middleware
async def middleware(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Turn every refusal, ours or aiohttp's, into problem details."""
    try:
        return await handler(request)
    except ProblemError as problem:
        return problem.response()
    except web.HTTPException as error:
        return _from_aiohttp(error)
    except Exception:
        log.exception("ingest.request_failed", path=request.path)
        return ProblemError("internal", "the request failed; the log says why").response()


def _from_aiohttp(error: web.HTTPException) -> web.StreamResponse:
    names = {kind.status: name for name, kind in KINDS.items()}
    if error.status not in names:
        return error
    kept = {name: error.headers[name] for name in ("Allow",) if name in error.headers}
    return ProblemError(names[error.status], error.reason, headers=kept).response()
