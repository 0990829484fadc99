"""Scenarios switched at run time: /_control/scenarios."""

import datetime as dt
import json
import math
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

from aiohttp import web

from simulator import model, scenarios
from simulator.scenarios import SCENARIOS, Active, Fleet
from simulator.state import Simulator

BASE = "/_control/scenarios"
KEYS = ("scenario", "for_ticks", "until", "magnitude", "field")
MAX_MAGNITUDE = 1_000_000
SIGNED = ("drift", "step", "clock_ahead", "clock_behind")
Handler = Callable[[web.Request], Awaitable[web.Response]]


def parse(body: bytes, tick: int, fleet: Fleet) -> Active:
    """Read what a PUT asks for, from this tick on.

    Args:
        body: `{"scenario": name}` and, each optional, `"for_ticks"` or `"until"` (ISO time),
            `"magnitude"` and `"field"`.
        tick: The present one.
        fleet: Says which tick a time is.

    Raises:
        ValueError: What is wrong and what is taken.
    """
    wish = json.loads(body)
    if not isinstance(wish, dict) or not wish.keys() <= set(KEYS):
        raise ValueError(f"takes an object with {', '.join(KEYS)}")
    name, field = wish.get("scenario"), wish.get("field", "sensor1")
    if not isinstance(name, str) or name not in SCENARIOS:
        raise ValueError(f"scenario: got {name!r}; takes {', '.join(SCENARIOS)}")
    if not isinstance(field, str) or field not in model.FIELDS:
        raise ValueError(f"field: got {field!r}; takes {', '.join(model.FIELDS)}")
    return Active(name, tick, _until_tick(wish, tick, fleet), _magnitude(wish, name), field)


def _until_tick(wish: dict[str, Any], tick: int, fleet: Fleet) -> int | None:
    for_ticks = wish.get("for_ticks")
    if for_ticks is not None:
        if type(for_ticks) is not int or for_ticks < 1:
            raise ValueError(f"for_ticks: got {for_ticks!r}; takes a whole number from 1")
        return tick + for_ticks
    if "until" not in wish:
        return None
    until = dt.datetime.fromisoformat(str(wish["until"]))
    if until.tzinfo is None:
        raise ValueError(f"until: got {wish['until']!r}; takes a time with its zone")
    return fleet.tick_at(until.timestamp())


def _magnitude(wish: dict[str, Any], name: str) -> float | None:
    value = wish.get("magnitude")
    if value is None:
        return None
    if type(value) not in (int, float) or not math.isfinite(value) or abs(value) > MAX_MAGNITUDE:
        raise ValueError(f"magnitude: got {value!r}; takes a finite number, at most a million")
    if value < 0 and name not in SIGNED:
        raise ValueError(f"magnitude: got {value!r}; takes a number from 0")
    return float(value)


def add_routes(app: web.Application, simulator: Simulator) -> None:
    """Add the control routes."""

    async def list_all(_request: web.Request) -> web.Response:
        tick = simulator.tick
        everyone = model.device_ids(simulator.fleet.device_count)
        active = {device: simulator.active(device, tick) for device in everyone}
        return web.json_response(
            {
                "tick": tick,
                "scenarios": {name: row.description for name, row in SCENARIOS.items()},
                "devices": {
                    device: asdict(found)
                    for device, found in active.items()
                    if found.name != scenarios.HEALTHY or device in simulator.by_hand
                },
            }
        )

    app.router.add_get(BASE, list_all)
    for add, handler in (
        (app.router.add_get, _show),
        (app.router.add_put, _put),
        (app.router.add_delete, _delete),
    ):
        add(f"{BASE}/{{device}}", _of_known_device(simulator, handler))


def _of_known_device(
    simulator: Simulator,
    handler: Callable[[Simulator, int, bytes], web.Response],
) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        asked = request.match_info["device"]
        if not (asked.isascii() and asked.isdigit() and simulator.knows(int(asked))):
            return web.json_response({"error": "unknown device", "DeviceId": asked}, status=404)
        return handler(simulator, int(asked), await request.read())

    return handle


def _show(simulator: Simulator, device: int, _body: bytes) -> web.Response:
    return web.json_response(asdict(simulator.active(device, simulator.tick)))


def _put(simulator: Simulator, device: int, body: bytes) -> web.Response:
    try:
        simulator.by_hand[device] = parse(body, simulator.tick, simulator.fleet)
    except (ValueError, OverflowError) as error:
        return web.json_response({"error": str(error)}, status=400)
    return _show(simulator, device, b"")


def _delete(simulator: Simulator, device: int, _body: bytes) -> web.Response:
    simulator.by_hand.pop(device, None)
    return _show(simulator, device, b"")
