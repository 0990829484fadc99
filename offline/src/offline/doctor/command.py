"""`telemill doctor`: runs every check, prints a line each, exits 1 when something fails."""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry
from rich.console import Console
from rich.text import Text

from offline.doctor import account, finding, hot, kcl, lag, places, quarantined, streams
from offline.doctor import plant as plants
from offline.doctor.finding import Finding, Status
from offline.doctor.plant import Plant
from sink.core import tables_of
from telemill import aws, log, service
from telemill.errors import ConfigurationError
from telemill.health import Health
from telemill.kinesis.calls import StreamCalls
from telemill.metrics import Metrics
from telemill.progress.store import DynamoProgressTable, ProgressTable

PROG = "telemill doctor"
COLOURS = {Status.OK: "green", Status.WARN: "yellow", Status.FAIL: "red"}
Look = tuple[str, str, Callable[[], Awaitable[list[Finding]]]]


@dataclass(frozen=True, slots=True)
class Expected:
    """Shards each stream was deployed with; None: not said."""

    raw: int | None = None
    readings: int | None = None
    scores: int | None = None


def register(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "doctor",
        help="look at everything the services need, and say what to do",
        description="Checks credentials, region, clock, streams, tables, buckets, Glue, lag,"
        " hot shards and devices, and the quarantine, with the services' own settings. Changes"
        " nothing."
        " Exit status 1 when something fails. See docs/doctor.md.",
    )
    for name in ("raw", "readings", "scores"):
        parser.add_argument(
            f"--{name}-shards", type=_whole, metavar="N", help=f"fewest of the {name} stream"
        )
    parser.add_argument(
        "--devices", type=_whole, metavar="N", help="of the fleet (default: those ingest polls)"
    )
    parser.add_argument(
        "--interval", type=_positive, metavar="S",
        help="seconds between two readings of a device (default: ingest's)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(run=_run)


def _whole(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text}; takes a whole number from 1 on")
    return int(text)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"got {text}; takes a number above 0")
    return value


def _run(options: argparse.Namespace) -> int:
    log.configure("doctor", "error", sys.stderr)
    plant = plants.read(options.devices, options.interval)
    expected = Expected(options.raw_shards, options.readings_shards, options.scores_shards)
    found = asyncio.run(examine(plant, expected))
    (_print_json if options.json else _print_lines)(found)
    return 1 if finding.worst(found) is Status.FAIL else 0


async def examine(plant: Plant, expected: Expected) -> list[Finding]:
    """Everything; without credentials no more than that."""
    found = plants.check_agreement(plant)
    try:
        async with aws.client("sts") as sts:
            who = await account.check(sts)
    except ConfigurationError as error:
        return [*found, finding.fail("region", "AWS", str(error), "set AWS_DEFAULT_REGION")]
    found += who.findings
    if finding.worst(who.findings) is Status.FAIL:
        return found
    async with service.clients("kinesis", "s3", "dynamodb", "glue", "sns") as opened:
        async for each in look_at(plant, expected, opened, time.time() - who.ahead_seconds):
            found += each
    return found


async def look_at(
    plant: Plant, expected: Expected, opened: service.Clients, now: float
) -> AsyncIterator[list[Finding]]:
    """Each check's findings, one after the other: gentle to the services' limits.

    Args:
        plant: The deployment.
        expected: Shards.
        opened: Clients of kinesis, s3, dynamodb, glue and sns.
        now: AWS's time, epoch seconds.
    """
    table = DynamoProgressTable(opened.dynamodb, plant.ingest.progress_table)
    for check, subject, look in _resources(plant, opened, now):
        yield await finding.looked(check, subject, look)
    wanted = dict(
        zip(plant.streams, (expected.raw, expected.readings, expected.scores), strict=True)
    )
    for name, count in wanted.items():
        look = partial(_stream, plant, opened.kinesis, table, name, count, now)
        yield await finding.looked("stream", name, look)


def _resources(plant: Plant, opened: service.Clients, now: float) -> Sequence[Look]:
    buckets = {plant.ingest.state_bucket, *(each.lake_bucket for each in plant.sinks)}
    progress, topic = plant.ingest.progress_table, plant.anomaly.alert_topic
    lake = plant.transform.lake_bucket
    return [
        ("table", progress, partial(places.check_table, opened.dynamodb, progress)),
        *(
            ("bucket", each, partial(places.check_bucket, opened.s3, each))
            for each in sorted(buckets)
        ),
        *(
            (
                "glue",
                f"{each.glue_database}.{table}",
                partial(places.check_glue, opened.glue, each, table, plant.contract),
            )
            for each in plant.sinks
            for table in tables_of(each.table)
        ),
        ("topic", topic, partial(places.check_topic, opened.sns, topic)),
        ("quarantine", lake, partial(quarantined.check, opened.s3, lake, now)),
        ("kcl", "KCL", partial(kcl.check, opened.dynamodb, plant)),
    ]


async def _stream(
    plant: Plant, kinesis: Any, table: ProgressTable, name: str, expected: int | None, now: float
) -> list[Finding]:
    calls = StreamCalls(kinesis, name, metrics=Metrics(CollectorRegistry()), health=Health())
    described = await streams.describe(kinesis, name, calls)
    reads = lag.Reads(kinesis)
    is_raw = name == plant.ingest.raw_stream
    found = await finding.looked(
        "stream", name, partial(streams.check, described, plant, table, expected)
    )
    for reader in plant.readers:
        if reader.stream == name:
            look = partial(lag.check, reads, described, table, reader, now)
            found += await finding.looked("lag", reader.application, look)
    sampled = partial(
        hot.check, reads, described, now, plant.contract if is_raw else None, plant.streams[name]
    )
    return found + await finding.looked("hot shard", name, sampled)


def _print_json(found: Sequence[Finding]) -> None:
    document = {"status": finding.worst(found), "findings": [asdict(each) for each in found]}
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def _print_lines(found: Sequence[Finding]) -> None:
    console = Console(file=sys.stdout, highlight=False)
    for each in found:
        line = Text.assemble(
            (f"{each.status:5}", COLOURS[each.status]),
            (f"{each.check:12}", "bold"),
            f"{each.subject}: {each.says}",
        )
        console.print(line, soft_wrap=True)
        if each.advice:
            console.print(Text(f"      → {each.advice}", "cyan"), soft_wrap=True)
    counts = {status: sum(each.status is status for each in found) for status in Status}
    console.print(", ".join(f"{count} {status}" for status, count in counts.items()))
