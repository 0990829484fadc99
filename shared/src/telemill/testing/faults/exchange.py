"""One call on its way through the proxy."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from telemill.testing.faults import documents
from telemill.testing.faults.answers import Answer, Asked, Refusal
from telemill.testing.faults.answers import answer as answer_of
from telemill.testing.faults.decide import Call
from telemill.testing.faults.services import Target

Send = Callable[[bytes, Mapping[str, str] | None], Awaitable[Answer]]


class Exchange(NamedTuple):
    """A call of which the body is here.

    Attributes:
        call: Its number and so on.
        target: Its service and operation.
        asked: What has to be known to refuse it.
        headers: Of the request.
        body: Of the request.
        send: Gets the emulator's answer to a body; with other headers than the request's, if given.
    """

    call: Call
    target: Target
    asked: Asked
    headers: Mapping[str, str]
    body: bytes
    send: Send

    @property
    def form(self) -> documents.Form:
        """How bodies are encoded."""
        return documents.form_of(self.asked.content_type)

    def document(self) -> dict[str, Any]:
        """The request's document; an empty one when it is none: the emulator will say so."""
        try:
            return documents.decode(self.form, self.body)
        except documents.DocumentError:
            return {}

    def encoded(self, document: dict[str, Any]) -> bytes:
        """A document in the request's encoding."""
        return documents.encode(self.form, document)

    def refused(self, refusal: Refusal) -> Answer:
        """The service's refusal."""
        return answer_of(self.asked, refusal)
