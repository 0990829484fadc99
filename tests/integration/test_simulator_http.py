"""The simulator over real sockets, and its log against what the clients saw."""

import asyncio
import base64
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from simulator import app, scenarios, state
from simulator.answer_log import AnswerLog
from telemill import health

NOW = 1_751_876_489.25
FLEET = scenarios.Fleet(seed=7, device_count=20, interval_seconds=10)


class Clock:
    """Time that stands still until it is told; sleeping waits to be released."""

    def __init__(self) -> None:
        self.time = NOW
        self.sleeping: asyncio.Queue[float] = asyncio.Queue()
        self.release = asyncio.Event()

    def now(self) -> float:
        """Unix time."""
        return self.time

    async def sleep(self, seconds: float) -> None:
        """Say that somebody sleeps, and wait; the log's flush waits for ever."""
        if seconds == app.FLUSH_SECONDS:
            await asyncio.get_running_loop().create_future()
        self.sleeping.put_nowait(seconds)
        await self.release.wait()


class Client:
    """Talks to a simulator at a base URL."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.session = session
        self.url = url

    async def get(self, path: str) -> tuple[int, bytes]:
        """Status and body."""
        async with self.session.get(self.url + path) as answer:
            return answer.status, await answer.read()

    async def control(self, method: str, path: str, **wish: Any) -> tuple[int, Any]:
        """Ask the control API."""
        url = f"{self.url}/_control/scenarios{path}"
        async with self.session.request(method, url, json=wish or None) as answer:
            return answer.status, await answer.json()


@asynccontextmanager
async def served(log_file: Path, clock: Clock, **options: Any) -> AsyncIterator[Client]:
    """A simulator on a free port, shut down at the end."""
    fleet = options.pop("fleet", FLEET)
    async with aiohttp.ClientSession() as session:
        with AnswerLog(log_file) as log:
            simulator = state.Simulator(fleet, log, now=clock.now, sleep=clock.sleep, **options)
            created = app.create_app(simulator)
            runner = await health.serve(
                created, "127.0.0.1", 0, cancel_handlers=True, shutdown_seconds=0.1
            )
            host, port = runner.addresses[0]
            try:
                yield Client(session, f"http://{host}:{port}")
            finally:
                await runner.cleanup()


def lines(log_file: Path) -> list[dict[str, Any]]:
    """What was logged."""
    return [json.loads(line) for line in log_file.read_bytes().splitlines()]


@pytest.fixture
def clock() -> Clock:
    """Time in the test's hands."""
    return Clock()


@pytest.fixture
def log_file(tmp_path: Path) -> Path:
    """Where answers are logged."""
    return tmp_path / "served.ndjson"


async def test_one_reading_an_interval(log_file: Path, clock: Clock) -> None:
    """Polling twice inside an interval gives the same bytes, the next interval others."""
    async with served(log_file, clock) as client:
        first = await client.get("/7/")
        clock.time += 0.5
        assert await client.get("/7") == first
        clock.time += 10
        later = await client.get("/7/")
    assert first[0] == 200
    assert json.loads(first[1])["time"] == "2025-07-07T08:21:20Z"
    assert json.loads(later[1])["time"] == "2025-07-07T08:21:30Z"
    assert json.loads(first[1])["DeviceId"] == 7


async def test_random_per_get(log_file: Path, clock: Clock) -> None:
    """Like the published server: each GET another reading, maybe with the same time."""
    async with served(log_file, clock, random_per_get=True) as client:
        first, second = await client.get("/7/"), await client.get("/7/")
    assert json.loads(first[1])["time"] == json.loads(second[1])["time"] == "2025-07-07T08:21:29Z"
    assert first != second


@pytest.mark.parametrize("path", ["/0/", "/21/", "/-1/", "/abc/", "/%C2%B2/"])
async def test_unknown_devices(log_file: Path, clock: Clock, path: str) -> None:
    """A device nobody knows is a 404 in JSON, and logged."""
    async with served(log_file, clock) as client:
        status, body = await client.get(path)
    assert status == 404
    assert json.loads(body)["error"] == "unknown device"
    assert [line["status"] for line in lines(log_file)] == [404]


async def test_the_log_is_what_clients_saw(log_file: Path, clock: Clock) -> None:
    """Every answer of every scenario is one line with exactly the status and bytes sent."""
    seen = []
    async with served(log_file, clock) as client:
        clock.release.set()
        for name in scenarios.SCENARIOS:
            await client.control("PUT", "/3", scenario=name)
            for _ in range(3):
                tick = FLEET.tick_at(clock.time)
                seen.append((tick, name, *await client.get("/3/")))
                clock.time += 10
    logged = []
    for line in lines(log_file):
        body = line["body"].encode()
        if line.get("body_encoding") == "base64":
            body = base64.b64decode(line["body"])
        logged.append((line["tick"], line["scenario"], line["status"], body))
        assert line["device_id"] == 3
    assert logged == seen
    assert lines(log_file)[0]["served_at"] == "2025-07-07T08:21:29.250+00:00"
    assert {line["scenario"] for line in lines(log_file) if "body_encoding" in line} == {"not_utf8"}


async def test_a_client_that_hung_up_is_told_apart(log_file: Path, clock: Clock) -> None:
    """A slow answer nobody waited for is logged as 499, aborted, with the body nobody got."""
    async with served(log_file, clock) as client:
        await client.control("PUT", "/3", scenario="slow", magnitude=6)
        waiting = asyncio.create_task(client.get("/3/"))
        assert await clock.sleeping.get() == 6
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await client.control("DELETE", "/3")
        healthy = await client.get("/3/")
    gone, answered = lines(log_file)
    assert (gone["status"], gone["aborted"], gone["scenario"]) == (499, True, "slow")
    assert (answered["status"], answered["body"].encode()) == healthy
    assert "aborted" not in answered
    assert gone["body"] == answered["body"]


async def test_a_shutdown_logs_what_was_not_sent(log_file: Path, clock: Clock) -> None:
    """A slow answer cut off by the shutdown is in the log as aborted."""
    async with served(log_file, clock) as client:
        await client.control("PUT", "/3", scenario="slow")
        waiting = asyncio.create_task(client.get("/3/"))
        await clock.sleeping.get()
    await asyncio.gather(waiting, return_exceptions=True)
    assert [line.get("aborted") for line in lines(log_file)] == [True]


async def test_scenarios_are_switched(log_file: Path, clock: Clock) -> None:
    """PUT sets, GET shows, the list names, a time ends and DELETE takes away a scenario."""
    async with served(log_file, clock) as client:
        tick = FLEET.tick_at(NOW)
        expected = {"name": "not_found", "since_tick": tick, "until_tick": tick + 2}
        for method, wish in (("PUT", {"scenario": "not_found", "for_ticks": 2}), ("GET", {})):
            status, shown = await client.control(method, "/3", **wish)
            assert status == 200
            assert shown.items() >= expected.items()
        _, everything = await client.control("GET", "")
        assert set(everything["scenarios"]) == set(scenarios.SCENARIOS)
        assert list(everything["devices"]) == ["3"]
        assert (await client.get("/3/"))[0] == 404
        assert (await client.get("/4/"))[0] == 200
        clock.time += 20
        assert (await client.get("/3/"))[0] == 200
        await client.control("PUT", "/3", scenario="error_5xx")
        assert (await client.get("/3/"))[0] >= 500
        _, shown = await client.control("DELETE", "/3")
        assert shown["name"] == "healthy"
        assert (await client.get("/3/"))[0] == 200


async def test_control_refuses(log_file: Path, clock: Clock) -> None:
    """An unknown scenario is a 400 that lists them, an unknown device a 404; nothing is logged."""
    async with served(log_file, clock) as client:
        status, body = await client.control("PUT", "/3", scenario="nope")
        assert status == 400
        assert "takes healthy, drift, stuck" in body["error"]
        assert (await client.control("PUT", "/99", scenario="drift"))[0] == 404
        assert (await client.control("GET", "/x"))[0] == 404
    assert lines(log_file) == []


async def test_chaos_yields_to_the_hand(log_file: Path, clock: Clock) -> None:
    """A device set to healthy by hand is spared by the chaos, the others are not."""
    fleet = scenarios.Fleet(seed=7, device_count=20, chaos=1.0)
    async with served(log_file, clock, fleet=fleet) as client:
        await client.control("PUT", "/3", scenario="healthy")
        _, everything = await client.control("GET", "")
    names = {device: active["name"] for device, active in everything["devices"].items()}
    assert len(names) == 20
    assert [device for device, name in names.items() if name == "healthy"] == ["3"]


async def test_healthz(log_file: Path, clock: Clock) -> None:
    """/healthz answers with the tick and the constants of the fleet."""
    async with served(log_file, clock) as client:
        status, body = await client.get("/healthz")
    assert status == 200
    read = json.loads(body)
    assert (read["alive"], read["seed"], read["tick"]) == (True, 7, FLEET.tick_at(NOW))


class Process:
    """`python -m simulator` with a log."""

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self.process = process
        self.url = url

    async def stop(self) -> tuple[int, list[dict[str, Any]]]:
        """SIGTERM; the exit status and the rest of the events."""
        self.process.send_signal(signal.SIGTERM)
        out, _ = await self.process.communicate()
        return int(self.process.returncode or 0), [json.loads(line) for line in out.splitlines()]


@pytest.fixture
def environment() -> dict[str, str]:
    """Without the tester's own SIMULATOR_ variables."""
    return {name: value for name, value in os.environ.items() if not name.startswith("SIMULATOR_")}


async def start(environment: dict[str, str], *arguments: str) -> Process:
    """Start the program and read where it listens."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "simulator", *arguments, env=environment, stdout=-1
    )
    assert process.stdout is not None
    while True:
        event = json.loads(await process.stdout.readline())
        if event["event"] == "simulator.started":
            return Process(process, event["url"].removesuffix("/1/"))


async def test_the_program(log_file: Path, environment: dict[str, str]) -> None:
    """The program serves, and on SIGTERM ends with 0 and every answer in its log."""
    program = await start(
        environment | {"SIMULATOR_LOG": str(log_file), "SIMULATOR_DEVICE_COUNT": "3"},
        *("--http-port", "0", "--interval-seconds", "1"),
    )
    async with aiohttp.ClientSession() as session:
        client = Client(session, program.url)
        bodies = [(await client.get(f"/{device}/"))[1].decode() for device in range(1, 5)]
    status, events = await program.stop()
    assert status == 0
    assert [event["event"] for event in events] == ["service.stopping", "service.stopped"]
    assert [line["body"] for line in lines(log_file)] == bodies
    assert [line["status"] for line in lines(log_file)] == [200, 200, 200, 404]


async def run(environment: dict[str, str], *arguments: str) -> tuple[int | None, str, str]:
    """Run the program to its end."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "simulator", *arguments), env=environment, stdout=-1, stderr=-1
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_help_lists_settings_and_scenarios(environment: dict[str, str]) -> None:
    """--help names every setting and every scenario."""
    status, out, _ = await run(environment, "--help")
    assert status == 0
    for name in ("SIMULATOR_CHAOS", "SIMULATOR_RANDOM_PER_GET", *scenarios.SCENARIOS):
        assert f"  {name} " in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--chaos", "2"), "SIMULATOR_CHAOS: got '2'; takes number (share of devices), 0 to 1"),
        (("--log", "/nowhere/served"), "SIMULATOR_LOG: got '/nowhere/served'; takes a file"),
    ],
)
async def test_bad_settings(
    environment: dict[str, str], arguments: tuple[str, ...], says: str
) -> None:
    """A setting that cannot be is one line on stderr and status 2."""
    status, _, err = await run(environment, *arguments)
    assert status == 2
    assert err.startswith(f"telemill-simulator: {says}")
    assert err.count("\n") == 1
