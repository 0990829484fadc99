"""Alerts reach a subscriber of the topic, and one that cannot be delivered yet is not forgotten."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import boto3
import msgspec
import pytest

from anomaly import alerts, parts
from anomaly.messages import Alert, GroupAlert, Member
from telemill import aws as clients
from telemill import errors
from telemill.kinesis.records import Shard
from telemill.progress import store
from telemill.stages.step import Output, StepResult

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


@pytest.mark.parametrize(("wanted", "count"), [("critical", 0), ("warning", 1)])
async def test_a_subscription_filter_still_chooses(
    topic: tuple[str, str], wanted: str, count: int
) -> None:
    """Message attributes stay what filters ask for, with bodies of several kinds."""
    arn, url = topic
    sns = boto3.client("sns")
    (subscription,) = sns.list_subscriptions_by_topic(TopicArn=arn)["Subscriptions"]
    sns.set_subscription_attributes(
        SubscriptionArn=subscription["SubscriptionArn"],
        AttributeName="FilterPolicy",
        AttributeValue=json.dumps({"severity": [wanted], "kind": ["device"]}),
    )
    async with clients.client("sns") as client:
        await alerts.AlertOutlet(client, arn).write(SHARD, StepResult(alerts=[ALERT]))
    assert len(received(url)) == count


async def test_each_protocol_gets_its_own_body() -> None:
    """Machines get JSON; mail and phones get words with units."""
    sns = Flaky(failures=0)
    outlet = alerts.AlertOutlet(sns, "arn:x", units={"sensor1": "°C"})
    seen = msgspec.structs.replace(ALERT, seen={"sensor1": 95.25}, expected={"sensor1": 80.0})
    await outlet.write(SHARD, StepResult(alerts=[seen]))
    bodies = sns.bodies[0]
    assert json.loads(bodies["default"])["device_id"] == "7"
    line = "warning: device 7 since 00:00:00Z: sensor1 95.25 °C (expected 80.00)"
    assert bodies["email"].startswith(line)
    assert bodies["sms"].isascii()
    assert len(bodies["sms"]) <= 140


class Asked:
    """Somebody muted and acknowledged."""

    def __init__(self, muted: set[str], acknowledged: set[str]) -> None:
        self._muted, self._acknowledged = muted, acknowledged

    def muted(self) -> set[str]:
        """Devices."""
        return self._muted

    def acknowledged(self) -> set[str]:
        """Alerts."""
        return self._acknowledged


@pytest.mark.parametrize(
    ("muted", "acknowledged", "heard"),
    [
        (set(), set(), ["open", "update", "closed"]),
        ({"7"}, set(), []),
        (set(), {"7f8e"}, ["open", "closed"]),
        ({"8"}, {"other"}, ["open", "update", "closed"]),
    ],
)
async def test_silence_is_kept(muted: set[str], acknowledged: set[str], heard: list[str]) -> None:
    """A muted device says nothing; an acknowledged alert sends no updates, but its closing."""
    sns = Flaky(failures=0)
    outlet = alerts.AlertOutlet(sns, "arn:x", silence=Asked(muted, acknowledged))
    told = [msgspec.structs.replace(ALERT, state=each) for each in ("open", "update", "closed")]
    await outlet.write(SHARD, StepResult(alerts=told))
    assert [json.loads(each["default"])["state"] for each in sns.bodies] == heard


class Rows:
    """Rows of the table that wait for who is muted."""

    def output(self, muted: set[str]) -> Output:
        """A record that says so."""
        return Output(3, ",".join(sorted(muted)).encode(), "3", 0)


async def test_rows_are_put_out_also_of_muted_devices() -> None:
    """Silence keeps a message back, not its row, which says that the device was muted."""
    sns = Flaky(failures=0)
    outlet = alerts.AlertOutlet(sns, "arn:x", silence=Asked({"7"}, set()))
    result = StepResult(alerts=[ALERT], alert_rows=[Rows()])
    await outlet.write(SHARD, result)
    assert [each.data for each in result.outputs] == [b"7"]
    assert sns.bodies == []


def group(*devices: str, omitted: int = 0) -> GroupAlert:
    """The opening of a group."""
    return GroupAlert(
        alert_id="g",
        state="open",
        severity="warning",
        contract="fms",
        since="2026-01-01T00:00:00Z",
        event_time="2026-01-01T00:00:30Z",
        devices=len(devices) + omitted,
        open_devices=len(devices) + omitted,
        members=[
            Member(device, f"a-{device}", "open", "warning", "2026-01-01T00:00:00Z", "sensor1")
            for device in devices
        ],
        members_omitted=omitted,
        fields={"sensor1": len(devices) + omitted},
        part=devices[0],
        message_id="m",
        sequence=0,
    )


async def test_a_group_leaves_its_muted_devices_out() -> None:
    """Who is muted is not listed nor counted; a group of muted devices alone is not told."""
    sns = Flaky(failures=0)
    outlet = alerts.AlertOutlet(sns, "arn:x", silence=Asked({"1", "2"}, set()))
    await outlet.write(SHARD, StepResult(alerts=[group("1", "2", "3"), group("1", "2")]))
    (told,) = (json.loads(each["default"]) for each in sns.bodies)
    assert [each["device_id"] for each in told["members"]] == ["3"]
    assert (told["devices"], told["open_devices"]) == (1, 1)
    assert "devices 3" in sns.bodies[0]["sms"]


@pytest.fixture(params=["memory", "dynamodb"])
async def group_parts(request: pytest.FixtureRequest) -> AsyncIterator[parts.Parts]:
    """Every way to know the other parts: the test's own, and the table."""
    if request.param == "memory":
        yield MemoryParts()
        return
    assert request.getfixturevalue("aws")
    table = f"progress-{uuid4().hex[:8]}"
    boto3.client("dynamodb").create_table(
        TableName=table, BillingMode="PAY_PER_REQUEST", **store.TABLE_DEFINITION
    )
    async with clients.client("dynamodb") as dynamodb:
        yield parts.PartsTable(dynamodb, table, "anomaly", lambda: 1.8e9)


class MemoryParts:
    """What the table promises, in a few lines."""

    def __init__(self) -> None:
        self.open_parts: dict[str, list[str]] = {}

    async def open(self, alert_id: str, part: str) -> bool:
        """The first opener stays the first while any is open."""
        found = self.open_parts.setdefault(alert_id, [part])
        if part not in found:
            found.append(part)
        return found[0] == part

    async def close(self, alert_id: str, part: str) -> bool:
        """The first keeps its place: "-" stands for a part that has closed."""
        found = self.open_parts.get(alert_id, [])
        self.open_parts[alert_id] = found = [f"-{each}" if each == part else each for each in found]
        if any(not each.startswith("-") for each in found):
            return False
        del self.open_parts[alert_id]
        return True


async def test_parts_of_a_group_have_one_opening_and_one_closing(
    group_parts: parts.Parts,
) -> None:
    """Of all shards the first opens and the last closes, also when a crash repeats them."""
    one, other = group("1", "2", "3"), group("4", "5", "6")
    closed = [msgspec.structs.replace(each, state="closed") for each in (one, other)]
    sns = Flaky(failures=0)
    outlet = alerts.AlertOutlet(sns, "arn:x", parts=group_parts)
    shards = [Shard("readings", 1, name) for name in ("s0", "s1")]
    for shard, messages in (
        (shards[0], [one]),
        (shards[1], [other]),
        (shards[0], [one, closed[0]]),
        (shards[0], [closed[0]]),
        (shards[1], [closed[1]]),
        (shards[1], [closed[1]]),
        # Again, under the same id, and the other way round.
        (shards[1], [other]),
        (shards[1], [closed[1]]),
    ):
        await outlet.write(shard, StepResult(alerts=messages))
    told = [json.loads(each["default"]) for each in sns.bodies]
    assert [(each["part"], each["state"]) for each in told] == [
        ("1", "open"),
        ("4", "update"),
        ("1", "open"),
        ("1", "update"),
        ("1", "update"),
        ("4", "closed"),
        ("4", "closed"),
        ("4", "open"),
        ("4", "closed"),
    ]


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
        self.bodies: list[dict[str, str]] = []

    async def publish(self, **arguments: Any) -> None:
        if self.failures:
            self.failures -= 1
            raise TimeoutError
        self.bodies.append(json.loads(arguments["Message"]))
        self.published.append(json.loads(json.loads(arguments["Message"])["default"])["alert_id"])


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
        self.published.append(json.loads(json.loads(arguments["Message"])["default"])["alert_id"])
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
