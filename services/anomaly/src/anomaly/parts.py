"""Which shards' parts of a group are open, in DynamoDB: one opening and one closing for all.

Each shard tells of its own part of a group, under one alert id. Of all parts the first that opens
is told as opened and the last that closes as closed; what lies between is an update. One atomic
write for each message of opening or closing decides it. After a crash the same messages ask again
and get the same answer: a part opens and closes once, however often it says so.
"""

import time
from collections.abc import Callable
from typing import Any, Protocol

import msgspec
from botocore.exceptions import ClientError

from anomaly.messages import CLOSED, OPEN, UPDATE, GroupAlert, Message
from telemill import aws
from telemill.progress.store import TIME_TO_LIVE_ATTRIBUTE

KEPT_SECONDS = 90 * 86_400
"""Longer than any group should last."""


class Parts(Protocol):
    """Knows the open parts of each group."""

    async def open(self, alert_id: str, part: str) -> bool:
        """Note a part as open; whether it is the first of its group.

        Raises:
            TransientError: Not known; ask again.
        """

    async def close(self, alert_id: str, part: str) -> bool:
        """Note a part as closed; whether no other is open.

        Raises:
            TransientError: Not known; ask again.
        """


class OnlyPart:
    """Where there are no others: every opening and closing is told as it is."""

    async def open(self, _alert_id: str, _part: str) -> bool:
        """The first."""
        return True

    async def close(self, _alert_id: str, _part: str) -> bool:
        """The last."""
        return True


class PartsTable:
    """The parts of all workers.

    Args:
        client: An aiobotocore DynamoDB client.
        table: The progress table.
        app_id: Of the detector.
        wall: Epoch seconds.
    """

    def __init__(
        self, client: Any, table: str, app_id: str, wall: Callable[[], float] = time.time
    ) -> None:
        self._client = client
        self._table = table
        self._app = f"{app_id}/groups"
        self._wall = wall

    async def open(self, alert_id: str, part: str) -> bool:
        """See Parts."""
        found = await self._update(
            alert_id,
            "ADD parts :part SET #first = if_not_exists(#first, :name), #end = :end",
            {
                ":part": {"SS": [part]},
                ":name": {"S": part},
                ":end": {"N": str(int(self._wall()) + KEPT_SECONDS)},
            },
            {"#first": "first", "#end": TIME_TO_LIVE_ATTRIBUTE},
        )
        return bool(found["first"]["S"] == part)

    async def close(self, alert_id: str, part: str) -> bool:
        """See Parts."""
        found = await self._update(alert_id, "DELETE parts :part", {":part": {"SS": [part]}})
        if "parts" in found:
            return False
        try:
            # The group may open again under its id: then another part may be the first.
            await self._update(
                alert_id, "REMOVE #first", names={"#first": "first"}, if_no_parts=True
            )
        except ClientError as error:
            if error.response["Error"]["Code"] != "ConditionalCheckFailedException":
                raise
        return True

    async def _update(
        self,
        alert_id: str,
        expression: str,
        values: dict[str, Any] | None = None,
        names: dict[str, str] | None = None,
        *,
        if_no_parts: bool = False,
    ) -> dict[str, Any]:
        more: dict[str, Any] = {}
        if values:
            more["ExpressionAttributeValues"] = values
        if names:
            more["ExpressionAttributeNames"] = names
        if if_no_parts:
            more["ConditionExpression"] = "attribute_not_exists(parts)"
        with aws.map_exceptions("dynamodb:UpdateItem", table=self._table):
            answer = await self._client.update_item(
                TableName=self._table,
                Key={"app": {"S": self._app}, "shard": {"S": alert_id}},
                UpdateExpression=expression,
                ReturnValues="ALL_NEW",
                **more,
            )
        found: dict[str, Any] = answer.get("Attributes", {})
        return found


async def as_told(message: Message, parts: Parts) -> Message:
    """A message as it is told when all parts are looked at; raises as `Parts` does."""
    if not isinstance(message, GroupAlert):
        return message
    told = True
    if message.state == OPEN:
        told = await parts.open(message.alert_id, message.part)
    elif message.state == CLOSED:
        told = await parts.close(message.alert_id, message.part)
    return message if told else msgspec.structs.replace(message, state=UPDATE)
