"""The services as child processes of their own, as an orchestrator would run them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from telemill.testing import proc

STOP_TIMEOUT_SECONDS = 30.0
TAIL_LINES = 12


class EndedEarlyError(Exception):
    """A process is not there that should be."""


@dataclass(frozen=True, slots=True)
class Spec:
    """How to start one process.

    Attributes:
        name: In the status, and of the log file.
        module: Run with `python -m`.
        arguments: After the module.
        environment: Added to our own.
        port: Where it serves /metrics.
    """

    name: str
    module: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    port: int

    @property
    def url(self) -> str:
        """Base of its HTTP interface."""
        return f"http://127.0.0.1:{self.port}"


class Process:
    """One started process; its output goes to a log file."""

    def __init__(self, spec: Spec, log_directory: Path) -> None:
        """Start it."""
        self.spec = spec
        self.log_path = log_directory / f"{spec.name}.ndjson"
        self.exit_status: int | None = None
        with self.log_path.open("ab") as log:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", spec.module, *spec.arguments],
                env={**os.environ, **spec.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A terminal's Ctrl-C is for us alone: we stop them in the order of the data.
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._popen.pid

    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._popen.poll() is None

    def ask_to_stop(self) -> None:
        """Send SIGTERM: the service drains and commits."""
        self.signal(signal.SIGTERM)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing when it has ended."""
        if self.is_running():
            self._popen.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, as a crash: nothing is drained."""
        self._popen.kill()
        self._popen.wait()

    def wait(self, timeout_seconds: float = STOP_TIMEOUT_SECONDS) -> int:
        """Wait for its end; kills it when it takes too long, which the status shows."""
        try:
            self.exit_status = self._popen.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self.exit_status = self._popen.wait()
        return self.exit_status

    def rss_bytes(self) -> int:
        """Resident memory now; 0 once it has ended."""
        try:
            return proc.rss_bytes(self.pid)
        except (OSError, StopIteration):
            return 0

    def cpu_seconds(self) -> float:
        """CPU time used so far, user and system; 0 once it has ended."""
        try:
            return proc.cpu_seconds(self.pid)
        except OSError:
            return 0.0

    def tail(self) -> str:
        """The last lines of its log, for an error report."""
        lines = self.log_path.read_text(errors="replace").splitlines()
        return "\n".join(lines[-TAIL_LINES:])


def stop_in_order(processes: list[Process]) -> None:
    """SIGTERM to all of a group, then wait for each."""
    for process in processes:
        process.ask_to_stop()
    for process in processes:
        process.wait()


def log_events(path: Path, *events: str) -> list[dict[str, object]]:
    """The structured log lines of some events."""
    found = []
    for line in path.read_bytes().splitlines():
        try:
            entry = msgspec.json.decode(line)
        except msgspec.DecodeError:
            continue
        if isinstance(entry, dict) and entry.get("event") in events:
            found.append(entry)
    return found


def wait_until(
    condition: Callable[[], bool], timeout_seconds: float, poll_seconds: float = 0.2
) -> bool:
    """Poll a condition; False when it did not become true in time."""
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(poll_seconds)
    return condition()
