"""`telemill provision`: create streams, buckets, the progress table and the alert topic."""

import argparse
import sys
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError, NoRegionError

from telemill import names, provision
from telemill.errors import ConfigurationError

BUCKETS = {
    "lake_bucket": names.LAKE_BUCKET,
    "state_bucket": names.STATE_BUCKET,
    "results_bucket": names.RESULTS_BUCKET,
}


def register(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "provision",
        help="create streams, buckets, table and topic where AWS_* points to",
        description="Creates what is missing and leaves the rest alone. For trying things out;"
        " in production the resources belong to a template.",
    )
    parser.add_argument("--shards", type=_positive, default=2, help="shards a stream (default 2)")
    for name, default in BUCKETS.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            default=default,
            metavar="NAME",
            help=f"S3 bucket names are global: choose your own (default {default})",
        )
    parser.set_defaults(run=_run)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: takes a whole number from 1 on")
    return value


def _run(options: argparse.Namespace) -> int:
    buckets = {name: getattr(options, name) for name in BUCKETS}
    resources = provision.Resources(shard_count=options.shards, **buckets)
    try:
        provision.provision(resources, lambda line: sys.stdout.write(f"{line}\n"))
    except NoRegionError as error:
        raise ConfigurationError(
            "AWS_DEFAULT_REGION: not set; takes an AWS region, such as eu-central-1"
        ) from error
    except (BotoCoreError, ClientError) as error:
        raise ConfigurationError(f"provision: {error}") from error
    return 0
