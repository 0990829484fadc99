"""Start the fault proxy as a process of its own, and change its plan while it runs."""

import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from telemill.testing import processes
from telemill.testing.faults import plan as plans

MODULE = "telemill.testing.faults"
CONTROL_PATH = "/_faults"
START_TIMEOUT_SECONDS = 30.0
CONTROL_TIMEOUT_SECONDS = 10.0
POLL_SECONDS = 0.05


class Proxy:
    """A running fault proxy.

    Attributes:
        url: What AWS_ENDPOINT_URL is to be.
        process: Its process: for its memory and CPU time.
        log_path: Where it logs the faults.
    """

    def __init__(self, url: str, process: processes.Process, log_path: Path) -> None:
        self.url = url
        self.process = process
        self.log_path = log_path

    def set_plan(self, plan: plans.Plan) -> None:
        """From now on, these faults instead of the ones before. Outages begin now.

        Raises:
            PlanError: The plan says something impossible; the old one holds.
        """
        self._control("PUT", plans.encode(plans.check(plan)))

    def heal(self) -> None:
        """No more faults."""
        self._control("DELETE")

    def plan(self) -> plans.Plan:
        """The plan at work."""
        return msgspec.convert(self._control("GET")["plan"], plans.Plan)

    def counts(self) -> dict[str, int]:
        """How often each fault was injected since the start, by its name; 0 where never."""
        return msgspec.convert(self._control("GET")["counts"], dict[str, int])

    def calls(self) -> dict[str, int]:
        """How many calls came since the start, by `service:Operation`."""
        return msgspec.convert(self._control("GET")["calls"], dict[str, int])

    def _control(self, method: str, body: bytes | None = None) -> Any:
        request = urllib.request.Request(  # noqa: S310 - a loopback URL of our own
            self.url + CONTROL_PATH, data=body, method=method
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=CONTROL_TIMEOUT_SECONDS) as response:
                return msgspec.json.decode(response.read() or b"null")
        except urllib.error.HTTPError as error:
            with error:
                raise plans.PlanError(error.read().decode(errors="replace")) from error


@contextmanager
def running(
    upstream: str,
    *,
    seed: int,
    log_path: Path,
    kinesis_upstream: str | None = None,
    port: int = 0,
) -> Iterator[Proxy]:
    """A healthy fault proxy for the length of a `with` block.

    Args:
        upstream: The emulator's URL.
        seed: Decides which calls fail.
        log_path: Where each injected fault is logged; its output is beside it, `….process.ndjson`.
        kinesis_upstream: Where Kinesis is, if elsewhere.
        port: Loopback port; a free one by default.

    Raises:
        EndedEarlyError: It did not start.
    """
    process = processes.Process(
        _spec(upstream, seed, log_path, kinesis_upstream, port), _fresh_directory(log_path)
    )
    try:
        yield Proxy(f"http://127.0.0.1:{_listening_port(process)}", process, log_path)
    finally:
        process.ask_to_stop()
        process.wait()


def _spec(
    upstream: str, seed: int, log_path: Path, kinesis_upstream: str | None, port: int
) -> processes.Spec:
    arguments = ["--upstream", upstream, "--seed", str(seed), "--log", str(log_path)]
    if kinesis_upstream:
        arguments += ["--kinesis-upstream", kinesis_upstream]
    arguments += ["--port", str(port)]
    return processes.Spec(_name(log_path), MODULE, tuple(arguments), {}, port)


def _name(log_path: Path) -> str:
    return f"{log_path.stem}.process"


def _fresh_directory(log_path: Path) -> Path:
    """The log's directory, without the output of a run before: its port is not ours."""
    log_path.parent.mkdir(parents=True, exist_ok=True)
    (log_path.parent / f"{_name(log_path)}.ndjson").unlink(missing_ok=True)
    return log_path.parent


def _listening_port(process: processes.Process) -> int:
    def answered() -> bool:
        return not process.is_running() or bool(processes.log_events(process.log_path, "listening"))

    processes.wait_until(answered, START_TIMEOUT_SECONDS, POLL_SECONDS)
    found = processes.log_events(process.log_path, "listening")
    if not found:
        raise processes.EndedEarlyError(f"the fault proxy did not start:\n{process.tail()}")
    return msgspec.convert(found[0]["port"], int)
