"""Wire the simulator and run it."""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import structlog

from simulator import app, model, state
from simulator.answer_log import AnswerLog
from simulator.scenarios import SCENARIOS, Fleet
from simulator.settings import SimulatorSettings
from telemill import health, log, runtime, settings
from telemill.errors import ConfigurationError

PROG = "telemill-simulator"
DESCRIPTION = "An FMS API to poll, GET /{id}/: healthy, failing and lying devices."
SHUTDOWN_SECONDS = 1.0

events = structlog.get_logger()


def main(argv: Sequence[str] | None = None) -> int:
    """Read the settings, serve until SIGTERM, return the exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    chosen = settings.load(
        SimulatorSettings, arguments, prog=PROG, description=DESCRIPTION, epilog=scenario_list()
    )
    log.configure("simulator", chosen.log_level)

    async def serve(stop: asyncio.Event) -> None:
        with open_log(chosen.log) as answers:
            await _serve(chosen, answers, stop)

    return runtime.run(serve, service=PROG)


def scenario_list() -> str:
    """The end of --help."""
    lines = [
        "Scenarios (and their magnitude), per device and at run time:",
        "  PUT /_control/scenarios/7",
        '      {"scenario": "drift", "for_ticks": 30, "magnitude": 0.2, "field": "sensor2"}',
        "  DELETE or GET /_control/scenarios/7; GET /_control/scenarios lists all.",
        '  "until": an ISO time, instead of for_ticks. All but "scenario" may be left out.',
        "",
    ]
    for name, row in SCENARIOS.items():
        means = f" ({row.magnitude:g} {row.magnitude_means})" * bool(row.magnitude)
        lines.append(f"  {name:<15} {row.description}{means}")
    return "\n".join(lines)


def fleet_of(chosen: SimulatorSettings) -> Fleet:
    """The constants of the settings."""
    sensors, motors = model.PUBLISHED_NOISE
    return Fleet(
        seed=chosen.seed,
        device_count=chosen.device_count,
        interval_seconds=chosen.interval_seconds,
        noise=(sensors.times(chosen.noise), motors.times(chosen.noise)),
        chaos=chosen.chaos,
        chaos_episode_ticks=chosen.chaos_episode_ticks,
    )


def open_log(path: Path | None) -> AnswerLog:
    """Open the answer log.

    Raises:
        ConfigurationError: The file cannot be written.
    """
    try:
        return AnswerLog(path)
    except OSError as error:
        raise ConfigurationError(
            f"SIMULATOR_LOG: got {str(path)!r}; takes a file that can be written ({error.strerror})"
        ) from error


async def _serve(chosen: SimulatorSettings, answers: AnswerLog, stop: asyncio.Event) -> None:
    simulator = state.Simulator(fleet_of(chosen), answers, random_per_get=chosen.random_per_get)
    runner = await health.serve(
        app.create_app(simulator),
        chosen.http_host,
        chosen.http_port,
        cancel_handlers=True,
        shutdown_seconds=SHUTDOWN_SECONDS,
    )
    host, port = runner.addresses[0][:2]
    events.info("simulator.started", url=f"http://{host}:{port}/1/", devices=chosen.device_count)
    try:
        await stop.wait()
    finally:
        await runner.cleanup()


if __name__ == "__main__":
    sys.exit(main())
