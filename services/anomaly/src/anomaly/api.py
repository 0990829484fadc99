"""The HTTP API for people: acknowledge an alert, mute a device, list both, ask for a forecast."""

import re
import time
from collections.abc import Callable, Collection
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import structlog
from aiohttp import web

from anomaly import outlooks
from anomaly.limits import Outlook
from anomaly.mutes import ACK, MUTE, Entry, Silences
from telemill import api_keys, errors, problem
from telemill.contract import Contract
from telemill.problem import Kind

PREFIX = "/v1"
MAX_BODY_BYTES = 16 * 1024
MAX_REASON_CHARACTERS = 500
MAX_MUTE_DAYS = 366
"""Longer is no pause but an equipment that should leave the contract's devices."""

SECONDS_PER_DAY = 86_400
_KEY_OF = {MUTE: "device_id", ACK: "alert_id"}
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

KINDS = {
    "malformed-body": Kind(400, "Malformed body", "No JSON, or not the members asked for."),
    "bad-path": Kind(400, "Bad path", "The path names no device or alert that there could be."),
    "unauthorized": Kind(401, "Unauthorized", "No API key, or none we know."),
    "not-found": Kind(404, "Not found", "No such resource."),
    "method-not-allowed": Kind(405, "Method not allowed", "The resource has no such method."),
    "too-large": Kind(413, "Body too large", "More bytes than such a request can need."),
    "internal": Kind(500, "Internal error", "Our fault; it may or may not have been noted."),
    "unavailable": Kind(503, "Unavailable", "Not noted for sure: send it again."),
}

log = structlog.get_logger()


class MuteBody(msgspec.Struct, forbid_unknown_fields=True):
    """Until when a device is muted, with time zone, and why."""

    until: datetime
    reason: str = ""


class AckBody(msgspec.Struct, forbid_unknown_fields=True):
    """Why an alert needs no more updates."""

    reason: str = ""


_ASKED = web.RequestKey("asked", api_keys.ApiKey)
"""Who asks."""


class Api:
    """The handlers; 503 until `open`.

    Args:
        keys: Who may ask; nobody when empty.
        contract: What a device id is.
        wall: Epoch seconds.
    """

    def __init__(
        self,
        keys: Collection[api_keys.ApiKey],
        contract: Contract,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._keys = keys
        self._contract = contract
        self._wall = wall
        self._opened: Silences | None = None
        self._outlook: Callable[[str], Outlook | None] = lambda _device: None

    def open(self, silences: Silences) -> None:
        """Answer from now on."""
        self._opened = silences

    def foresee(self, outlook: Callable[[str], Outlook | None]) -> None:
        """Answer where devices are going, by canonical device key."""
        self._outlook = outlook

    def app(self) -> web.Application:
        """To be mounted at `PREFIX`."""
        app = web.Application(middlewares=[problem.middleware(KINDS), self._admit])
        app.router.add_get("/acks", self.list_acks)
        app.router.add_get("/mutes", self.list_mutes)
        app.router.add_post("/alerts/{alert_id}/ack", self.acknowledge)
        app.router.add_delete("/alerts/{alert_id}/ack", self.unacknowledge)
        app.router.add_put("/devices/{device_id}/mute", self.mute)
        app.router.add_delete("/devices/{device_id}/mute", self.unmute)
        app.router.add_get("/devices/{device_id}/forecast", self.forecast)
        return app

    async def list_acks(self, _request: web.Request) -> web.Response:
        """Alerts that send no updates."""
        return web.json_response({"acks": [_document(each) for each in self._silences.now(ACK)]})

    async def list_mutes(self, _request: web.Request) -> web.Response:
        """Devices that are silent now."""
        return web.json_response({"mutes": [_document(each) for each in self._silences.now(MUTE)]})

    async def acknowledge(self, request: web.Request) -> web.Response:
        """No more updates of an alert or of a group."""
        alert_id = _alert_id(request)
        body = await _body(request, AckBody, empty=AckBody())
        return await self._note(
            self._silences.acknowledge(alert_id, _reason(body.reason), _by(request))
        )

    async def unacknowledge(self, request: web.Request) -> web.Response:
        """Updates again."""
        return await self._end(ACK, _alert_id(request))

    async def mute(self, request: web.Request) -> web.Response:
        """No messages of a device."""
        device = self._device(request)
        body = await _body(request, MuteBody)
        until = self._until(body.until)
        return await self._note(
            self._silences.mute(device, until, _reason(body.reason), _by(request))
        )

    async def unmute(self, request: web.Request) -> web.Response:
        """Messages again."""
        return await self._end(MUTE, self._device(request))

    async def forecast(self, request: web.Request) -> web.Response:
        """Where a device of one of this worker's shards is going."""
        device = self._device(request)
        outlook = self._outlook(device)
        if outlook is None:
            detail = f"device {device} has no reading yet, or is another worker's"
            raise _refusal("not-found", detail)
        return web.json_response(outlooks.document(device, outlook, self._contract))

    @property
    def _silences(self) -> Silences:
        if self._opened is None:
            raise _refusal("unavailable", "the service is starting")
        return self._opened

    @web.middleware
    async def _admit(self, request: web.Request, handler: problem.Handler) -> web.StreamResponse:
        key = api_keys.authenticate(request.headers.get("Authorization"), self._keys)
        if key is None:
            raise problem.ProblemError(
                "unauthorized",
                KINDS["unauthorized"],
                "send Authorization: Bearer with a key of ANOMALY_API_KEY_HASHES",
                headers={"WWW-Authenticate": 'Bearer realm="telemill"'},
            )
        request[_ASKED] = key
        return await handler(request)

    async def _note(self, noting: Any) -> web.Response:
        try:
            entry = await noting
        except (errors.TransientError, errors.ConfigurationError) as error:
            raise _refusal("unavailable", str(error)) from error
        log.info("anomaly.silence_noted", kind=entry.kind, subject=entry.subject, key=entry.by)
        return web.json_response(_document(entry))

    async def _end(self, kind: str, subject: str) -> web.Response:
        try:
            await self._silences.end(kind, subject)
        except (errors.TransientError, errors.ConfigurationError) as error:
            raise _refusal("unavailable", str(error)) from error
        log.info("anomaly.silence_ended", kind=kind, subject=subject)
        return web.Response(status=204)

    def _device(self, request: web.Request) -> str:
        try:
            return self._contract.device_key(request.match_info["device_id"])
        except errors.SchemaError as error:
            raise _refusal("bad-path", f"device_id: {error}") from error

    def _until(self, moment: datetime) -> int:
        if moment.tzinfo is None:
            raise _refusal("malformed-body", "until: takes a time with its zone, as 12:00:00Z")
        until, now = moment.timestamp(), self._wall()
        if not now < until <= now + MAX_MUTE_DAYS * SECONDS_PER_DAY:
            detail = f"until: takes a time to come, at most {MAX_MUTE_DAYS} days away"
            raise _refusal("malformed-body", detail)
        return int(until)


def _refusal(name: str, detail: str) -> problem.ProblemError:
    return problem.ProblemError(name, KINDS[name], detail)


def _by(request: web.Request) -> str:
    return request[_ASKED].name


def _alert_id(request: web.Request) -> str:
    try:
        return str(UUID(request.match_info["alert_id"]))
    except ValueError as error:
        raise _refusal("bad-path", "alert_id: takes the UUID of an alert") from error


async def _body(request: web.Request, wanted: type[Any], empty: Any = None) -> Any:
    # The application at the root bounds what is read; this bounds what can be meant.
    received = await request.read()
    if len(received) > MAX_BODY_BYTES:
        raise _refusal("too-large", f"takes at most {MAX_BODY_BYTES} bytes")
    if not received and empty is not None:
        return empty
    try:
        return msgspec.json.decode(received, type=wanted)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _refusal("malformed-body", str(error)) from error


def _reason(text: str) -> str:
    if len(text) > MAX_REASON_CHARACTERS or _CONTROL.search(text):
        detail = f"reason: takes at most {MAX_REASON_CHARACTERS} characters, none of control"
        raise _refusal("malformed-body", detail)
    return text


def _document(entry: Entry) -> dict[str, Any]:
    found = asdict(entry)
    subject, kind = found.pop("subject"), found.pop("kind")
    for name in ("until", "at"):
        found[name] = datetime.fromtimestamp(found[name], UTC).isoformat().replace("+00:00", "Z")
    return {_KEY_OF[kind]: subject, **found}
