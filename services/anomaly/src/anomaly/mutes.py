"""Muted devices and acknowledged alerts, in DynamoDB: for every worker, through restarts.

They are items of the progress table under an application id of their own. Each worker reads all
of them every few seconds: a request that one worker answered holds for the others soon after.
"""

import asyncio
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import structlog

from telemill import aws, errors
from telemill.progress.store import TIME_TO_LIVE_ATTRIBUTE
from telemill.seldom import Seldom

REFRESH_SECONDS = 5.0
ACK_DAYS = 90
"""How long an acknowledgement is kept: longer than any episode should last."""

SECONDS_PER_DAY = 86_400
MUTE, ACK = "mute", "ack"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Entry:
    """What somebody asked for.

    Attributes:
        kind: "mute" or "ack".
        subject: Device key, or alert id.
        until: Epoch seconds; it ends then.
        reason: In the words of whoever asked.
        by: Name of the API key.
        at: Epoch seconds: when.
    """

    kind: str
    subject: str
    until: int
    reason: str
    by: str
    at: int


class SilenceTable:
    """Where entries are kept.

    Args:
        client: An aiobotocore DynamoDB client.
        table: The progress table.
        app_id: Of the detector: two of them do not share their entries.
    """

    def __init__(self, client: Any, table: str, app_id: str) -> None:
        self._client = client
        self._table = table
        self._app = f"{app_id}/silence"

    async def entries(self) -> list[Entry]:
        """All that were asked for; those that ended may still be among them.

        Raises:
            TransientError: Try again.
        """
        found: list[Entry] = []
        with aws.map_exceptions("dynamodb:Query", table=self._table):
            async for page in self._client.get_paginator("query").paginate(
                TableName=self._table,
                KeyConditionExpression="app = :app",
                ExpressionAttributeValues={":app": {"S": self._app}},
                ConsistentRead=True,
            ):
                found += map(_entry, page["Items"])
        return found

    async def put(self, entry: Entry) -> None:
        """Keep an entry; one of the same subject is replaced.

        Raises:
            TransientError: Not known whether it is kept.
        """
        item = {
            "app": {"S": self._app},
            "shard": {"S": f"{entry.kind}/{entry.subject}"},
            "until": {"N": str(entry.until)},
            "reason": {"S": entry.reason},
            "by": {"S": entry.by},
            "at": {"N": str(entry.at)},
            TIME_TO_LIVE_ATTRIBUTE: {"N": str(entry.until)},
        }
        with aws.map_exceptions("dynamodb:PutItem", table=self._table):
            await self._client.put_item(TableName=self._table, Item=item)

    async def remove(self, kind: str, subject: str) -> None:
        """Forget an entry, if there is one.

        Raises:
            TransientError: Not known whether it is forgotten.
        """
        key = {"app": {"S": self._app}, "shard": {"S": f"{kind}/{subject}"}}
        with aws.map_exceptions("dynamodb:DeleteItem", table=self._table):
            await self._client.delete_item(TableName=self._table, Key=key)


def _entry(item: dict[str, dict[str, str]]) -> Entry:
    kind, _, subject = item["shard"]["S"].partition("/")
    return Entry(
        kind,
        subject,
        int(item["until"]["N"]),
        item["reason"]["S"],
        item["by"]["S"],
        int(item["at"]["N"]),
    )


class Silences:
    """What is muted and acknowledged, as last read; a `anomaly.silence.Silence`.

    Args:
        table: Where it is read.
        wall: Epoch seconds.
    """

    def __init__(self, table: SilenceTable, wall: Callable[[], float] = time.time) -> None:
        self._table = table
        self._wall = wall
        self._entries: list[Entry] = []
        self._seldom = Seldom()

    def muted(self) -> Collection[str]:
        """Devices muted now."""
        return {each.subject for each in self.now(MUTE)}

    def acknowledged(self) -> Collection[str]:
        """Alerts acknowledged."""
        return {each.subject for each in self.now(ACK)}

    def now(self, kind: str) -> list[Entry]:
        """Entries of a kind that have not ended, by subject."""
        now = self._wall()
        found = [each for each in self._entries if each.kind == kind and each.until > now]
        return sorted(found, key=lambda each: each.subject)

    async def refresh(self) -> None:
        """Read all again.

        Raises:
            TransientError: What was read before still counts.
        """
        self._entries = await self._table.entries()

    async def mute(self, device: str, until: int, reason: str, by: str) -> Entry:
        """Silence a device; raises as `SilenceTable.put`."""
        return await self._keep(Entry(MUTE, device, until, reason, by, int(self._wall())))

    async def acknowledge(self, alert_id: str, reason: str, by: str) -> Entry:
        """Send no more updates of an alert; raises as `SilenceTable.put`."""
        at = int(self._wall())
        return await self._keep(
            Entry(ACK, alert_id, at + ACK_DAYS * SECONDS_PER_DAY, reason, by, at)
        )

    async def end(self, kind: str, subject: str) -> None:
        """Forget; raises as `SilenceTable.remove`."""
        await self._table.remove(kind, subject)
        self._entries = [e for e in self._entries if (e.kind, e.subject) != (kind, subject)]

    async def _keep(self, entry: Entry) -> Entry:
        await self._table.put(entry)
        same = (entry.kind, entry.subject)
        self._entries = [e for e in self._entries if (e.kind, e.subject) != same] + [entry]
        return entry

    async def run(self) -> None:
        """Read now and then, until cancelled. While that fails, what was read before counts."""
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            try:
                await self.refresh()
            except (errors.TransientError, aws.ResourceError) as error:
                if times := self._seldom.due("silence"):
                    log.warning("anomaly.silence_not_read", error=str(error), times=times)
