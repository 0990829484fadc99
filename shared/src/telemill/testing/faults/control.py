"""The control interface: GET, PUT and DELETE /_faults."""

from typing import Any

import msgspec
from aiohttp import web

from telemill.testing.faults import plan as plans
from telemill.testing.faults.injector import Injector

MAX_PLAN_BYTES = 1024 * 1024
PROBLEM_TYPE = "application/problem+json"


async def handle(request: web.BaseRequest, injector: Injector) -> web.Response:
    """Answer a request for /_faults."""
    if request.method == "GET":
        return _json(200, _shown(injector))
    if request.method == "DELETE":
        injector.set_plan(plans.Plan())
        return web.Response(status=204)
    if request.method != "PUT":
        problem = _problem("method-not-allowed", 405, "takes GET, PUT and DELETE")
        problem.headers["Allow"] = "GET, PUT, DELETE"
        return problem
    body = await _read(request)
    if body is None:
        return _problem("too-large", 413, f"a plan has at most {MAX_PLAN_BYTES} bytes")
    try:
        plan = plans.decode(body)
    except plans.PlanError as error:
        return _problem("bad-plan", 422, str(error))
    injector.set_plan(plan)
    return web.Response(status=204)


async def _read(request: web.BaseRequest) -> bytes | None:
    body = b""
    async for part in request.content.iter_any():
        body += part
        if len(body) > MAX_PLAN_BYTES:
            return None
    return body


def _shown(injector: Injector) -> dict[str, Any]:
    journal = injector.journal
    return {
        "plan": injector.plan,
        "seed": injector.seed,
        "outages_left_seconds": injector.outages(),
        "counts": journal.counts,
        "by_operation": journal.by_operation,
        "calls": injector.calls,
    }


def _problem(name: str, status: int, detail: str) -> web.Response:
    document = {
        "type": f"urn:telemill:problem:{name}",
        "title": name.replace("-", " ").capitalize(),
        "status": status,
        "detail": detail,
    }
    return _json(status, document, PROBLEM_TYPE)


def _json(status: int, document: Any, content_type: str = "application/json") -> web.Response:
    return web.Response(
        status=status, body=msgspec.json.encode(document), headers={"Content-Type": content_type}
    )
