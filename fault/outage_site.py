"""A deployment behind the fault proxy, with pushing clients and polled devices on it."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

import aiohttp

from bench.deployment import COMPILED
from demo import status
from fault import plant
from fault.books import Books, Finding
from fault.load import KEY_HASH, Load
from fault.plant import INGEST, READERS, READY_SECONDS, SINK_SCORES, Plant
from telemill import contract
from telemill.testing import emulator, faults
from telemill.testing.processes import Process, Spec

SIMULATOR = "simulator"
DEFAULT_SEED = 20260101
DEVICES = 40
POLLED_DEVICES = 20
READINGS_PER_SECOND = 400.0
STEADY_ROWS = 2000
"""Stored before anything happens: it finds everybody at work."""

BUFFER_BYTES = 2 * 1024 * 1024
"""Of ingest: small, so that a short outage fills it."""


@dataclass(slots=True)
class Answers:
    """What ingest answered to pushes, and whether its refusals were proper ones.

    Attributes:
        statuses: Answers by status; 0: none came.
        improper: Refusals that were no problem+json or lacked Retry-After.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    improper: list[str] = field(default_factory=list)


class Clients(Load):
    """The load, which also keeps what ingest answers."""

    def __init__(self, url: str, *, seed: int) -> None:
        super().__init__([url], devices=DEVICES, readings_per_second=READINGS_PER_SECOND, seed=seed)
        self.answers = Answers()

    async def _post(self, session: aiohttp.ClientSession, url: str, body: bytes) -> None:
        """Push one body until it is taken, when ingest says it may be."""
        while not self._stops.is_set():
            wait_seconds = 1.0
            try:
                async with session.post(f"{url}/v1/readings", data=body) as answer:
                    text = await answer.text()
                    self.answers.statuses[answer.status] += 1
                    if answer.status == HTTPStatus.ACCEPTED:
                        self.accepted.append(body)
                        self._outstanding -= 1
                        return
                    wait_seconds = self._refused(answer, text)
            except (aiohttp.ClientError, TimeoutError):
                self.answers.statuses[0] += 1
            await asyncio.sleep(wait_seconds)

    def _refused(self, answer: aiohttp.ClientResponse, text: str) -> float:
        """When to come again."""
        after = answer.headers.get("Retry-After", "")
        proper = (
            answer.status == HTTPStatus.SERVICE_UNAVAILABLE
            and answer.content_type == "application/problem+json"
            and after.isdigit()
        )
        if not proper:
            self.answers.improper.append(f"{answer.status} {answer.content_type} {after!r} {text}")
        return float(after) if after.isdigit() else 1.0


@dataclass(slots=True)
class Site:
    """A deployment behind the proxy, with load on it.

    Attributes:
        plant: Its processes.
        proxy: What AWS is for the services.
        clients: Who push.
        books: The audit.
        sources: How the simulator and ingest are started.
    """

    plant: Plant
    proxy: faults.Proxy
    clients: Clients
    books: Books
    sources: Mapping[str, Spec]

    @property
    def services(self) -> dict[str, Process]:
        """Ingest and the readers."""
        return {name: each for name, each in self.plant.processes.items() if name != SIMULATOR}

    def start(self, name: str) -> Process:
        """Start one process; returns at once."""
        if name not in self.sources:
            return self.plant.start(name)
        self.plant.processes[name] = Process(self.sources[name], self.plant.directory)
        return self.plant.processes[name]

    def start_all(self) -> None:
        """Start everything, and push until scores are stored."""
        for name in (SIMULATOR, *READERS, INGEST):
            self.start(name)
        for name in self.services:
            self.wait(lambda name=name: self.metric(name, "ready") == 1, f"{name} is ready")  # type: ignore[misc]
        self.clients.start()
        self.wait(
            lambda: self.metric(SINK_SCORES, "rows_written_total") >= STEADY_ROWS,
            "scores are stored",
        )

    def metric(self, name: str, metric: str) -> float:
        """A metric of a process, summed over its labels; 0 while it does not answer."""
        samples = status.scrape(self.plant.processes[name].spec.url)
        return samples.get(f"telemill_{metric}", 0.0)

    def wait(
        self, condition: Callable[[], bool], what: str, seconds: float = READY_SECONDS
    ) -> None:
        """Wait for a condition while no process may end.

        Raises:
            EndedEarlyError: One did, or it takes too long.
        """
        self.plant.wait(condition, what, list(self.plant.processes), seconds)

    def finish(self) -> tuple[Finding, dict[str, int]]:
        """Let everything drain, stop it, balance the books; also the exit statuses."""
        self.clients.pause()
        statuses = {}
        # First: what is polled for ever would never be used up.
        for name in (INGEST, SIMULATOR):
            process = self.plant.processes.pop(name)
            process.ask_to_stop()
            statuses[name] = process.wait()
        self.plant.drain()
        statuses |= self.plant.stop()
        return self.books.close(self.clients.accepted), statuses


@contextmanager
def site(directory: Path, *, seed: int = DEFAULT_SEED, started: bool = True) -> Iterator[Site]:
    """A deployment at work behind a healthy proxy.

    Args:
        directory: For logs.
        seed: Of the load and the proxy.
        started: Start everything, wait until it is ready, and begin to push.
    """
    proxies: list[faults.Proxy] = []

    def behind(aws_url: str, _kinesis_url: str | None, stack: ExitStack) -> Mapping[str, str]:
        log_path = directory / "faults.ndjson"
        proxies.append(stack.enter_context(faults.running(aws_url, seed=seed, log_path=log_path)))
        return {"AWS_ENDPOINT_URL": proxies[0].url}

    with plant.running(directory, behind=behind) as made:
        for app in READERS:
            made.add(app, launcher=False)
        simulator, ingest = _sources(directory, made.aws)
        clients = Clients(ingest.url, seed=seed)
        books = Books(contract.load(plant.CONTRACT))
        built = Site(made, proxies[0], clients, books, {SIMULATOR: simulator, INGEST: ingest})
        try:
            if started:
                built.start_all()
            yield built
        finally:
            clients.stop()


def _sources(directory: Path, aws: Mapping[str, str]) -> tuple[Spec, Spec]:
    """The simulator, and an ingest that polls it and takes pushes."""
    simulator_port, ingest_port = emulator.free_port(), emulator.free_port()
    simulator = {
        "HTTP_PORT": simulator_port,
        "DEVICE_COUNT": POLLED_DEVICES,
        "INTERVAL_SECONDS": 1,
        "CHAOS": 0,
        "LOG": directory / "served.ndjson",
    }
    ingest = {
        "HTTP_PORT": ingest_port,
        "CONTRACT": plant.CONTRACT,
        "WORKER_ID": plant.WORKER_ID,
        "API_KEY_HASHES": KEY_HASH,
        "BASE_URL": f"http://127.0.0.1:{simulator_port}",
        "DEVICES": f"1-{POLLED_DEVICES}",
        "POLL_INTERVAL_SECONDS": 1,
        "MAX_BUFFERED_BYTES": BUFFER_BYTES,
    }
    return (
        Spec(SIMULATOR, "simulator", (), _environment("SIMULATOR_", simulator), simulator_port),
        Spec(INGEST, "ingest", (), {**_environment("INGEST_", ingest), **aws}, ingest_port),
    )


def _environment(prefix: str, settings: Mapping[str, object]) -> dict[str, str]:
    return {**COMPILED, **{f"{prefix}{name}": str(value) for name, value in settings.items()}}
