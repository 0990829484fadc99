"""Streams: there, with as many shards as they should have, and slots spread over them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from offline.doctor.finding import Finding, fail, ok, warn
from offline.doctor.plant import Plant
from telemill import aws, slots
from telemill.cost import load
from telemill.kinesis.calls import StreamCalls
from telemill.kinesis.records import Shard
from telemill.progress.store import ProgressTable

ACTIVE = frozenset({"ACTIVE", "UPDATING"})
UNEVEN = 1.4
"""A shard with so many times its share of the slots is the first to be full."""


@dataclass(frozen=True, slots=True)
class Stream:
    """One that is there.

    Attributes:
        shards: Open and closed ones.
        opened: Ids of the open ones.
        retention_hours: Of records.
    """

    name: str
    incarnation: int
    status: str
    shards: Sequence[Shard]
    opened: frozenset[str]
    retention_hours: int

    @property
    def open_shards(self) -> list[Shard]:
        """Those that take records."""
        return [each for each in self.shards if each.shard_id in self.opened]


async def describe(kinesis: Any, name: str, calls: StreamCalls) -> Stream:
    """What is to be known of a stream.

    Raises:
        MissingError: It is not there.
        ResourceError: It may not be described or listed.
    """
    with aws.map_exceptions("kinesis:DescribeStreamSummary", stream=name):
        answer = await kinesis.describe_stream_summary(StreamName=name)
    summary = answer["StreamDescriptionSummary"]
    incarnation = round(summary["StreamCreationTimestamp"].timestamp() * 1000)
    shards = await calls.list_shards(incarnation)
    parents = {parent for each in shards for parent in each.parents}
    return Stream(
        name,
        incarnation,
        summary["StreamStatus"],
        shards,
        # A shard that has children is closed; one without may only just have been.
        frozenset(each.shard_id for each in shards if each.shard_id not in parents),
        int(summary.get("RetentionPeriodHours", 24)),
    )


async def check(
    found: Stream, plant: Plant, table: ProgressTable, expected: int | None
) -> list[Finding]:
    """Everything about one stream.

    Args:
        found: The stream.
        plant: The deployment.
        table: Where the number of slots was fixed.
        expected: Shards it was deployed with; None: nobody said.
    """
    count = plant.streams[found.name]
    return [
        *_status(found, expected),
        *_slots(found, count, await table.get_fact(f"slots/{found.name}/{found.incarnation}")),
        *_load(found, plant),
        *_retention(found, plant),
    ]


def _status(found: Stream, expected: int | None) -> list[Finding]:
    opened = len(found.open_shards)
    says = f"{opened} open shards, {found.status}"
    if found.status not in ACTIVE:
        return [fail("stream", found.name, says, "wait until it is ACTIVE")]
    if expected is not None and opened < expected:
        advice = f"aws kinesis update-shard-count --stream-name {found.name}"
        advice += f" --target-shard-count {expected} --scaling-type UNIFORM_SCALING"
        return [fail("shards", found.name, f"{opened} open, {expected} expected", advice)]
    return [ok("stream", found.name, says)]


def _slots(found: Stream, count: int, fixed: str | None) -> list[Finding]:
    if fixed is not None and fixed != str(count):
        says = f"{fixed} slots for its life, the settings say {count}"
        return [fail("slots", found.name, says, f"set …_SLOT_COUNT={fixed} for every service")]
    spread = spread_of(found, count)
    empty = sum(not each for each in spread.values())
    if empty:
        says = f"{empty} of {len(spread)} open shards hold none of the {count} slots"
        return [warn("slots", found.name, says, "merge them: they cost and carry nothing")]
    most, share = max(spread.values(), default=0), count / max(1, len(spread))
    if most > UNEVEN * share:
        says = f"one shard holds {most} of {count} slots, its share is {share:.0f}"
        return [warn("slots", found.name, says, "split the shard in the middle of its range")]
    return [ok("slots", found.name, f"{count}, at most {most} a shard")]


def spread_of(found: Stream, count: int) -> dict[str, int]:
    """Slots of each open shard."""
    return {
        each.shard_id: len(slots.slots_in(each.first_hash_key, each.last_hash_key, count))
        for each in found.open_shards
    }


def _load(found: Stream, plant: Plant) -> list[Finding]:
    if plant.fleet is None:
        return []
    offered = _offered(plant)[found.name]
    opened = len(found.open_shards)
    says = (
        f"{plant.fleet.devices} devices every {plant.fleet.interval_seconds:g} s are"
        f" {offered.records_per_second:,.1f} records/s,"
        f" {offered.bytes_per_second / 1024:,.1f} KiB/s"
    )
    if opened < offered.shards:
        advice = f"{offered.shards} shards keep each below {load.FILL:.0%}; see `telemill cost`"
        return [warn("load", found.name, f"{says} on {opened} shards", advice)]
    return [ok("load", found.name, says)]


def _offered(plant: Plant) -> Mapping[str, load.StreamLoad]:
    """By the names of this deployment."""
    assert plant.fleet is not None  # noqa: S101  # asked before
    return dict(zip(plant.streams, load.streams(plant.fleet).values(), strict=True))


def _retention(found: Stream, plant: Plant) -> list[Finding]:
    """Watermarks must outlive every replay: how far back the raw stream reaches."""
    if found.name != plant.ingest.raw_stream:
        return []
    sinks = [each.raw_retention_hours for each in plant.sinks]
    believed = min(plant.transform.raw_retention_hours, plant.anomaly.raw_retention_hours, *sinks)
    says = f"{found.retention_hours} h, the services count on {believed:g}"
    if believed < found.retention_hours:
        advice = f"set …_RAW_RETENTION_HOURS={found.retention_hours}: replays could be taken twice"
        return [fail("retention", found.name, says, advice)]
    return [ok("retention", found.name, says)]
