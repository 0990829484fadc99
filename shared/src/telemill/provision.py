"""Create what the services need in an AWS account or an emulator: `telemill provision`.

Idempotent: what exists is left as it is. For production the templates of `infra/` own these
resources; this is for the demo, tests and trying things out.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import boto3
from botocore.exceptions import ClientError

from telemill import names
from telemill.progress import snapshots, store

EXISTS_CODES = frozenset({"ResourceInUseException", "BucketAlreadyOwnedByYou"})

ENDED_STATE_DAYS = 366
"""A day after the longest retention Kinesis offers (365 days)."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What to create, by name."""

    streams: tuple[str, ...] = (names.RAW_STREAM, names.READINGS_STREAM, names.SCORES_STREAM)
    shard_count: int = 2
    lake_bucket: str = names.LAKE_BUCKET
    state_bucket: str = names.STATE_BUCKET
    results_bucket: str = names.RESULTS_BUCKET
    progress_table: str = names.PROGRESS_TABLE
    alert_topic: str = names.ALERT_TOPIC


def provision(resources: Resources, report: Callable[[str], object]) -> str:
    """Create what is missing and wait until it can be used.

    Args:
        resources: Names and sizes.
        report: Told one line per resource.

    Returns:
        The ARN of the alert topic.
    """
    _create_streams(boto3.client("kinesis"), resources, report)
    _create_buckets(boto3.client("s3"), resources, report)
    _expire_ended_states(boto3.client("s3"), resources)
    _create_progress_table(boto3.client("dynamodb"), resources, report)
    topic: str = boto3.client("sns").create_topic(Name=resources.alert_topic)["TopicArn"]
    report(f"topic {topic}")
    return topic


@contextmanager
def _unless_it_exists() -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        if error.response["Error"]["Code"] not in EXISTS_CODES:
            raise


def _create_streams(kinesis: Any, resources: Resources, report: Callable[[str], object]) -> None:
    for stream in resources.streams:
        with _unless_it_exists():
            kinesis.create_stream(StreamName=stream, ShardCount=resources.shard_count)
    for stream in resources.streams:
        kinesis.get_waiter("stream_exists").wait(
            StreamName=stream, WaiterConfig={"Delay": 1, "MaxAttempts": 120}
        )
        report(f"stream {stream}")


def _create_buckets(s3: Any, resources: Resources, report: Callable[[str], object]) -> None:
    region = s3.meta.region_name
    # us-east-1 is the one region that must not be named (S3 API reference, CreateBucket).
    where = {}
    if region != "us-east-1":
        where = {"CreateBucketConfiguration": {"LocationConstraint": region}}
    for bucket in (resources.lake_bucket, resources.state_bucket, resources.results_bucket):
        with _unless_it_exists():
            s3.create_bucket(Bucket=bucket, **where)
        report(f"bucket {bucket}")


def _expire_ended_states(s3: Any, resources: Resources) -> None:
    """Final states of ended shards go a day after the longest retention; live ones never do."""
    s3.put_bucket_lifecycle_configuration(
        Bucket=resources.state_bucket,
        LifecycleConfiguration={
            "Rules": [
                {
                    "ID": "ended-shards",
                    "Filter": {"Prefix": snapshots.ENDED_PREFIX},
                    "Status": "Enabled",
                    "Expiration": {"Days": ENDED_STATE_DAYS},
                }
            ]
        },
    )


def _create_progress_table(
    dynamodb: Any, resources: Resources, report: Callable[[str], object]
) -> None:
    with _unless_it_exists():
        dynamodb.create_table(
            TableName=resources.progress_table,
            BillingMode="PAY_PER_REQUEST",
            **store.TABLE_DEFINITION,
        )
    dynamodb.get_waiter("table_exists").wait(TableName=resources.progress_table)
    described = dynamodb.describe_time_to_live(TableName=resources.progress_table)
    if described["TimeToLiveDescription"]["TimeToLiveStatus"] == "DISABLED":
        dynamodb.update_time_to_live(
            TableName=resources.progress_table,
            TimeToLiveSpecification={
                "Enabled": True,
                "AttributeName": store.TIME_TO_LIVE_ATTRIBUTE,
            },
        )
    report(f"table {resources.progress_table}")
