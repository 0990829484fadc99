"""The live status: each service's /metrics, as rates."""

import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families
from rich.table import Table

from telemill.testing.processes import Process

Samples = dict[str, float]


def scrape(url: str) -> Samples:
    """All samples of one service, summed over their labels; empty while it does not answer."""
    try:
        with urllib.request.urlopen(f"{url}/metrics", timeout=2) as answer:  # noqa: S310
            text = answer.read().decode()
    except (OSError, urllib.error.URLError):
        return {}
    samples: Samples = defaultdict(float)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples[sample.name] += sample.value
    return dict(samples)


@dataclass(slots=True)
class Stage:
    """The last two looks at one service."""

    process: Process
    taken_at: float = 0.0
    samples: Samples = field(default_factory=dict)
    rate: float = 0.0
    lag_seconds: float = 0.0

    def update(self, now: float) -> None:
        """Look again."""
        samples = scrape(self.process.spec.url)
        if not samples:
            return
        done = _readings(samples)
        if self.samples and now > self.taken_at:
            self.rate = (done - _readings(self.samples)) / (now - self.taken_at)
            self._update_lag(samples)
        self.samples, self.taken_at = samples, now

    def _update_lag(self, samples: Samples) -> None:
        """Mean of the commits since the last look; unchanged when there was none."""
        count, total = "telemill_lag_seconds_count", "telemill_lag_seconds_sum"
        commits = samples.get(count, 0.0) - self.samples.get(count, 0.0)
        if commits > 0:
            self.lag_seconds = (samples[total] - self.samples.get(total, 0.0)) / commits

    def value(self, name: str) -> float:
        """A sample's value; 0 before the first look."""
        return self.samples.get(f"telemill_{name}", 0.0)


def _readings(samples: Mapping[str, float]) -> float:
    return max(
        samples.get("telemill_readings_out_total", 0.0),
        samples.get("telemill_rows_written_total", 0.0),
    )


def table(stages: Sequence[Stage], elapsed_seconds: float, total_seconds: float) -> Table:
    """What the terminal shows."""
    shown = Table(title=f"Telemill demo: {elapsed_seconds:.0f} of {total_seconds:.0f} s")
    shown.add_column("service")
    for column in ("readings", "readings/s", "lag s", "rejected", "alerts", "MB", "state"):
        shown.add_column(column, justify="right")
    for stage in stages:
        shown.add_row(
            stage.process.spec.name,
            f"{_readings(stage.samples):,.0f}",
            f"{stage.rate:,.1f}",
            f"{stage.lag_seconds:.1f}",
            f"{stage.value('rejected_total'):,.0f}",
            f"{stage.value('alerts_total'):,.0f}",
            f"{stage.process.rss_bytes() / 1e6:.0f}",
            _state(stage),
        )
    return shown


def line(stages: Sequence[Stage], elapsed_seconds: float) -> str:
    """The same in one line, where there is no terminal: readings (per second, lag)."""
    parts = [f"{elapsed_seconds:3.0f} s "]
    parts += [
        f"{stage.process.spec.name} {_readings(stage.samples):,.0f} ({stage.rate:,.0f}/s"
        + (f", {stage.lag_seconds:.1f} s)" if stage.lag_seconds else ")")
        for stage in stages
    ]
    return "  ".join(parts)


def _state(stage: Stage) -> str:
    if not stage.process.is_running():
        return "ended"
    if not stage.samples:
        return "starting"
    return "ready" if stage.value("ready") else "not ready"
