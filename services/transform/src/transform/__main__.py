"""Wires the transform service once and runs it."""

import asyncio
import sys
from collections.abc import Sequence
from functools import partial

from telemill import contract, log, runtime, service, settings
from telemill.contract import Contract
from telemill.kinesis.coordinators.single import SingleCoordinator
from telemill.kinesis.writer import Writer
from telemill.quarantine import QuarantineOutlet
from telemill.stages.stream import StreamStage
from transform.app import create_app
from transform.core import TransformStep
from transform.dedupe import History
from transform.settings import TransformSettings

PROG = "telemill-transform"
SECONDS_PER_HOUR = 3600.0


def main(argv: Sequence[str] | None = None) -> int:
    """Read the settings, run until SIGTERM, return the exit status."""
    chosen = settings.load(
        TransformSettings,
        sys.argv[1:] if argv is None else argv,
        prog=PROG,
        description="Validates, cleans and de-duplicates raw readings.",
    )
    log.configure("transform", chosen.log_level)
    return runtime.run(partial(run, chosen), service=PROG)


async def run(chosen: TransformSettings, stop: asyncio.Event) -> None:
    """Serve, wait for what is needed, transform until `stop`."""
    reading = contract.load(chosen.contract)
    floor = service.floor("transform", chosen)
    async with (
        service.serving(floor),
        service.clients("kinesis", "s3", "dynamodb") as opened,
    ):
        if await service.wait_for_resources(
            floor,
            opened,
            streams=(chosen.input_stream, chosen.output_stream),
            buckets=(chosen.lake_bucket, chosen.state_bucket),
            stop=stop,
        ):
            await _transform(chosen, reading, floor, opened, stop)


async def _transform(
    chosen: TransformSettings,
    reading: Contract,
    floor: service.Floor,
    opened: service.Clients,
    stop: asyncio.Event,
) -> None:
    await service.fix_slot_count(chosen, opened, chosen.output_stream)
    claims = service.claims(
        chosen,
        opened,
        chosen.app_id,
        retention_seconds=chosen.raw_retention_hours * SECONDS_PER_HOUR,
    )
    writer = Writer(
        opened.kinesis, chosen.output_stream, slot_count=chosen.slot_count, metrics=floor.metrics
    )
    stage: StreamStage[History] = StreamStage(
        _step(chosen, reading),
        claims=claims,
        writer=writer,
        outlets=[QuarantineOutlet(opened.s3, chosen.lake_bucket, health=floor.health)],
        metrics=floor.metrics,
        health=floor.health,
        commit_interval_seconds=chosen.commit_interval_seconds,
    )
    coordinator = SingleCoordinator(
        opened.kinesis, chosen.input_stream, stage, metrics=floor.metrics, health=floor.health
    )
    app = create_app(chosen, coordinator, stage)
    await writer.start()
    try:
        await service.run(
            floor, app, stop, claims.run(), stage.run(), service.watch_writer(floor, writer)
        )
    finally:
        await writer.stop()


def _step(chosen: TransformSettings, reading: Contract) -> TransformStep:
    return TransformStep(
        reading,
        producer=chosen.app_id,
        slot_count=chosen.slot_count,
        dedupe_window=chosen.dedupe_window,
        max_devices=chosen.max_devices,
        keep_days=chosen.keep_days,
    )


if __name__ == "__main__":
    sys.exit(main())
