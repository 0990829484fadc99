"""What polling 1,000 devices every 10 s costs: `python -m bench ingest-poll`.

The service, the emulator and the API (a minimal aiohttp server) are processes of their own. The
figure is the service's CPU time as a share of one core, over whole intervals after the first.
"""

import sys
import time

from aiohttp import web

from bench import deployment
from bench.deployment import Service
from bench.measurement import Measurement
from bench.settings import BenchSettings
from telemill.testing import emulator
from telemill.testing.processes import Process, Spec

INTERVAL_SECONDS = 10.0
WARM_UP_SECONDS = 12.0
MEASURED_SECONDS = 30.0
MOST_CORE_SHARE = 0.10
"""The issue's target."""


def measure() -> list[Measurement]:
    """CPU time over some intervals."""
    settings = BenchSettings()
    with deployment.deployed(settings, "ingest-poll") as where:
        port = emulator.free_port()
        api = Process(
            Spec("api", "bench.bench_ingest_poll", (str(port),), {}, port), where.directory
        )
        try:
            with where.running([_ingest(settings.devices, api)]) as running:
                return _measured(running["ingest"])
        finally:
            api.ask_to_stop()
            api.wait()


def _ingest(devices: int, api: Process) -> Service:
    given = {
        "DEVICES": f"1-{devices}",
        "BASE_URL": api.spec.url,
        "POLL_INTERVAL_SECONDS": INTERVAL_SECONDS,
    }
    return Service("ingest", "ingest", "INGEST_", given)


def _measured(ingest: Process) -> list[Measurement]:
    time.sleep(WARM_UP_SECONDS)
    cpu, polls, began = ingest.cpu_seconds(), _polls(ingest), time.monotonic()
    time.sleep(MEASURED_SECONDS)
    cpu, polls = ingest.cpu_seconds() - cpu, _polls(ingest) - polls
    seconds = time.monotonic() - began
    return [
        Measurement("polling", cpu / seconds, "of a core", cpu, at_most=MOST_CORE_SHARE),
        Measurement("one poll", cpu / polls * 1e3, "CPU-ms"),
        Measurement("polls", polls / seconds, "polls/s"),
    ]


def _polls(ingest: Process) -> float:
    return deployment.total(ingest, "polls_total")


async def _reading(request: web.Request) -> web.Response:
    text = (
        f'{{"time":"2025-07-07T08:21:{int(time.time()) % 60:02}Z",'
        f'"DeviceId":{request.match_info["device"]},"sensor1":85.69,"sensor2":85.81,'
        '"sensor3":82.15,"motor1":1245.16,"motor2":874.81,"motor3":1119.36,"isFail":false}'
    )
    return web.Response(text=text, content_type="application/json")


def main() -> None:
    """Be the API: one reading of whatever device."""
    app = web.Application()
    app.router.add_get("/{device}/", _reading)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None)


if __name__ == "__main__":
    main()
