"""`telemill backfill`: re-read a time range of the raw stream and add what the tables lack."""

import argparse
import asyncio
import sys
import time
import uuid
from functools import partial
from typing import Any

from offline import live, options, places, show, wiring
from offline.backfill import Backfill, run_name, wait_for_live_path
from offline.derive import Deriver
from offline.places import ForgottenPlaces, KeptPlaces, Places
from offline.raw_range import TimeRange
from offline.wiring import Tools
from telemill.errors import ConfigurationError
from telemill.progress.claims import Claims
from telemill.progress.snapshots import S3SnapshotStore

PROG = "telemill backfill"
RETENTION_SECONDS = 365 * 86_400.0
"""The longest a stream keeps records: items of finished runs expire a day after it."""


def register(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "backfill",
        help="re-read a time range of the raw stream and add the readings that the table lacks",
        description="Runs the raw records that arrived from T1 up to T2 through the cores of"
        " transform and sink and adds exactly the readings that the table lacks, beside the live"
        " services. Begun again, it goes on where it was. Makes no scores.",
    )
    parser.add_argument(
        "--from",
        dest="from_us",
        type=options.instant,
        required=True,
        metavar="T1",
        help="first arrival, such as 2025-07-07T08:00:00Z",
    )
    parser.add_argument(
        "--to",
        dest="to_us",
        type=options.instant,
        metavar="T2",
        help="arrival before which (default: now; a run that may be cut short is gone on with only"
        " under the same T1 and T2)",
    )
    parser.add_argument(
        "--warm-up",
        dest="warm_up_us",
        type=options.duration_us,
        default="1h",
        metavar="DURATION",
        help="also read so much before T1, to know duplicates and carried values (default 1h)",
    )
    parser.add_argument("--dry-run", action="store_true", help="write nothing, only count")
    parser.add_argument(
        "--wait", action="store_true", help="wait until the live services have passed T2"
    )
    parser.add_argument(
        "--anew", action="store_true", help="do not go on with an earlier run that was cut short"
    )
    options.add_resources(parser)
    parser.set_defaults(run=_run)


def _run(chosen: argparse.Namespace) -> int:
    time_range = _time_range(chosen, time.time_ns() // 1000)
    return wiring.run(PROG, partial(_backfill, chosen, time_range))


def _time_range(chosen: argparse.Namespace, now_us: int) -> TimeRange:
    to_us = now_us if chosen.to_us is None else chosen.to_us
    if to_us > now_us:
        raise ConfigurationError(f"--to: {options.shown_time(to_us)} lies in the future")
    if chosen.from_us >= to_us:
        raise ConfigurationError(
            f"--from: {options.shown_time(chosen.from_us)} is not before"
            f" --to {options.shown_time(to_us)}"
        )
    return TimeRange(chosen.from_us, to_us, chosen.warm_up_us)


async def _backfill(chosen: argparse.Namespace, time_range: TimeRange) -> int:
    async with wiring.tools(chosen) as having:
        teller = wiring.Teller(show.progress_console)
        passed = await wait_for_live_path(
            having.live,
            time_range.to_us,
            patience_seconds=None if chosen.wait else wiring.PATIENCE_SECONDS,
            waiting=teller.waiting,
            monotonic=time.monotonic,
        )
        if chosen.dry_run:
            return await _fill(chosen, having, time_range, passed, ForgottenPlaces())
        name = run_name(chosen.stream, passed.incarnation, time_range, having.contract)
        app = await places.find_run(having.store, name, passed.shards, anew=chosen.anew)
        claims = _claims(having, chosen, app, time_range)
        beating = asyncio.create_task(claims.run())
        try:
            kept = KeptPlaces(claims, asyncio.sleep, teller.held)
            return await _fill(chosen, having, time_range, passed, kept)
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)


def _claims(having: Tools, chosen: argparse.Namespace, app: str, time_range: TimeRange) -> Claims:
    return Claims(
        having.store,
        S3SnapshotStore(having.opened.s3, chosen.state_bucket),
        app,
        # Two runs on one machine must not take each other for themselves after a restart.
        f"{PROG}-{uuid.uuid4().hex}",
        initial_position=time_range.start_us,
        retention_seconds=RETENTION_SECONDS,
    )


async def _fill(
    chosen: argparse.Namespace,
    having: Tools,
    time_range: TimeRange,
    passed: live.Passed,
    at: Places,
) -> int:
    deriver = Deriver(having.contract)
    table = await wiring.additions(having, deriver.form, chosen, dry_run=chosen.dry_run)
    with show.run_progress() as watch:
        filling = Backfill(having.raw, deriver, table, at, time_range, passed, watch)
        tally = await filling.run()
    span = f"{options.shown_time(time_range.from_us)} to {options.shown_time(time_range.to_us)}"
    entries = show.tally_entries(tally, dry_run=chosen.dry_run, what="records")
    if filling.finished_before:
        entries["shards finished by another run"] = filling.finished_before
    show.summary(f"{chosen.stream}, {span}", entries, tally.rejected)
    for shard_id in filling.cut_short:
        sys.stderr.write(
            f"{PROG}: {shard_id}: the end of the range came in meanwhile, above the live services'"
            " positions; it was left to them\n"
        )
    return wiring.EXIT_FAILED if filling.cut_short else wiring.EXIT_OK
