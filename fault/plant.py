"""A deployment as processes that can be killed, stopped and armed while readings flow."""

import os
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3

from bench.deployment import COMPILED
from demo import status, topology
from fault.load import KEY_HASH
from telemill import names, provision
from telemill.kinesis.records import SHARD_END
from telemill.testing import emulator, kinesis_local, processes
from telemill.testing.failpoints.trigger import (
    FILE_VARIABLE,
    REACHED,
    SIGNAL_VARIABLE,
    VARIABLE,
)
from telemill.testing.processes import EndedEarlyError, Process, Spec

LAUNCHER = "telemill.testing.failpoints"
CONTRACT = Path("contracts/fms.yaml")
WORKER_ID = "fault"
WARM_UP_ROWS = 15

INGEST, TRANSFORM, ANOMALY = "ingest", "transform", "anomaly"
SINK_READINGS, SINK_SCORES = "sink-readings", "sink-scores"

POLL_SECONDS = 0.1
SLOW_POLL_SECONDS = 0.5
"""Of questions that cost the services or the emulator something."""

READY_SECONDS = 120.0
DRAIN_SECONDS = 120.0
"""Waits that are over in seconds on a free machine."""


@dataclass(frozen=True, slots=True)
class Reader:
    """An application, its module, what it reads, and what is set for it alone."""

    app: str
    module: str
    stream: str
    settings: Mapping[str, object] = field(default_factory=dict)


READERS = {
    each.app: each
    for each in (
        Reader(TRANSFORM, "transform", names.RAW_STREAM),
        Reader(SINK_READINGS, "sink", names.READINGS_STREAM, {"TABLE": "readings"}),
        Reader(
            ANOMALY,
            "anomaly",
            names.READINGS_STREAM,
            {"WARM_UP_ROWS": WARM_UP_ROWS, "COOL_DOWN_SECONDS": 0, "GROUP_WINDOW_SECONDS": 1},
        ),
        Reader(SINK_SCORES, "sink", names.SCORES_STREAM, {"TABLE": "scores"}),
    )
}
"""In the order of the data."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How often positions are saved and cuts are made; short, so that a run is."""

    commit_interval_seconds: float = 0.5
    flush_interval_seconds: float = 1.0
    push_linger_seconds: float = 0.25
    """The emulators look at every record of a stream again and again: better few and large ones."""

    def of(self, module: str) -> dict[str, object]:
        """As settings of a service."""
        match module:
            case "sink":
                return {"FLUSH_INTERVAL_SECONDS": self.flush_interval_seconds}
            case "transform" | "anomaly":
                return {"COMMIT_INTERVAL_SECONDS": self.commit_interval_seconds}
            case _:
                return {"PUSH_LINGER_SECONDS": self.push_linger_seconds}


@dataclass(frozen=True, slots=True)
class Item:
    """What a progress item says of one shard."""

    epoch: int
    owner: str
    position: str | None
    attributes: Mapping[str, Any]


class Plant:
    """Processes by name, over a provisioned AWS.

    Attributes:
        directory: For logs and the files that arm.
        processes: The present process of each name.
        aws: Added to the environment of the services alone: the fault proxy.
    """

    def __init__(self, directory: Path, pace: Pace, aws: Mapping[str, str]) -> None:
        self.directory = directory
        self.processes: dict[str, Process] = {}
        self.aws = dict(aws)
        self._pace = pace
        self._specs: dict[str, Spec] = {}
        self._dynamodb = boto3.client("dynamodb")

    # --- processes ---------------------------------------------------------------------------

    def add(
        self,
        app: str,
        worker_id: str = WORKER_ID,
        *,
        launcher: bool = True,
        stops: bool = False,
        name: str = "",
    ) -> str:
        """Describe one process of an application; its name.

        Args:
            app: `INGEST` or one of `READERS`.
            worker_id: In its claims.
            launcher: Under the failpoints' launcher.
            stops: At a failpoint it stops (SIGSTOP) and does not die.
            name: Of the process, when there are several of the application.
        """
        name = name or app
        module = READERS[app].module if app in READERS else app
        port = emulator.free_port()
        chosen = {"HTTP_PORT": port, "CONTRACT": CONTRACT, "WORKER_ID": worker_id}
        if app in READERS:
            chosen |= {**READERS[app].settings, **self._pace.of(module)}
        else:
            chosen |= {"DEVICES": "", "API_KEY_HASHES": KEY_HASH, "PUSH_READINGS_PER_SECOND": 1e6}
            chosen |= {"PUSH_BURST_READINGS": 1e6, **self._pace.of(module)}
        environment = {f"{module.upper()}_{key}": str(value) for key, value in chosen.items()}
        environment |= {**COMPILED, **self.aws}
        if launcher:
            environment[FILE_VARIABLE] = str(self._arming_path(name))
            environment[SIGNAL_VARIABLE] = "STOP" if stops else "KILL"
        run, arguments = (LAUNCHER, (module,)) if launcher else (module, ())
        self._specs[name] = Spec(name, run, arguments, environment, port)
        return name

    def url(self, name: str) -> str:
        """Base URL of a process."""
        return self._specs[name].url

    def start(self, name: str, failpoint: str = "") -> Process:
        """Start a process, maybe armed from its start; returns at once."""
        self.disarm(name)
        spec = self._specs[name]
        if failpoint:
            environment = {**spec.environment, VARIABLE: failpoint}
            spec = Spec(spec.name, spec.module, spec.arguments, environment, spec.port)
        self.processes[name] = Process(spec, self.directory)
        return self.processes[name]

    def start_all(self, started: Sequence[str]) -> None:
        """Start processes and wait until all are ready."""
        for name in started:
            self.start(name)
        for name in started:
            self.wait_until_ready(name)

    def is_ready(self, name: str) -> bool:
        """Whether /readyz says so."""
        try:
            urllib.request.urlopen(f"{self.url(name)}/readyz", timeout=5).close()  # noqa: S310
        except OSError:
            return False
        return True

    def wait_until_ready(self, name: str) -> None:
        """Wait for a started process.

        Raises:
            EndedEarlyError: It ended, or takes too long.
        """
        self.wait(lambda: self.is_ready(name), f"{name} is ready", [name])

    def arm(self, name: str, failpoint: str) -> None:
        """Let a running process die at a failpoint."""
        path = self._arming_path(name)
        written = path.with_suffix(".new")
        written.write_text(failpoint)
        written.replace(path)

    def disarm(self, name: str) -> None:
        """Let it live."""
        self._arming_path(name).unlink(missing_ok=True)

    def died_at(self, name: str) -> str | None:
        """The failpoint at which a process killed itself last, by its log."""
        found = processes.log_events(self.processes[name].log_path, REACHED)
        return str(found[-1]["failpoint"]) if found else None

    def is_stopped(self, name: str) -> bool:
        """Whether the process stands still (state T in proc(5))."""
        stat = Path(f"/proc/{self.processes[name].pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] == "T"

    def wake(self, name: str) -> None:
        """SIGCONT: it goes on where it was."""
        os.kill(self.processes[name].pid, signal.SIGCONT)

    def metric(self, name: str, metric: str) -> float:
        """A metric of a process, summed over its labels; 0 while it does not answer."""
        return status.scrape(self._specs[name].url).get(f"telemill_{metric}", 0.0)

    def wait(
        self,
        condition: Callable[[], bool],
        what: str,
        alive: Sequence[str],
        seconds: float = READY_SECONDS,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        """Wait for a condition while some processes must not end.

        Raises:
            EndedEarlyError: One did, or it takes too long.
        """

        def holds() -> bool:
            for name in alive:
                if not self.processes[name].is_running():
                    raise EndedEarlyError(f"{name} ended:\n{self.processes[name].tail()}")
            return condition()

        if not processes.wait_until(holds, seconds, poll_seconds):
            raise EndedEarlyError(f"not in {seconds:g} s: {what}")

    def _arming_path(self, name: str) -> Path:
        return self.directory / f"{name}.failpoint"

    # --- progress ----------------------------------------------------------------------------

    def items(self, app: str) -> dict[str, Item]:
        """The application's progress items of shards, by key."""
        answer = self._dynamodb.query(
            TableName=names.PROGRESS_TABLE,
            KeyConditionExpression="app = :app",
            ExpressionAttributeValues={":app": {"S": app}},
            ConsistentRead=True,
        )
        return {
            item["shard"]["S"]: Item(
                epoch=int(item["epoch"]["N"]),
                owner=item["owner"]["S"],
                position=item.get("position", {}).get("S"),
                attributes=item,
            )
            for item in answer["Items"]
        }

    def positions(self, app: str) -> dict[str, str | None]:
        """Saved position of each shard."""
        return {shard: item.position for shard, item in self.items(app).items()}

    def wait_for_commit(self, app: str, before: Mapping[str, str | None], seconds: float) -> None:
        """Wait until some position of an application is not what it was.

        Raises:
            EndedEarlyError: It takes too long.
        """
        self.wait(lambda: self.positions(app) != before, f"{app} saves a position", [], seconds)

    def drain(self) -> None:
        """Wait until every application has used up its input; the load is paused.

        Raises:
            EndedEarlyError: A process ended, or it takes too long.
        """
        for reader in READERS.values():
            self.wait(
                lambda app=reader.app, stream=reader.stream: topology.has_consumed(app, stream),  # type: ignore[misc]
                f"{reader.app} reaches the end of {reader.stream}",
                list(self.processes),
                DRAIN_SECONDS,
                SLOW_POLL_SECONDS,
            )

    def has_ended(self, app: str, shard_id: str) -> bool:
        """Whether an application is done with a shard."""
        return any(
            key.endswith(f"/{shard_id}") and position == SHARD_END
            for key, position in self.positions(app).items()
        )

    # --- the end -----------------------------------------------------------------------------

    def stop(self) -> dict[str, int]:
        """SIGTERM in the order of the data; exit status by process."""
        for app in (INGEST, *READERS):
            group = [each for name, each in self.processes.items() if name.startswith(app)]
            processes.stop_in_order([each for each in group if each.is_running()])
        return {name: int(each.exit_status or 0) for name, each in self.processes.items()}

    def end(self) -> None:
        """Whatever still runs: SIGKILL, a stopped process too."""
        for process in self.processes.values():
            if process.is_running():
                process.kill()


@contextmanager
def running(
    directory: Path,
    *,
    pace: Pace | None = None,
    shards: int = 2,
    reshards: bool = False,
    behind: Callable[[str, str | None, ExitStack], Mapping[str, str]] = lambda *_: {},
) -> Iterator[Plant]:
    """A provisioned plant without processes; what is started in it ends with it.

    Args:
        directory: For logs.
        pace: Of the services.
        shards: Of each stream.
        reshards: Kinesis is the emulator that can split and merge; it is slower.
        behind: Starts what stands between the services and AWS, given the URLs of AWS and of a
            Kinesis of its own; returns what that changes in the services' environment.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        aws = stack.enter_context(emulator.running(directory / "emulator"))
        kinesis_url: str | None = None
        environment = emulator.aws_environment(aws.url)
        if reshards:
            kinesis_url = stack.enter_context(kinesis_local.running(directory / "emulator"))
            environment = kinesis_local.aws_environment(kinesis_url, aws.url)
        stack.enter_context(_environment(environment))
        boto3.setup_default_session()
        provision.provision(provision.Resources(shard_count=shards), lambda _line: None)
        plant = Plant(directory, pace or Pace(), behind(aws.url, kinesis_url, stack))
        stack.callback(plant.end)
        yield plant


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def seconds_since(moment: float) -> float:
    """How long ago a monotonic moment was."""
    return time.monotonic() - moment
