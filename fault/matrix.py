"""Each service dies at each of its failpoints, comes back, and the books have to balance.

One cell: readings flow, the service runs with one failpoint armed and must die there by SIGKILL;
it is started again with the same worker id; the load pauses, everything drains, and what the cell
added is audited. Cells of one group share a deployment. The coordinator `single` has no checkpoint
of its own, so nothing lies between it and the saved position; the KCL's cell comes with the KCL.
"""

import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import boto3

from fault import plant
from fault.books import Books, Finding
from fault.load import Load
from fault.plant import ANOMALY, INGEST, READERS, SINK_READINGS, TRANSFORM, Plant
from telemill import contract
from telemill.testing import processes
from telemill.testing.failpoints.table import FAILPOINTS, Failpoint
from telemill.testing.processes import EndedEarlyError

DEVICES = 64
"""So many that anomaly's state does not fit into the progress item."""
READINGS_PER_SECOND = {False: 320.0, True: 160.0}
"""Without and with resharding: the emulator that reshards takes few records a second."""

DEATH_SECONDS = 60.0
COMMIT_SECONDS = 90.0
"""Over in seconds on a free machine."""

MAX_NTH = 3
MAX_HASH_KEY = 2**128 - 1

APPS = {"ingest": INGEST, "transform": TRANSFORM, "anomaly": ANOMALY, "sink": SINK_READINGS}
"""The application whose process dies for a service. The sink of scores is the same service."""

RESHARDING = ("shard-end", "child")
AT_START = ("claim",)
AT_STOP = ("drain", "stop")


@dataclass(frozen=True, slots=True)
class Cell:
    """One service at one failpoint.

    Attributes:
        nth: At which arrival it dies.
    """

    service: str
    failpoint: Failpoint
    nth: int

    @property
    def name(self) -> str:
        """As `--only` takes it."""
        return f"{self.service}/{self.failpoint.name}"

    @property
    def app(self) -> str:
        """The process that dies."""
        return APPS[self.service]

    @property
    def family(self) -> str:
        """First part of the failpoint's name: how it is reached."""
        return self.failpoint.name.partition(".")[0]

    @property
    def reshards(self) -> bool:
        """Whether a shard of the input has to end."""
        return self.family in RESHARDING


@dataclass(slots=True)
class Verdict:
    """How one cell went.

    Attributes:
        cell: Its name.
        interrupts: What was done and what was not, when the process died.
        nth: At which arrival.
        error: Why it failed otherwise than by the audit; empty when it did not.
        audit: Kinds of faults with their numbers; empty when there was no audit.
        readings: Items of the raw stream that were audited.
        recovery_seconds: From the death to the first new position (ingest: the first 202).
        seconds: The whole cell.
    """

    cell: str
    interrupts: str
    nth: int
    error: str = ""
    audit: dict[str, int] = field(default_factory=dict)
    readings: int = 0
    recovery_seconds: float | None = None
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the process died where it should and nothing came of it."""
        return not self.error and bool(self.audit) and not any(self.audit.values())

    def document(self) -> dict[str, object]:
        """For JSON."""
        return {**asdict(self), "ok": self.ok}


def cells(seed: int, only: str = "") -> list[Cell]:
    """All cells, or those whose name begins so; the arrivals are drawn from the seed."""
    chance = random.Random(seed)
    found = [
        Cell(service, point, _nth(point, chance))
        for service in APPS
        for point in FAILPOINTS
        if service in point.services
    ]
    return [cell for cell in found if cell.name.startswith(only)]


def _nth(point: Failpoint, chance: random.Random) -> int:
    nth = chance.randint(1, MAX_NTH)
    family = point.name.partition(".")[0]
    # A shard has one end, a process one stop, and there are two shards to claim.
    if family in {*AT_STOP, *RESHARDING}:
        return 1
    # Alerts are rare.
    return min(nth, 2) if family in {*AT_START, "alert"} else nth


class Group:
    """Cells on one deployment."""

    def __init__(self, running: Plant, load: Load, books: Books) -> None:
        self.plant = running
        self.books = books
        self._load = load
        self._accepted = 0

    def run(self, cell: Cell) -> Verdict:
        """One cell, from flowing readings to its audit."""
        started = time.monotonic()
        verdict = Verdict(cell.name, cell.failpoint.interrupts, cell.nth)
        before = self.books.readings
        try:
            self._flow(cell)
            verdict.recovery_seconds = self._die_and_recover(cell)
            self._load.pause()
            self.plant.drain()
            verdict.audit = self._audit().figures()
        except EndedEarlyError as error:
            verdict.error = str(error)
        verdict.readings = self.books.readings - before
        verdict.seconds = time.monotonic() - started
        return verdict

    def balance(self, name: str) -> Verdict:
        """Everything that all cells left behind, audited once more together; ends the services."""
        started = time.monotonic()
        verdict = Verdict(name, "All cells together.", 0, readings=self.books.readings)
        verdict.audit = self.books.balance().figures()
        statuses = {name: status for name, status in self.plant.stop().items() if status}
        wrong = (f"{name} ended with {status}" for name, status in statuses.items())
        verdict.error = ", ".join(wrong)
        verdict.seconds = time.monotonic() - started
        return verdict

    def _audit(self) -> Finding:
        accepted = self._load.accepted[self._accepted :]
        self._accepted += len(accepted)
        return self.books.close(accepted)

    def _flow(self, cell: Cell) -> None:
        """Readings flow, and the service is in the middle of them."""
        before = self._progress(cell)
        self._load.resume()
        self._wait_for_progress(cell, before)

    def _die_and_recover(self, cell: Cell) -> float:
        process = self._doomed(cell)
        reached = processes.wait_until(lambda: not process.is_running(), DEATH_SECONDS, 0.01)
        died = time.monotonic()
        before = self._progress(cell)
        self._require_death(cell, reached)
        self.plant.start(cell.app)
        self._wait_for_progress(cell, before)
        seconds = time.monotonic() - died
        self.plant.wait_until_ready(cell.app)
        return seconds

    def _doomed(self, cell: Cell) -> processes.Process:
        """The process that is to die, armed and on its way there."""
        armed = f"{cell.failpoint.name}:{cell.nth}"
        running = self.plant.processes[cell.app]
        if cell.family in AT_START:
            running.kill()
            return self.plant.start(cell.app, armed)
        self.plant.arm(cell.app, armed)
        if cell.family in AT_STOP:
            running.ask_to_stop()
        elif cell.reshards:
            reshard(READERS[cell.app].stream)
        return running

    def _require_death(self, cell: Cell, reached: bool) -> None:
        name, process = cell.app, self.plant.processes[cell.app]
        self.plant.disarm(name)
        if not reached:
            raise EndedEarlyError(f"{cell.failpoint.name} was not reached in {DEATH_SECONDS:g} s")
        status, point = process.wait(), self.plant.died_at(name)
        if status != -signal.SIGKILL or point != cell.failpoint.name:
            self.plant.start(name)
            raise EndedEarlyError(f"{name} ended with status {status} at {point or 'no failpoint'}")

    def _progress(self, cell: Cell) -> object:
        if cell.app == INGEST:
            return self._load.accepted_at
        return self.plant.positions(cell.app)

    def _wait_for_progress(self, cell: Cell, before: object) -> None:
        self.plant.wait(
            lambda: self._progress(cell) != before,
            f"{cell.app} gets on",
            [each for each in self.plant.processes if each == cell.app],
            COMMIT_SECONDS,
        )


def reshard(stream: str) -> None:
    """Split the shard with the widest range of hash keys, at its middle."""
    kinesis = boto3.client("kinesis")
    shards = [
        each
        for page in kinesis.get_paginator("list_shards").paginate(StreamName=stream)
        for each in page["Shards"]
        if "EndingSequenceNumber" not in each["SequenceNumberRange"]
    ]

    def bounds(each: dict[str, dict[str, str]]) -> tuple[int, int]:
        keys = each["HashKeyRange"]
        return int(keys["StartingHashKey"]), int(keys["EndingHashKey"])

    widest = max(shards, key=lambda each: bounds(each)[1] - bounds(each)[0])
    kinesis.split_shard(
        StreamName=stream,
        ShardToSplit=widest["ShardId"],
        NewStartingHashKey=str(sum(bounds(widest)) // 2 + 1),
    )


@contextmanager
def deployed(directory: Path, *, seed: int, reshards: bool) -> Iterator[Group]:
    """A whole deployment under the launcher, with its load: ready and flowing."""
    with plant.running(directory, reshards=reshards) as running:
        names = [running.add(app) for app in (*READERS, INGEST)]
        running.start_all(names)
        load = Load(
            [running.url(INGEST)],
            devices=DEVICES,
            readings_per_second=READINGS_PER_SECOND[reshards],
            seed=seed,
        )
        load.start()
        try:
            yield Group(running, load, Books(contract.load(plant.CONTRACT)))
        finally:
            load.stop()


def run(
    directory: Path,
    chosen: Sequence[Cell],
    *,
    seed: int,
    began: Callable[[Cell], None],
    ended: Callable[[Verdict], None],
) -> list[Verdict]:
    """Run cells, those that reshard on a deployment of their own; the last verdict is of the whole.

    Args:
        directory: For logs.
        chosen: The cells.
        seed: Of the load.
        began: Told before each cell.
        ended: Told after each cell, and after the audit of each deployment.
    """
    verdicts: list[Verdict] = []

    def note(verdict: Verdict) -> None:
        verdicts.append(verdict)
        ended(verdict)

    for reshards in (False, True):
        group = [cell for cell in chosen if cell.reshards == reshards]
        if not group:
            continue
        name = "resharding" if reshards else "flowing"
        with deployed(directory / name, seed=seed, reshards=reshards) as deployment:
            for cell in group:
                began(cell)
                note(deployment.run(cell))
            note(deployment.balance(f"all/{name}"))
    return verdicts
