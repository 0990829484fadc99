"""The full path as real processes against an emulator: CPU seconds, readings a second, memory.

`python -m bench full-path full-path-single full-path-services full-path-memory`

A backlog is put on the raw stream (or pushed to ingest) and the services start. When the sinks
have taken every row, the services are stopped in the order of the data, which makes the sinks
commit what they hold; then each lineage must be in Parquet exactly once. CPU seconds are user and
system time of a service's process from start to end, less what it needs to start and stop with
nothing to do. The emulator's CPU seconds are reported and belong to no figure. Of several runs
the one with least CPU seconds counts.

`BENCH_PROFILE=true` also samples where the CPU time goes: `build/bench/<name>/<service>.txt`.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from bench import deployment, fleet, load, stored
from bench.bench_ingest_push import INGEST
from bench.deployment import Deployment, Service, Usage
from bench.measurement import MEGABYTE, Measurement
from bench.settings import BenchSettings
from bench.stored import Stored
from telemill.testing.processes import Process, Spec

TRANSFORM = Service("transform", "transform", "TRANSFORM_")
SINK_READINGS = Service("sink-readings", "sink", "SINK_", {"TABLE": "readings"})
ANOMALY = Service("anomaly", "anomaly", "ANOMALY_")
SINK_SCORES = Service("sink-scores", "sink", "SINK_", {"TABLE": "scores"})

ONE_HOP = (TRANSFORM, SINK_READINGS)
ALL = (INGEST, TRANSFORM, SINK_READINGS, ANOMALY, SINK_SCORES)
TABLES = {SINK_READINGS.name: "readings", SINK_SCORES.name: "scores"}

READINGS_PER_BATCH = 500
INTERVAL_SECONDS = 10.0
"""Of a device: the backlog of a million readings of 1,000 devices is 2.8 hours old."""
MILLION = 1e6

# The targets.
MOST_ONE_HOP_CPU_SECONDS = 6.0
MOST_ALL_CPU_SECONDS = 15.0
MOST_RSS_MB = 180.0


@dataclass(slots=True)
class Run:
    """What one run used.

    Attributes:
        readings: How many went through.
        start_up: CPU seconds of each service to start and stop with nothing to do.
        used: Of each service.
        taken_seconds: From all being ready until the sinks had taken the last row.
        committed_seconds: Until the last row was committed.
        emulator_cpu_seconds: Beside them.
        tables: What is in the lake.
        compared_cpu_seconds: Of `bench.one_hop` on the same stream, right after.
    """

    readings: int = 0
    start_up: Mapping[str, float] = field(default_factory=dict)
    used: dict[str, Usage] = field(default_factory=dict)
    taken_seconds: float = 0.0
    committed_seconds: float = 0.0
    emulator_cpu_seconds: float = 0.0
    tables: dict[str, Stored] = field(default_factory=dict)
    compared_cpu_seconds: float = 0.0

    def cpu_seconds(self, name: str) -> float:
        """Of one service, without its start."""
        return self.used[name].cpu_seconds - self.start_up[name]

    def all_cpu_seconds(self) -> float:
        """Of all services, without their starts."""
        return sum(map(self.cpu_seconds, self.used))


def batches() -> list[Measurement]:
    """Transform and sink; the raw records hold 500 readings of a slot each."""
    settings = BenchSettings()
    most = MOST_ONE_HOP_CPU_SECONDS
    return _backlog(settings, "full-path", settings.readings, READINGS_PER_BATCH, most)


def single() -> list[Measurement]:
    """Transform and sink; every raw record is one JSON object."""
    settings = BenchSettings()
    return _backlog(settings, "full-path-single", settings.single_readings, 1)


def services() -> list[Measurement]:
    """All four services and the scores sink, from bodies of 500 readings pushed to ingest."""
    settings = BenchSettings()
    source = fleet.ending_now(settings.devices, INTERVAL_SECONDS, settings.readings)
    pushed = load.bodies(source, settings.readings, READINGS_PER_BATCH)

    def run_once() -> Run:
        run = Run(readings=settings.readings // settings.devices * settings.devices)
        with deployment.deployed(settings, "full-path-services") as made:
            run.start_up = made.start_up(ALL)
            with _measured(made, ALL, run, settings.profile) as running:
                load.push(running[INGEST.name].spec.url, pushed)
            _verify(run, ALL)
        return run

    runs = [run_once() for _ in range(settings.runs)]
    return _figures(runs, "all services", MOST_ALL_CPU_SECONDS)


def memory() -> list[Measurement]:
    """Peak RSS of each service under a paced load pushed to ingest."""
    settings = BenchSettings()
    run = Run()
    with deployment.deployed(settings, "full-path-memory") as made:
        run.start_up = dict.fromkeys((each.name for each in ALL), 0.0)
        with _measured(made, ALL, run, settings.profile) as running:
            run.readings = load.push_paced(
                running[INGEST.name].spec.url,
                settings.devices,
                settings.paced_readings_per_second,
                settings.paced_seconds,
            )
        _verify(run, ALL)
    rate = run.readings / settings.paced_seconds
    return [
        Measurement("paced load", rate, "readings/s"),
        *(
            Measurement(
                f"{name} peak RSS",
                used.peak_rss_bytes / MEGABYTE,
                "MB",
                used.cpu_seconds,
                at_most=MOST_RSS_MB,
            )
            for name, used in run.used.items()
        ),
    ]


def _backlog(
    settings: BenchSettings, name: str, readings: int, per_record: int, most: float | None = None
) -> list[Measurement]:
    def run_once() -> Run:
        run = Run()
        with deployment.deployed(settings, name) as made:
            run.start_up = made.start_up(ONE_HOP)
            source = fleet.ending_now(settings.devices, INTERVAL_SECONDS, readings)
            run.readings = load.preload(source, readings, per_record)
            with _measured(made, ONE_HOP, run, settings.profile):
                pass
            _verify(run, ONE_HOP)
            run.compared_cpu_seconds = _one_hop(made, run.readings) - _one_hop(made, 0)
        return run

    runs = [run_once() for _ in range(settings.runs)]
    compared = min(runs, key=Run.all_cpu_seconds).compared_cpu_seconds
    name = "compared: hand-tuned boto3 in one hop, no guarantee"
    unit = "CPU-s/M readings"
    return [
        *_figures(runs, "transform + sink", most),
        Measurement(name, compared / runs[0].readings * MILLION, unit, compared),
    ]


def _one_hop(made: Deployment, readings: int) -> float:
    spec = Spec("one-hop", "bench.one_hop", (str(readings),), {}, 0)
    return made.run_to_its_end(spec)


@contextmanager
def _measured(
    made: Deployment, started: Sequence[Service], run: Run, profile: bool
) -> Iterator[Mapping[str, Process]]:
    """Run services; at the end of the block let all be committed and note what was used."""
    emulator_before = made.emulator_cpu_seconds()
    with made.running(started, profile=profile) as running:
        began = time.monotonic()
        yield running
        sinks = [running[each.name] for each in started if each.name in TABLES]
        deployment.wait_for_total("readings_in_total", run.readings, sinks, running)
        run.taken_seconds = time.monotonic() - began
        run.used = {name: deployment.stop(process) for name, process in running.items()}
        run.committed_seconds = time.monotonic() - began
        run.emulator_cpu_seconds = made.emulator_cpu_seconds() - emulator_before


def _verify(run: Run, started: Sequence[Service]) -> None:
    """Every reading is in every table exactly once."""
    for each in started:
        if each.name in TABLES:
            table = TABLES[each.name]
            run.tables[table] = stored.read(table)
            run.tables[table].require(run.readings, table)


def _figures(runs: Sequence[Run], together: str, most: float | None) -> list[Measurement]:
    """The run with least CPU seconds, and how much more the worst one took."""
    run = min(runs, key=Run.all_cpu_seconds)
    millions = run.readings / MILLION
    unit, in_all = "CPU-s/M readings", run.all_cpu_seconds()
    worst = max(map(Run.all_cpu_seconds, runs)) / millions
    return [
        Measurement(together, in_all / millions, unit, in_all, at_most=most),
        Measurement(f"{together}, worst of {len(runs)} runs", worst, unit),
        *(
            Measurement(name, cpu / millions, unit, cpu)
            for name, cpu in ((name, run.cpu_seconds(name)) for name in run.used)
        ),
        *(
            Measurement(f"{name} start and stop", cpu, "CPU-s", cpu)
            for name, cpu in run.start_up.items()
        ),
        *(
            Measurement(f"{name} peak RSS", used.peak_rss_bytes / MEGABYTE, "MB")
            for name, used in run.used.items()
        ),
        Measurement("taken by the sinks", run.readings / run.taken_seconds, "readings/s"),
        Measurement("committed", run.readings / run.committed_seconds, "readings/s"),
        *(
            Measurement(f"Parquet {name}", table.bytes / table.rows, "bytes/row")
            for name, table in run.tables.items()
        ),
        *(
            Measurement(f"objects of {name}", table.objects, "objects")
            for name, table in run.tables.items()
        ),
        Measurement("emulator", run.emulator_cpu_seconds, "CPU-s", run.emulator_cpu_seconds),
    ]
