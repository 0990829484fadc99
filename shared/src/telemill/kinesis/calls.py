"""The calls that read a stream: errors mapped, and tried again for as long as it takes."""

import asyncio
import datetime as dt
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeVar

import structlog
from botocore.exceptions import ClientError

from telemill import aws, errors
from telemill.kinesis import backoff, parsing
from telemill.kinesis.records import Shard
from telemill.metrics import Metrics
from telemill.seldom import Seldom
from telemill.stages.owner import StartPosition

MAX_GET_RECORDS = 10_000
"""Kinesis Data Streams API reference, GetRecords."""
UNAVAILABLE_AFTER_SECONDS = 3.0
"""A stream that answers nothing for so long makes the service not ready; one retry does not."""

T = TypeVar("T")

log = structlog.get_logger()


class Readiness(Protocol):
    """Where a reason for not being ready is put; `telemill.health.Health` is one."""

    def set(self, name: str, why: str) -> None:
        """Not ready because of `name`, until it is cleared."""

    def clear(self, name: str) -> None:
        """`name` is well again."""


class IteratorExpiredError(errors.TransientError):
    """A shard iterator outlived its five minutes: get another one."""


class StreamCalls:
    """One stream, read through an aiobotocore Kinesis client.

    Each method is one call and raises what `aws.map_exceptions` raises; `persist` repeats one.
    """

    def __init__(
        self,
        client: Any,
        stream: str,
        *,
        metrics: Metrics,
        health: Readiness,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Wire the calls; lets the client parse GetRecords by msgspec.

        Args:
            client: aiobotocore's Kinesis client, or one like it.
            stream: Name of the stream.
            metrics: Retries and throttles are counted there.
            health: Told when the stream is missing or forbidden, or answers nothing for a while.
            sleep: Waits some seconds.
            jitter: A random number in [0, 1).
            monotonic: Clock for how long.
        """
        parsing.install(client)
        self._client = client
        self.stream = stream
        self.metrics = metrics
        self.sleep = sleep
        self._health = health
        self._jitter = jitter
        self._monotonic = monotonic
        self._unavailable_since: float | None = None
        self._seldom = Seldom(monotonic=monotonic)
        self._readiness = f"stream {stream}"

    async def incarnation(self) -> int:
        """Creation time of the stream in epoch milliseconds: tells it from one of the same name."""
        with aws.map_exceptions("kinesis:DescribeStreamSummary", stream=self.stream):
            answer = await self._client.describe_stream_summary(StreamName=self.stream)
        created: dt.datetime = answer["StreamDescriptionSummary"]["StreamCreationTimestamp"]
        return round(created.timestamp() * 1000)

    async def list_shards(self, incarnation: int) -> list[Shard]:
        """Every shard with data left, open or closed."""
        described: list[Mapping[str, Any]] = []
        arguments = {"StreamName": self.stream}
        while arguments:
            with aws.map_exceptions("kinesis:ListShards", stream=self.stream):
                answer = await self._client.list_shards(**arguments)
            described.extend(answer["Shards"])
            token = answer.get("NextToken")
            arguments = {"NextToken": token} if token else {}
        listed = {shard["ShardId"] for shard in described}
        return [_shard(self.stream, incarnation, shard, listed) for shard in described]

    async def shard_iterator(self, shard_id: str, start: StartPosition) -> str:
        """An iterator from a start position; good for five minutes."""
        with aws.map_exceptions("kinesis:GetShardIterator", stream=self.stream, shard=shard_id):
            answer = await self._client.get_shard_iterator(
                StreamName=self.stream, ShardId=shard_id, **_iterator_arguments(start)
            )
        iterator: str = answer["ShardIterator"]
        return iterator

    async def get_records(self, shard_id: str, iterator: str) -> parsing.Page:
        """One GetRecords.

        Raises:
            IteratorExpiredError: Ask `shard_iterator` again.
        """
        try:
            with aws.map_exceptions("kinesis:GetRecords", stream=self.stream, shard=shard_id):
                answer = await self._client.get_records(
                    ShardIterator=iterator, Limit=MAX_GET_RECORDS
                )
        except ClientError as error:
            if error.response["Error"]["Code"] == "ExpiredIteratorException":
                raise IteratorExpiredError(f"iterator of {shard_id} expired") from error
            raise
        return parsing.page_of(answer)

    async def persist(self, operation: str, call: Callable[[], Awaitable[T]]) -> T:
        """Repeat a call until it succeeds, with full jitter.

        What heals is waited for: throttling, 5xx, time-outs, and a stream or permission that is
        missing now, which is said in `health`. Anything else is raised.
        """
        failures = 0
        while True:
            try:
                result = await call()
            except (errors.TransientError, aws.ResourceError) as error:
                failures += 1
                await self.back_off(operation, error, failures)
            else:
                self.succeeded()
                return result

    async def back_off(self, operation: str, error: errors.TelemillError, failures: int) -> None:
        """Count a failed call, say what is wrong, wait."""
        self.metrics.retries.labels(operation=operation).inc()
        if isinstance(error, errors.ThroughputExceededError):
            self.metrics.throttles.labels(operation=operation).inc()
        if isinstance(error, aws.ResourceError) or self._is_away(error):
            self._health.set(self._readiness, str(error))
        if times := self._seldom.due(operation):
            log.warning(
                "kinesis.call_failed",
                operation=operation,
                stream=self.stream,
                error=str(error),
                times=times,
            )
        throttled = isinstance(error, errors.ThroughputExceededError)
        cap_seconds = backoff.THROTTLED_CAP_SECONDS if throttled else backoff.CAP_SECONDS
        await self.sleep(backoff.full_jitter(failures, self._jitter, cap_seconds=cap_seconds))

    def _is_away(self, error: errors.TelemillError) -> bool:
        """Whether the stream has answered nothing for a while; a throttled call is an answer."""
        if not isinstance(error, errors.ServiceUnavailableError):
            return False
        now = self._monotonic()
        if self._unavailable_since is None:
            self._unavailable_since = now
        return now - self._unavailable_since >= UNAVAILABLE_AFTER_SECONDS

    def succeeded(self) -> None:
        """The stream answered: whatever was missing is there."""
        self._unavailable_since = None
        self._health.clear(self._readiness)


def _iterator_arguments(start: StartPosition) -> dict[str, Any]:
    if start.after is not None:
        return {
            "ShardIteratorType": "AFTER_SEQUENCE_NUMBER",
            "StartingSequenceNumber": start.after,
        }
    if start.timestamp_us is not None:
        since_epoch = dt.timedelta(microseconds=start.timestamp_us)
        moment = dt.datetime.fromtimestamp(0, dt.UTC) + since_epoch
        return {"ShardIteratorType": "AT_TIMESTAMP", "Timestamp": moment}
    return {"ShardIteratorType": "TRIM_HORIZON"}


def _shard(stream: str, incarnation: int, described: Mapping[str, Any], listed: set[str]) -> Shard:
    named = (described.get("ParentShardId"), described.get("AdjacentParentShardId"))
    parents = tuple(parent for parent in named if parent is not None)
    hash_keys = described["HashKeyRange"]
    return Shard(
        stream=stream,
        incarnation=incarnation,
        shard_id=described["ShardId"],
        parents=parents,
        expired_parents=tuple(parent for parent in parents if parent not in listed),
        first_hash_key=int(hash_keys["StartingHashKey"]),
        last_hash_key=int(hash_keys["EndingHashKey"]),
    )
