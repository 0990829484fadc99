"""What lineage, fencing and intents cost on the full path. `python -m bench promise-overhead`.

Two deployments of the same services take the same load in turn: the product, and the product
without what the promise costs (`bench.bare` says what that is, and what stays). Both are started by
the same launcher. The load is that of `full-path`: a backlog of 500 readings a raw record.

    overhead = (CPU seconds of the product - CPU seconds bare) / CPU seconds bare

CPU seconds are those of transform and sink from start to end, less the least that they needed to
start and stop with nothing to do. A shared machine only ever adds to them, so the least of several
runs is compared with the least; the medians and the worst are reported beside it. Product and
bare run turn and turn about, first one and then the other ahead.

`BENCH_PROFILE=true` also samples where the CPU time goes.
"""

import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import boto3
import pyarrow.parquet as pq

from bench import bare, deployment, fleet, full_path, load, stored
from bench.deployment import BenchError, Deployment, Service, Usage
from bench.measurement import Measurement
from bench.settings import BenchSettings
from telemill import names
from telemill.testing.processes import Spec

TURNS = 6
"""Runs of each of the two."""
MOST_PERCENT = 10.0
"""The issue's target."""
UNIT = "CPU-s/M readings"


class Launched(Service):
    """A service started by `bench.bare`."""

    arguments: tuple[str, ...] = (bare.AS_IS,)

    def spec(self, profile_path: Path | None) -> Spec:
        """How to start it, maybe under the sampler."""
        plain = super().spec(None)
        command = ("bench.bare", *self.arguments, self.module)
        if profile_path is not None:
            command = ("bench.sampler", str(profile_path), *command)
        return replace(plain, module=command[0], arguments=command[1:])


class Bare(Launched):
    """A service without what the promise costs."""

    arguments: tuple[str, ...] = ()


@dataclass(slots=True)
class Side:
    """The runs of the product, or of the bare services.

    Attributes:
        name: In figures.
        launched: How its services are started.
        readings: Of each run.
        used: CPU seconds of each run, by service, start and stop included.
        start_up: CPU seconds to start and stop, of each run, by service.
    """

    name: str
    launched: type[Launched]
    readings: int = 0
    used: list[Mapping[str, float]] = field(default_factory=list)
    start_up: list[Mapping[str, float]] = field(default_factory=list)

    @property
    def services(self) -> list[Service]:
        """Transform and sink."""
        return [
            self.launched(each.name, each.module, each.prefix, each.settings)
            for each in full_path.ONE_HOP
        ]

    def least_start_up(self, service: str) -> float:
        """CPU seconds to start and stop a service."""
        return min(each[service] for each in self.start_up)

    def totals(self) -> list[float]:
        """CPU seconds a million readings, of each run, without start and stop."""
        return [sum(run.values()) for run in self._without_start()]

    def least_of(self, service: str) -> float:
        """The same of one service in its best run."""
        return min(run[service] for run in self._without_start())

    def _without_start(self) -> list[dict[str, float]]:
        millions = self.readings / full_path.MILLION
        return [
            {name: (cpu - self.least_start_up(name)) / millions for name, cpu in run.items()}
            for run in self.used
        ]


def measure() -> list[Measurement]:
    """Both, in turn."""
    settings = BenchSettings()
    product, without = Side("product", Launched), Side("bare", Bare)
    for turn in range(TURNS):
        for side in (product, without) if turn % 2 else (without, product):
            _run(settings, side)
    return _figures(product, without)


def _run(settings: BenchSettings, side: Side) -> None:
    with deployment.deployed(settings, f"promise-overhead-{side.name}") as made:
        side.start_up.append(made.start_up(side.services))
        source = fleet.ending_now(settings.devices, full_path.INTERVAL_SECONDS, settings.readings)
        side.readings = load.preload(source, settings.readings, full_path.READINGS_PER_BATCH)
        used = _measured(made, side, settings.profile)
        side.used.append({name: each.cpu_seconds for name, each in used.items()})
        _verify(side)


def _measured(made: Deployment, side: Side, profile: bool) -> dict[str, Usage]:
    with made.running(side.services, profile=profile) as running:
        sinks = [running[full_path.SINK_READINGS.name]]
        deployment.wait_for_total("readings_in_total", side.readings, sinks, running)
        return {name: deployment.stop(process) for name, process in running.items()}


def _verify(side: Side) -> None:
    """Both did the whole work; without lineage the rows can only be counted."""
    if side.launched is Launched:
        stored.read("readings").require(side.readings, "readings")
        return
    s3: Any = boto3.client("s3")
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=names.LAKE_BUCKET)
    keys = [each["Key"] for page in pages for each in page.get("Contents", ())]
    files = [_file(s3, key) for key in keys if key.startswith("readings/")]
    rows = sum(file.metadata.num_rows for file in files)
    lineage = [name for file in files for name in stored.LINEAGE if name in file.schema_arrow.names]
    if rows != side.readings or lineage:
        raise BenchError(f"bare: {rows} rows of {side.readings}, lineage columns {lineage}")


def _file(s3: Any, key: str) -> pq.ParquetFile:
    body = s3.get_object(Bucket=names.LAKE_BUCKET, Key=key)["Body"].read()
    return pq.ParquetFile(io.BytesIO(body))


def _figures(product: Side, without: Side) -> list[Measurement]:
    ours, theirs = product.totals(), without.totals()
    by_turn = sorted(map(_overhead, ours, theirs))
    return [
        Measurement("overhead", _overhead(min(ours), min(theirs)), "%", at_most=MOST_PERCENT),
        Measurement(
            "overhead, medians", _overhead(statistics.median(ours), statistics.median(theirs)), "%"
        ),
        Measurement(f"overhead, least of {TURNS} turns", by_turn[0], "%"),
        Measurement(f"overhead, median of {TURNS} turns", statistics.median(by_turn), "%"),
        Measurement(f"overhead, most of {TURNS} turns", by_turn[-1], "%"),
        *(figure for side in (product, without) for figure in _of(side)),
    ]


def _overhead(ours: float, theirs: float) -> float:
    return 100.0 * (ours - theirs) / theirs


def _of(side: Side) -> Sequence[Measurement]:
    totals = side.totals()
    services = [each.name for each in full_path.ONE_HOP]
    return [
        Measurement(f"{side.name}: transform + sink", min(totals), UNIT, min(totals)),
        Measurement(f"{side.name}: median", statistics.median(totals), UNIT),
        Measurement(f"{side.name}: worst of {TURNS} runs", max(totals), UNIT),
        *(Measurement(f"{side.name}: {name}", side.least_of(name), UNIT) for name in services),
        *(
            Measurement(f"{side.name}: {name} start and stop", side.least_start_up(name), "CPU-s")
            for name in services
        ),
    ]
