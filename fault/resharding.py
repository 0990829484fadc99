"""The whole path on streams that are split and merged while readings flow.

Kinesis is kinesis-local, which reshards as Kinesis does; the rest of AWS is the other emulator. The
services are processes, as an orchestrator runs them. Devices push, each its next reading after the
last one was acknowledged, so what the tables have to hold is known to the row and its place.
"""

import hashlib
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path

import boto3

from bench.fleet import Fleet
from demo import status, topology
from fault import shards
from telemill import audit, contract, names, provision
from telemill.audit import Lineage, Report, ServedBody, StoredRow, sources
from telemill.codec import wire
from telemill.testing import emulator, kinesis_local, processes
from telemill.testing.processes import EndedEarlyError, Process, Spec

CONTRACT = Path("contracts/fms.yaml")
STREAMS = (names.RAW_STREAM, names.READINGS_STREAM, names.SCORES_STREAM)
FIRST_SHARDS = 2
PUSH_KEY = "resharding"
WAIT_SECONDS = 180.0
"""For what is over in seconds on a free machine."""
POST_TIMEOUT_SECONDS = 30.0
RETRY_SECONDS = 0.1

WARM_UP_ROWS = 15
INGEST, TRANSFORM, ANOMALY = "ingest", "transform", "anomaly"
SINK_READINGS, SINK_SCORES = "sink-readings", "sink-scores"
READERS = {
    TRANSFORM: names.RAW_STREAM,
    SINK_READINGS: names.READINGS_STREAM,
    ANOMALY: names.READINGS_STREAM,
    SINK_SCORES: names.SCORES_STREAM,
}
"""Which application reads which stream, in the order of the data."""


def specs(workers: Sequence[str] = (), commit_interval_seconds: float = 2.0) -> list[Spec]:
    """All processes, ingest last.

    Args:
        workers: Worker ids of transform: a process each, called transform-<worker>. By default
            one, called transform.
        commit_interval_seconds: Of transform and anomaly.
    """
    commit = {"COMMIT_INTERVAL_SECONDS": commit_interval_seconds}
    flush = {"FLUSH_INTERVAL_SECONDS": 2}
    push_key = hashlib.sha256(PUSH_KEY.encode()).hexdigest()
    return [
        _spec(SINK_READINGS, "sink", {"TABLE": "readings", **flush}),
        _spec(SINK_SCORES, "sink", {"TABLE": "scores", **flush}),
        _spec(ANOMALY, "anomaly", {"WARM_UP_ROWS": WARM_UP_ROWS, **commit}),
        *(transform_spec(each, commit_interval_seconds) for each in workers),
        *([] if workers else [_spec(TRANSFORM, TRANSFORM, commit)]),
        _spec(INGEST, "ingest", {"DEVICES": "", "API_KEY_HASHES": f"fault:{push_key}"}),
    ]


def transform_spec(
    worker: str, commit_interval_seconds: float, more: Mapping[str, str] | None = None
) -> Spec:
    """One of several transform processes; `more` is added to its environment."""
    own = {"WORKER_ID": worker, "COMMIT_INTERVAL_SECONDS": commit_interval_seconds}
    spec = _spec(f"{TRANSFORM}-{worker}", TRANSFORM, own)
    return replace(spec, environment={**spec.environment, **(more or {})})


def _spec(name: str, module: str, own: Mapping[str, object]) -> Spec:
    port = emulator.free_port()
    chosen = {"HTTP_PORT": port, "CONTRACT": CONTRACT, "WORKER_ID": "fault", **own}
    environment = {f"{module.upper()}_{key}": str(value) for key, value in chosen.items()}
    return Spec(name, module, (), environment, port)


class Deployment:
    """The services on both emulators.

    Attributes:
        directory: For logs and what is left behind.
        processes: By name; a killed one until it is started again.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.processes: dict[str, Process] = {}
        self._expected: set[str] = set()

    def start(self, *wanted: Spec) -> None:
        """Start processes, or start killed ones again; returns at once."""
        for spec in wanted:
            self.processes[spec.name] = Process(spec, self.directory)
            self._expected.add(spec.name)

    def kill(self, name: str) -> Spec:
        """SIGKILL; returns what `start` takes."""
        self._expected.discard(name)
        self.processes[name].kill()
        return self.processes[name].spec

    def metric(self, name: str, metric: str) -> float:
        """A metric of a process, summed over its labels; 0 while it does not answer."""
        return status.scrape(self.processes[name].spec.url).get(f"telemill_{metric}", 0.0)

    def wait(self, what: str, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds.

        Raises:
            EndedEarlyError: A process has ended by itself, or it takes too long.
        """

        def holds() -> bool:
            self.require_running()
            return condition()

        if not processes.wait_until(holds, WAIT_SECONDS):
            raise EndedEarlyError(f"not in time: {what}")

    def leave(self, name: str) -> Spec:
        """SIGTERM, and wait for its end; returns what `start` takes."""
        self._stop(name)
        return self.processes[name].spec

    def wait_until_ready(self) -> None:
        """Until every process says so."""
        for name in sorted(self._expected):
            self.wait(f"{name} is ready", lambda name=name: self.metric(name, "ready") == 1)  # type: ignore[misc]

    def wait_until_followed(self, *streams: str) -> None:
        """Until every reader of these streams has finished their closed shards and begun the rest.

        Traffic has to flow: a shard counts as begun once a position is saved.
        """
        for app, stream in READERS.items():
            if stream in streams:
                what = f"{app} follows the shards of {stream}"
                self.wait(what, lambda app=app, stream=stream: shards.is_followed(app, stream))  # type: ignore[misc]

    def drain(self) -> None:
        """SIGTERM to everything, in the order of the data, each when its input is used up."""
        self._stop(INGEST)
        for app, stream in READERS.items():
            what = f"{app} reaches the end of {stream}"
            self.wait(what, lambda app=app, stream=stream: topology.has_consumed(app, stream))  # type: ignore[misc]
            self._stop(*(name for name in self._expected if _app_of(name) == app))

    def stop(self) -> None:
        """Whatever still runs."""
        self._stop(*self._expected)

    def _stop(self, *names_: str) -> None:
        self._expected -= set(names_)
        processes.stop_in_order([self.processes[name] for name in names_])

    def require_running(self) -> None:
        """Raises EndedEarlyError when a process has ended by itself."""
        for name in self._expected:
            process = self.processes[name]
            if not process.is_running():
                raise EndedEarlyError(f"{name} ended early:\n{process.tail()}")


def _app_of(name: str) -> str:
    return TRANSFORM if name.startswith(TRANSFORM) else name


@contextmanager
def deployed(directory: Path, shard_count: int = FIRST_SHARDS) -> Iterator[Deployment]:
    """Both emulators with everything provisioned; processes left over are stopped at the end."""
    with (
        kinesis_local.running(directory / "emulators") as kinesis_url,
        emulator.running(directory / "emulators") as others,
        _environment(kinesis_local.aws_environment(kinesis_url, others.url)),
    ):
        boto3.setup_default_session()
        provision.provision(provision.Resources(shard_count=shard_count), lambda _line: None)
        made = Deployment(directory)
        try:
            yield made
        finally:
            made.stop()


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


class Traffic:
    """Devices which push a reading each at an interval, all in one body, one body after another.

    Attributes:
        sent: The bodies acknowledged, in order: a reading of each device.
        repeated: Readings pushed a second time.
    """

    def __init__(self, url: str, *, devices: int = 200, interval_seconds: float = 0.25) -> None:
        """Wire the traffic; nothing is sent yet.

        Args:
            url: Of ingest.
            devices: How many; ids from 1.
            interval_seconds: Between two readings of a device.
        """
        self.sent: list[list[bytes]] = []
        self.repeated = 0
        self._url = f"{url}/v1/readings"
        self._fleet = Fleet(devices, interval_seconds, datetime.now(UTC))
        self._again: list[list[bytes]] = []
        self._stopping = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    @contextmanager
    def flowing(self) -> Iterator[None]:
        """Push for the length of a `with` block.

        Raises:
            Exception: What ended the traffic before.
        """
        self._thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            self._thread.join()
        if self._failure is not None:
            raise self._failure

    def repeat(self, bodies: int) -> int:
        """Push the first bodies once more, each between two new ones; returns their readings."""
        self._again += self.sent[:bodies]
        return sum(map(len, self.sent[:bodies]))

    def _run(self) -> None:
        try:
            for items in self._fleet.ticks(10**6):
                if self._stopping.is_set() and not self._again:
                    return
                due = time.monotonic() + self._fleet.interval_seconds
                self._post(items)
                self.sent.append(items)
                if self._again:
                    again = self._again.pop(0)
                    self._post(again)
                    self.repeated += len(again)
                self._stopping.wait(due - time.monotonic())
        except Exception as error:
            self._failure = error

    def _post(self, items: Sequence[bytes]) -> None:
        """Push a body, again whenever ingest asks for it, until it is acknowledged."""
        headers = {"Authorization": f"Bearer {PUSH_KEY}", "Content-Type": "application/x-ndjson"}
        request = urllib.request.Request(self._url, b"\n".join(items), headers)  # noqa: S310
        while True:
            try:
                urllib.request.urlopen(request, timeout=POST_TIMEOUT_SECONDS).close()  # noqa: S310
            except urllib.error.HTTPError as error:
                with error:
                    if error.code != HTTPStatus.SERVICE_UNAVAILABLE:
                        raise
                time.sleep(RETRY_SECONDS)
            else:
                return


@dataclass(frozen=True, slots=True)
class Remains:
    """What a run left behind.

    Attributes:
        report: The audit.
        readings: Rows of the table, those of each device in the order they were written.
        scores: The same of the other table.
    """

    report: Report
    readings: Sequence[StoredRow]
    scores: Sequence[StoredRow]

    def by_device(self, rows: Sequence[StoredRow]) -> dict[int, list[StoredRow]]:
        """Rows of one of the tables, by device."""
        found: dict[int, list[StoredRow]] = {}
        for row in rows:
            found.setdefault(row.columns["device_id"], []).append(row)
        return found


def collect(deployment: Deployment, traffic: Traffic) -> Remains:
    """Download tables and quarantine, and audit them against what was pushed."""
    folder = deployment.directory / "remains"
    for prefix in ("readings/", "scores/", "quarantine/"):
        sources.download(names.LAKE_BUCKET, prefix, folder / prefix)
    rows = sources.stored_rows(folder / "readings")
    served = [ServedBody("", "", HTTPStatus.OK, item) for items in traffic.sent for item in items]
    report = audit.audit(
        contract.load(CONTRACT),
        served,
        sources.raw_items(names.RAW_STREAM),
        rows,
        [
            Lineage(row["shard_id"], row["sequence_number"], row["sub_sequence_number"])
            for row in sources.quarantined(folder / "quarantine")
        ],
        shards.parents(names.RAW_STREAM),
    )
    return Remains(
        report,
        _as_written(rows, names.READINGS_STREAM),
        _as_written(sources.stored_rows(folder / "scores"), names.SCORES_STREAM),
    )


def _as_written(rows: Sequence[StoredRow], stream: str) -> list[StoredRow]:
    """Rows of each input shard in its order, those of parents before those of children."""
    generation = shards.generations(stream)

    def place(row: StoredRow) -> tuple[int, str, int]:
        # An object is called by input shard and range: ...-shardId-000000000002-<after>-<up to>.
        stem = Path(row.object_key).stem
        shard_id, after, _ = stem[stem.index("shardId-") :].rsplit("-", 2)
        return generation[shard_id], shard_id, 0 if after == "start" else int(after)

    return sorted(rows, key=place)


def shards_of_rows(stream: str) -> dict[Lineage, list[str]]:
    """Of every row on `readings` or `scores`: the shards that hold it, a repeated one twice."""
    reading = contract.load(CONTRACT)
    found: dict[Lineage, list[str]] = {}
    for each in sources.read_stream(stream):
        header, batch = wire.decode(
            each.record.data, lambda header: reading.schemas_of(header.kind)[0]
        )
        if header.kind == "alerts":
            continue
        numbers = batch.column("sequence_number").to_pylist()
        places = batch.column("sub_sequence_number").to_pylist()
        for number, place in zip(numbers, places, strict=True):
            lineage = Lineage(header.raw_shard_id, number, place)
            found.setdefault(lineage, []).append(each.shard.shard_id)
    return found
