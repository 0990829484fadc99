"""The registry as CloudWatch Embedded Metric Format: one JSON object a line.

CloudWatch takes the metrics out of the log, so nothing has to be scraped. Counters and
histograms (as `_count` and `_sum`) are the difference to the last emission, because CloudWatch
adds values up; gauges are as they are. Dimensions are `service` and the metric's own labels; each
value is also counted under `service` alone, because an alarm or a scaling policy cannot search
over shards or reasons (see `dimension_sets`).

Source:
    Amazon CloudWatch user guide, "Specification: Embedded metric format": at most 100 metrics
    and 30 dimensions a directive, timestamp in epoch milliseconds, values are numbers.
"""

import asyncio
import json
import math
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from telemill import metrics

NAMESPACE = "Telemill"
MAX_METRICS = 100
PREFIX = "telemill_"
UNITS = (("_seconds", "Seconds"), ("_bytes", "Bytes"), ("millis_behind_latest", "Milliseconds"))

ALL, WATCHED = "all", "watched"

DimensionNames = tuple[str, ...]
Selection = Mapping[str, frozenset[DimensionNames] | None]
"""What is emitted: a metric as docs/metrics.md names it, and under which of its own labels; None is
under all."""

_ALONE: frozenset[DimensionNames] = frozenset({()})
_BY_OUTCOME: frozenset[DimensionNames] = frozenset({(), ("outcome",)})
LOOKED_AT: Selection = {
    "telemill_anomalies_total": _ALONE,
    "telemill_batch_seconds": _ALONE,
    "telemill_breaker_state": _ALONE,
    "telemill_buffered_bytes": _ALONE,
    "telemill_duplicates_total": _ALONE,
    "telemill_field_checks_total": _BY_OUTCOME,
    "telemill_lag_seconds": _ALONE,
    "telemill_late_total": _ALONE,
    "telemill_out_of_order_total": _ALONE,
    "telemill_poison_records_total": _ALONE,
    "telemill_polls_total": _BY_OUTCOME,
    "telemill_readings_in_total": _ALONE,
    "telemill_readings_out_total": _ALONE,
    "telemill_ready": _ALONE,
    "telemill_rejected_total": _ALONE,
    "telemill_retries_total": _ALONE,
    "telemill_rows_written_total": _ALONE,
    "telemill_throttles_total": _ALONE,
    "telemill_worst_millis_behind_latest": _ALONE,
}
"""What alarms, dashboard and scaling of infra/ and k8s/ look at; a test holds them equal."""

Labels = tuple[tuple[str, str], ...]
Sample = tuple[str, str, float]
Sets = tuple[DimensionNames, ...]


def _write(line: str) -> None:
    sys.stdout.write(line)
    sys.stdout.flush()


class Emitter:
    """Writes the registry's metrics every interval and once more at the end.

    Args:
        registry: What to emit; only names starting with `telemill_`.
        service: The dimension every metric has.
        interval_seconds: Time between emissions.
        selection: What to emit; None for everything.
        write: Takes a line with its newline.
        now: Unix time in seconds.
        sleep: Waits some seconds.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        service: str,
        *,
        interval_seconds: float = 60.0,
        selection: Selection | None = None,
        write: Callable[[str], Any] = _write,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
    ) -> None:
        self._registry = registry
        self._service = service
        self._interval_seconds = interval_seconds
        self._selection = selection
        self._write = write
        self._now = now
        self._sleep = sleep
        self._last: dict[tuple[str, Labels], float] = {}

    async def run(self) -> None:
        """Emit until cancelled; what has gathered since then is emitted before it ends."""
        try:
            while True:
                await self._sleep(self._interval_seconds)
                self.emit()
        finally:
            self.emit()

    def emit(self) -> None:
        """Write what has changed since the last call, and the gauges."""
        for line in self._lines():
            self._write(line)

    def _lines(self) -> Iterator[str]:
        timestamp = int(self._now() * 1000)
        groups: dict[tuple[Labels, Sets], list[Sample]] = {}
        for metric in self._registry.collect():
            for labels, sample in self._samples(metric):
                sets = self._sets(sample[0], [name for name, _ in labels])
                if sets:
                    groups.setdefault((labels, sets), []).append(sample)
        for (labels, sets), samples in groups.items():
            for start in range(0, len(samples), MAX_METRICS):
                chunk = samples[start : start + MAX_METRICS]
                yield document(timestamp, {"service": self._service, **dict(labels)}, chunk, sets)

    def _sets(self, sample: str, labels: list[str]) -> Sets:
        """The sets of dimensions a sample is emitted under; none when it is not selected."""
        sets = tuple(tuple(each) for each in dimension_sets(["service", *labels]))
        if self._selection is None:
            return sets
        name = sample if sample in self._selection else sample.rpartition("_")[0]
        if name not in self._selection:
            return ()
        chosen = self._selection[name]
        return sets if chosen is None else tuple(each for each in sets if each[1:] in chosen)

    def _samples(self, metric: Metric) -> Iterator[tuple[Labels, Sample]]:
        if not metric.name.startswith(PREFIX):
            return
        for sample in metric.samples:
            if sample.name.endswith(("_bucket", "_created")) or not math.isfinite(sample.value):
                continue
            labels = tuple(sample.labels.items())
            value = sample.value
            if metric.type != "gauge":
                value -= self._last.get((sample.name, labels), 0.0)
                self._last[sample.name, labels] = sample.value
            yield labels, (sample.name, unit_of(sample.name), value)


def selection(text: str) -> Selection | None:
    """What a setting says: `all`, `watched`, or metrics with or without our prefix, by commas.

    Raises:
        ValueError: A word is none of these.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    if words == [ALL]:
        return None
    if words == [WATCHED]:
        return LOOKED_AT
    known = {row.name for row in metrics.table()}
    named = [word if word.startswith(PREFIX) else f"{PREFIX}{word}" for word in words]
    unknown = [word for word, name in zip(words, named, strict=True) if name not in known]
    if unknown or not named:
        raise ValueError(
            f"{ALL}, {WATCHED}, or names of docs/metrics.md; not {', '.join(unknown) or 'nothing'}"
        )
    return dict.fromkeys(named)


def unit_of(name: str) -> str:
    """CloudWatch's unit of a sample, from our naming."""
    if name.endswith("_count"):
        return "Count"
    stem = name.removesuffix("_sum").removesuffix("_total")
    for suffix, unit in UNITS:
        if stem.endswith(suffix):
            return "None" if name.endswith("_timestamp_seconds") else unit
    return "Count" if name.endswith("_total") else "None"


def dimension_sets(dimensions: Sequence[str]) -> list[list[str]]:
    """The sets of dimensions a value is counted under: labels leave from the left.

    `service, field, outcome` is also counted under `service, outcome` and under `service`. There
    the statistics Maximum (of a gauge) and Sum (of a counter) are over all that was left out.

    Args:
        dimensions: `service`, then the metric's own labels.
    """
    first, *labels = dimensions
    return [[first, *labels[start:]] for start in range(len(labels), -1, -1)]


def document(
    timestamp_ms: int, dimensions: dict[str, str], samples: list[Sample], sets: Sets
) -> str:
    """One line: the directive, the dimensions' values and the metrics' values."""
    directive = {
        "Namespace": NAMESPACE,
        "Dimensions": sets,
        "Metrics": [{"Name": name, "Unit": unit} for name, unit, _ in samples],
    }
    values = {name: value for name, _, value in samples}
    root = {"_aws": {"Timestamp": timestamp_ms, "CloudWatchMetrics": [directive]}}
    return json.dumps({**root, **dimensions, **values}, separators=(",", ":")) + "\n"
