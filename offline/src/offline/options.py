"""What both commands are asked alike: where things are, times, durations."""

import argparse
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from offline.items import EPOCH
from telemill import names

RESOURCES = (
    ("--stream", names.RAW_STREAM, "raw stream"),
    ("--readings-stream", names.READINGS_STREAM, "stream between transform and sink"),
    ("--lake-bucket", names.LAKE_BUCKET, "S3 bucket of tables and quarantine"),
    ("--state-bucket", names.STATE_BUCKET, "S3 bucket of states"),
    ("--progress-table", names.PROGRESS_TABLE, "DynamoDB table of positions"),
    ("--glue-database", names.GLUE_DATABASE, "Glue database"),
    ("--transform-app", "transform", "application id of the live transform"),
    ("--sink-app", "sink-readings", "application id of the live sink of readings"),
)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)")
_UNIT_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


def add_resources(parser: Any) -> None:
    """The flags that name where things are."""
    group = parser.add_argument_group("where things are")
    for flag, default, meaning in RESOURCES:
        group.add_argument(
            flag, default=default, metavar="NAME", help=f"{meaning} (default {default})"
        )
    group.add_argument(
        "--contract",
        type=Path,
        default=Path("contracts/fms.yaml"),
        metavar="FILE",
        help="what a reading is (default contracts/fms.yaml)",
    )


def instant(text: str) -> int:
    """A moment in epoch microseconds: `2025-07-07T08:00Z`, `2025-07-07`; without zone it is UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text}: takes a time like 2025-07-07T08:00:00Z or a day like 2025-07-07"
        ) from None
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    return (moment - EPOCH) // timedelta(microseconds=1)


def duration_us(text: str) -> int:
    """A duration in microseconds: `90`, `90s`, `30m`, `1h`, `2d`."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text}: takes a duration like 90s, 30m, 1h or 2d")
    return round(float(match[1]) * _UNIT_SECONDS[match[2]] * 1_000_000)


def shown_time(at_us: int) -> str:
    """A moment for people."""
    moment = EPOCH + timedelta(microseconds=at_us)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
