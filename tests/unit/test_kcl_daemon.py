"""The daemon as a process: its pipes come to us, its log too, and it dies with us.

In the place of Java a script which starts its child as the MultiLangDaemon does, with pipes.
"""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog

from telemill import errors
from telemill.kcl.daemon_log import Line
from telemill.kcl.properties import DaemonSettings
from telemill.kinesis.coordinators.daemon import MAX_SOCKET_PATH_BYTES, Daemon, Pipes
from telemill.testing import processes

LIMIT_SECONDS = 30.0
HEARD: list[Line] = []
LARGE_BYTES = 13_000_000
SETTINGS = DaemonSettings(application="a", stream="s", worker_id="w", region="eu-central-1")
JAVA = """#!{python}
import os, subprocess, sys
if sys.argv[1:] == ["-version"]:
    sys.exit(sys.stderr.write('openjdk version "17.0.1"') and 0)
lines = open("daemon.properties").read().splitlines()
command = dict(line.split(" = ", 1) for line in lines)["executableName"].split(" ")
sys.stderr.write("INFO Scheduler region " + os.environ["AWS_REGION"] + "\\n")
sys.stderr.flush()
child = subprocess.Popen(
    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
)
{body}
"""
TALK = """
child.stdin.write(b"x" * {size} + b"\\n")
child.stdin.flush()
answer = child.stdout.readline()
sys.stderr.write("INFO Talk heard " + str(len(answer)) + "\\n")
child.stdin.close()
rest = child.stdout.read() + child.stderr.read()
sys.stderr.write("WARN Talk rest " + str(rest) + " status " + str(child.wait()) + "\\n")
sys.exit(3)
"""
HANG = """
import signal
signal.pause()
"""


def java_home(directory: Path, body: str) -> Path:
    """A JAVA_HOME whose java does `body` once its child is started."""
    program = directory / "java" / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text(JAVA.format(python=sys.executable, body=body))
    program.chmod(0o755)
    return directory / "java"


def daemon_of(
    home: Path, serve: Callable[[Pipes], object], directory: Path | None = None
) -> Daemon:
    """A daemon that runs it."""
    environ = {**os.environ, "JAVA_HOME": str(home)}
    return Daemon(SETTINGS, [], serve, HEARD.append, environ=environ, directory=directory)  # type: ignore[arg-type]


async def test_the_pipes_are_the_daemons_own(tmp_path: Path) -> None:
    """A line of 13 MB comes whole, ours arrives, and the child ends when the daemon hangs up."""
    heard: list[int] = []

    async def serve(pipes: Pipes) -> None:
        line = b""
        while not line.endswith(b"\n"):
            line += await pipes.reader.read(1 << 20)
        heard.append(len(line))
        pipes.write(b"y" * 999 + b"\n")
        heard.append(len(await pipes.reader.read()))

    daemon = daemon_of(java_home(tmp_path, TALK.format(size=LARGE_BYTES)), serve)
    with structlog.testing.capture_logs() as logged:
        await daemon.start()
        async with asyncio.timeout(LIMIT_SECONDS):
            assert await daemon.wait() == 3
        await daemon.end()
    assert heard == [LARGE_BYTES + 1, 0]
    texts = [each["message"] for each in logged if each["event"] == "daemon.logged"]
    assert texts == ["region eu-central-1", "heard 1000", "rest b'' status 0"]
    assert daemon.log.tail() == "Talk: rest b'' status 0"


async def test_nothing_is_left_behind(tmp_path: Path) -> None:
    """However it ends, socket and files are removed, and no process stays."""
    connected = asyncio.Event()
    folder = tmp_path / "tmp"
    folder.mkdir()

    async def serve(pipes: Pipes) -> None:
        connected.set()
        await pipes.reader.read()

    daemon = daemon_of(java_home(tmp_path, HANG), serve, folder)
    await daemon.start()
    async with asyncio.timeout(LIMIT_SECONDS):
        await connected.wait()
    relays = _children(daemon.pid)
    assert relays
    await daemon.end()
    assert list(folder.iterdir()) == []
    assert await asyncio.to_thread(
        processes.wait_until, lambda: not any(map(_is_running, relays)), LIMIT_SECONDS
    )


async def test_the_relay_is_small(tmp_path: Path) -> None:
    """What stays of a shard's child takes at most 3 MB."""
    connected = asyncio.Event()

    async def serve(pipes: Pipes) -> None:
        connected.set()
        await pipes.reader.read()

    daemon = daemon_of(java_home(tmp_path, HANG), serve)
    await daemon.start()
    async with asyncio.timeout(LIMIT_SECONDS):
        await connected.wait()
    [relay] = _children(daemon.pid)
    try:
        assert await asyncio.to_thread(
            processes.wait_until, lambda: 0 < _rss_bytes(relay) <= 3 * 1024**2, LIMIT_SECONDS
        ), _rss_bytes(relay)
    finally:
        await daemon.end()


WORKER = """
import asyncio, os, sys
from telemill.kinesis.coordinators.daemon import Daemon
from telemill.kcl.properties import DaemonSettings
async def main():
    settings = DaemonSettings(application="a", stream="s", worker_id="w", region="r")
    async def serve(pipes):
        print(daemon.pid, flush=True)
        await pipes.reader.read()
    daemon = Daemon(settings, [], serve, print, environ=os.environ)
    await daemon.start()
    await daemon.wait()
asyncio.run(main())
"""


def test_it_dies_with_us(tmp_path: Path) -> None:
    """A worker killed by SIGKILL leaves no daemon that renews leases, and no relay."""
    environ = {
        **os.environ,
        "JAVA_HOME": str(java_home(tmp_path, HANG)),
        "TMPDIR": str(tmp_path),
    }
    with subprocess.Popen(
        [sys.executable, "-c", WORKER], env=environ, stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdout is not None
        # Its log comes first.
        pid = next(int(line) for line in worker.stdout if line.strip().isdigit())
        started = [pid, *_children(pid)]
        assert len(started) == 2
        worker.send_signal(signal.SIGKILL)
    assert processes.wait_until(lambda: not any(map(_is_running, started)), LIMIT_SECONDS)


async def test_a_folder_with_too_long_a_name_is_refused(tmp_path: Path) -> None:
    """A Unix socket's name is bounded: the setting that mends it is named."""
    long = tmp_path / ("d" * MAX_SOCKET_PATH_BYTES)
    long.mkdir()
    daemon = daemon_of(java_home(tmp_path, HANG), _never, long)
    with pytest.raises(errors.ConfigurationError, match=r"TMPDIR: the socket .* has a longer"):
        await daemon.start()
    await daemon.end()
    assert list(long.iterdir()) == []


async def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """Nothing is started without a socket."""
    daemon = daemon_of(java_home(tmp_path, HANG), _never, tmp_path / "none")
    with pytest.raises(errors.ConfigurationError, match="TMPDIR: no folder"):
        await daemon.start()
    await daemon.end()
    assert daemon.pid is None


async def _never(_: Pipes) -> None:
    raise AssertionError("nobody connects")


def _children(pid: int | None) -> list[int]:
    return [
        int(status.parent.name)
        for status in Path("/proc").glob("[0-9]*/status")
        if _field(int(status.parent.name), "PPid") == str(pid)
    ]


def _is_running(pid: int) -> bool:
    return _field(pid, "State") not in {None, "Z"}


def _rss_bytes(pid: int) -> int:
    return int(_field(pid, "VmRSS") or 0) * 1024


def _field(pid: int, name: str) -> str | None:
    """A field of /proc/PID/status; None once the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    return next((line.split()[1] for line in lines if line.startswith(f"{name}:")), None)
