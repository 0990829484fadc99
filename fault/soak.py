"""Random SIGKILLs under load and faults, for minutes; then everything drains and is audited.

Of every application that reads, two workers run and share the shards. Who is killed when, and for
how long it stays away, is drawn from the seed before the run begins. Most come back at once, under
the same worker id; some stay away so long that the other worker takes their shards over.
"""

import json
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from fault import kills, matrix, plant
from fault.books import Books, Finding
from fault.kills import Figures, Kill, Recovery
from fault.load import Load
from fault.plant import INGEST, READERS, Pace, Plant
from telemill import contract, names
from telemill.kinesis.records import SHARD_END
from telemill.testing import faults
from telemill.testing.faults import Proxy
from telemill.testing.processes import EndedEarlyError, Process, log_events

WORKERS = ("a", "b")
SHARDS = 4
DEVICES = 32
TICKS_PER_BODY = 6
"""Few devices, many readings: the emulator that reshards takes a thousand records a second."""
PACE = Pace(1.0, flush_interval_seconds=2.0, push_linger_seconds=0.5)
FAULTS = faults.Plan(
    partial_failure=0.05,
    commit_then_drop=0.01,
    throttle=0.01,
    drop_before=0.002,
    server_error=0.002,
)
"""Of records, of writes, of calls."""

RESHARD_AT = ((1 / 3, names.RAW_STREAM), (2 / 3, names.READINGS_STREAM))
"""When of the whole, and which stream."""

STEP_SECONDS = 0.1
WATCH_SECONDS = 0.5
SHOW_SECONDS = 5.0


class Soak:
    """One run.

    Args:
        running: With all processes described and ready.
        load: Flowing.
        seed: Decides everything that is drawn.
        log: Takes one dict a line: what was done, when.
        show: Told a line every few seconds.
    """

    def __init__(
        self,
        running: Plant,
        load: Load,
        seed: int,
        log: Callable[[dict[str, Any]], None],
        show: Callable[[str], None],
    ) -> None:
        self.figures = Figures()
        self._plant = running
        self._load = load
        self._seed = seed
        self._log = log
        self._show = show
        self._began = 0.0
        self._returns: dict[str, float] = {}
        self._recovering: dict[str, Recovery] = {}
        self._looked: dict[str, float] = {}

    def run(self, seconds: float) -> None:
        """Kill for so long; afterwards every process is started."""
        self._began = time.monotonic()
        due = kills.schedule(self._seed, seconds, list(self._plant.processes))
        reshards = [(share * seconds, stream) for share, stream in RESHARD_AT]
        while (now := self._seconds()) < seconds:
            while due and due[0].at_seconds <= now:
                self._kill(due.pop(0))
            while reshards and reshards[0][0] <= now:
                self._reshard(reshards.pop(0)[1])
            self._return_due(now)
            self.revive()
            self._every(WATCH_SECONDS, self._watch)
            self._every(SHOW_SECONDS, self._tell)
            time.sleep(STEP_SECONDS)
        self._return_due(float("inf"))

    def revive(self) -> None:
        """Start what ended by itself, as an orchestrator does, and remember why it did."""
        for name, process in list(self._plant.processes.items()):
            if name in self._returns or process.is_running():
                continue
            why = f"{name}: status {process.wait()}, {_last_error(process)}"
            self.figures.ended.append(why)
            self._log({"event": "ended", "at": self._seconds(), "why": why})
            self._plant.start(name)

    def drain(self) -> float:
        """Stop the load and wait until everything is used up; seconds it took.

        Raises:
            EndedEarlyError: It takes too long.
        """
        started = time.monotonic()
        paused = False
        while True:
            self.revive()
            try:
                for name in self._plant.processes:
                    self._plant.wait_until_ready(name)
                if not paused:
                    self._load.pause()
                paused = True
                self._plant.drain()
            except EndedEarlyError:
                if all(each.is_running() for each in self._plant.processes.values()):
                    raise
            else:
                return plant.seconds_since(started)

    def _seconds(self) -> float:
        return plant.seconds_since(self._began)

    def _every(self, seconds: float, work: Callable[[], None]) -> None:
        name, now = work.__name__, self._seconds()
        if now - self._looked.get(name, -seconds) >= seconds:
            self._looked[name] = now
            work()

    # --- kills -------------------------------------------------------------------------------

    def _kill(self, kill: Kill) -> None:
        name = self._present(kill.victim)
        app = name.rpartition("@")[0]
        self.revive()
        self._note_memory()
        before = self._owned(app, name.rpartition("@")[2])
        self._plant.processes[name].kill()
        self.figures.kills[app] = self.figures.kills.get(app, 0) + 1
        self._log({"event": "kill", "at": self._seconds(), "name": name, "away": kill.away_seconds})
        self._returns[name] = self._seconds() + kill.away_seconds
        self._expect(name, app, before, is_long=bool(kill.away_seconds))

    def _present(self, victim: str) -> str:
        """The victim, or the next one by name when it is away."""
        order = list(self._plant.processes)
        start = order.index(victim)
        return next(name for name in order[start:] + order[:start] if name not in self._returns)

    def _return_due(self, now: float) -> None:
        for name in [name for name, due in self._returns.items() if due <= now]:
            del self._returns[name]
            self._plant.start(name)

    def _reshard(self, stream: str) -> None:
        matrix.reshard(stream)
        self.figures.reshards.append(stream)
        self._log({"event": "split", "at": self._seconds(), "stream": stream})

    # --- recoveries --------------------------------------------------------------------------

    def _owned(self, app: str, worker_id: str) -> dict[str, str | None]:
        if app == INGEST:
            return {}
        items = self._plant.items(app).items()
        return {
            shard: item.position
            for shard, item in items
            if item.owner == worker_id and item.position != SHARD_END
        }

    def _expect(
        self, name: str, app: str, before: Mapping[str, str | None], *, is_long: bool
    ) -> None:
        if self._recovering.pop(name, None):
            self.figures.repeated_kills += 1
        elif app != INGEST and not before:
            self.figures.idle_kills += 1
            return
        self._recovering[name] = Recovery(time.monotonic(), app, is_long, before)

    def _watch(self) -> None:
        """Which of the killed have moved on?"""
        self._note_memory()
        apps = {each.app for each in self._recovering.values()} - {INGEST}
        positions = {app: self._plant.positions(app) for app in apps}
        for name, waiting in list(self._recovering.items()):
            if waiting.app == INGEST:
                moved = self._load.accepted_at > waiting.died
            else:
                now = positions[waiting.app]
                moved = any(now.get(key) != old for key, old in waiting.positions.items())
            if moved:
                del self._recovering[name]
                self._note_recovery(waiting)

    def _note_recovery(self, recovered: Recovery) -> None:
        kind = "push" if recovered.app == INGEST else "same worker"
        kind = "another worker" if recovered.is_long and recovered.app != INGEST else kind
        seconds = plant.seconds_since(recovered.died)
        self.figures.recoveries.setdefault(kind, []).append(seconds)
        self._log({"event": "recovered", "app": recovered.app, "kind": kind, "seconds": seconds})

    def _note_memory(self) -> None:
        peaks = self.figures.peak_bytes
        for name, process in self._plant.processes.items():
            peaks[name] = max(peaks.get(name, 0), process.rss_bytes())

    def _tell(self) -> None:
        accepted = len(self._load.accepted) * self._load.readings_per_body
        self._show(
            f"{self._seconds():4.0f} s  {self.figures.kill_count:3} kills, "
            f"{len(self._returns)} away  {accepted:9,} of {self._load.offered:,} readings taken "
            f"({accepted / max(1.0, self._seconds()):,.0f}/s)  "
            f"{len(self._recovering)} not yet recovered"
        )


def run(
    directory: Path,
    *,
    minutes: float,
    seed: int,
    readings_per_second: float,
    show: Callable[[str], None],
    reshards: bool = True,
) -> dict[str, Any]:
    """The whole soak; its figures, with `ok`.

    Args:
        directory: Emptied; takes logs, `events.ndjson` and `summary.json`.
        minutes: How long processes are killed.
        seed: Of load, kills and faults.
        readings_per_second: Offered.
        show: Told what happens.
        reshards: Split a shard of two streams on the way.
    """
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    proxies: list[Proxy] = []

    def behind(aws: str, kinesis: str | None, stack: ExitStack) -> Mapping[str, str]:
        log_path = directory / "faults.ndjson"
        started = faults.running(aws, seed=seed, log_path=log_path, kinesis_upstream=kinesis)
        proxies.append(stack.enter_context(started))
        url = proxies[0].url
        return {"AWS_ENDPOINT_URL": url, "AWS_ENDPOINT_URL_KINESIS": url}

    with (
        plant.running(
            directory, pace=PACE, shards=SHARDS, reshards=reshards, behind=behind
        ) as running,
        (directory / "events.ndjson").open("w") as events,
    ):
        load = _start(running, readings_per_second, seed)

        def log(entry: dict[str, Any]) -> None:
            events.write(json.dumps(entry) + "\n")
            events.flush()

        soak = Soak(running, load, seed, log, show)
        proxies[0].set_plan(FAULTS)
        try:
            soak.run(minutes * 60)
            flowed_seconds = minutes * 60
            show("no more kills; everything drains, under faults still")
            drained_seconds = soak.drain()
            finding = Books(contract.load(plant.CONTRACT)).close(load.accepted)
        finally:
            load.stop()
        made = _summary(soak.figures, finding, load, proxies[0].counts())
        made |= {"minutes": minutes, "seed": seed, "drain_seconds": round(drained_seconds, 1)}
        made["readings_per_second"] = round(made["readings"] / flowed_seconds)
        made["statuses"] = {name: status for name, status in running.stop().items() if status}
        made["innocents_named_poison"] = sum(
            len(log_events(process.log_path, "stage.poison_named"))
            for process in running.processes.values()
        )
    wrong = made["statuses"] or made["ended_by_themselves"] or made["innocents_named_poison"]
    made["ok"] = finding.ok and not wrong
    (directory / "summary.json").write_text(json.dumps(made, indent=2) + "\n")
    return made


def _start(running: Plant, readings_per_second: float, seed: int) -> Load:
    described = [
        running.add(app, worker, launcher=False, name=f"{app}@{worker}")
        for app in READERS
        for worker in WORKERS
    ]
    described.append(running.add(INGEST, launcher=False, name=f"{INGEST}@a"))
    running.start_all(described)
    load = Load(
        [running.url(described[-1])],
        devices=DEVICES,
        ticks_per_body=TICKS_PER_BODY,
        readings_per_second=readings_per_second,
        seed=seed,
    )
    load.start()
    return load


def _last_error(process: Process) -> str:
    """The end of the last exception in a log, or its last line."""
    found = log_events(process.log_path, "service.failed", "service.drain_cut_short")
    text = str(found[-1].get("exception", "")) if found else process.tail()
    return text.rstrip().rpartition("\n")[2]


def _summary(
    figures: Figures, finding: Finding, load: Load, injected: Mapping[str, int]
) -> dict[str, Any]:
    report = finding.report
    return {
        "kills": figures.kill_count,
        "kills_by_application": figures.kills,
        "kills_of_idle_workers": figures.idle_kills,
        "killed_again_before_recovery": figures.repeated_kills,
        "splits": figures.reshards,
        "ended_by_themselves": figures.ended,
        "readings": report.raw_items,
        "offered": load.offered,
        "pushes_repeated": load.attempts,
        "stored": report.stored,
        "quarantined": report.quarantined,
        "duplicates": report.duplicates,
        "scores": report.scores,
        "faults_injected": dict(injected),
        "recovery_seconds": {
            kind: kills.quantiles(seconds) for kind, seconds in figures.recoveries.items()
        },
        "peak_megabytes": {name: round(peak / 1e6) for name, peak in figures.peak_bytes.items()},
        "audit": finding.figures(),
    }
