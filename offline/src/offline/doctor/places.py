"""Where things are kept: the progress table, buckets, the catalogue, the topic."""

from typing import Any

from botocore.exceptions import ClientError

from anomaly import alerts
from offline.doctor.finding import DEPLOY, Finding, fail, ok, warn
from sink import catalog, core
from sink.settings import SinkSettings
from telemill import aws, errors
from telemill.contract import Contract, Table
from telemill.progress import store


async def check_table(dynamodb: Any, name: str) -> list[Finding]:
    """The progress table: active, with our keys, and forgetting ended shards."""
    with aws.map_exceptions("dynamodb:DescribeTable", table=name):
        described = (await dynamodb.describe_table(TableName=name))["Table"]
    if described["TableStatus"] != "ACTIVE":
        says = f"is {described['TableStatus']}"
        return [fail("table", name, says, "wait until it is ACTIVE")]
    keys = {(each["AttributeName"], each["KeyType"]) for each in described["KeySchema"]}
    wanted = {tuple(each.values()) for each in store.TABLE_DEFINITION["KeySchema"]}
    if keys != wanted:
        says = f"its keys are {', '.join(sorted(key for key, _ in keys))}, not app and shard"
        return [fail("table", name, says, "it is another table: name ours, or create it")]
    with aws.map_exceptions("dynamodb:DescribeTimeToLive", table=name):
        answer = await dynamodb.describe_time_to_live(TableName=name)
    if answer["TimeToLiveDescription"]["TimeToLiveStatus"] not in {"ENABLED", "ENABLING"}:
        advice = f"switch it on for the attribute {store.TIME_TO_LIVE_ATTRIBUTE}"
        return [warn("table", name, "no time to live: ended shards stay for ever", advice)]
    return [ok("table", name, "active, ended shards expire")]


async def check_bucket(s3: Any, name: str) -> list[Finding]:
    """There, and ours to list."""
    await aws.probe_bucket(s3, name)
    return [ok("bucket", name, "there")]


async def check_glue(
    glue: Any, sink: SinkSettings, table: Table, contract: Contract
) -> list[Finding]:
    """A table in the catalogue fits the contract."""
    form = core.form_of(contract, table)
    wanted = catalog.define(form, sink.glue_database, sink.lake_bucket)
    name = f"{wanted.database}.{wanted.name}"
    found = await _find_table(glue, wanted)
    if found is None:
        advice = "the sink makes it when it starts; else deploy telemill-catalog"
        return [warn("glue", name, "does not exist", advice)]
    try:
        change = catalog.merge(wanted, found)
    except errors.ConfigurationError as error:
        advice = "drop the table in Glue (its objects stay); the sink makes it anew"
        return [fail("glue", name, str(error), advice)]
    if change is not None:
        there = {each["Name"] for each in found["StorageDescriptor"]["Columns"]}
        columns = {each["Name"] for each in change["StorageDescriptor"]["Columns"]}
        missing = ", ".join(sorted(columns - there)) or "comments or order"
        advice = "restart the sink, which adds them; else deploy telemill-catalog"
        return [warn("glue", name, f"differs from the contract: {missing}", advice)]
    return [ok("glue", name, f"{len(wanted.columns)} columns of contract {contract.name}")]


async def _find_table(glue: Any, wanted: catalog.TableDefinition) -> dict[str, Any] | None:
    try:
        with aws.map_exceptions("glue:GetTable", table=f"{wanted.database}.{wanted.name}"):
            answer = await glue.get_table(DatabaseName=wanted.database, Name=wanted.name)
    except aws.MissingError:
        return None
    table: dict[str, Any] = answer["Table"]
    return table


async def check_topic(sns: Any, topic: str) -> list[Finding]:
    """There."""
    try:
        arn = await alerts.topic_arn(sns, topic)
        with aws.map_exceptions("sns:GetTopicAttributes", topic=topic):
            attributes = (await sns.get_topic_attributes(TopicArn=arn))["Attributes"]
    except (aws.MissingError, ClientError) as error:
        return [fail("topic", topic, str(error), DEPLOY)]
    except aws.ResourceError as error:
        missing = "ANOMALY_ALERT_TOPIC" in str(error)
        advice = DEPLOY if missing else "give the role this permission"
        return [fail("topic", topic, str(error), advice)]
    if not int(attributes.get("SubscriptionsConfirmed", 0)):
        advice = f"aws sns subscribe --topic-arn {arn} --protocol email --notification-endpoint …"
        return [warn("topic", topic, "nobody is subscribed: alerts reach no one", advice)]
    return [ok("topic", topic, f"{attributes['SubscriptionsConfirmed']} subscribers")]
