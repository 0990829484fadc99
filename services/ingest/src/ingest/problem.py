"""How every refusal of a push looks: problem details (RFC 9457) with the items at fault."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from telemill import problem
from telemill.problem import CONTENT_TYPE, TYPE_PREFIX, Kind

__all__ = [
    "CONTENT_TYPE",
    "KINDS",
    "MAX_ERRORS",
    "TYPE_PREFIX",
    "ItemError",
    "Kind",
    "ProblemError",
]

MAX_ERRORS = 100
"""Item errors listed in one answer; `errors_omitted` counts the rest."""


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


class ProblemError(problem.ProblemError):
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
        members = error_members(errors) if errors else {}
        super().__init__(name, KINDS[name], detail, headers=headers, members=members)
        self.errors = errors


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


middleware = problem.middleware(KINDS)
