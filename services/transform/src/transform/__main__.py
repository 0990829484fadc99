"""Wires the transform service once and runs it."""

import asyncio
import sys
from collections.abc import Sequence
from functools import partial

from telemill import contract, log, runtime, settings
from telemill.contract import Contract
from telemill.stages import service
from transform.app import create_app
from transform.core import TransformStep
from transform.settings import TransformSettings

PROG = "telemill-transform"


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
    step = _step(chosen, contract.load(chosen.contract))
    async with service.prepared("transform", chosen, stop) as ready:
        if ready:
            await service.run(chosen, *ready, stop, step=step, create_app=create_app)


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
