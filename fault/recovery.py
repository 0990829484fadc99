"""How long the path stands still after a SIGKILL: to the first new position, and where it goes.

Either the same worker id comes back at once, or another worker, started long before, has to see
that nothing moves and takes the shard over.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from fault import plant
from fault.load import Load
from fault.plant import INGEST, READERS, Pace, Plant
from telemill.testing import processes
from telemill.testing.processes import Process

DEVICES = 16
READINGS_PER_SECOND = 320.0
RECOVERY_SECONDS = 120.0
SAME, OTHER = "same worker id", "another worker id"
EVENTS = ("service.started", "service.listening", "progress.claimed")
"""Log events that end a phase of a start; the first new position ends the last."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """One SIGKILL.

    Attributes:
        seconds: From SIGKILL to the first new position of the shard.
        phases: Seconds from SIGKILL to each event of the process that took over.
        cpu_seconds: Of that process, when it came back: from its start to the new position.
    """

    app: str
    kind: str
    seconds: float
    phases: Mapping[str, float]
    cpu_seconds: float | None


def measure(
    directory: Path, *, rounds: int, pace: Pace, seed: int, told: Callable[[Recovery], None]
) -> list[Recovery]:
    """Kill the owner of every reading application, some times in each way.

    Args:
        directory: For logs.
        rounds: Kills of each application and kind.
        pace: How often positions are saved.
        seed: Of the load.
        told: Of each kill.
    """
    found: list[Recovery] = []
    with plant.running(directory, pace=pace, shards=1) as running:
        first = [running.add(app, "a", launcher=False) for app in READERS]
        running.start_all([*first, running.add(INGEST, launcher=False)])
        load = Load(
            [running.url(INGEST)],
            devices=DEVICES,
            readings_per_second=READINGS_PER_SECOND,
            seed=seed,
        )
        load.start()
        try:
            for app in READERS:
                for recovery in _of(running, app, rounds):
                    found.append(recovery)
                    told(recovery)
        finally:
            load.stop()
    return found


def _of(running: Plant, app: str, rounds: int) -> list[Recovery]:
    found = []
    for _ in range(rounds):
        _wait_for_move(running, app)
        running.processes[app].kill()
        died = time.time()
        process = running.start(app)
        found.append(_recovered(running, app, SAME, died, process))
        running.wait_until_ready(app)
    for number in range(rounds):
        rival = running.add(app, f"rival-{number}", launcher=False, name=f"{app}-{number}")
        running.start_all([rival])
        _wait_for_move(running, app)
        # The owner of the shard dies; the next round's rival waits for this one.
        owner = app if number == 0 else f"{app}-{number - 1}"
        running.processes[owner].kill()
        died = time.time()
        found.append(_recovered(running, app, OTHER, died, running.processes[rival]))
    return found


def _wait_for_move(running: Plant, app: str) -> None:
    running.wait_for_commit(app, running.positions(app), RECOVERY_SECONDS)


def _recovered(running: Plant, app: str, kind: str, died: float, process: Process) -> Recovery:
    """Wait for the first new position, and look up what happened before."""
    before = running.positions(app)
    running.wait_for_commit(app, before, RECOVERY_SECONDS)
    seconds = time.time() - died
    phases: dict[str, float] = {}
    for entry in processes.log_events(process.log_path, *EVENTS):
        at = datetime.fromisoformat(str(entry["time"])).timestamp() - died
        if at > 0:
            phases.setdefault(str(entry["event"]), round(at, 2))
    cpu_seconds = process.cpu_seconds() if kind == SAME else None
    return Recovery(app, kind, round(seconds, 2), phases, cpu_seconds)
