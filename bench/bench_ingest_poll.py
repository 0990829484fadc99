"""What polling 1,000 devices every 10 s costs: `python bench/bench_ingest_poll.py [SECONDS]`.

The service, the emulator and the API (a minimal aiohttp server) are processes of their own.
Reported is the service's CPU time as a share of one core, and per poll. The target is 10 %.
"""

import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ingest_process
from aiohttp import web

from telemill.testing import emulator

DEVICES = 1000
INTERVAL_SECONDS = 10.0
WARM_UP_SECONDS = 12.0


async def reading(request: web.Request) -> web.Response:
    """One reading of whatever device."""
    device = request.match_info["device"]
    seconds = int(time.time()) % 60
    text = (
        f'{{"time":"2025-07-07T08:21:{seconds:02}Z","DeviceId":{device},"sensor1":85.69,'
        '"sensor2":85.81,"sensor3":82.15,"motor1":1245.16,"motor2":874.81,"motor3":1119.36,'
        '"isFail":false}'
    )
    return web.Response(text=text, content_type="application/json")


def serve(port: int) -> None:
    """Be the API."""
    app = web.Application()
    app.router.add_get("/{device}/", reading)
    web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None)


def main() -> None:
    """Measure and report."""
    if sys.argv[1:2] == ["--api"]:
        serve(int(sys.argv[2]))
        return
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 20.0
    port = emulator.free_port()
    api = subprocess.Popen([sys.executable, __file__, "--api", str(port)])
    settings = {
        "devices": f"1-{DEVICES}",
        "base_url": f"http://127.0.0.1:{port}",
        "poll_interval_seconds": str(INTERVAL_SECONDS),
    }
    try:
        with (
            tempfile.TemporaryDirectory() as directory,
            ingest_process.running(Path(directory), **settings) as service,
        ):
            time.sleep(WARM_UP_SECONDS)
            cpu, polled = service.cpu_seconds(), service.metrics()
            started = time.monotonic()
            time.sleep(seconds)
            elapsed = time.monotonic() - started
            cpu, polled_now = service.cpu_seconds() - cpu, service.metrics()
            outcomes = {
                name: round(value - polled.get(name, 0.0))
                for name, value in polled_now.items()
                if name.startswith("telemill_polls_total")
            }
            polls = sum(outcomes.values())
            ingest_process.report(
                "ingest_poll",
                {
                    "core_share": round(cpu / elapsed, 4),
                    "milliseconds_per_poll": round(cpu / polls * 1e3, 3),
                    "polls_per_second": round(polls / elapsed, 1),
                    "outcomes": outcomes,
                    "rss_mb": round(service.rss_mb()),
                    "machine": f"{platform.machine()}, Python {platform.python_version()}",
                },
            )
    finally:
        api.terminate()
        api.wait()


if __name__ == "__main__":
    main()
