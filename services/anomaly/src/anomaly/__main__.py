"""Wires the anomaly service once and runs it."""

import asyncio
import sys
from collections.abc import Sequence
from functools import partial

from anomaly.alerts import AlertOutlet, topic_arn
from anomaly.app import create_app
from anomaly.core import AnomalyStep
from anomaly.settings import AnomalySettings
from telemill import contract, log, runtime, service, settings
from telemill.kinesis.coordinators.single import SingleCoordinator
from telemill.kinesis.writer import Writer
from telemill.quarantine import QuarantineOutlet
from telemill.stages.stream import StreamStage

PROG = "telemill-anomaly"
SECONDS_PER_HOUR = 3600.0


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
    floor = service.floor("anomaly", chosen)
    async with (
        service.serving(floor),
        service.clients("kinesis", "s3", "dynamodb", "sns") as opened,
    ):
        streams = (chosen.input_stream, chosen.output_stream)
        buckets = (chosen.lake_bucket, chosen.state_bucket)
        if await service.wait_for_resources(
            floor, opened, streams=streams, buckets=buckets, stop=stop
        ):
            await _score(chosen, floor, opened, stop)


async def _score(
    chosen: AnomalySettings, floor: service.Floor, opened: service.Clients, stop: asyncio.Event
) -> None:
    for stream in (chosen.input_stream, chosen.output_stream):
        await service.fix_slot_count(chosen, opened, stream)
    claims = service.claims(
        chosen,
        opened,
        chosen.app_id,
        retention_seconds=chosen.raw_retention_hours * SECONDS_PER_HOUR,
    )
    writer = Writer(
        opened.kinesis, chosen.output_stream, slot_count=chosen.slot_count, metrics=floor.metrics
    )
    stage = StreamStage(
        _step(chosen),
        claims=claims,
        writer=writer,
        outlets=[
            QuarantineOutlet(opened.s3, chosen.lake_bucket),
            AlertOutlet(opened.sns, await topic_arn(opened.sns, chosen.alert_topic)),
        ],
        metrics=floor.metrics,
        health=floor.health,
        commit_interval_seconds=chosen.commit_interval_seconds,
    )
    coordinator = SingleCoordinator(
        opened.kinesis, chosen.input_stream, stage, metrics=floor.metrics, health=floor.health
    )
    app = create_app(chosen.app_id, coordinator, stage)
    await writer.start()
    try:
        await service.run(
            floor, app, stop, claims.run(), stage.run(), service.watch_writer(floor, writer)
        )
    finally:
        await writer.stop()


def _step(chosen: AnomalySettings) -> AnomalyStep:
    return AnomalyStep(
        contract.load(chosen.contract),
        app_id=chosen.app_id,
        slot_count=chosen.slot_count,
        raw_retention_hours=chosen.raw_retention_hours,
        tuning=chosen.tuning,
        hysteresis=chosen.hysteresis,
    )


if __name__ == "__main__":
    sys.exit(main())
