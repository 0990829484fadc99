"""Where progress items are kept: what every store promises, what all share, and DynamoDB.

A store is a `ProgressTable` (single conditional writes, one try each) under `ConditionalStore`,
which repeats what may heal and reads back what is ambiguous. `telemill.testing.progress` holds the
other one, in memory.
"""

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Protocol

from botocore.exceptions import ClientError

from telemill import aws
from telemill.errors import ClaimHeldError, FencedError
from telemill.progress import rules
from telemill.progress.retrying import Retry
from telemill.progress.suspicion import Suspects

FACTS_APP = "stream-facts"
"""The application id under which facts fixed for a stream's life are kept."""

TABLE_DEFINITION: Mapping[str, Any] = {
    "KeySchema": [
        {"AttributeName": "app", "KeyType": "HASH"},
        {"AttributeName": "shard", "KeyType": "RANGE"},
    ],
    "AttributeDefinitions": [
        {"AttributeName": "app", "AttributeType": "S"},
        {"AttributeName": "shard", "AttributeType": "S"},
    ],
}
"""Keys of the table, as CreateTable takes them."""

TIME_TO_LIVE_ATTRIBUTE = "expires_at"
"""Set on items of ended shards only; what UpdateTimeToLive takes."""


class ProgressStore(Protocol):
    """One item per (application, shard), changed by conditional writes only.

    Every method may raise TransientError after its own retries: the outcome of a write is then
    unknown, it may even take effect later. The same write may be repeated: that cannot look like
    fencing, and leaves one outcome. Cancellation leaves the same doubt and no other.
    """

    async def read(self, app: str, shard: str) -> rules.Progress | None:
        """The item, never stale; None when there is none."""

    async def take(self, seen: rules.Progress | None, taken: rules.Progress) -> rules.Progress:
        """Claim a shard: one write, conditional on the epoch and beat that were seen.

        Args:
            seen: As read before; None for a new item.
            taken: `rules.take(seen, ...)`.

        Returns:
            The item after it: position, state and intent may be newer than `seen`.

        Raises:
            ClaimHeldError: Somebody claimed, beat or began the item since it was read.
        """

    async def save(self, progress: rules.Progress, previous: str) -> None:
        """Write position, state, intent, suspects, poison, released and expiry at once.

        Conditional on the epoch, on not being released, and on `previous`, the `write_id` of the
        item it was computed from. A write of unknown outcome has to be repeated before another
        one follows it.

        Raises:
            FencedError: The claim is void, nothing was written and nothing ever will be.
        """

    async def beat(self, progress: rules.Progress) -> None:
        """Write the heartbeat count alone; conditional on epoch and not released.

        Raises:
            FencedError: The claim is void.
        """

    async def fix(self, key: str, value: str) -> str:
        """Put a fact if it is absent; the stored value, which wins for ever."""


class ProgressTable(Protocol):
    """The table under a store: each call is tried once; TransientError leaves it in doubt."""

    async def get(self, app: str, shard: str) -> rules.Progress | None:
        """Consistent read."""

    async def put_claim(
        self, seen: rules.Progress | None, taken: rules.Progress
    ) -> rules.Progress | None:
        """Write the claim and `crashes`; None when the condition does not hold."""

    async def put_progress(self, progress: rules.Progress, previous: str) -> bool:
        """Write the rest if `rules.writable`; False when it is not."""

    async def put_beat(self, progress: rules.Progress) -> bool:
        """Write the beat if `rules.is_live`; False when it is not."""

    async def put_fact(self, key: str, value: str) -> bool:
        """Write a fact if absent; False when it is there."""

    async def get_fact(self, key: str) -> str | None:
        """Consistent read."""


class ConditionalStore:
    """The ProgressStore over any ProgressTable: retries, and settles ambiguous writes."""

    def __init__(self, table: ProgressTable, retry: Retry | None = None) -> None:
        self._table = table
        self._retry = retry or Retry()

    async def read(self, app: str, shard: str) -> rules.Progress | None:
        """See ProgressStore."""
        return await self._retry(lambda: self._table.get(app, shard))

    async def take(self, seen: rules.Progress | None, taken: rules.Progress) -> rules.Progress:
        """See ProgressStore."""
        item = await self._retry(lambda: self._table.put_claim(seen, taken))
        # Refused: by somebody else's claim, or by our own first try whose answer was lost.
        item = item or await self.read(taken.app, taken.shard)
        if item is None or not rules.took_effect(taken, item):
            raise ClaimHeldError(f"{taken.app} {taken.shard}: claimed by another worker")
        return item

    async def save(self, progress: rules.Progress, previous: str) -> None:
        """See ProgressStore."""
        if await self._retry(lambda: self._table.put_progress(progress, previous)):
            return
        found = await self.read(progress.app, progress.shard)
        if not rules.took_effect(progress, found):
            raise _fenced(progress, found)

    async def beat(self, progress: rules.Progress) -> None:
        """See ProgressStore."""
        if not await self._retry(lambda: self._table.put_beat(progress)):
            raise _fenced(progress, await self.read(progress.app, progress.shard))

    async def fix(self, key: str, value: str) -> str:
        """See ProgressStore."""
        await self._retry(lambda: self._table.put_fact(key, value))
        stored = await self._retry(lambda: self._table.get_fact(key))
        return value if stored is None else stored


def _fenced(progress: rules.Progress, found: rules.Progress | None) -> FencedError:
    now = "there is no item" if found is None else f"epoch {found.epoch} of {found.owner}"
    return FencedError(f"{progress.app} {progress.shard}: epoch {progress.epoch} is void, {now}")


class DynamoProgressTable:
    """One DynamoDB table as a ProgressTable.

    Args:
        client: An aiobotocore DynamoDB client.
        table: Its name; keys as in `TABLE_DEFINITION`.
    """

    def __init__(self, client: Any, table: str) -> None:
        self._client = client
        self._table = table

    async def get(self, app: str, shard: str) -> rules.Progress | None:
        """See ProgressTable."""
        item = await self._get(app, shard)
        return None if item is None else _progress(item)

    async def put_claim(
        self, seen: rules.Progress | None, taken: rules.Progress
    ) -> rules.Progress | None:
        """See ProgressTable."""
        written: dict[str, Any] = {
            "epoch": taken.epoch,
            "owner": taken.owner,
            "beat": taken.beat,
            "released": taken.released,
            "write_id": taken.write_id,
            "crashes": taken.crashes,
        }
        if seen is None:
            condition, values = "attribute_not_exists(#app)", {}
        else:
            condition = "#epoch = :seen_epoch AND #beat = :seen_beat"
            values = {":seen_epoch": seen.epoch, ":seen_beat": seen.beat}
        item = await self._update(taken, written, condition, values)
        return None if item is None else _progress(item)

    async def put_progress(self, progress: rules.Progress, previous: str) -> bool:
        """See ProgressTable."""
        written = {
            "position": progress.position,
            "state_key": progress.state_key,
            "state": progress.state,
            "intent": progress.intent,
            "released": progress.released,
            "expires_at": progress.expires_at,
            "write_id": progress.write_id,
            "crashes": progress.crashes,
            "suspects": progress.suspects,
            "poison": progress.poison or None,
        }
        condition = "#epoch = :held AND #released = :no AND #write_id = :previous"
        values = {":held": progress.epoch, ":no": False, ":previous": previous}
        return await self._update(progress, written, condition, values) is not None

    async def put_beat(self, progress: rules.Progress) -> bool:
        """See ProgressTable."""
        condition = "#epoch = :held AND #released = :no"
        values = {":held": progress.epoch, ":no": False}
        item = await self._update(progress, {"beat": progress.beat}, condition, values)
        return item is not None

    async def put_fact(self, key: str, value: str) -> bool:
        """See ProgressTable."""
        fact = rules.Progress(FACTS_APP, key)
        condition = "attribute_not_exists(#app)"
        return await self._update(fact, {"fact": value}, condition, {}) is not None

    async def get_fact(self, key: str) -> str | None:
        """See ProgressTable."""
        item = await self._get(FACTS_APP, key)
        return None if item is None else str(item["fact"]["S"])

    async def _get(self, app: str, shard: str) -> dict[str, Any] | None:
        with aws.map_exceptions("dynamodb:GetItem", table=self._table):
            answer = await self._client.get_item(
                TableName=self._table, Key=_key(app, shard), ConsistentRead=True
            )
        item: dict[str, Any] | None = answer.get("Item")
        return item

    async def _update(
        self,
        at: rules.Progress,
        written: Mapping[str, Any],
        condition: str,
        values: Mapping[str, Any],
    ) -> dict[str, Any] | None:
        """One UpdateItem; the item after it, or None when the condition does not hold."""
        kept = {name: value for name, value in written.items() if value is not None}
        gone = [f"#{name}" for name in written if name not in kept]
        update = "SET " + ", ".join(f"#{name} = :{name}" for name in kept)
        if gone:
            update += " REMOVE " + ", ".join(gone)
        bound = {**{f":{name}": value for name, value in kept.items()}, **values}
        used = set(re.findall(r"#(\w+)", update + condition))
        arguments: dict[str, Any] = {
            "TableName": self._table,
            "Key": _key(at.app, at.shard),
            "UpdateExpression": update,
            "ConditionExpression": condition,
            "ExpressionAttributeNames": {f"#{name}": name for name in used},
            "ExpressionAttributeValues": {name: _typed(value) for name, value in bound.items()},
            "ReturnValues": "ALL_NEW",
        }
        return await self._update_item(arguments)

    async def _update_item(self, arguments: Mapping[str, Any]) -> dict[str, Any] | None:
        try:
            with aws.map_exceptions("dynamodb:UpdateItem", table=self._table):
                answer = await self._client.update_item(**arguments)
        except ClientError as error:
            if error.response["Error"]["Code"] == "ConditionalCheckFailedException":
                return None
            raise
        item: dict[str, Any] = answer["Attributes"]
        return item


class DynamoProgressStore(ConditionalStore):
    """The ProgressStore of production.

    Args:
        client: An aiobotocore DynamoDB client.
        table: The table's name.
        retry: How to repeat what may heal.
    """

    def __init__(self, client: Any, table: str, retry: Retry | None = None) -> None:
        super().__init__(DynamoProgressTable(client, table), retry)


def _key(app: str, shard: str) -> dict[str, Any]:
    return {"app": {"S": app}, "shard": {"S": shard}}


def _typed(value: Any) -> dict[str, Any]:
    """A value in DynamoDB's wire types; a field that is None is left out."""
    match value:
        case bool():
            return {"BOOL": value}
        case int():
            return {"N": str(value)}
        case bytes():
            return {"B": value}
        case tuple():
            return {"L": [_typed(each) for each in value]}
        case rules.Cut() | Suspects():
            named = {each.name: getattr(value, each.name) for each in fields(value)}
            return {"M": {name: _typed(each) for name, each in named.items() if each is not None}}
        case _:
            return {"S": value}


def _plain(typed: Mapping[str, Any]) -> Any:
    """The value in one of DynamoDB's wire types."""
    ((kind, value),) = typed.items()
    if kind == "M":
        return {name: _plain(each) for name, each in value.items()}
    if kind == "L":
        return tuple(_plain(each) for each in value)
    return int(value) if kind == "N" else value


def _progress(item: Mapping[str, Any]) -> rules.Progress:
    # A newer release may have added attributes; while both run, the older one leaves them alone.
    known = item.keys() & {field.name for field in fields(rules.Progress)}
    plain = {name: _plain(item[name]) for name in known}
    if "intent" in plain:
        plain["intent"] = rules.Cut(**{"after": None, **plain["intent"]})
    if "suspects" in plain:
        plain["suspects"] = Suspects(**{"after": None, **plain["suspects"]})
    return rules.Progress(**plain)
