"""Start the AWS emulator (ministack) as a child process on a loopback port of its own."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

from telemill import errors

BINARY_VARIABLE = "TELEMILL_EMULATOR"
DEFAULT_BINARY = Path("build/ministack/bin/ministack")
START_TIMEOUT_SECONDS = 60.0
POLL_SECONDS = 0.1


def find_binary(environ: Mapping[str, str]) -> Path:
    """The emulator's executable.

    Raises:
        ConfigurationError: It is not installed.
    """
    named = environ.get(BINARY_VARIABLE)
    found = Path(named) if named else DEFAULT_BINARY
    if found.is_file():
        return found.absolute()
    on_path = shutil.which("ministack")
    if on_path:
        return Path(on_path)
    raise errors.ConfigurationError(f"{BINARY_VARIABLE}: no emulator at {found}; run `make setup`")


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def aws_environment(url: str) -> dict[str, str]:
    """What makes botocore talk to the emulator at `url`, and to nothing else."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


class Emulator:
    """A running emulator. All its data is in memory and ends with it."""

    def __init__(self, directory: Path, port: int | None = None) -> None:
        """Prepare, without starting.

        Args:
            directory: Where its log and scratch files go.
            port: Loopback port; a free one by default.
        """
        self.directory = directory
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id of the running emulator."""
        if self._process is None:
            raise RuntimeError("the emulator is not running")
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            ConfigurationError: It is not installed, or ended or stayed silent at start.
        """
        binary = find_binary(os.environ)
        self.directory.mkdir(parents=True, exist_ok=True)
        log = (self.directory / "emulator.log").open("wb")
        self._process = subprocess.Popen(
            [str(binary)],
            cwd=self.directory,
            env={**os.environ, **self._environment()},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        log.close()
        self._wait_until_ready()

    def stop(self) -> None:
        """End it; its data is gone."""
        process = self._process
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self._process = None

    def _environment(self) -> dict[str, str]:
        # Loopback only, and none of the emulator's side doors (Docker, MQTT, SFTP).
        return {
            "BIND_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(self.port),
            "IOT_MTLS_ENABLED": "0",
            "SFTP_ENABLED": "0",
            "DOCKER_HOST": "unix:///nonexistent.sock",
            "LOG_LEVEL": "ERROR",
        }

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                break
            with contextlib.suppress(OSError, urllib.error.URLError):
                urllib.request.urlopen(f"{self.url}/_ministack/health", timeout=1)  # noqa: S310
                return
            time.sleep(POLL_SECONDS)
        self.stop()
        log = self.directory / "emulator.log"
        raise errors.ConfigurationError(f"{BINARY_VARIABLE}: the emulator did not start; see {log}")


@contextlib.contextmanager
def running(directory: Path, port: int | None = None) -> Iterator[Emulator]:
    """An emulator for the length of a `with` block."""
    emulator = Emulator(directory, port)
    emulator.start()
    try:
        yield emulator
    finally:
        emulator.stop()
