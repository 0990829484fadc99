"""Split and merge shards as an operator does, and see how readers follow."""

import asyncio
import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import boto3

from telemill import aws, names
from telemill.kinesis.records import SHARD_END, Shard
from telemill.progress.claims import Claims
from telemill.progress.snapshots import S3SnapshotStore
from telemill.progress.store import DynamoProgressStore
from telemill.testing import processes
from telemill.testing.processes import EndedEarlyError

STEP_SECONDS = 60.0
"""Longest time a split or merge may take; half a second is usual here."""


def _described(stream: str) -> list[dict[str, Any]]:
    """Every shard as ListShards describes it, open or closed."""
    pages = boto3.client("kinesis").get_paginator("list_shards").paginate(StreamName=stream)
    return [shard for page in pages for shard in page["Shards"]]


def open_shards(stream: str) -> list[dict[str, Any]]:
    """Those that take records, in order of their hash keys."""
    return sorted(
        (s for s in _described(stream) if "EndingSequenceNumber" not in s["SequenceNumberRange"]),
        key=lambda shard: int(shard["HashKeyRange"]["StartingHashKey"]),
    )


def parents(stream: str) -> dict[str, tuple[str, ...]]:
    """The parents of every shard; none for a first one."""
    keys = ("ParentShardId", "AdjacentParentShardId")
    return {
        shard["ShardId"]: tuple(shard[key] for key in keys if shard.get(key))
        for shard in _described(stream)
    }


def generations(stream: str) -> dict[str, int]:
    """Of every shard how many ancestors stand above it, on the longest way."""
    of = parents(stream)

    def generation(shard_id: str) -> int:
        return max((1 + generation(parent) for parent in of[shard_id]), default=0)

    return {shard_id: generation(shard_id) for shard_id in of}


def resize(stream: str, shard_count: int) -> None:
    """`aws kinesis update-shard-count`, and wait until it is done."""
    boto3.client("kinesis").update_shard_count(
        StreamName=stream, TargetShardCount=shard_count, ScalingType="UNIFORM_SCALING"
    )
    _wait_until_active(stream)


def split(stream: str, shard: Mapping[str, Any], share: float = 0.5) -> None:
    """`aws kinesis split-shard`: the first child gets a share of the hash keys."""
    first, last = (int(shard["HashKeyRange"][f"{end}HashKey"]) for end in ("Starting", "Ending"))
    boto3.client("kinesis").split_shard(
        StreamName=stream,
        ShardToSplit=shard["ShardId"],
        NewStartingHashKey=str(first + int((last - first) * share)),
    )
    _wait_until_active(stream)


def merge(stream: str, shard: Mapping[str, Any], adjacent: Mapping[str, Any]) -> None:
    """`aws kinesis merge-shards`, and wait until it is done."""
    boto3.client("kinesis").merge_shards(
        StreamName=stream, ShardToMerge=shard["ShardId"], AdjacentShardToMerge=adjacent["ShardId"]
    )
    _wait_until_active(stream)


def _wait_until_active(stream: str) -> None:
    """Until the last step on a stream is done."""
    kinesis = boto3.client("kinesis")

    def is_active() -> bool:
        summary = kinesis.describe_stream_summary(StreamName=stream)
        return bool(summary["StreamDescriptionSummary"]["StreamStatus"] == "ACTIVE")

    if not processes.wait_until(is_active, STEP_SECONDS):
        raise EndedEarlyError(f"stream {stream} does not become active")


def progress(app: str, stream: str) -> dict[str, Mapping[str, str]]:
    """By shard id: the owner and the saved position of an application."""
    pages = (
        boto3.client("dynamodb")
        .get_paginator("query")
        .paginate(
            TableName=names.PROGRESS_TABLE,
            KeyConditionExpression="app = :app and begins_with(#shard, :stream)",
            ExpressionAttributeNames={"#shard": "shard"},
            ExpressionAttributeValues={":app": {"S": app}, ":stream": {"S": f"{stream}/"}},
            ConsistentRead=True,
        )
    )
    return {
        item["shard"]["S"].rpartition("/")[2]: {
            name: item.get(name, {}).get("S", "") for name in ("owner", "position")
        }
        for page in pages
        for item in page["Items"]
    }


def is_followed(app: str, stream: str) -> bool:
    """Whether an application has ended the closed shards and saved a position in all others."""
    saved = progress(app, stream)
    still_open = {shard["ShardId"] for shard in open_shards(stream)}
    return all(
        saved.get(shard_id, {}).get("position")
        and (shard_id in still_open or saved[shard_id]["position"] == SHARD_END)
        for shard_id in parents(stream)
    )


@contextmanager
def dealt(app: str, stream: str, owners: Sequence[str]) -> Iterator[None]:
    """Hold claims on the open shards for some workers, by turns, for the length of a `with` block.

    Each worker then takes its own at once and no other. Else the first to start takes all.
    """
    claimed, enough = threading.Event(), threading.Event()
    failures: list[BaseException] = []

    def hold() -> None:
        try:
            asyncio.run(_hold(app, stream, owners, claimed, enough))
        except BaseException as error:  # it is raised in the other thread
            failures.append(error)
        finally:
            claimed.set()

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        claimed.wait()
        yield
    finally:
        enough.set()
        thread.join()
    if failures:
        raise failures[0]


async def _hold(
    app: str,
    stream: str,
    owners: Sequence[str],
    claimed: threading.Event,
    enough: threading.Event,
) -> None:
    summary = boto3.client("kinesis").describe_stream_summary(StreamName=stream)
    created = summary["StreamDescriptionSummary"]["StreamCreationTimestamp"]
    async with aws.client("dynamodb") as dynamodb, aws.client("s3") as s3:
        store = DynamoProgressStore(dynamodb, names.PROGRESS_TABLE)
        snapshots = S3SnapshotStore(s3, names.STATE_BUCKET)
        of = {owner: Claims(store, snapshots, app, owner) for owner in owners}
        for shard, owner in zip(open_shards(stream), itertools.cycle(owners), strict=False):
            shard_id = shard["ShardId"]
            await of[owner].open(Shard(stream, round(created.timestamp() * 1000), shard_id))
        beating = [asyncio.create_task(claims.run()) for claims in of.values()]
        claimed.set()
        await asyncio.to_thread(enough.wait)
        for task in beating:
            task.cancel()
        await asyncio.gather(*beating, return_exceptions=True)
