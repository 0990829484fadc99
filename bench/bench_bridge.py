"""What the KCL costs a worker, compared with `single`. `python -m bench bridge`.

Transform alone, on eight shards, by turns on either coordinator: it starts, holds all shards, and
gets raw records of 500 readings. CPU seconds are those of the Python worker from then on until it
has taken all readings; the JVM's and the relays' are reported beside them. The least of several
runs counts, because a shared machine only ever adds.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

from bench import deployment, fleet, full_path, load
from bench.deployment import BenchError, Deployment
from bench.measurement import MEGABYTE, Measurement
from bench.settings import BenchSettings
from telemill.testing import proc
from telemill.testing.processes import Process

SHARDS = 8
TURNS = 4
MOST_PERCENT = 20.0
MOST_RSS_MB = 250.0
MOST_RELAY_MB = 3.0
SINGLE, KCL = "single", "kcl"
JAVA = "java"


class Used(NamedTuple):
    """Of one run: CPU seconds a million readings, and memory at its end.

    Attributes:
        worker: CPU seconds of the Python process.
        jvm: CPU seconds of the daemon; 0 without one.
        worker_rss_bytes: The most the Python process had.
        jvm_rss_bytes: The most the daemon had.
        relay_rss_bytes: Of each relay.
    """

    worker: float
    jvm: float
    worker_rss_bytes: int
    jvm_rss_bytes: int
    relay_rss_bytes: Sequence[int]


@dataclass(frozen=True, slots=True)
class Family:
    """A worker and what it has started."""

    worker: int
    jvm: int | None
    relays: Sequence[int]

    def cpu_seconds(self) -> tuple[float, float]:
        """Of the worker and of the JVM."""
        return proc.cpu_seconds(self.worker), proc.cpu_seconds(self.jvm) if self.jvm else 0.0


def measure() -> list[Measurement]:
    """Both, in turn."""
    settings = BenchSettings().model_copy(update={"shards": SHARDS})
    found: dict[str, list[Used]] = {SINGLE: [], KCL: []}
    for turn in range(TURNS):
        for coordinator in (SINGLE, KCL) if turn % 2 else (KCL, SINGLE):
            found[coordinator].append(_run(settings, coordinator))
    return _figures(found[SINGLE], found[KCL])


def _run(settings: BenchSettings, coordinator: str) -> Used:
    with (
        deployment.deployed(settings, f"bridge-{coordinator}") as made,
        _holding(made, coordinator) as process,
    ):
        family = _family(process.pid)
        worker_before, jvm_before = family.cpu_seconds()
        source = fleet.ending_now(settings.devices, full_path.INTERVAL_SECONDS, settings.readings)
        readings = load.preload(source, settings.readings, full_path.READINGS_PER_BATCH)
        running = {process.spec.name: process}
        deployment.wait_for_total("readings_in_total", readings, [process], running)
        worker_after, jvm_after = family.cpu_seconds()
        if deployment.total(process, "rejected_total"):
            raise BenchError(f"{coordinator}: readings were rejected, which costs something else")
        millions = readings / full_path.MILLION
        return Used(
            (worker_after - worker_before) / millions,
            (jvm_after - jvm_before) / millions,
            proc.peak_rss_bytes(family.worker),
            proc.peak_rss_bytes(family.jvm) if family.jvm else 0,
            [proc.rss_bytes(relay) for relay in family.relays],
        )


@contextmanager
def _holding(made: Deployment, coordinator: str) -> Iterator[Process]:
    """Transform, once it holds every shard."""
    service = replace(full_path.TRANSFORM, environment={"KINESIS_COORDINATOR": coordinator})
    with made.running([service]) as running:
        process = running[service.name]
        deployment.wait_for_total("open_shards", SHARDS, [process], running)
        yield process


def _family(pid: int) -> Family:
    below = proc.below(pid)
    jvms = [each for each in below if JAVA in proc.command(each)[0]]
    return Family(pid, jvms[0] if jvms else None, [each for each in below if each not in jvms])


def _figures(single: Sequence[Used], kcl: Sequence[Used]) -> list[Measurement]:
    unit = "CPU-s/M readings"
    least, compared = min(each.worker for each in kcl), min(each.worker for each in single)
    overhead = 100.0 * (least - compared) / compared
    jvm = min(each.jvm for each in kcl)
    peak = max(each.worker_rss_bytes for each in kcl) / MEGABYTE
    relay = max(max(each.relay_rss_bytes, default=0) for each in kcl) / MEGABYTE
    relays = len(kcl[-1].relay_rss_bytes)
    return [
        Measurement("overhead of the Python worker", overhead, "%", at_most=MOST_PERCENT),
        Measurement("single: transform", compared, unit, compared),
        Measurement(f"single: worst of {TURNS} runs", max(each.worker for each in single), unit),
        Measurement("kcl: transform", least, unit, least),
        Measurement(f"kcl: worst of {TURNS} runs", max(each.worker for each in kcl), unit),
        Measurement("kcl: JVM beside it", jvm, unit, jvm),
        Measurement(
            f"single: worker of {SHARDS} shards, peak RSS",
            max(each.worker_rss_bytes for each in single) / MEGABYTE,
            "MB",
        ),
        Measurement(f"kcl: worker of {SHARDS} shards, peak RSS", peak, "MB", at_most=MOST_RSS_MB),
        Measurement("kcl: JVM, peak RSS", max(each.jvm_rss_bytes for each in kcl) / MEGABYTE, "MB"),
        Measurement(f"kcl: largest of {relays} relays", relay, "MB", at_most=MOST_RELAY_MB),
    ]
