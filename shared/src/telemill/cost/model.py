"""What the load costs a month, line by line. Pure."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from telemill import emf, metrics
from telemill.cost import load
from telemill.cost.load import SECONDS_PER_MONTH, Fleet
from telemill.cost.prices import Prices

GB = 1e9
HOURS = 730.0
PUT_UNIT_BYTES = 25_000
KIB = 1024
HEARTBEAT_SECONDS = 3.0
INFREQUENT_MONTH, GLACIER_MONTH, ARCHIVE_MONTH, LAST_MONTH = 1, 3, 12, 36
"""When objects change their storage class: infra/resources/lake.py, in months."""
CLASSES = ("standard", "infrequent", "glacier_instant", "deep_archive")
SMALLEST_MOVED_BYTES = 128 * 1024
"""S3 user guide: by default lifecycle rules leave smaller objects where they are."""
ARCHIVE_SECONDS, ARCHIVE_BYTES = 300, 64 * 2**20
"""Firehose's buffer: infra/resources/streams.py."""
ENDPOINTS, ZONES = 7, 2
ALARM_METRICS, COMPOSITES = 48, 2
LOG_BYTES_PER_BATCH = 500
EMF_BYTES_PER_METRIC = 60
EXTENDED_DAYS = 6
STATE_ITEM_WRITES = 1
LABEL_VALUES = {"shard": 0, "field": 7, "outcome": 6, "operation": 5, "reason": 4, "status": 3}
"""How many values a label has in a quiet month; `shard` is counted from the load."""
OTHER_LABEL_VALUES = 2
UNUSED = frozenset({"spans"})
"""Metrics that are emitted only where tracing is on."""

APPLICATIONS = {
    "ingest": "ingest",
    "transform": "transform",
    "anomaly": "anomaly",
    "sink-readings": "sink",
    "sink-scores": "sink",
}


@dataclass(frozen=True, slots=True)
class Choices:
    """What the operator decides besides the fleet.

    Attributes:
        on_demand: Streams without shards to choose.
        fan_out: Enhanced fan-out for every reader.
        private_link: Interface endpoints.
        archive: Raw records on S3 by Firehose.
        scanned_gb: By Athena, a month.
        month: How long it has been running: storage grows until the 36th month.
        watched_metrics: EMF holds only what alarms, dashboard and scaling look at.
    """

    on_demand: bool = False
    fan_out: bool = False
    private_link: bool = False
    archive: bool = True
    scanned_gb: float = 10.0
    watched_metrics: bool = False
    month: int = 12


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the estimate.

    Attributes:
        service: Of AWS.
        what: Is paid for.
        quantity: How much a month.
        unit: Of the quantity.
        usd: A month.
    """

    service: str
    what: str
    quantity: float
    unit: str
    usd: float


def estimate(fleet: Fleet, chosen: Choices, prices: Prices) -> list[Line]:
    """Every line, in the order of the page."""
    parts: tuple[Callable[[Fleet, Choices, Prices], Iterator[Line]], ...] = (
        _kinesis,
        _fargate,
        _s3,
        _dynamodb,
        _athena,
        _cloudwatch,
        _network,
        _others,
    )
    return [line for part in parts for line in part(fleet, chosen, prices)]


def total(lines: list[Line]) -> float:
    """US dollars a month."""
    return math.fsum(line.usd for line in lines)


def _kinesis(fleet: Fleet, chosen: Choices, prices: Prices) -> Iterator[Line]:
    by_stream = load.streams(fleet)
    if chosen.on_demand:
        yield from _on_demand(by_stream, prices)
        return
    shard_hours = sum(each.shards for each in by_stream.values()) * HOURS
    units = sum(
        each.records_per_second * math.ceil(each.record_bytes / PUT_UNIT_BYTES)
        for each in by_stream.values()
    )
    yield _priced(prices, "kinesis", "shards", shard_hours, "shard hours", "shard_hour")
    yield _priced(
        prices,
        "kinesis",
        "days 2 to 7 of retention",
        shard_hours,
        "shard hours",
        "extended_shard_hour",
    )
    yield _priced(
        prices,
        "kinesis",
        "records put",
        units * SECONDS_PER_MONTH / 1e6,
        "million units",
        "put_unit_million",
    )
    if chosen.fan_out:
        consumers = sum(by_stream[stream].shards for stream in load.READERS.values()) * HOURS
        yield _priced(prices, "kinesis", "fan-out", consumers, "shard hours", "fan_out_shard_hour")
        read = _read_bytes_per_second(fleet) * SECONDS_PER_MONTH / GB
        yield _priced(prices, "kinesis", "fan-out", read, "GB", "fan_out_gb")


def _on_demand(by_stream: dict[str, load.StreamLoad], prices: Prices) -> Iterator[Line]:
    written = sum(
        each.records_per_second * math.ceil(each.record_bytes / KIB) * KIB
        for each in by_stream.values()
    )
    read = sum(
        by_stream[stream].records_per_second * math.ceil(by_stream[stream].record_bytes / KIB) * KIB
        for stream in load.READERS.values()
    )
    month = SECONDS_PER_MONTH / GB
    kept = written * EXTENDED_DAYS * 86_400 / GB
    yield _priced(
        prices,
        "kinesis",
        "streams",
        len(by_stream) * HOURS,
        "stream hours",
        "on_demand_stream_hour",
    )
    yield _priced(prices, "kinesis", "written", written * month, "GB", "on_demand_in_gb")
    yield _priced(prices, "kinesis", "read", read * month, "GB", "on_demand_out_gb")
    yield _priced(
        prices, "kinesis", "days 2 to 7 of retention", kept, "GB", "on_demand_extended_gb_month"
    )


def _read_bytes_per_second(fleet: Fleet) -> float:
    by_stream = load.streams(fleet)
    return sum(by_stream[stream].bytes_per_second for stream in load.READERS.values())


def _fargate(fleet: Fleet, _: Choices, prices: Prices) -> Iterator[Line]:
    """On demand; what runs on Spot beyond the first task is cheaper."""
    hours = sum(load.tasks(fleet).values()) * HOURS
    yield _priced(prices, "fargate", "CPU", hours * load.TASK_VCPU, "vCPU hours", "vcpu_hour")
    yield _priced(prices, "fargate", "memory", hours * load.TASK_GB, "GB hours", "gb_hour")


def _s3(fleet: Fleet, chosen: Choices, prices: Prices) -> Iterator[Line]:
    by_stream = load.streams(fleet)
    objects = sum(
        load.cuts_per_second(fleet, by_stream[table].shards) for table in ("readings", "scores")
    )
    states = sum(
        by_stream[load.READERS[name]].shards / fleet.commit_interval_seconds
        for name in ("transform", "anomaly")
    )
    yield _priced(
        prices, "s3", "objects put", objects * SECONDS_PER_MONTH / 1000, "thousand", "put_thousand"
    )
    yield _priced(
        prices, "s3", "states put", states * SECONDS_PER_MONTH / 1000, "thousand", "put_thousand"
    )
    months = SECONDS_PER_MONTH / GB
    for table, growth in load.table_bytes_per_second(fleet).items():
        count = load.cuts_per_second(fleet, by_stream[table].shards)
        yield from _kept(prices, table, growth * months, chosen.month, growth / count)
        if growth / count >= SMALLEST_MOVED_BYTES:
            yield from _moved(prices, table, count * SECONDS_PER_MONTH / 1000, chosen.month)
    if chosen.archive:
        raw = by_stream["readings-raw"].bytes_per_second
        size = min(raw * ARCHIVE_SECONDS, ARCHIVE_BYTES)
        yield from _kept(prices, "raw archive", raw * months, chosen.month, size)


def _kept(
    prices: Prices, what: str, gb_per_month: float, month: int, object_bytes: float
) -> Iterator[Line]:
    """What has gathered by a month, by storage class; small objects stay where they are."""
    bounds: tuple[int, ...] = (0, INFREQUENT_MONTH, GLACIER_MONTH, ARCHIVE_MONTH, LAST_MONTH)
    if object_bytes < SMALLEST_MOVED_BYTES:
        bounds = (0, LAST_MONTH)
    for kind, youngest, oldest in zip(CLASSES, bounds, bounds[1:], strict=False):
        held = max(0, min(month, oldest) - youngest) * gb_per_month
        if held:
            named = f"{what}, {kind.replace('_', ' ')}"
            yield _priced(prices, "s3", named, held, "GB", f"{kind}_gb_month")


def _moved(prices: Prices, what: str, thousands: float, month: int) -> Iterator[Line]:
    """Each object pays for each move."""
    ages = (INFREQUENT_MONTH, GLACIER_MONTH, ARCHIVE_MONTH)
    for kind, age in zip(CLASSES[1:], ages, strict=True):
        if month > age:
            named = f"{what}, moved to {kind.replace('_', ' ')}"
            yield _priced(prices, "s3", named, thousands, "thousand", f"to_{kind}_thousand")


def _dynamodb(fleet: Fleet, _: Choices, prices: Prices) -> Iterator[Line]:
    by_stream = load.streams(fleet)
    writes = 1 / HEARTBEAT_SECONDS  # ingest's leases
    for name, stream in load.READERS.items():
        interval = fleet.commit_interval_seconds
        saves = 1.0
        if name.startswith("sink"):
            interval, saves = fleet.flush_interval_seconds, 2.0  # the cut, then the position
        writes += by_stream[stream].shards * (
            1 / HEARTBEAT_SECONDS + saves * STATE_ITEM_WRITES / interval
        )
    millions = writes * SECONDS_PER_MONTH / 1e6
    reads = SECONDS_PER_MONTH / HEARTBEAT_SECONDS / 1e6
    yield _priced(prices, "dynamodb", "progress written", millions, "million", "write_million")
    yield _priced(prices, "dynamodb", "device leases read", reads, "million", "read_million")


def _athena(_: Fleet, chosen: Choices, prices: Prices) -> Iterator[Line]:
    terabytes = chosen.scanned_gb / 1000
    yield _priced(prices, "athena", "scanned", terabytes, "TB", "scanned_tb")


def _cloudwatch(fleet: Fleet, chosen: Choices, prices: Prices) -> Iterator[Line]:
    count = metric_count(fleet, watched=chosen.watched_metrics)
    yield _priced(prices, "cloudwatch", "metrics", count, "metrics", "metric_month")
    yield _priced(prices, "cloudwatch", "alarms", ALARM_METRICS, "metrics", "alarm_metric_month")
    yield _priced(prices, "cloudwatch", "composite alarms", COMPOSITES, "alarms", "composite_month")
    yield _priced(prices, "cloudwatch", "dashboard", 1, "dashboards", "dashboard_month")
    by_stream = load.streams(fleet)
    batches = sum(by_stream[each].shards for each in load.READERS.values())
    emf = count * EMF_BYTES_PER_METRIC / 60
    logged = (
        batches * LOG_BYTES_PER_BATCH / fleet.commit_interval_seconds + emf
    ) * SECONDS_PER_MONTH
    yield _priced(prices, "cloudwatch", "logs", logged / GB, "GB", "log_gb")


def metric_count(fleet: Fleet, *, watched: bool = False) -> int:
    """How many metrics CloudWatch bills: each name with each set of dimension values."""
    selection = emf.LOOKED_AT if watched else None
    by_stream = load.streams(fleet)
    count = 0
    for application, service in APPLICATIONS.items():
        stream = load.READERS.get(application)
        shards = by_stream[stream].shards if stream else 0
        for row in metrics.table():
            if service in row.services and row.attribute not in UNUSED:
                parts = 2 if row.buckets else 1
                sets = emf.dimension_sets(["service", *row.labels])
                if selection is not None:
                    chosen = selection.get(row.name, frozenset())
                    sets = [each for each in sets if chosen is None or tuple(each[1:]) in chosen]
                count += parts * sum(_combinations(each[1:], shards) for each in sets)
    return count


def _combinations(labels: Sequence[str], shards: int) -> int:
    """How many values some labels have together."""
    return math.prod(
        shards if label == "shard" else LABEL_VALUES.get(label, OTHER_LABEL_VALUES)
        for label in labels
    )


def _network(fleet: Fleet, chosen: Choices, prices: Prices) -> Iterator[Line]:
    by_stream = load.streams(fleet)
    written = sum(each.bytes_per_second for each in by_stream.values())
    flowing = (written + _read_bytes_per_second(fleet)) * SECONDS_PER_MONTH / GB
    yield _priced(prices, "network", "NAT gateway", HOURS, "hours", "nat_hour")
    if chosen.private_link:
        hours = ENDPOINTS * ZONES * HOURS
        yield _priced(prices, "network", "endpoints", hours, "hours", "endpoint_hour")
        yield _priced(prices, "network", "through endpoints", flowing, "GB", "endpoint_gb")
    else:
        yield _priced(prices, "network", "through the NAT gateway", flowing, "GB", "nat_gb")


def _others(fleet: Fleet, chosen: Choices, prices: Prices) -> Iterator[Line]:
    raw = load.streams(fleet)["readings-raw"]
    if chosen.archive:
        size = raw.records_per_second * math.ceil(raw.record_bytes / 5000) * 5000
        yield _priced(prices, "firehose", "raw archive", size * SECONDS_PER_MONTH / GB, "GB", "gb")
    yield _priced(prices, "kms", "key", 1, "keys", "key_month")
    objects = sum(load.cuts_per_second(fleet, raw.shards) for _ in range(2))
    events = objects * SECONDS_PER_MONTH / 1e5
    yield _priced(prices, "cloudtrail", "data events", events, "100 thousand", "data_events_100k")


def _priced(
    prices: Prices, service: str, what: str, quantity: float, unit: str, price: str
) -> Line:
    return Line(service, what, quantity, unit, quantity * prices.of(service, price))
