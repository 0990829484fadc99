"""Alerts to SNS. At-least-once: a repeated alert has the id of the first."""

import asyncio
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
import structlog

from anomaly import wording
from anomaly.messages import GroupAlert, Message
from anomaly.parts import OnlyPart, Parts, as_told
from anomaly.silence import NOTHING, Silence, heard
from telemill import aws, errors
from telemill.kinesis import backoff
from telemill.kinesis.records import Shard
from telemill.seldom import Seldom
from telemill.stages.step import StepResult

log = structlog.get_logger()


class AlertOutlet:
    """Publishes the alerts of a step before its position moves; see `telemill.stages.outlet`."""

    def __init__(
        self,
        sns: Any,
        topic_arn: str = "",
        *,
        units: Mapping[str, str] | None = None,
        silence: Silence = NOTHING,
        parts: Parts | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        """Wire the outlet.

        Args:
            sns: aiobotocore client.
            topic_arn: Where alerts go; may be set later, before the first alert.
            units: Unit of each field, for people.
            silence: What is muted and acknowledged.
            parts: The other shards' parts of groups; by default there are none.
            sleep: Waits between attempts.
            uniform: Jitter, in [0, 1).
        """
        self._sns = sns
        self.topic_arn = topic_arn
        self._units = units or {}
        self._silence = silence
        self._parts = parts or OnlyPart()
        self._sleep = sleep
        self._random = uniform
        self._seldom = Seldom()
        self._waiting: dict[str, list[Message]] = defaultdict(list)
        self._publishing: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def write(self, shard: Shard, result: StepResult) -> None:
        """Publish what can be published now; the rest waits for `flush`.

        Whether a device is muted is looked up here and not in the step, which a replay repeats
        exactly: readers keep the row that they took first.
        """
        muted = self._silence.muted()
        result.outputs += [rows.output(muted) for rows in result.alert_rows]
        self._waiting[shard.shard_id] += result.alerts
        if self._waiting[shard.shard_id]:
            await self.flush(shard)

    async def flush(self, shard: Shard) -> None:
        """Publish until nothing waits; tries for ever what may heal."""
        # A commit in the background flushes beside the next chunk's write: one at a time, or an
        # alert would be published twice and another dropped.
        async with self._publishing[shard.shard_id]:
            await self._empty(self._waiting[shard.shard_id])

    async def _empty(self, waiting: list[Message]) -> None:
        failures = 0
        while waiting:
            try:
                told = await as_told(waiting[0], self._parts)
                if (message := heard(told, self._silence)) is not None:
                    await self._publish(message)
            except errors.TransientError as error:
                failures += 1
                if times := self._seldom.due("alert"):
                    log.warning("anomaly.alert_delayed", error=str(error), times=times)
                await self._sleep(backoff.full_jitter(failures, self._random))
            else:
                failures = 0
                waiting.pop(0)

    async def _publish(self, message: Message) -> None:
        with aws.map_exceptions("sns:Publish", topic=self.topic_arn):
            await self._sns.publish(
                TopicArn=self.topic_arn,
                Subject=wording.subject(message),
                MessageStructure="json",
                Message=self._body(message),
                MessageAttributes={
                    name: {"DataType": "String", "StringValue": text}
                    for name, text in _attributes(message).items()
                },
            )
        log.info("anomaly.alert_published", alert_id=message.alert_id, **_attributes(message))

    def _body(self, message: Message) -> str:
        """JSON for machines, words for people: each subscription gets its own."""
        bodies = {
            "default": msgspec.json.encode(message).decode(),
            "email": wording.mail(message, self._units),
            "sms": wording.sms(message, self._units),
        }
        return msgspec.json.encode(bodies).decode()


def _attributes(message: Message) -> dict[str, str]:
    """What subscription filters may ask for."""
    found = {"kind": message.kind, "state": message.state, "severity": message.severity}
    if not isinstance(message, GroupAlert):
        found["device_id"] = message.device_id
    return found


async def topic_arn(sns: Any, topic: str) -> str:
    """The ARN of a topic given by ARN or by name; a name must exist in the account.

    Raises:
        ResourceError: There is no topic of that name; it may come to be.
    """
    if topic.startswith("arn:"):
        return topic
    with aws.map_exceptions("sns:ListTopics"):
        async for page in sns.get_paginator("list_topics").paginate():
            for found in page["Topics"]:
                arn: str = found["TopicArn"]
                if arn.rpartition(":")[2] == topic:
                    return arn
    raise aws.ResourceError(
        f"ANOMALY_ALERT_TOPIC: got {topic!r}; takes the name or ARN of an existing SNS topic"
    )
