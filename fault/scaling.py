"""Several transform workers share the shards of one stream by the KCL, while readings flow.

Who owns a shard, and how far it is, is read from the progress table a few times a second: what is
measured is what a user of the tables would notice, not what the KCL believes.
"""

import shutil
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fault import resharding, shards
from fault.resharding import INGEST, TRANSFORM, Deployment, Remains, Traffic
from telemill import names
from telemill.kinesis.records import SHARD_END
from telemill.testing import proc
from telemill.testing.processes import EndedEarlyError

COMMIT_INTERVAL_SECONDS = 0.5
LOOK_SECONDS = 0.2
SETTLED_SECONDS = 300.0
"""KCL 3's leader lock alone lasts 120 s."""
DEVICES = 200
SLOW_PAUSE_SECONDS, SLOW_RUN_SECONDS = 0.4, 0.1


@dataclass(frozen=True, slots=True)
class Move:
    """A shard's progress item changed."""

    at: float
    shard_id: str
    owner: str
    position: str


class Observer:
    """Notes every change of transform's progress, in a thread of its own."""

    def __init__(self) -> None:
        self.moves: list[Move] = []
        self._stopping = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    @contextmanager
    def looking(self) -> Iterator["Observer"]:
        """Look for the length of a `with` block.

        Raises:
            Exception: What ended the looking before.
        """
        self._thread.start()
        try:
            yield self
        finally:
            self._stopping.set()
            self._thread.join()
        if self._failure is not None:
            raise self._failure

    def owners(self, since: float) -> dict[str, str]:
        """Who has moved each shard last, of those moved after a moment and not at their end."""
        last = {move.shard_id: move for move in tuple(self.moves) if move.at >= since}
        return {
            shard_id: move.owner for shard_id, move in last.items() if move.position != SHARD_END
        }

    def standstills(self, since: float) -> dict[str, float]:
        """Of each shard the longest time between two positions, the later one after a moment."""
        found: dict[str, float] = {}
        before: dict[str, Move] = {}
        for move in tuple(self.moves):
            last = before.get(move.shard_id)
            if last is not None and move.at >= since:
                gap_seconds = move.at - last.at
                found[move.shard_id] = max(gap_seconds, found.get(move.shard_id, 0.0))
            before[move.shard_id] = move
        return found

    def handed_over(self, since: float) -> set[str]:
        """Shards that another owner moves than the one before a moment."""
        moves = tuple(self.moves)
        before = {move.shard_id: move.owner for move in moves if move.at < since}
        after = {move.shard_id: move.owner for move in moves if move.at >= since}
        return {shard_id for shard_id in after if after[shard_id] != before.get(shard_id)}

    def _run(self) -> None:
        positions: dict[str, str] = {}
        try:
            while not self._stopping.wait(LOOK_SECONDS):
                for shard_id, item in shards.progress(TRANSFORM, names.RAW_STREAM).items():
                    position = item["position"]
                    # The first position under an owner, not the claim: readings flow again.
                    if position and position != positions.get(shard_id):
                        positions[shard_id] = position
                        now = time.monotonic()
                        self.moves.append(Move(now, shard_id, item["owner"], position))
        except Exception as error:
            self._failure = error


@dataclass(frozen=True, slots=True)
class Handover:
    """What happened after workers came, went or died.

    Attributes:
        what: "SIGKILL of a".
        shards: That changed hands.
        settled_seconds: Until every shard moved under an owner that is there, and evenly.
        standstill_seconds: Longest time any shard stood still meanwhile.
    """

    what: str
    shards: int
    settled_seconds: float
    standstill_seconds: float


@dataclass(slots=True)
class Fleet:
    """Transform workers on the KCL, in the middle of a whole deployment.

    Attributes:
        deployment: All processes.
        observer: Of transform's progress.
        kcl: What is set for transform: KINESIS_*.
        alive: Workers that are there.
        changed_at: When one last came or went (monotonic): what moves later, moves without it.
    """

    deployment: Deployment
    observer: Observer
    kcl: Mapping[str, str]
    alive: list[str] = field(default_factory=list)
    changed_at: float = 0.0

    def join(self, worker: str) -> None:
        """Start a worker, or start a killed one again."""
        spec = resharding.transform_spec(worker, COMMIT_INTERVAL_SECONDS, self.kcl)
        self.deployment.start(spec)
        self.alive.append(worker)
        self.changed_at = time.monotonic()

    def kill(self, worker: str) -> None:
        """SIGKILL."""
        self.alive.remove(worker)
        self.deployment.kill(_name(worker))
        # What it wrote last is seen by then.
        time.sleep(2 * LOOK_SECONDS)
        self.changed_at = time.monotonic()

    def leave(self, worker: str) -> None:
        """SIGTERM, and wait for its end."""
        self.alive.remove(worker)
        self.deployment.leave(_name(worker))
        self.changed_at = time.monotonic()

    def metric(self, worker: str, name: str) -> float:
        """A metric of a worker, summed over its labels."""
        return self.deployment.metric(_name(worker), name)

    def exit_status(self, worker: str) -> int | None:
        """With which a worker ended; None while it runs."""
        return self.deployment.processes[_name(worker)].exit_status

    def children(self, worker: str) -> list[int]:
        """Processes below a worker: the JVM and its relays."""
        return proc.below(self.deployment.processes[_name(worker)].pid)

    @contextmanager
    def flowing(self) -> Iterator[Traffic]:
        """Let readings flow and look at transform's progress, for the length of a `with` block."""
        traffic = Traffic(self.deployment.processes[INGEST].spec.url, devices=DEVICES)
        with traffic.flowing(), self.observer.looking():
            yield traffic

    def finish(self, traffic: Traffic) -> Remains:
        """Drain everything in the order of the data, and audit the tables."""
        self.deployment.drain()
        return resharding.collect(self.deployment, traffic)

    @contextmanager
    def slowed(self, worker: str) -> Iterator[None]:
        """Let a worker run a fifth of the time."""
        done = threading.Event()
        process = self.deployment.processes[_name(worker)]

        def pace() -> None:
            while not done.wait(SLOW_RUN_SECONDS):
                process.signal(signal.SIGSTOP)
                done.wait(SLOW_PAUSE_SECONDS)
                process.signal(signal.SIGCONT)

        thread = threading.Thread(target=pace)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def settle(self, what: str, since: float, *, evenly: bool = True) -> Handover:
        """Wait until every open shard has moved since the last change; what that took.

        Args:
            what: Happened.
            since: When (monotonic).
            evenly: Wait as well until no worker has two shards more than another.

        Raises:
            EndedEarlyError: It does not happen.
        """
        deadline = time.monotonic() + SETTLED_SECONDS
        while not self._is_settled(evenly):
            if time.monotonic() > deadline:
                owners = self.observer.owners(self.changed_at)
                raise EndedEarlyError(f"not settled: {what}: {owners}")
            self.deployment.require_running()
            time.sleep(LOOK_SECONDS)
        settled_seconds = time.monotonic() - since
        return Handover(
            what,
            len(self.observer.handed_over(since)),
            settled_seconds,
            max(self.observer.standstills(since).values(), default=0.0),
        )

    def _is_settled(self, evenly: bool) -> bool:
        owners = self.observer.owners(self.changed_at)
        still_open = {shard["ShardId"] for shard in shards.open_shards(names.RAW_STREAM)}
        if not still_open <= owners.keys() or not set(owners.values()) <= set(self.alive):
            return False
        held = [list(owners.values()).count(worker) for worker in self.alive]
        return not evenly or max(held) - min(held) <= 1


def _name(worker: str) -> str:
    return f"{TRANSFORM}-{worker}"


@contextmanager
def running(
    directory: Path, workers: Sequence[str], kcl: Mapping[str, str], *, shard_count: int
) -> Iterator[Fleet]:
    """Everything, ready; transform on the KCL, all else on `single`.

    Args:
        directory: For logs; made anew.
        workers: Transform workers to begin with.
        kcl: KINESIS_* for them.
        shard_count: Of each stream.
    """
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    with resharding.deployed(directory, shard_count) as deployment:
        others = [
            spec
            for spec in resharding.specs(("none",), COMMIT_INTERVAL_SECONDS)
            if not spec.name.startswith(TRANSFORM)
        ]
        deployment.start(*others)
        fleet = Fleet(deployment, Observer(), {"KINESIS_COORDINATOR": "kcl", **kcl})
        for worker in workers:
            fleet.join(worker)
        deployment.wait_until_ready()
        yield fleet
