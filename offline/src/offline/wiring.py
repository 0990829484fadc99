"""Wires both commands: clients, the live path, the table."""

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from rich.console import Console

from offline.additions import Additions
from offline.backfill import BehindError
from offline.lake import S3Lake
from offline.live import Behind, LivePath, Source
from sink import catalog
from sink.catalog import GlueCatalog
from sink.core import Form
from telemill import aws, contract, errors, log, service
from telemill.contract import Contract
from telemill.health import Health
from telemill.kinesis.calls import StreamCalls
from telemill.kinesis.records import Shard
from telemill.metrics import Metrics
from telemill.progress.store import DynamoProgressStore

EXIT_OK = 0
EXIT_FAILED = 1
PATIENCE_SECONDS = 60.0
"""Without --wait: time for the live path to commit what it has. It cuts every 15 s by default."""

SAY_EVERY_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Tools:
    """What a command works with.

    Attributes:
        contract: What a reading is.
        raw: The raw stream.
        live: The live services' positions.
        lake: The bucket of tables and quarantine.
        store: Progress items.
        opened: The clients.
    """

    contract: Contract
    raw: StreamCalls
    live: LivePath
    lake: S3Lake
    store: DynamoProgressStore
    opened: service.Clients


def run(prog: str, work: Callable[[], Awaitable[int]]) -> int:
    """Run a command to its end.

    Returns:
        What it returns; 1 after a failure that may heal or an interruption.

    Raises:
        ConfigurationError: As the command does: the caller answers with status 2.
    """
    log.configure(prog, "warning", sys.stderr)
    try:
        return asyncio.run(_awaited(work))
    except KeyboardInterrupt:
        sys.stderr.write(f"{prog}: interrupted\n")
    except BehindError as error:
        sys.stderr.write(
            f"{prog}: the live services have not passed this range, so rows added now could come"
            f" twice: {error}. Wait for them (--wait), or choose an earlier end (--to)\n"
        )
    except (errors.TransientError, errors.PositionError) as error:
        sys.stderr.write(f"{prog}: {error}; run the same command again\n")
    except errors.RecordError as error:
        sys.stderr.write(f"{prog}: {error}\n")
    return EXIT_FAILED


async def _awaited(work: Callable[[], Awaitable[int]]) -> int:
    return await work()


@asynccontextmanager
async def lake_of(options: argparse.Namespace) -> AsyncIterator[S3Lake]:
    """The bucket alone, for who only reads the quarantine.

    Raises:
        ConfigurationError: It is not there.
    """
    async with service.clients("s3") as opened:
        await aws.probe_bucket(opened.s3, options.lake_bucket)
        yield S3Lake(opened.s3, options.lake_bucket)


@asynccontextmanager
async def tools(options: argparse.Namespace) -> AsyncIterator[Tools]:
    """Everything, once it is known to be there.

    Raises:
        ConfigurationError: A stream, bucket or table is missing or forbidden, or the contract is
            wrong.
    """
    reading = contract.load(options.contract)
    async with service.clients("kinesis", "s3", "dynamodb", "glue") as opened:
        for stream in (options.stream, options.readings_stream):
            await aws.probe_stream(opened.kinesis, stream)
        for bucket in (options.lake_bucket, options.state_bucket):
            await aws.probe_bucket(opened.s3, bucket)
        await aws.probe_table(opened.dynamodb, options.progress_table)
        metrics, health = Metrics(CollectorRegistry()), Health()
        raw = StreamCalls(opened.kinesis, options.stream, metrics=metrics, health=health)
        readings = StreamCalls(
            opened.kinesis, options.readings_stream, metrics=metrics, health=health
        )
        store = DynamoProgressStore(opened.dynamodb, options.progress_table)
        live = LivePath(
            Source(raw, options.transform_app), Source(readings, options.sink_app), store
        )
        lake = S3Lake(opened.s3, options.lake_bucket)
        yield Tools(reading, raw, live, lake, store, opened)


async def additions(
    having: Tools,
    form: Form,
    options: argparse.Namespace,
    *,
    dry_run: bool,
    add_conflicts: bool = False,
) -> Additions:
    """The table, with its Glue definition made sure of."""
    definition = catalog.define(form, options.glue_database, options.lake_bucket)
    glue = GlueCatalog(having.opened.glue, definition)
    if not dry_run:
        await glue.ensure_table()
    return Additions(form, having.lake, glue, dry_run=dry_run, add_conflicts=add_conflicts)


class Teller:
    """Says what is waited for: at once when it changes, and now and then.

    Args:
        console: Where to.
        monotonic: Clock.
    """

    def __init__(self, console: Console, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._monotonic = monotonic
        self._said_at: float | None = None
        self._held: set[str] = set()

    def waiting(self, behind: list[Behind]) -> None:
        """Called every second or so."""
        now = self._monotonic()
        if self._said_at is not None and now - self._said_at < SAY_EVERY_SECONDS:
            return
        self._said_at = now
        where = "; ".join(map(str, behind))
        self._console.print(f"waiting for the live services: {where}", soft_wrap=True)

    def held(self, shard: Shard) -> None:
        """Another process is at a shard; said once."""
        if shard.shard_id not in self._held:
            self._held.add(shard.shard_id)
            why = "another process is at it, or was cut short just now; waiting"
            self._console.print(f"{shard.shard_id}: {why}", soft_wrap=True)
