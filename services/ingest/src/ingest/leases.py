"""Keeps this replica's part of the fleet's agreement (`fleet`) and answers what it may poll."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import structlog
from botocore.exceptions import ClientError

from ingest import devices
from ingest import fleet as rules
from ingest.fleet import Fleet
from telemill import aws, errors
from telemill.health import Health
from telemill.metrics import Metrics

APP = "ingest-devices"
"""Hash key of the agreements in the progress table."""

PARTITION_COUNT = 64
"""Parts of a device list, and so the most replicas that share it. Not a setting: replicas that
differ in it would poll devices twice."""

MARGIN_SECONDS = 1.0
"""For clocks that run at slightly different rates and a loop that is late."""

WRITE_ATTEMPTS = 4
HEALTH_NAME = "device leases"
log = structlog.get_logger()


class FleetStore(Protocol):
    """Holds one agreement."""

    async def read(self) -> Fleet:
        """The newest agreement; never a stale one."""

    async def write(self, fleet: Fleet) -> bool:
        """Store an agreement if the stored version is the one before.

        Returns:
            False when another member wrote first. After a raise it may be written or not.
        """


class DynamoFleetStore:
    """The agreement as one item of the progress table.

    Args:
        dynamodb: An aiobotocore client.
        table: The progress table.
        group: What the fleet polls: replicas of one group share its devices.
    """

    def __init__(self, dynamodb: Any, table: str, group: str) -> None:
        self._dynamodb = dynamodb
        self._table = table
        self._key = {"app": {"S": APP}, "shard": {"S": group}}

    async def read(self) -> Fleet:
        """See `FleetStore`."""
        with aws.map_exceptions("dynamodb:GetItem", table=self._table):
            answer = await self._dynamodb.get_item(
                TableName=self._table, Key=self._key, ConsistentRead=True
            )
        item = answer.get("Item")
        return _fleet(item) if item else Fleet()

    async def write(self, fleet: Fleet) -> bool:
        """See `FleetStore`."""
        try:
            with aws.map_exceptions("dynamodb:PutItem", table=self._table):
                await self._dynamodb.put_item(
                    TableName=self._table,
                    Item=self._key | _attributes(fleet),
                    ConditionExpression="attribute_not_exists(app) OR version = :before",
                    ExpressionAttributeValues={":before": {"N": str(fleet.version - 1)}},
                )
        except ClientError as error:
            if error.response["Error"]["Code"] != "ConditionalCheckFailedException":
                raise
            return False
        return True


def _attributes(fleet: Fleet) -> dict[str, Any]:
    return {
        "version": {"N": str(fleet.version)},
        "beats": {"M": {name: {"N": str(beat)} for name, beat in fleet.beats.items()}},
        "owners": {"M": {str(each): {"S": owner} for each, owner in fleet.owners.items()}},
    }


def _fleet(item: Mapping[str, Any]) -> Fleet:
    return Fleet(
        int(item["version"]["N"]),
        {name: int(beat["N"]) for name, beat in item["beats"]["M"].items()},
        {int(each): owner["S"] for each, owner in item["owners"]["M"].items()},
    )


class EveryDevice:
    """The assignment of a replica that shares with nobody."""

    def may_poll(self, _device_key: str) -> bool:
        """Always."""
        return True


@dataclass(frozen=True, slots=True)
class Timing:
    """How fast replicas notice each other.

    Attributes:
        heartbeat_seconds: Between two rounds.
        expiry_seconds: A member silent for so long is dead.
        request_seconds: Longest one poll request can take.
        monotonic: Seconds.
        sleep: Waits.
    """

    heartbeat_seconds: float
    expiry_seconds: float
    request_seconds: float
    monotonic: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


class Leases:
    """This replica's partitions.

    Args:
        store: Holds the agreement.
        member: This process: unique, also among processes that follow one another.
        device_keys: All devices of the group.
        is_polling: Whether a poll of a device is under way.
        timing: How fast.
        health: Not ready while no agreement holds.
        metrics: Devices assigned.
    """

    def __init__(
        self,
        store: FleetStore,
        member: str,
        device_keys: Sequence[str],
        *,
        is_polling: Callable[[str], bool],
        timing: Timing,
        health: Health,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._member = member
        self._partitions = {key: devices.partition_of(key, PARTITION_COUNT) for key in device_keys}
        self._is_polling = is_polling
        self._timing = timing
        self._health = health
        self._metrics = metrics
        self._watch = rules.Watch(timing.expiry_seconds)
        self._polled: frozenset[int] = frozenset()
        self._surplus: frozenset[int] = frozenset()
        self._valid_until = float("-inf")
        health.set(HEALTH_NAME, "no agreement with the other replicas yet")

    def may_poll(self, device_key: str) -> bool:
        """Whether the device is ours for at least as long as one request can take."""
        ours = self._partitions[device_key] in self._polled
        return ours and self._timing.monotonic() < self._valid_until

    async def run(self) -> None:
        """Hold what we have and take our share, for ever."""
        while True:
            await self.renew()
            # Replicas started together must not stay in step: they would write against each other.
            await self._timing.sleep(self._timing.heartbeat_seconds * random.uniform(0.9, 1.1))  # noqa: S311

    async def renew(self) -> None:
        """One round. What fails is tried again in the next one; polling ends when too many fail."""
        try:
            agreed = await self._agree(self._advance)
        except errors.TelemillError as error:
            self._health.set(HEALTH_NAME, str(error))
            log.warning("ingest.leases_not_renewed", error=str(error))
            return
        if not agreed:
            log.warning("ingest.leases_not_renewed", error="other replicas were faster")

    async def leave(self) -> None:
        """Give everything up. To be called when no poll is under way any more."""
        self._polled = frozenset()
        try:
            await self._agree(lambda fleet: rules.leave(fleet, self._member))
        except errors.TelemillError as error:
            log.warning("ingest.leases_not_released", error=str(error))

    async def _agree(self, propose: Callable[[Fleet], Fleet]) -> bool:
        for _ in range(WRITE_ATTEMPTS):
            proposal = propose(await self._store.read())
            started = self._timing.monotonic()
            if await self._store.write(proposal):
                self._adopt(proposal, started)
                return True
        return False

    def _advance(self, fleet: Fleet) -> Fleet:
        dead = self._watch.observe(fleet, self._timing.monotonic()) - {self._member}
        return rules.advance(
            fleet,
            self._member,
            partition_count=PARTITION_COUNT,
            dead=dead,
            idle=self._surplus - self._busy(),
        )

    def _busy(self) -> frozenset[int]:
        return frozenset(
            partition for key, partition in self._partitions.items() if self._is_polling(key)
        )

    def _adopt(self, fleet: Fleet, started: float) -> None:
        timing = self._timing
        before = self._polled
        self._surplus = rules.surplus(fleet, self._member, PARTITION_COUNT)
        self._polled = fleet.held_by(self._member) - self._surplus
        usable_seconds = timing.expiry_seconds - timing.request_seconds - MARGIN_SECONDS
        self._valid_until = started + usable_seconds
        self._health.clear(HEALTH_NAME)
        counts = Counter(self._partitions.values())
        assigned = sum(counts[partition] for partition in self._polled)
        self._metrics.devices_assigned.set(assigned)
        if self._polled != before:
            log.info(
                "ingest.devices_assigned",
                devices=assigned,
                partitions=len(self._polled),
                replicas=len(fleet.beats),
            )
