"""The services as processes against an AWS emulator of their own, and what they use up."""

import os
import resource
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import boto3

from bench.settings import BenchSettings
from demo import status
from telemill.provision import Resources, provision
from telemill.testing import emulator, proc, processes
from telemill.testing.processes import Process, Spec

READY_POLL_SECONDS = 0.05
METRICS_POLL_SECONDS = 1.0
"""A look at /metrics costs the service some milliseconds, which its figures hold."""

BYTECODE = Path("build/bench/bytecode").absolute()
COMPILED = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(BYTECODE)}
"""Services start from compiled modules, as they do in an image, whatever the environment says."""

STALL_SECONDS = 120.0
"""Without any progress for so long, a run is given up: something is broken."""


class BenchError(Exception):
    """A run went wrong; its figures would mean nothing."""


@dataclass(frozen=True, slots=True)
class Service:
    """A service to run.

    Attributes:
        name: In logs and figures.
        module: What is run.
        prefix: Of its settings.
        settings: Beside those all get.
        environment: Variables without the prefix.
    """

    name: str
    module: str
    prefix: str
    settings: Mapping[str, object] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)

    def spec(self, profile_path: Path | None) -> Spec:
        """How to start it, maybe under the sampler."""
        port = emulator.free_port()
        given = {"HTTP_PORT": port, "WORKER_ID": "bench", **self.settings}
        environment = {f"{self.prefix}{key}": str(value) for key, value in given.items()}
        environment |= {**COMPILED, **self.environment}
        if profile_path is None:
            return Spec(self.name, self.module, (), environment, port)
        return Spec(self.name, "bench.sampler", (str(profile_path), self.module), environment, port)


class Usage(NamedTuple):
    """What a process used, from its start to its end."""

    cpu_seconds: float
    peak_rss_bytes: int


class Deployment:
    """An emulator with everything provisioned; the services come and go.

    Attributes:
        directory: For logs and profiles.
    """

    def __init__(self, settings: BenchSettings, directory: Path, emulator_pid: int) -> None:
        """Provision; the environment points to the emulator already."""
        self.directory = directory
        self._emulator_pid = emulator_pid
        provision(Resources(shard_count=settings.shards), lambda _line: None)

    def emulator_cpu_seconds(self) -> float:
        """CPU time of the emulator so far: no part of any figure, but it shares the cores."""
        return proc.cpu_seconds(self._emulator_pid)

    @contextmanager
    def running(
        self, services: Sequence[Service], *, profile: bool = False
    ) -> Iterator[dict[str, Process]]:
        """Start services and wait until they are ready; end at the end what still runs."""
        started: dict[str, Process] = {}
        try:
            for service in services:
                path = self.directory / f"{service.name}.txt" if profile else None
                started[service.name] = Process(service.spec(path), self.directory)
            wait_for(lambda: all(map(_is_ready, started.values())), started, READY_POLL_SECONDS)
            yield started
        finally:
            processes.stop_in_order([each for each in started.values() if each.is_running()])

    def run_to_its_end(self, spec: Spec) -> float:
        """CPU seconds of a process which ends by itself.

        Raises:
            BenchError: It did not end well.
        """
        before = _cpu_seconds_of_children()
        process = Process(
            replace(spec, environment={**spec.environment, **COMPILED}), self.directory
        )
        if process.wait(STALL_SECONDS):
            raise BenchError(f"{spec.name} failed:\n{process.tail()}")
        return _cpu_seconds_of_children() - before

    def start_up(self, services: Sequence[Service]) -> dict[str, float]:
        """CPU seconds each service needs to start and to stop when there is nothing to do."""
        with self.running(services):
            pass  # compiles what was not
        with self.running(services) as started:
            return {name: stop(process).cpu_seconds for name, process in started.items()}


@contextmanager
def deployed(settings: BenchSettings, name: str) -> Iterator[Deployment]:
    """A deployment on an emulator of its own, which is gone afterwards.

    Args:
        settings: Its size.
        name: Of the folder for logs and profiles.
    """
    directory = settings.directory.absolute() / name
    directory.mkdir(parents=True, exist_ok=True)
    with emulator.running(directory / "emulator") as aws:
        os.environ.update(emulator.aws_environment(aws.url))
        boto3.setup_default_session()
        yield Deployment(settings, directory, aws.pid)


def stop(process: Process) -> Usage:
    """Let a service drain and end.

    Raises:
        BenchError: It did not end well.
    """
    peak_rss_bytes = proc.peak_rss_bytes(process.pid)
    # Only children waited for are counted, so what is added is this one's.
    before = _cpu_seconds_of_children()
    process.ask_to_stop()
    if process.wait():
        raise BenchError(f"{process.spec.name} failed:\n{process.tail()}")
    return Usage(_cpu_seconds_of_children() - before, peak_rss_bytes)


def total(process: Process, metric: str) -> float:
    """A metric of a service, summed over its labels; 0 while it does not answer."""
    return status.scrape(process.spec.url).get(f"telemill_{metric}", 0.0)


def wait_for(
    condition: Callable[[], bool],
    running: Mapping[str, Process],
    poll_seconds: float,
    stalled: Callable[[float], bool] = lambda seconds: seconds > STALL_SECONDS,
) -> None:
    """Wait until a condition holds.

    Args:
        condition: Asked again and again.
        running: Services that must not end meanwhile.
        poll_seconds: Between two questions.
        stalled: Whether it can be given up after so many seconds.

    Raises:
        BenchError: A service ended, or the wait was given up.
    """
    started = time.monotonic()
    while not condition():
        for process in running.values():
            if not process.is_running():
                raise BenchError(f"{process.spec.name} ended:\n{process.tail()}")
        if stalled(time.monotonic() - started):
            raise BenchError(f"no progress for {STALL_SECONDS:g} s")
        time.sleep(poll_seconds)


def wait_for_total(
    metric: str, least: float, processes_: Sequence[Process], running: Mapping[str, Process]
) -> None:
    """Wait until a metric of some services has reached a number.

    Raises:
        BenchError: A service ended, or none of the metrics has moved for a long time.
    """
    seen: list[float] = []
    moved_at = time.monotonic()

    def reached() -> bool:
        nonlocal seen, moved_at
        now = [total(each, metric) for each in processes_]
        if now != seen:
            seen, moved_at = now, time.monotonic()
        return min(now) >= least

    wait_for(
        reached,
        running,
        METRICS_POLL_SECONDS,
        lambda _seconds: time.monotonic() - moved_at > STALL_SECONDS,
    )


def _is_ready(process: Process) -> bool:
    try:
        urllib.request.urlopen(f"{process.spec.url}/readyz", timeout=5).close()  # noqa: S310
    except (OSError, urllib.error.URLError):
        return False
    return True


def _cpu_seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
