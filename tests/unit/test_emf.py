"""Embedded Metric Format: what CloudWatch takes out of our log."""

import asyncio
import json
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Gauge

from telemill import emf, metrics
from transform.__main__ import main as transform_main

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


def emitted(lines: Lines) -> set[tuple[str, tuple[str, ...]]]:
    """Every metric with each set of names of dimensions it was emitted under."""
    return {
        (metric["Name"], tuple(dimensions))
        for document in lines.documents
        for directive in document["_aws"]["CloudWatchMetrics"]
        for metric in directive["Metrics"]
        for dimensions in directive["Dimensions"]
    }


def of_a_sink() -> CollectorRegistry:
    """A sink's metrics with a shard and a reason."""
    registry = CollectorRegistry()
    built = metrics.Metrics(registry, "sink")
    built.behind("shardId-0", 7)
    built.rejected.labels("bad_time").inc(3)
    built.lag_seconds.observe(1.5)
    return registry


def test_only_what_is_watched() -> None:
    """`watched` leaves the dimensions nobody looks at, and adds up what had them."""
    lines = Lines()
    emitter(of_a_sink(), lines, selection=emf.selection("watched")).emit()
    found = emitted(lines)
    assert ("telemill_worst_millis_behind_latest", ("service",)) in found
    assert ("telemill_rejected_total", ("service",)) in found
    assert ("telemill_lag_seconds_sum", ("service",)) in found
    assert {names for _, names in found} == {("service",)}
    assert "telemill_millis_behind_latest" not in {name for name, _ in found}
    for document in lines.documents:
        conforms(document)


def test_only_what_is_named() -> None:
    """Named metrics, with or without our prefix, come under all their labels, others not at all."""
    lines = Lines()
    chosen = emf.selection("lag_seconds, telemill_millis_behind_latest")
    emitter(of_a_sink(), lines, selection=chosen).emit()
    assert emitted(lines) == {
        ("telemill_lag_seconds_count", ("service",)),
        ("telemill_lag_seconds_sum", ("service",)),
        ("telemill_millis_behind_latest", ("service",)),
        ("telemill_millis_behind_latest", ("service", "shard")),
    }


def test_all_is_everything() -> None:
    """The default selects nothing out."""
    assert emf.selection("all") is None


@pytest.mark.parametrize(
    "value", ["lag", "all,lag_seconds", "watched,watched", ",", "lag_seconds "]
)
def test_a_metric_that_does_not_exist_is_refused(
    value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2 and the setting's name; blanks around a name are no fault."""
    monkeypatch.setenv("TRANSFORM_EMF_METRICS", value)
    with pytest.raises(SystemExit) as ended:
        transform_main(["--check"])
    said = capsys.readouterr()
    if value.strip() == "lag_seconds":
        assert (ended.value.code, said.err) == (0, "")
    else:
        assert ended.value.code == 2
        assert "TRANSFORM_EMF_METRICS" in said.err
