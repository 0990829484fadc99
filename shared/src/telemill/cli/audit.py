"""`telemill audit`: is every raw record in the tables, once, in order and unchanged?"""

import argparse
import importlib.util
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError, NoRegionError
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from telemill import contract, names
from telemill.errors import ConfigurationError, TelemillError

if TYPE_CHECKING:
    from telemill.audit.model import Report
    from telemill.audit.run import Plan

FAILED = 1


def register(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "audit",
        help="compare the raw stream with the tables: lost, doubled, reordered, altered",
        description="Reads the raw stream and the tables and reports every reading that is lost,"
        " doubled, out of order or altered. Exit status 1 if there is one. See docs/audit.md.",
    )
    _add_range(parser)
    _add_sources(parser)
    parser.add_argument("--scores", action="store_true", help="also: every reading scored once")
    parser.add_argument(
        "--strict",
        action="store_true",
        help="with --no-raw: what is not accounted for is wrong, too",
    )
    parser.add_argument("--json", action="store_true", help="for programs: everything, as JSON")
    parser.set_defaults(run=_run)


def _add_range(parser: argparse.ArgumentParser) -> None:
    for flag, name, text in (
        ("--from", "start", "first arrival in the raw stream, inclusive (default: all it holds)"),
        ("--to", "end", "last arrival, exclusive (default: now)"),
        ("--oldest-event", "oldest_event", "do not look for rows with an earlier event time"),
    ):
        parser.add_argument(flag, dest=name, metavar="TIME", help=text)


def _add_sources(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--contract", type=Path, default=Path("contracts/fms.yaml"), metavar="FILE",
        help="what a reading is (default contracts/fms.yaml)",
    )  # fmt: skip
    parser.add_argument(
        "--served", type=Path, metavar="FILE",
        help="the simulator's log of answers: also report what was never collected",
    )  # fmt: skip
    parser.add_argument(
        "--no-raw", action="store_true", help="the raw stream has forgotten it: tables alone"
    )
    parser.add_argument(
        "--settled", action="store_true",
        help="all is committed, nothing is in flight: do not look at the services' positions",
    )  # fmt: skip
    parser.add_argument(
        "--tables", choices=("s3", "athena"), default="s3", help="how rows are read (default s3)"
    )
    for flag, default, text in (
        ("--raw-stream", names.RAW_STREAM, "stream of raw records"),
        ("--readings-stream", names.READINGS_STREAM, "stream of readings"),
        ("--scores-stream", names.SCORES_STREAM, "stream of scores"),
        ("--progress-table", names.PROGRESS_TABLE, "DynamoDB table of the positions"),
        ("--transform-app", "transform", "application id of the transform"),
        ("--sink-app", "sink-readings", "application id of the readings' sink"),
        ("--anomaly-app", "anomaly", "application id of the detector"),
        ("--scores-sink-app", "sink-scores", "application id of the scores' sink"),
        ("--bucket", names.LAKE_BUCKET, "S3 bucket of tables and quarantine"),
        ("--database", names.GLUE_DATABASE, "Glue database, for Athena"),
    ):
        parser.add_argument(
            flag, default=default, metavar="NAME", help=f"{text} (default {default})"
        )
    parser.add_argument("--workgroup", metavar="NAME", help="Athena workgroup")
    parser.add_argument(
        "--results", metavar="S3_URL",
        help=f"where Athena puts results (default s3://{names.RESULTS_BUCKET}/audit/,"
        " or the workgroup's)",
    )  # fmt: skip


def _run(options: argparse.Namespace) -> int:
    _require_numpy()
    from telemill.audit.run import run  # noqa: PLC0415

    plan = _plan(options)
    try:
        with _progress() as tell:
            found = run(plan, tell)
    except NoRegionError as error:
        raise ConfigurationError(
            "AWS_DEFAULT_REGION: not set; takes an AWS region, such as eu-central-1"
        ) from error
    except (BotoCoreError, ClientError, TelemillError) as error:
        raise ConfigurationError(f"audit: {error}") from error
    return _say(found, options)


def _require_numpy() -> None:
    """The audit alone needs it: the other commands work in images that have none.

    Raises:
        ConfigurationError: It is not installed.
    """
    if importlib.util.find_spec("numpy") is None:
        raise ConfigurationError(
            "audit: numpy is not installed; install it, or use an image that has it (transform,"
            " anomaly)"
        )


def _say(found: "Report", options: argparse.Namespace) -> int:
    from telemill.audit import report as reports  # noqa: PLC0415

    if options.json:
        sys.stdout.write(json.dumps(reports.as_json(found), indent=2) + "\n")
    else:
        reports.show(Console(highlight=False), found)
    unaccounted = options.strict and (found.gaps or found.silent_cuts)
    return FAILED if not found.ok or unaccounted else 0


def _plan(options: argparse.Namespace) -> "Plan":
    from telemill.audit.run import Plan  # noqa: PLC0415

    start, end = _instant(options.start, "--from"), _instant(options.end, "--to")
    if start is not None and end is not None and start >= end:
        raise ConfigurationError(f"--to: {options.end} is not after --from {options.start}")
    results = options.results
    if results is None and options.workgroup is None:
        results = f"s3://{names.RESULTS_BUCKET}/audit/"
    if results is not None and not results.startswith("s3://"):
        raise ConfigurationError(f"--results: not an s3:// URL: {results!r}")
    if options.strict and not options.no_raw:
        raise ConfigurationError("--strict: only with --no-raw; otherwise what is lost is proved")
    if options.oldest_event and options.no_raw:
        raise ConfigurationError(
            "--oldest-event: not with --no-raw; rows of a record left out would look like gaps"
        )
    return Plan(
        contract=contract.load(options.contract),
        start=start,
        end=end,
        oldest_event=_instant(options.oldest_event, "--oldest-event"),
        served=options.served,
        read_raw=not options.no_raw,
        settled=options.settled,
        tables=options.tables,
        with_scores=options.scores,
        raw_stream=options.raw_stream,
        readings_stream=options.readings_stream,
        scores_stream=options.scores_stream,
        progress_table=options.progress_table,
        transform_app=options.transform_app,
        sink_app=options.sink_app,
        anomaly_app=options.anomaly_app,
        scores_sink_app=options.scores_sink_app,
        bucket=options.bucket,
        database=options.database,
        workgroup=options.workgroup,
        results=results,
    )


def _instant(text: str | None, flag: str) -> datetime | None:
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigurationError(
            f"{flag}: not a time: {text!r}; takes one such as 2026-01-31T12:00:00Z"
        ) from error
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


@contextmanager
def _progress() -> Iterator[Any]:
    """A function told (what, done, of how many); shown on standard error when it is a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _what, _done, _total: None
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as shown:
        tasks: dict[str, Any] = {}
        lock = threading.Lock()  # several threads read

        def tell(what: str, done: int, total: int | None) -> None:
            with lock:
                if what not in tasks:
                    tasks[what] = shown.add_task(what, total=None)
            shown.update(tasks[what], completed=done, total=total)

        yield tell
