"""Amazon's MultiLangDaemon as a child process, and the pipes of its shards.

Each shard's child hands its pipes to this process (`telemill.kcl.relay`), so a connection here is
the daemon's own pipe. The daemon runs in a session of its own, dies with us, and its log comes out
as ours.
"""

import asyncio
import contextlib
import fcntl
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from telemill import errors
from telemill.kcl import daemon_log, java, launch, properties, relay
from telemill.kcl.properties import DaemonSettings

MAIN_CLASS = "software.amazon.kinesis.multilang.MultiLangDaemon"
DEFAULT_HEAP_MEGABYTES = 256
MAX_SOCKET_PATH_BYTES = 107
"""sockaddr_un.sun_path of Linux, without its final zero."""
READ_BYTES = 64 * 1024
PIPE_BYTES = 1024 * 1024
"""What Linux lets anyone ask for (/proc/sys/fs/pipe-max-size): fewer turns for large lines."""
F_SETPIPE_SZ = 1031
LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}

log = structlog.get_logger()


class Pipes:
    """One shard's child: the daemon's two pipes, and the relay that goes when `close` is called.

    Attributes:
        reader: What the daemon writes.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        reading: asyncio.ReadTransport,
        writing: asyncio.WriteTransport,
        relayed: socket.socket,
    ) -> None:
        self.reader = reader
        self._reading = reading
        self._writing = writing
        self._relayed = relayed

    def write(self, line: bytes) -> None:
        """Send a line; a daemon that is gone shows as the end of `reader`."""
        if not self._writing.is_closing():
            self._writing.write(line)

    def close(self) -> None:
        """Let go: the daemon sees the end of its child."""
        self._reading.close()
        self._writing.close()
        self._relayed.close()


Serve = Callable[[Pipes], Awaitable[None]]
Heard = Callable[[daemon_log.Line], None]


class Daemon:
    """One MultiLangDaemon, started once.

    Attributes:
        log: Its last lines.
        pid: Its process id once started.
    """

    def __init__(
        self,
        settings: DaemonSettings,
        jars: Sequence[Path],
        serve: Serve,
        heard: Heard,
        *,
        environ: Mapping[str, str],
        heap_megabytes: int = DEFAULT_HEAP_MEGABYTES,
        directory: Path | None = None,
    ) -> None:
        """Prepare, without starting.

        Args:
            settings: What it is told.
            jars: Its class path; see `telemill.kcl.jars.class_path`.
            serve: Called with the pipes of every shard's child; closes them when done.
            heard: Told every line of its log.
            environ: Of the child; credentials are found in it as by botocore.
            heap_megabytes: Bound of the JVM's heap.
            directory: Where the folder for socket and files is made; the system's temporary one.
        """
        self.log = daemon_log.DaemonLog()
        self.pid: int | None = None
        self._settings = settings
        self._jars = jars
        self._serve = serve
        self._heard = heard
        self._environ = environ
        self._heap_megabytes = heap_megabytes
        self._root = directory
        self._directory: Path | None = None
        self._listening: socket.socket | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._reading: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen, write the files, start Java. Call it in the main thread.

        Raises:
            ConfigurationError: No usable Java, or no folder for the socket.
        """
        program = await asyncio.to_thread(java.find, self._environ)
        directory = self._directory = self._make_directory()
        self._listening = _listen(directory / relay.SOCKET)
        self._spawn(self._accept(self._listening))
        executable = "./python -I -S relay.py"
        (directory / "python").symlink_to(sys.executable)
        (directory / "relay.py").symlink_to(relay.__file__)
        (directory / "daemon.properties").write_text(
            properties.render(self._settings, executable), encoding="ascii"
        )
        (directory / "logback.xml").write_text(properties.LOGBACK)
        self._process = await asyncio.create_subprocess_exec(
            *self._command(program),
            cwd=directory,
            env={**self._environ, "AWS_REGION": self._settings.region},
            stdin=asyncio.subprocess.DEVNULL,
            # Neither is the protocol: that is on the pipes of its children.
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            # A terminal's Ctrl-C is for us alone: we stop it when its shards are drained.
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._reading = asyncio.create_task(self._forward(self._process))
        log.info("daemon.started", pid=self.pid, java=str(program), worker=self._settings.worker_id)

    async def wait(self) -> int:
        """Its exit status, once it has ended and all it wrote is forwarded."""
        if self._process is None or self._reading is None:
            raise RuntimeError("the daemon was not started")
        status = await self._process.wait()
        await asyncio.shield(self._reading)
        return status

    def terminate(self) -> None:
        """SIGTERM: it asks every shard to shut down, and ends. Statuses withheld hold it up."""
        self._signal(signal.SIGTERM)

    async def end(self) -> None:
        """Kill what still runs, close and remove everything."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            await self.wait()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._listening is not None:
            self._listening.close()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def _make_directory(self) -> Path:
        """A folder of our own; the daemon is run in it, so that no path of ours is in its files."""
        try:
            made = tempfile.mkdtemp(prefix="telemill-kcl-", dir=self._root)
        except OSError as error:
            raise errors.ConfigurationError(
                f"TMPDIR: no folder for the daemon's socket can be made ({error});"
                " takes a folder this process may write to"
            ) from error
        return Path(made).absolute()

    def _command(self, program: Path) -> list[str]:
        class_path = os.pathsep.join(map(str, self._jars))
        return [
            *(sys.executable, "-I", "-S", launch.__file__, str(os.getpid())),
            str(program),
            f"-Xmx{self._heap_megabytes}m",
            # Half alive it would keep its leases.
            "-XX:+ExitOnOutOfMemoryError",
            "-XX:+UseSerialGC",
            f"-Daws.cborEnabled={str(self._settings.speaks_cbor).lower()}",
            *("-cp", class_path, MAIN_CLASS),
            *("--properties-file", "daemon.properties", "--log-configuration", "logback.xml"),
        ]

    async def _forward(self, process: asyncio.subprocess.Process) -> None:
        """Log what it writes, to the last byte."""
        stream = process.stdout
        output = b"-"
        while output and stream is not None:
            output = await stream.read(READ_BYTES)
            for line in self.log.feed(output):
                level = LEVELS[line.level]
                log.log(level, "daemon.logged", logger=line.logger, message=line.text)
                self._heard(line)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            relayed, _ = await loop.sock_accept(listening)
            self._spawn(self._converse(relayed))

    async def _converse(self, relayed: socket.socket) -> None:
        pipes = await _receive(relayed)
        if pipes is None:
            relayed.close()
            return
        try:
            await self._serve(pipes)
        finally:
            pipes.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _listen(path: Path) -> socket.socket:
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        raise errors.ConfigurationError(
            f"TMPDIR: the socket {path} has a longer name than {MAX_SOCKET_PATH_BYTES} bytes;"
            " takes a folder with a shorter one"
        )
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(str(path))
    listening.listen()
    listening.setblocking(False)
    return listening


async def _receive(relayed: socket.socket) -> Pipes | None:
    """The pipes a relay hands over; None when it died before."""
    await _readable(relayed)
    try:
        _, descriptors, _, _ = socket.recv_fds(relayed, len(relay.HELLO), 2)
    except OSError:
        descriptors = []
    if len(descriptors) != 2:
        for each in descriptors:
            os.close(each)
        return None
    return await _open(descriptors[0], descriptors[1], relayed)


async def _readable(relayed: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(relayed, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(relayed)


async def _open(descriptor_in: int, descriptor_out: int, relayed: socket.socket) -> Pipes:
    with contextlib.suppress(OSError):
        fcntl.fcntl(descriptor_in, F_SETPIPE_SZ, PIPE_BYTES)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(READ_BYTES)
    input_pipe = os.fdopen(descriptor_in, "rb", buffering=0)
    output_pipe = os.fdopen(descriptor_out, "wb", buffering=0)
    reading, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), input_pipe
    )
    writing, _ = await loop.connect_write_pipe(asyncio.Protocol, output_pipe)
    return Pipes(reader, reading, writing, relayed)
