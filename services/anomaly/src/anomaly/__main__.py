"""Wires the anomaly service once and runs it."""

import asyncio
import sys
from collections.abc import Sequence
from functools import partial

from anomaly import api, limits, mutes, parts
from anomaly.alerts import AlertOutlet, topic_arn
from anomaly.app import create_app
from anomaly.core import AnomalyStep
from anomaly.settings import AnomalySettings
from anomaly.state import State
from telemill import aws, contract, log, runtime, settings
from telemill.kinesis import transport
from telemill.kinesis.coordinators.base import Coordinator
from telemill.service import done_before
from telemill.stages import service
from telemill.stages.stream import StreamStage

PROG = "telemill-anomaly"


def main(argv: Sequence[str] | None = None) -> int:
    """Read the settings, run until SIGTERM, return the exit status."""
    chosen = settings.load(
        AnomalySettings,
        sys.argv[1:] if argv is None else argv,
        prog=PROG,
        description="Scores readings per device and raises alerts.",
    )
    log.configure("anomaly", chosen.log_level)
    return runtime.run(partial(run, chosen), service=PROG)


async def run(chosen: AnomalySettings, stop: asyncio.Event) -> None:
    """Serve, wait for what is needed, score until `stop`."""
    readings = contract.load(chosen.contract)
    step = step_of(chosen, readings)
    people = api.Api(chosen.keys, readings)
    routes = {api.PREFIX: people.app()}
    async with service.prepared("anomaly", chosen, stop, "sns", routes=routes) as ready:
        if not ready:
            return
        floor, opened = ready
        table = mutes.SilenceTable(opened.dynamodb, chosen.progress_table, chosen.app_id)
        silences = mutes.Silences(table)
        units = {measure.column: measure.unit for measure in readings.measures}
        others = parts.PartsTable(opened.dynamodb, chosen.progress_table, chosen.app_id)
        alerts = AlertOutlet(opened.sns, units=units, silence=silences, parts=others)

        async def find_topic() -> None:
            alerts.topic_arn = await topic_arn(opened.sns, chosen.alert_topic)

        # While the topic is missing, /readyz says so and SIGTERM still ends the process.
        finding = aws.wait_for(floor.health, f"topic {chosen.alert_topic}", find_topic)
        reading = aws.wait_for(floor.health, "muted devices", silences.refresh)
        if not (await done_before(stop, finding) and await done_before(stop, reading)):
            return
        people.open(silences)

        def wired(
            app_id: str, coordinator: Coordinator, stage: StreamStage[State]
        ) -> transport.App:
            people.foresee(lambda device: first_found(step, stage, device))
            return create_app(app_id, coordinator, stage)

        await service.run(
            chosen,
            floor,
            opened,
            stop,
            step=step,
            create_app=wired,
            outlets=[alerts],
            background=[silences.run()],
        )


def first_found(
    step: AnomalyStep, stage: StreamStage[State], device_key: str
) -> limits.Outlook | None:
    """The outlook of a device of any shard that is ours."""
    found = (step.outlook(state, device_key) for state in stage.states())
    return next((each for each in found if each is not None), None)


def step_of(chosen: AnomalySettings, readings: contract.Contract) -> AnomalyStep:
    """The service's core for a contract's readings."""
    return AnomalyStep(
        readings,
        app_id=chosen.app_id,
        slot_count=chosen.slot_count,
        raw_retention_hours=chosen.raw_retention_hours,
        detector=chosen.detector(readings),
        threshold=chosen.threshold,
        policy=chosen.policy,
        limit_seconds=chosen.limit_seconds,
    )


if __name__ == "__main__":
    sys.exit(main())
