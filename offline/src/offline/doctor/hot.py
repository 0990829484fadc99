"""Hot shards and hot devices: the last minute of each stream, sampled."""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from ingest.core import Router
from offline.doctor.finding import Finding, fail, ok, warn
from offline.doctor.lag import Reads
from offline.doctor.streams import Stream
from telemill import errors
from telemill.codec import raw
from telemill.contract import Contract
from telemill.cost.load import SHARD_BYTES_PER_SECOND, SHARD_RECORDS_PER_SECOND
from telemill.kinesis.records import Record, Shard

SAMPLE_SECONDS = 60.0
MAX_PAGES = 4
FIRST_RECORDS, MOST_RECORDS = 50, 500
SAMPLE_BYTES = 2 * 2**20
"""Of a shard: what is read here its consumers cannot read, and they share 2 MiB/s."""

WARN_FILL, FAIL_FILL = 0.6, 0.95
"""Of a shard's limits. Fuller than the first there is no room for catching up."""

HOT_TIMES_MEDIAN = 10.0
HOT_READINGS = 100
"""A device with so many readings a minute, and so many times the median's, is no usual one."""

FEWEST_DEVICES = 5
SHOWN_DEVICES = 3


@dataclass(slots=True)
class Sample:
    """What came to a shard lately.

    Attributes:
        seconds: How long the sample reaches.
        newest_us: Arrival of its last record.
        devices: Readings of each.
    """

    shard: Shard
    seconds: float
    records: int = 0
    size_bytes: int = 0
    newest_us: int = 0
    devices: Counter[str] = field(default_factory=Counter)

    def add(self, records: Sequence[Record], router: Router | None) -> None:
        """Count records; their devices too, when somebody can find them."""
        for each in records:
            self.records += 1
            self.size_bytes += len(each.data) + len(each.partition_key.encode())
            self.newest_us = each.arrival_us
            if router is not None:
                self.devices.update(_devices(router, self.shard, each))

    def next_limit(self) -> int:
        """How many records the next page may have; 0 when it is enough."""
        room = SAMPLE_BYTES - self.size_bytes
        mean = self.size_bytes / max(1, self.records)
        return max(0, min(MOST_RECORDS, int(room / max(1.0, mean))))

    @property
    def fill(self) -> float:
        """Share of the limit that is nearer."""
        return max(
            self.size_bytes / self.seconds / SHARD_BYTES_PER_SECOND,
            self.records / self.seconds / SHARD_RECORDS_PER_SECOND,
        )


async def sample(reads: Reads, shard: Shard, now: float, router: Router | None) -> Sample:
    """Read the last minute of a shard.

    Args:
        reads: Of the stream.
        shard: An open one.
        now: AWS's time, epoch seconds.
        router: Finds the devices in raw records; None: do not look for them.
    """
    began = now - SAMPLE_SECONDS
    start = {"ShardIteratorType": "AT_TIMESTAMP", "Timestamp": datetime.fromtimestamp(began, UTC)}
    iterator: str | None = await reads.iterator(shard, **start)
    found, limit = Sample(shard, SAMPLE_SECONDS), FIRST_RECORDS
    for _ in range(MAX_PAGES):
        if iterator is None:
            return found
        page = await reads.page(shard, iterator, limit)
        found.add(page.records, router)
        if not page.millis_behind_latest:
            return found
        limit, iterator = found.next_limit(), page.next_iterator
        if not limit:
            break
    # It did not reach the tip: the rate is that of the time it did reach.
    found.seconds = max(1.0, found.newest_us / 1_000_000 - began)
    return found


def _devices(router: Router, shard: Shard, record: Record) -> Counter[str]:
    """Readings of each device in a raw record; what cannot be read is the quarantine's."""
    try:
        documents, _ = raw.documents(record, shard)
        lines = [line for each in documents for line in raw.lines(each.data)]
    except errors.RecordError:
        return Counter()
    groups = router.route(lines).groups.values()
    return Counter(key for group in groups for key in group.keys)


async def check(
    reads: Reads, found: Stream, now: float, contract: Contract | None, slot_count: int
) -> list[Finding]:
    """The shards of a stream, and the devices on it if its records are raw (`contract`)."""
    router = None if contract is None else Router(contract, slot_count)
    samples = [await sample(reads, each, now, router) for each in found.open_shards]
    findings = check_shards(found.name, samples)
    if router is not None:
        findings += check_devices(found.name, samples, router)
    return findings


def check_shards(stream: str, samples: Sequence[Sample]) -> list[Finding]:
    """One finding for each shard that is full, or one for all."""
    findings = []
    for each in samples:
        says = (
            f"{each.records / each.seconds:,.0f} records/s, "
            f"{each.size_bytes / each.seconds / 1024:,.0f} KiB/s: {each.fill:.0%} of its limits"
        )
        advice = "split it, or double the stream's shards (docs/resharding.md)"
        if each.fill >= FAIL_FILL:
            findings.append(fail("hot shard", f"{stream} {each.shard.shard_id}", says, advice))
        elif each.fill >= WARN_FILL:
            findings.append(warn("hot shard", f"{stream} {each.shard.shard_id}", says, advice))
    fullest = max((each.fill for each in samples), default=0.0)
    return findings or [ok("hot shard", stream, f"the fullest is at {fullest:.0%} of its limits")]


def check_devices(stream: str, samples: Sequence[Sample], router: Router) -> list[Finding]:
    """Devices that send far more than the others."""
    counts: Counter[str] = Counter()
    for each in samples:
        counts.update(each.devices)
    if not counts:
        return [ok("hot device", stream, "no readings lately")]
    median = statistics.median(counts.values())
    hot = [
        (device, count)
        for device, count in counts.most_common(SHOWN_DEVICES)
        if count >= HOT_READINGS and count >= HOT_TIMES_MEDIAN * median
    ]
    if len(counts) < FEWEST_DEVICES or not hot:
        says = f"{len(counts)} devices, the busiest sent {max(counts.values())} readings"
        return [ok("hot device", stream, says)]
    advice = "a device's readings stay in one slot and so on one shard: let it send less often"
    return [
        warn(
            "hot device",
            f"{stream} device {device}",
            f"{count} readings lately, the median is {median:g}; slot {router.slot_of(device)}",
            advice,
        )
        for device, count in hot
    ]
