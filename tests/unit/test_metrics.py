"""The table of metrics: names, labels, and what a core's counts become."""

import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter

from telemill import metrics

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    """What the registry shows."""
    return registry.get_sample_value(f"telemill_{name}", labels)


def test_docs_are_the_table() -> None:
    """docs/metrics.md lists exactly the metrics there are."""
    made = DOCS.read_text().partition("<!-- made by")[2].partition("-->\n")[2]
    assert made.partition("<!-- end -->")[0] == metrics.markdown_table()


@pytest.mark.parametrize("row", metrics.table(), ids=lambda row: row.attribute)
def test_names_follow_the_style(row: "metrics.Metric[Counter]") -> None:
    """Names have the prefix and a base unit, counters end in _total, labels are few."""
    assert re.fullmatch(r"telemill_[a-z][a-z_]*[a-z]", row.name)
    assert row.name.endswith("_total") == (row.kind is Counter)
    assert len(row.labels) <= 2
    assert set(row.services) <= set(metrics.ALL)


def test_counts_become_counters() -> None:
    """Every kind of key a core counts under reaches its metric."""
    registry = CollectorRegistry()
    metrics.Metrics(registry).apply(
        {
            ("readings_in",): 5,
            ("rejected", "schema"): 2,
            ("duplicate",): 1,
            ("late",): 3,
            ("field", "sensor1", "missing"): 4,
            ("reading", "problem"): 4,
            ("alert", "critical"): 1,
        }
    )
    assert value(registry, "readings_in_total") == 5
    assert value(registry, "rejected_total", reason="schema") == 2
    assert value(registry, "duplicates_total") == 1
    assert value(registry, "late_total") == 3
    assert value(registry, "field_checks_total", field="sensor1", outcome="missing") == 4
    assert value(registry, "reading_checks_total", outcome="problem") == 4
    assert value(registry, "alerts_total", severity="critical") == 1


@pytest.mark.parametrize("key", [("nonsense",), ("rejected",), ("late", "x"), ("lag_seconds",)])
def test_unknown_counts_are_refused(key: tuple[str, ...]) -> None:
    """A count without a counter is a bug that shows at once."""
    with pytest.raises(KeyError, match="no counter for"):
        metrics.Metrics(CollectorRegistry()).apply({key: 1})


def test_a_service_shows_its_own() -> None:
    """A service shows only its metrics, yet shared code may set any."""
    registry = CollectorRegistry()
    built = metrics.Metrics(registry, "sink")
    built.polls.labels("ok").inc()
    built.rows_written.inc(7)
    assert value(registry, "rows_written_total") == 7
    assert value(registry, "polls_total", outcome="ok") is None


def test_registries_are_apart() -> None:
    """Two instances share nothing: there is no global registry."""
    one, two = CollectorRegistry(), CollectorRegistry()
    metrics.Metrics(one).late.inc()
    metrics.Metrics(two)
    assert (value(one, "late_total"), value(two, "late_total")) == (1, 0)


def test_a_shard_leaves() -> None:
    """The label of a shard given up disappears, of one never seen too."""
    registry = CollectorRegistry()
    built = metrics.Metrics(registry)
    built.millis_behind_latest.labels("shardId-1").set(5)
    built.forget_shard("shardId-1")
    built.forget_shard("shardId-2")
    assert value(registry, "millis_behind_latest", shard="shardId-1") is None


def test_the_process_is_shown() -> None:
    """A service's registry also shows its memory and CPU time."""
    registry = metrics.new_registry()
    assert registry.get_sample_value("process_cpu_seconds_total") is not None
