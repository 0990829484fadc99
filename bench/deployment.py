"""The services as processes against an AWS emulator of their own, and what they use up."""

import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import boto3

from bench.settings import BenchSettings
from demo import status
from demo.processes import Process, Spec
from telemill.provision import Resources, provision
from telemill.testing import emulator

POLL_SECONDS = 0.2
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
    """

    name: str
    module: str
    prefix: str
    settings: Mapping[str, object] = field(default_factory=dict)

    def spec(self, profile_path: Path | None) -> Spec:
        """How to start it, maybe under cProfile."""
        port = emulator.free_port()
        given = {"HTTP_PORT": port, "WORKER_ID": "bench", **self.settings}
        environment = {f"{self.prefix}{key}": str(value) for key, value in given.items()}
        if profile_path is None:
            return Spec(self.name, self.module, (), environment, port)
        arguments = ("-o", str(profile_path), "-m", self.module)
        return Spec(self.name, "cProfile", arguments, environment, port)


class Usage(NamedTuple):
    """What a process has used so far."""

    cpu_seconds: float
    peak_rss_bytes: int


class Deployment:
    """An emulator with everything provisioned; the services come and go.

    Attributes:
        topic: ARN of the alert topic.
    """

    def __init__(self, settings: BenchSettings, directory: Path, emulator_pid: int) -> None:
        """Provision; the environment points to the emulator already."""
        self.settings = settings
        self._directory = directory
        self._emulator_pid = emulator_pid
        self.topic = provision(Resources(shard_count=settings.shards), lambda _line: None)

    def emulator_cpu_seconds(self) -> float:
        """CPU time of the emulator so far: no part of any figure, but it shares the cores."""
        return _usage(self._emulator_pid).cpu_seconds

    @contextmanager
    def running(
        self, services: Sequence[Service], *, profile: bool = False
    ) -> Iterator[dict[str, Process]]:
        """Start services and wait until they are ready; drain them in this order at the end."""
        started: dict[str, Process] = {}
        try:
            for service in services:
                path = self._directory / f"{service.name}.prof" if profile else None
                started[service.name] = Process(service.spec(path), self._directory)
            wait_for(lambda: all(map(_is_ready, started.values())), started, poll_seconds=0.02)
            yield started
        finally:
            for process in started.values():
                process.ask_to_stop()
                process.wait()
        failed = [process for process in started.values() if process.exit_status]
        if failed:
            raise BenchError(f"{failed[0].spec.name} failed:\n{failed[0].tail()}")

    def start_up(self, services: Sequence[Service]) -> dict[str, float]:
        """CPU seconds each service needs to become ready when there is nothing to do."""
        with self.running(services) as started:
            return {name: usage(process).cpu_seconds for name, process in started.items()}


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


def usage(process: Process) -> Usage:
    """What a running service has used so far."""
    return _usage(process.pid)


def total(process: Process, metric: str) -> float:
    """A metric of a service, summed over its labels; 0 while it does not answer."""
    return status.scrape(process.spec.url).get(f"telemill_{metric}", 0.0)


def wait_for(
    condition: Callable[[], bool],
    running: Mapping[str, Process],
    progress: Callable[[], object] = lambda: None,
    poll_seconds: float = POLL_SECONDS,
) -> None:
    """Wait until a condition holds, for as long as something progresses.

    Args:
        condition: Asked again and again.
        running: Services that must not end meanwhile.
        progress: Changes while all is well.
        poll_seconds: Between two questions.

    Raises:
        BenchError: A service ended, or nothing has changed for a long time.
    """
    seen, since = progress(), time.monotonic()
    while not condition():
        for process in running.values():
            if not process.is_running():
                raise BenchError(f"{process.spec.name} ended:\n{process.tail()}")
        now = progress()
        if now != seen:
            seen, since = now, time.monotonic()
        if time.monotonic() - since > STALL_SECONDS:
            raise BenchError(f"no progress for {STALL_SECONDS:g} s at {seen}")
        time.sleep(poll_seconds)


def _is_ready(process: Process) -> bool:
    try:
        urllib.request.urlopen(f"{process.spec.url}/readyz", timeout=5).close()  # noqa: S310
    except (OSError, urllib.error.URLError):
        return False
    return True


def _usage(pid: int) -> Usage:
    """From proc(5): fields 14 and 15 of stat, counted behind the command's parenthesis; VmHWM."""
    directory = Path(f"/proc/{pid}")
    ticks = (directory / "stat").read_text().rpartition(")")[2].split()[11:13]
    lines = (directory / "status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    return Usage(sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK"), peak * 1024)
