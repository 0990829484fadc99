"""Embedded Metric Format: what CloudWatch takes out of our log."""

import asyncio
import json
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Gauge

from telemill import emf, metrics

NOW = 1_700_000_000.25


class Lines:
    """Collects what is emitted."""

    def __init__(self) -> None:
        self.documents: list[dict[str, Any]] = []

    def write(self, line: str) -> None:
        """Take one line."""
        assert line.endswith("\n")
        assert line.count("\n") == 1
        self.documents.append(json.loads(line))

    def value(self, name: str, **dimensions: str) -> Any:
        """The metric of the last line with these dimensions, or None."""
        for document in reversed(self.documents):
            (directive,) = document["_aws"]["CloudWatchMetrics"]
            names = directive["Dimensions"][-1]
            if {key: document[key] for key in names} == {"service": "sink", **dimensions}:
                return document.get(f"telemill_{name}")
        return None


def emitter(registry: CollectorRegistry, lines: Lines, **options: Any) -> emf.Emitter:
    """An emitter of the sink at a fixed time."""
    return emf.Emitter(registry, "sink", write=lines.write, now=lambda: NOW, **options)


def conforms(document: dict[str, Any]) -> None:
    """Hold one line against the specification."""
    assert document["_aws"]["Timestamp"] == int(NOW * 1000)
    (directive,) = document["_aws"]["CloudWatchMetrics"]
    assert directive["Namespace"] == "Telemill"
    assert directive["Dimensions"][0] == ["service"]
    for dimensions in directive["Dimensions"]:
        assert "service" in dimensions
        assert len(dimensions) <= 30
        assert all(isinstance(document[name], str) and document[name] for name in dimensions)
    assert 1 <= len(directive["Metrics"]) <= 100
    for metric in directive["Metrics"]:
        assert isinstance(document[metric["Name"]], float)
        assert metric["Unit"] in {"Seconds", "Milliseconds", "Bytes", "Count", "None"}


def test_every_metric_conforms() -> None:
    """Every line follows the specification, whatever metrics are set."""
    registry, lines = CollectorRegistry(), Lines()
    built = metrics.Metrics(registry)
    built.rejected.labels("schema").inc()
    built.field_checks.labels("sensor1", "ok").inc()
    built.request_seconds.labels("PutRecords").observe(0.1)
    emitter(registry, lines).emit()
    assert len(lines.documents) == 4
    for document in lines.documents:
        conforms(document)
    assert lines.value("rejected_total", reason="schema") == 1
    assert lines.value("request_seconds_sum", operation="PutRecords") == pytest.approx(0.1)


def test_values_are_also_counted_without_their_labels() -> None:
    """Alarms and scaling policies find a metric under its service alone, and by its last labels."""
    assert emf.dimension_sets(["service"]) == [["service"]]
    assert emf.dimension_sets(["service", "shard"]) == [["service"], ["service", "shard"]]
    assert emf.dimension_sets(["service", "field", "outcome"]) == [
        ["service"],
        ["service", "outcome"],
        ["service", "field", "outcome"],
    ]


def test_counters_are_differences_and_gauges_are_not() -> None:
    """A counter's line is what was added since the last, a gauge's its value."""
    registry, lines = CollectorRegistry(), Lines()
    built, emits = metrics.Metrics(registry), emitter(registry, lines)
    built.late.inc(3)
    built.open_shards.set(2)
    built.batch_seconds.observe(0.5)
    emits.emit()
    built.late.inc(4)
    built.batch_seconds.observe(1.5)
    emits.emit()
    assert lines.value("late_total") == 4
    assert lines.value("open_shards") == 2
    assert lines.value("batch_seconds_count") == 1
    assert lines.value("batch_seconds_sum") == 1.5


def test_at_most_100_metrics_a_line() -> None:
    """More than 100 metrics of one label set become several lines, none lost."""
    registry, lines = CollectorRegistry(), Lines()
    for number in range(205):
        Gauge(f"telemill_g{number}", "A gauge.", registry=registry).set(number)
    emitter(registry, lines).emit()
    sizes = [len(each["_aws"]["CloudWatchMetrics"][0]["Metrics"]) for each in lines.documents]
    assert sizes == [100, 100, 5]


def test_what_json_cannot_say_is_left_out() -> None:
    """NaN and infinity never reach a line."""
    registry, lines = CollectorRegistry(), Lines()
    Gauge("telemill_bad", "A gauge.", registry=registry).set(float("nan"))
    Gauge("telemill_worse", "A gauge.", registry=registry).set(float("inf"))
    Gauge("other", "Not ours.", registry=registry).set(1)
    emitter(registry, lines).emit()
    assert lines.documents == []


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("telemill_late_total", "Count"),
        ("telemill_object_bytes_total", "Bytes"),
        ("telemill_batch_seconds_sum", "Seconds"),
        ("telemill_batch_seconds_count", "Count"),
        ("telemill_millis_behind_latest", "Milliseconds"),
        ("telemill_last_commit_timestamp_seconds", "None"),
        ("telemill_open_shards", "None"),
    ],
)
def test_units(name: str, unit: str) -> None:
    """The unit follows from the name."""
    assert emf.unit_of(name) == unit


async def test_emits_every_interval_and_at_the_end() -> None:
    """The task emits after each interval, and what gathered since when it is cancelled."""
    registry, lines = CollectorRegistry(), Lines()
    built = metrics.Metrics(registry)
    waits: list[float] = []
    held = asyncio.Event()

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            held.set()
            await asyncio.get_running_loop().create_future()

    built.late.inc(1)
    task = asyncio.create_task(emitter(registry, lines, interval_seconds=30.0, sleep=sleep).run())
    await held.wait()
    assert lines.value("late_total") == 1
    built.late.inc(5)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    assert waits == [30.0, 30.0]
    assert lines.value("late_total") == 5
