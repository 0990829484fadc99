"""The proxy: an HTTP server in front of the emulators that does to calls what the plan says."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

from telemill.testing.faults import answers, control, services
from telemill.testing.faults.answers import Answer, Asked, Refusal
from telemill.testing.faults.decide import Call
from telemill.testing.faults.exchange import Exchange
from telemill.testing.faults.injector import Injector
from telemill.testing.faults.kinesis import Kinesis
from telemill.testing.faults.process import CONTROL_PATH
from telemill.testing.faults.services import Target
from telemill.testing.faults.upstream import Body, Upstream, UpstreamError, date_header, onward

MAX_BODY_BYTES = 20 * 1024 * 1024
"""A PutRecords of 10 MiB is 14 MB as JSON. Bodies for S3 pass through and have no limit here."""
MAX_WHOLE_BYTES = 256 * 1024
"""Smaller answers are sent at once, larger ones as they come."""
REFUSALS: dict[str, Callable[[Asked], Refusal]] = {
    "server_error": lambda asked: answers.INTERNAL[asked.service],
    "throttle": lambda asked: answers.throttled(asked.service, asked.operation),
    "expire_iterators": lambda _: answers.EXPIRED_ITERATOR,
    "conditional_failure": lambda _: answers.CONDITION_FAILED,
    "outages": lambda asked: answers.UNAVAILABLE[asked.service],
}


class FaultProxy:
    """Handles every request of `web.Server`.

    Args:
        injector: The plan.
        upstream: Where requests go.
    """

    def __init__(self, injector: Injector, upstream: Upstream) -> None:
        self._injector = injector
        self._upstream = upstream
        self._kinesis = Kinesis(injector)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request, or drop its connection."""
        if request.path == CONTROL_PATH:
            return await control.handle(request, self._injector)
        target = services.recognise(request.method, request.raw_path, request.headers)
        try:
            if target.service == services.UNKNOWN:
                return await self._pass_on(request, target.service, _body_of(request))
            return await self._handle_call(request, target)
        except UpstreamError as error:
            # An emulator that is gone looks to the caller as it would without us. The caller may be
            # gone itself: that ends the call too, and is no event.
            if request.transport is not None and not request.transport.is_closing():
                self._injector.journal.event(
                    "upstream_failed", service=target.service, error=str(error)
                )
            return _drop(request)

    async def _handle_call(self, request: web.BaseRequest, target: Target) -> web.StreamResponse:
        body = None if target.service == "s3" else await _read(request)
        if target.service == "sns":
            target = target._replace(operation=services.query_operation(body or b""))
        call = self._injector.arrived(target, body)
        decision = self._injector.decide(call)
        if decision.instead:
            return await self._refuse(request, target, call, body, decision.instead)
        if decision.afterwards:
            self._note(request, target, call, body, decision.afterwards)
        return await self._carry(request, target, call, body, decision.afterwards)

    async def _carry(
        self,
        request: web.BaseRequest,
        target: Target,
        call: Call,
        body: bytes | None,
        afterwards: str | None,
    ) -> web.StreamResponse:
        """Do a call, then answer it, late or not at all."""
        if body is None:
            return await self._pass_on(request, target.service, _body_of(request), afterwards)
        if target.service != "kinesis" or target.operation == "SubscribeToShard":
            return await self._pass_on(request, target.service, body, afterwards)
        answer = await self._kinesis.carry(self._exchange(request, target, call, body))
        if afterwards == "commit_then_drop":
            return _drop(request)
        if afterwards == "stall":
            await asyncio.sleep(self._injector.plan.stall_seconds)
        return self._response(answer)

    async def _pass_on(
        self, request: web.BaseRequest, service: str, body: Body, afterwards: str | None = None
    ) -> web.StreamResponse:
        """Do a call without looking at it."""
        await _continue(request)
        async with self._upstream.stream(service, request, body) as response:
            if afterwards == "commit_then_drop":
                await response.read()
                return _drop(request)
            if afterwards == "stall":
                await asyncio.sleep(self._injector.plan.stall_seconds)
            return await self._relay(request, response)

    async def _refuse(
        self,
        request: web.BaseRequest,
        target: Target,
        call: Call,
        body: bytes | None,
        fault: str,
    ) -> web.StreamResponse:
        """Do not do a call."""
        self._note(request, target, call, body, fault)
        await _continue(request)
        closes = fault == "outages" and self._injector.plan.outage_answer == "close"
        if closes or fault == "drop_before":
            await _read_half(request)
            return _drop(request)
        async for _ in request.content.iter_any():
            pass
        asked = _asked(request, target, call)
        return self._response(answers.answer(asked, REFUSALS[fault](asked)))

    def _note(
        self, request: web.BaseRequest, target: Target, call: Call, body: bytes | None, fault: str
    ) -> None:
        known = self._injector.facts(target, body, request.headers.get("Content-Type", ""))
        if target.operation == "GetRecords" and body is not None:
            exchange = self._exchange(request, target, call, body)
            known |= self._kinesis.place_of_iterator(exchange)
        self._injector.note(call, fault, known)

    def _exchange(
        self, request: web.BaseRequest, target: Target, call: Call, body: bytes
    ) -> Exchange:
        async def send(its_body: bytes, headers: Mapping[str, str] | None) -> Answer:
            return await self._upstream.answer(target.service, request, its_body, headers)

        asked = _asked(request, target, call)
        return Exchange(call, target, asked, request.headers, body, send)

    def _headers(self, headers: Mapping[str, str]) -> CIMultiDict[str]:
        sent = onward(headers)
        if self._injector.plan.clock_skew_seconds:
            sent["Date"] = date_header(self._injector.plan.clock_skew_seconds)
        return sent

    def _response(self, answer: Answer) -> web.Response:
        headers = self._headers(answer.headers)
        headers.popall("Content-Length", None)
        return web.Response(status=answer.status, headers=headers, body=answer.body)

    async def _relay(
        self, request: web.BaseRequest, response: aiohttp.ClientResponse
    ) -> web.StreamResponse:
        """Send on an answer, in one piece if it is small."""
        length = response.content_length
        if request.method != "HEAD" and length is not None and length <= MAX_WHOLE_BYTES:
            whole = await response.read()
            return self._response(Answer(response.status, response.headers, whole))
        sent = web.StreamResponse(status=response.status, headers=self._headers(response.headers))
        await sent.prepare(request)
        async for part in response.content.iter_any():
            await sent.write(part)
        await sent.write_eof()
        return sent


def _asked(request: web.BaseRequest, target: Target, call: Call) -> Asked:
    return Asked(
        service=target.service,
        operation=target.operation,
        content_type=request.headers.get("Content-Type", ""),
        method=request.method,
        request_id=f"fault-proxy-{call.sequence}",
    )


def _drop(request: web.BaseRequest) -> web.Response:
    """End the connection without an answer; what is returned is never sent."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)


async def _continue(request: web.BaseRequest) -> None:
    """Ask for the body of a caller that waits to be asked (boto3, before an S3 PUT)."""
    expected = request.headers.get("Expect", "").lower() == "100-continue"
    if expected and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


async def _read(request: web.BaseRequest) -> bytes:
    await _continue(request)
    body = bytearray()
    async for part in request.content.iter_any():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise web.HTTPRequestEntityTooLarge(MAX_BODY_BYTES, len(body))
    return bytes(body)


async def _read_half(request: web.BaseRequest) -> None:
    """Let half of a body come, so that the connection ends in its middle."""
    enough = (request.content_length or 1) / 2
    read_bytes = 0
    async for part in request.content.iter_any():
        read_bytes += len(part)
        if read_bytes >= enough:
            return


def _body_of(request: web.BaseRequest) -> AsyncIterator[bytes] | None:
    return _parts(request) if request.can_read_body else None


async def _parts(request: web.BaseRequest) -> AsyncIterator[bytes]:
    async for part in request.content.iter_any():
        yield part
