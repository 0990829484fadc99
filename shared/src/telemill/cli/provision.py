"""`telemill provision`: create streams, buckets, the progress table and the alert topic."""

import argparse
import sys
from typing import Any

from telemill import provision


def register(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "provision",
        help="create streams, buckets, table and topic where AWS_* points to",
        description="Creates what is missing and leaves the rest alone. For trying things out;"
        " in production the resources belong to a template.",
    )
    parser.add_argument("--shards", type=_positive, default=2, help="shards a stream (default 2)")
    parser.set_defaults(run=_run)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: takes a whole number from 1 on")
    return value


def _run(options: argparse.Namespace) -> int:
    resources = provision.Resources(shard_count=options.shards)
    provision.provision(resources, lambda line: sys.stdout.write(f"{line}\n"))
    return 0
