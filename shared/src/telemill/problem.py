"""Problem details for HTTP APIs (RFC 9457): how a refusal looks."""

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from aiohttp import web

CONTENT_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:telemill:problem:"

log = structlog.get_logger()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of problem: what its `type` URN stands for."""

    status: int
    title: str
    description: str


class ProblemError(Exception):
    """Ends a request with problem details.

    Args:
        name: Of the kind, in its URN.
        kind: The kind.
        detail: About this occurrence.
        headers: For the response: Retry-After, WWW-Authenticate.
        members: Further members of the document.
    """

    def __init__(
        self,
        name: str,
        kind: Kind,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        members: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.name = name
        self.kind = kind
        self.detail = detail
        self.headers = dict(headers or {})
        self.members = dict(members or {})

    def response(self) -> web.Response:
        """The answer to send."""
        document: dict[str, Any] = {
            "type": TYPE_PREFIX + self.name,
            "title": self.kind.title,
            "status": self.kind.status,
            "detail": self.detail,
            **self.members,
        }
        return web.Response(
            status=self.kind.status,
            body=json.dumps(document).encode(),
            headers={"Content-Type": CONTENT_TYPE, **self.headers},
        )


def middleware(kinds: Mapping[str, Kind]) -> Any:
    """Turns every refusal, ours or aiohttp's, into problem details.

    Args:
        kinds: By name; "internal" is among them.
    """

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except ProblemError as problem:
            return problem.response()
        except web.HTTPException as error:
            return _from_aiohttp(error, kinds)
        except Exception:
            log.exception("http.request_failed", path=request.path)
            detail = "the request failed; the log says why"
            return ProblemError("internal", kinds["internal"], detail).response()

    return answer


def _from_aiohttp(error: web.HTTPException, kinds: Mapping[str, Kind]) -> web.StreamResponse:
    names = {kind.status: name for name, kind in kinds.items()}
    name = names.get(error.status)
    if name is None:
        return error
    kept = {each: error.headers[each] for each in ("Allow",) if each in error.headers}
    return ProblemError(name, kinds[name], error.reason, headers=kept).response()
