"""The simulator over HTTP: the FMS API and the control of its scenarios."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict

from aiohttp import web

from simulator import answer_log, control, scenarios
from simulator.scenarios import Answer
from simulator.state import Simulator

SIMULATOR = web.AppKey("simulator", Simulator)
FLUSH_SECONDS = 1.0


def create_app(simulator: Simulator) -> web.Application:
    """The API: `/{id}/`, `/healthz`, `/_control/scenarios`.

    Serve it with handlers cancelled when their client hangs up, or the log cannot tell.
    """
    app = web.Application()
    app[SIMULATOR] = simulator
    app.router.add_get("/healthz", _healthz)
    control.add_routes(app, simulator)
    app.router.add_get("/{device}", _answer, allow_head=False)
    app.router.add_get("/{device}/", _answer, allow_head=False)
    app.cleanup_ctx.append(_flush_log)
    return app


async def _healthz(request: web.Request) -> web.Response:
    simulator = request.app[SIMULATOR]
    return web.json_response({"alive": True, "tick": simulator.tick, **_constants(simulator)})


def _constants(simulator: Simulator) -> dict[str, object]:
    constants = asdict(simulator.fleet)
    del constants["noise"]
    return constants


async def _answer(request: web.Request) -> web.StreamResponse:
    simulator = request.app[SIMULATOR]
    asked = request.match_info["device"]
    device = int(asked) if asked.isascii() and asked.isdigit() else asked
    if isinstance(device, str) or not simulator.knows(device):
        answer, tick, name = scenarios.not_found(device), simulator.tick, scenarios.HEALTHY
    else:
        get = simulator.get(device)
        answer, tick, name = scenarios.answer(get), get.tick, get.active.name
    # Aborted until the last byte is handed over: whatever raises on the way is logged as such.
    aborted = True
    served_at = simulator.now()
    try:
        if answer.delay_seconds:
            await simulator.sleep(answer.delay_seconds)
        served_at = simulator.now()
        response = await _send(request, answer)
        aborted = False
    finally:
        simulator.log.write(answer_log.line(served_at, device, tick, name, answer, aborted=aborted))
    return response


async def _send(request: web.Request, answer: Answer) -> web.Response:
    """Send inside the handler, so that a client which went away is noticed here."""
    response = web.Response(body=answer.body, status=answer.status, content_type="application/json")
    await response.prepare(request)
    await response.write_eof()
    return response


async def _flush_log(app: web.Application) -> AsyncIterator[None]:
    task = asyncio.create_task(_flush_forever(app[SIMULATOR]))
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    app[SIMULATOR].log.flush()


async def _flush_forever(simulator: Simulator) -> None:
    while True:
        await simulator.sleep(FLUSH_SECONDS)
        simulator.log.flush()
