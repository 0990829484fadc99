"""Wires the sink once and runs it."""

import asyncio
import sys
from collections.abc import Sequence
from functools import partial

from sink import catalog, core
from sink.app import create_app
from sink.catalog import GlueCatalog
from sink.cutting import Cutter, Naming
from sink.lake import S3Lake
from sink.settings import SinkSettings
from sink.stage import TableStage
from telemill import aws, contract, coordination, log, runtime, service, settings
from telemill.quarantine import QuarantineOutlet
from telemill.stages.guard import Guard

PROG = "telemill-sink"
SECONDS_PER_HOUR = 3600.0


def main(argv: Sequence[str] | None = None) -> int:
    """Read the settings, run until SIGTERM, return the exit status."""
    chosen = settings.load(
        SinkSettings,
        sys.argv[1:] if argv is None else argv,
        prog=PROG,
        description="Writes readings, or scores and alerts, to Parquet, each row exactly once.",
    )
    log.configure(chosen.application, chosen.log_level)
    return runtime.run(partial(run, chosen), service=PROG)


async def run(chosen: SinkSettings, stop: asyncio.Event) -> None:
    """Serve, wait for what is needed, write tables until `stop`."""
    form = core.form_of(contract.load(chosen.contract), chosen.table)
    await coordination.require_engine(chosen)
    floor = service.floor("sink", chosen, f"sink-{chosen.table}")
    async with (
        service.serving(floor),
        service.clients("kinesis", "s3", "dynamodb", "glue") as opened,
    ):
        if await service.wait_for_resources(
            floor,
            opened,
            streams=(chosen.stream,),
            buckets=(chosen.lake_bucket, chosen.state_bucket),
            stop=stop,
        ):
            await _fill(chosen, form, floor, opened, stop)


async def _fill(
    chosen: SinkSettings,
    form: core.Form,
    floor: service.Floor,
    opened: service.Clients,
    stop: asyncio.Event,
) -> None:
    if not await service.fix_slot_count(floor, opened, chosen.stream, stop=stop):
        return
    forms = [each for each in (form, form.beside) if each is not None]
    catalogs = [
        GlueCatalog(opened.glue, catalog.define(each, chosen.glue_database, chosen.lake_bucket))
        for each in forms
    ]
    for each, glue in zip(forms, catalogs, strict=True):
        # While Glue is away or forbids it, /readyz says so and SIGTERM still ends the process.
        preparing = aws.wait_for(floor.health, f"Glue table {each.table}", glue.ensure_table)
        if not await service.done_before(stop, preparing):
            return
    claims = service.claims(
        floor,
        opened,
        chosen.application,
        initial_position=chosen.initial_position,
        stale_seconds=chosen.stale_seconds,
        retention_seconds=chosen.raw_retention_hours * SECONDS_PER_HOUR,
    )
    guard = Guard(chosen.step_timeout_seconds)
    stage = TableStage(
        form,
        claims=claims,
        cutter=Cutter(
            Naming(form.table, chosen.application, form.beside.table if form.beside else ""),
            S3Lake(opened.s3, chosen.lake_bucket),
            catalogs[0],
            QuarantineOutlet(opened.s3, chosen.lake_bucket, health=floor.health),
            floor.metrics,
            beside=catalogs[1] if form.beside else None,
            guard=guard,
        ),
        limits=chosen.limits,
        metrics=floor.metrics,
        health=floor.health,
        guard=guard,
    )
    coordinator = await coordination.coordinator(
        floor,
        opened,
        chosen,
        stream=chosen.stream,
        application=chosen.application,
        owner=stage,
        claims=claims,
        stop=stop,
    )
    if coordinator is None:
        return
    stage.tracer = floor.tracer
    app = create_app(chosen, coordinator, stage)
    await service.run(floor, app, stop, claims.run(), stage.run())


if __name__ == "__main__":
    sys.exit(main())
