"""Every metric of every service, defined once.

Read `Metrics` as a table: one line is one metric. Names start with `telemill_` and end in their
base unit; labels are bounded sets (a shard leaves with `forget_shard`). `docs/metrics.md` is
generated from here, and a test holds the two equal.
"""

from collections.abc import Mapping
from typing import Generic, TypeVar, overload

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.metrics import MetricWrapperBase

M = TypeVar("M", bound=MetricWrapperBase)

SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
LATENCY_SECONDS = (0.5, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 60.0, 300.0, 3600.0)
SIZE_BYTES = tuple(float(1 << power) for power in range(10, 31, 2))

ALL = ("ingest", "transform", "sink", "anomaly")
READERS = ("transform", "sink", "anomaly")
WRITERS = ("ingest", "transform", "anomaly")


class Metric(Generic[M]):
    """One line of the table: says what to build, and is the built metric on an instance."""

    def __init__(
        self,
        kind: type[M],
        suffix: str,
        description: str,
        labels: tuple[str, ...] = (),
        services: tuple[str, ...] = ALL,
        buckets: tuple[float, ...] = (),
    ) -> None:
        self.kind = kind
        self.name = f"telemill_{suffix}"
        self.description = description
        self.labels = labels
        self.services = services
        self.buckets = buckets
        self.attribute = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.attribute = name

    @overload
    def __get__(self, instance: None, owner: type) -> "Metric[M]": ...
    @overload
    def __get__(self, instance: object, owner: type) -> M: ...
    def __get__(self, instance: object | None, owner: type) -> "Metric[M] | M":
        # Only the class gets here: an instance holds the built metric under the same name.
        return self

    def build(self, registry: CollectorRegistry | None) -> M:
        """Make the metric; without a registry it can be set but is shown nowhere."""
        if issubclass(self.kind, Histogram):
            return self.kind(
                self.name, self.description, self.labels, registry=registry, buckets=self.buckets
            )
        return self.kind(self.name, self.description, self.labels, registry=registry)


class Metrics:
    """The metrics of one process.

    Args:
        registry: Where they are registered; one per process, a fresh one per test.
        service: Registers only what this service has ("ingest", "transform", "sink", "anomaly");
            the others can still be set, shared code need not ask. None registers everything.
    """

    # What flows.
    records_in = Metric(
        Counter, "records_in_total", "Kinesis records read, or answers polled and bodies pushed"
    )
    readings_in = Metric(Counter, "readings_in_total", "Readings taken from those records")
    records_out = Metric(
        Counter, "records_out_total", "Kinesis records acknowledged", services=WRITERS
    )
    readings_out = Metric(
        Counter, "readings_out_total", "Readings or scores in what was acknowledged"
    )
    rejected = Metric(Counter, "rejected_total", "Records that cannot be a reading", ("reason",))
    replayed = Metric(
        Counter,
        "replayed_total",
        "Rows already taken, seen again after a producer's restart and dropped",
        services=("sink", "anomaly"),
    )
    outside_shard = Metric(
        Counter,
        "outside_shard_total",
        "Aggregated user records that hash outside their shard (the KCL's rule) and are dropped",
        services=("transform",),
    )

    # How good the readings are.
    field_checks = Metric(
        Counter,
        "field_checks_total",
        "Field values looked at; outcome: ok, missing, sentinel, out_of_range, wrong_type, unknown,"
        " untracked",
        ("field", "outcome"),
        ("transform",),
    )
    reading_checks = Metric(
        Counter,
        "reading_checks_total",
        "Readings looked at; outcome: ok, or problem when any field is not ok",
        ("outcome",),
        ("transform",),
    )
    duplicates = Metric(
        Counter,
        "duplicates_total",
        "Readings dropped: same key, same values",
        services=("transform",),
    )
    out_of_order = Metric(
        Counter,
        "out_of_order_total",
        "Readings older than one of their device taken before",
        services=("transform",),
    )
    late = Metric(
        Counter,
        "late_total",
        "Readings older on arrival than the contract allows; flagged and kept",
        services=("transform",),
    )

    # How fast.
    lag_seconds = Metric(
        Histogram,
        "lag_seconds",
        "At each commit, now minus the newest event time in it (sink: the oldest of the cut)",
        buckets=LATENCY_SECONDS,
    )
    millis_behind_latest = Metric(
        Gauge,
        "millis_behind_latest",
        "MillisBehindLatest as Kinesis reports it (milliseconds)",
        ("shard",),
        READERS,
    )
    worst_millis_behind_latest = Metric(
        Gauge,
        "worst_millis_behind_latest",
        "The largest of those of this worker's shards: what scales a service (milliseconds)",
        services=READERS,
    )
    total_millis_behind_latest = Metric(
        Gauge,
        "total_millis_behind_latest",
        "The sum of those of this worker's shards (milliseconds)",
        services=READERS,
    )
    batch_seconds = Metric(
        Histogram, "batch_seconds", "Time to work through one batch", buckets=SECONDS
    )
    request_seconds = Metric(
        Histogram,
        "request_seconds",
        "Time of one AWS request, retries apart",
        ("operation",),
        buckets=SECONDS,
    )
    retries = Metric(Counter, "retries_total", "Calls tried again", ("operation",))
    throttles = Metric(Counter, "throttles_total", "Calls AWS throttled", ("operation",))
    buffered_bytes = Metric(Gauge, "buffered_bytes", "Bytes waiting to be written")

    # Progress.
    last_commit_timestamp_seconds = Metric(
        Gauge,
        "last_commit_timestamp_seconds",
        "When the position last moved (Unix time)",
        ("shard",),
        READERS,
    )
    open_shards = Metric(
        Gauge, "open_shards", "Shards this worker holds a claim on", services=READERS
    )
    handovers = Metric(
        Counter,
        "handovers_total",
        "Shards that changed hands; way: taken, given, lost, ended",
        ("way",),
        READERS,
    )
    claims_lost = Metric(
        Counter,
        "claims_lost_total",
        "Shards dropped because the claim was void",
        services=READERS,
    )
    poison_records = Metric(
        Counter,
        "poison_records_total",
        "Records named poison after they ended worker after worker; quarantined whole",
        services=READERS,
    )
    state_bytes = Metric(Gauge, "state_bytes", "Size of the last state saved", ("shard",), READERS)
    spans = Metric(
        Counter,
        "spans_total",
        "Spans of traces; outcome: exported, or dropped when the collector does not take them",
        ("outcome",),
    )
    ready = Metric(Gauge, "ready", "1 when /readyz answers 200")

    # ingest.
    polls = Metric(
        Counter,
        "polls_total",
        "Polls of the FMS API; outcome: ok (Kinesis took it), not_found, timeout, http_error,"
        " refused, too_large, busy, unwritten, skipped",
        ("outcome",),
        ("ingest",),
    )
    poll_seconds = Metric(
        Histogram,
        "poll_seconds",
        "Time of one poll, retries apart",
        services=("ingest",),
        buckets=SECONDS,
    )
    breaker_state = Metric(
        Gauge,
        "breaker_state",
        "Circuit breaker of an API host: 0 closed, 1 half open, 2 open",
        ("host",),
        ("ingest",),
    )
    devices_assigned = Metric(
        Gauge, "devices_assigned", "Devices this replica polls", services=("ingest",)
    )
    devices_unknown = Metric(
        Gauge, "devices_unknown", "Devices the API does not know (404)", services=("ingest",)
    )
    pushes = Metric(
        Counter, "pushes_total", "Answers of POST /v1/readings", ("status",), ("ingest",)
    )
    push_seconds = Metric(
        Histogram,
        "push_seconds",
        "Time of one push until Kinesis acknowledged it",
        services=("ingest",),
        buckets=SECONDS,
    )

    # sink.
    objects_written = Metric(
        Counter, "objects_written_total", "Parquet objects written", services=("sink",)
    )
    objects_existing = Metric(
        Counter,
        "objects_existing_total",
        "Parquet objects found already written after a restart (412)",
        services=("sink",),
    )
    object_bytes = Metric(
        Counter, "object_bytes_total", "Bytes of Parquet written", services=("sink",)
    )
    rows_written = Metric(
        Counter, "rows_written_total", "Rows of Parquet written", services=("sink",)
    )
    open_partitions = Metric(
        Gauge, "open_partitions", "Hours with rows not yet written", services=("sink",)
    )

    # anomaly.
    alerts = Metric(Counter, "alerts_total", "Alerts raised", ("severity",), ("anomaly",))
    alerts_suppressed = Metric(
        Counter,
        "alerts_suppressed_total",
        "Alerts held back by the cool-down",
        services=("anomaly",),
    )
    anomalies = Metric(
        Counter, "anomalies_total", "Readings scored as anomalous", services=("anomaly",)
    )
    devices_tracked = Metric(
        Gauge, "devices_tracked", "Devices with a detector", services=("anomaly",)
    )

    def __init__(self, registry: CollectorRegistry, service: str | None = None) -> None:
        self.registry = registry
        self.service = service
        self._behind: dict[str, int] = {}
        for row in table():
            shown = service is None or service in row.services or service not in ALL
            vars(self)[row.attribute] = row.build(registry if shown else None)

    def apply(self, counts: Mapping[tuple[str, ...], int]) -> None:
        """Add what one step of a core counted.

        Args:
            counts: A key is a counter's name followed by its label values: `("late",)`,
                `("rejected", "schema")`, `("field", "sensor1", "ok")`. The name is one of
                `COUNT_NAMES` or the attribute itself.

        Raises:
            KeyError: No counter of that name, or another number of labels.
        """
        for (name, *labels), count in counts.items():
            row = _COUNTERS.get(COUNT_NAMES.get(name, name))
            if row is None or len(row.labels) != len(labels):
                raise KeyError(f"no counter for {(name, *labels)}")
            built: Counter = vars(self)[row.attribute]
            (built.labels(*labels) if labels else built).inc(count)

    def behind(self, shard_id: str, millis: int) -> None:
        """How far a shard's last page was behind, as Kinesis reported it."""
        self._behind[shard_id] = millis
        self.millis_behind_latest.labels(shard=shard_id).set(millis)
        self._show_behind()

    def forget_shard(self, shard_id: str) -> None:
        """Drop the label of a shard this worker no longer holds."""
        for row in table():
            if row.labels == ("shard",):
                vars(self)[row.attribute].remove(shard_id)
        self._behind.pop(shard_id, None)
        self._show_behind()

    def _show_behind(self) -> None:
        self.worst_millis_behind_latest.set(max(self._behind.values(), default=0))
        self.total_millis_behind_latest.set(sum(self._behind.values()))


COUNT_NAMES = {
    "duplicate": "duplicates",
    "field": "field_checks",
    "reading": "reading_checks",
    "alert": "alerts",
    "anomaly": "anomalies",
}
"""Names a core counts under (one of a thing) which differ from the attribute."""


def table() -> list[Metric[Counter] | Metric[Gauge] | Metric[Histogram]]:
    """The lines of the table, in order."""
    return [row for row in vars(Metrics).values() if isinstance(row, Metric)]


_COUNTERS = {row.attribute: row for row in table() if row.kind is Counter}


def new_registry() -> CollectorRegistry:
    """A registry which also shows the process's memory, CPU time and open files."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return registry


def markdown_table() -> str:
    """The table of `docs/metrics.md`."""
    lines = ["| metric | kind | labels | services | meaning |", "|---|---|---|---|---|"]
    for row in table():
        services = "all" if row.services == ALL else ", ".join(row.services)
        labels = ", ".join(row.labels) or "-"
        kind = row.kind.__name__.lower()
        lines.append(f"| `{row.name}` | {kind} | {labels} | {services} | {row.description} |")
    return "\n".join(lines) + "\n"
