"""Alerts reach a subscriber of the topic, and one that cannot be delivered yet is not forgotten."""

import asyncio
import json
from typing import Any

import boto3
import pytest

from anomaly import alerts
from anomaly.episodes import Alert
from telemill import aws as clients
from telemill import errors
from telemill.kinesis.records import Shard
from telemill.stages.step import StepResult

SHARD = Shard("readings", 1, "s0")
ALERT = Alert(
    alert_id="7f8e",
    state="open",
    severity="warning",
    device_id="7",
    since="2026-01-01T00:00:00Z",
    event_time="2026-01-01T00:00:30Z",
    score=0.99995,
    fields={"sensor1": 0.9, "motor1": 0.1},
    detector="ewma-t2/1",
    lineage=("s0", "123", 4),
)


async def no_sleep(_seconds: float) -> None:
    """Go on at once."""


def received(queue_url: str) -> list[dict[str, Any]]:
    """What a subscriber got."""
    answer = boto3.client("sqs").receive_message(QueueUrl=queue_url, MaxNumberOfMessages=10)
    return [json.loads(json.loads(each["Body"])["Message"]) for each in answer.get("Messages", ())]


@pytest.fixture
def topic(aws: str) -> tuple[str, str]:
    """A topic and the URL of a queue that subscribes to it."""
    sqs, sns = boto3.client("sqs"), boto3.client("sns")
    url = sqs.create_queue(QueueName="test-alerts")["QueueUrl"]
    sqs.purge_queue(QueueUrl=url)
    attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]
    arn = sns.create_topic(Name="test-alerts")["TopicArn"]
    sns.subscribe(TopicArn=arn, Protocol="sqs", Endpoint=attributes["QueueArn"])
    return arn, url


async def test_an_alert_reaches_the_subscriber(topic: tuple[str, str]) -> None:
    """The message is the alert as JSON; the topic may be given by its name."""
    arn, url = topic
    async with clients.client("sns") as sns:
        assert await alerts.topic_arn(sns, "test-alerts") == arn
        outlet = alerts.AlertOutlet(sns, arn)
        await outlet.write(SHARD, StepResult(alerts=[ALERT]))
        await outlet.flush(SHARD)
    (message,) = received(url)
    assert message["alert_id"] == "7f8e"
    assert message["fields"] == {"sensor1": 0.9, "motor1": 0.1}


async def test_an_unknown_topic_is_named(aws: str) -> None:
    """A topic that does not exist is one clear error."""
    async with clients.client("sns") as sns:
        with pytest.raises(errors.ConfigurationError, match=r"ANOMALY_ALERT_TOPIC.*'nowhere'"):
            await alerts.topic_arn(sns, "nowhere")


class Flaky:
    """An SNS that is away for a while."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.published: list[str] = []

    async def publish(self, **arguments: Any) -> None:
        if self.failures:
            self.failures -= 1
            raise TimeoutError
        self.published.append(json.loads(arguments["Message"])["alert_id"])


async def test_an_outage_delays_an_alert_and_loses_none() -> None:
    """Publishing is tried until it succeeds, in order."""
    sns = Flaky(failures=5)
    outlet = alerts.AlertOutlet(sns, "arn:x", sleep=no_sleep)
    second = Alert(**{**{f: getattr(ALERT, f) for f in ALERT.__struct_fields__}, "alert_id": "2"})
    await outlet.write(SHARD, StepResult(alerts=[ALERT, second]))
    assert sns.published == ["7f8e", "2"]


class Slow:
    """An SNS whose answers come when they are let through."""

    def __init__(self) -> None:
        self.published: list[str] = []
        self.answer = asyncio.Event()

    async def publish(self, **arguments: Any) -> None:
        self.published.append(json.loads(arguments["Message"])["alert_id"])
        await self.answer.wait()


async def test_a_flush_beside_a_write_publishes_each_alert_once() -> None:
    """Chunk and background commit may publish at a time: each alert goes once, none is dropped."""
    sns = Slow()
    outlet = alerts.AlertOutlet(sns, "arn:x", sleep=no_sleep)
    second = Alert(**{**{f: getattr(ALERT, f) for f in ALERT.__struct_fields__}, "alert_id": "2"})
    writing = asyncio.create_task(outlet.write(SHARD, StepResult(alerts=[ALERT])))
    flushing = asyncio.create_task(outlet.flush(SHARD))
    more = asyncio.create_task(outlet.write(SHARD, StepResult(alerts=[second])))
    for _ in range(10):
        await asyncio.sleep(0)
    sns.answer.set()
    await asyncio.gather(writing, flushing, more)
    assert sns.published == ["7f8e", "2"]
