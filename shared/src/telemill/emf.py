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
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

NAMESPACE = "Telemill"
MAX_METRICS = 100
PREFIX = "telemill_"
UNITS = (("_seconds", "Seconds"), ("_bytes", "Bytes"), ("millis_behind_latest", "Milliseconds"))

Labels = tuple[tuple[str, str], ...]
Sample = tuple[str, str, float]


def _write(line: str) -> None:
    sys.stdout.write(line)
    sys.stdout.flush()


class Emitter:
    """Writes the registry's metrics every interval and once more at the end.

    Args:
        registry: What to emit; only names starting with `telemill_`.
        service: The dimension every metric has.
        interval_seconds: Time between emissions.
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
        write: Callable[[str], Any] = _write,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
    ) -> None:
        self._registry = registry
        self._service = service
        self._interval_seconds = interval_seconds
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
        groups: dict[Labels, list[Sample]] = {}
        for metric in self._registry.collect():
            for labels, sample in self._samples(metric):
                groups.setdefault(labels, []).append(sample)
        for labels, samples in groups.items():
            for start in range(0, len(samples), MAX_METRICS):
                chunk = samples[start : start + MAX_METRICS]
                yield document(timestamp, {"service": self._service, **dict(labels)}, chunk)

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


def document(timestamp_ms: int, dimensions: dict[str, str], samples: list[Sample]) -> str:
    """One line: the directive, the dimensions' values and the metrics' values."""
    directive = {
        "Namespace": NAMESPACE,
        "Dimensions": dimension_sets(list(dimensions)),
        "Metrics": [{"Name": name, "Unit": unit} for name, unit, _ in samples],
    }
    values = {name: value for name, _, value in samples}
    root = {"_aws": {"Timestamp": timestamp_ms, "CloudWatchMetrics": [directive]}}
    return json.dumps({**root, **dimensions, **values}, separators=(",", ":")) + "\n"
