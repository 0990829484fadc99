"""Start kinesis-local, the Kinesis emulator that splits and merges shards as Kinesis does.

The other emulator (`telemill.testing.emulator`) deletes a parent shard with its data, so whatever
is about resharding runs on this one, with the rest of AWS on the other: see `aws_environment`.
It needs Node.js and is installed apart from everything else: `make setup-fault`.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

from telemill import errors
from telemill.testing import emulator

DIRECTORY_VARIABLE = "TELEMILL_KINESIS_LOCAL"
DEFAULT_DIRECTORY = Path("build/kinesis-local")
PACKAGE = Path("node_modules/kinesis-local")
LOOPBACK = Path("loopback.cjs")
NODE = "node"
START_TIMEOUT_SECONDS = 60.0
POLL_SECONDS = 0.1


def find_directory(environ: Mapping[str, str]) -> Path:
    """Where it is installed.

    Raises:
        ConfigurationError: It is not, or there is no Node.js.
    """
    found = Path(environ.get(DIRECTORY_VARIABLE) or DEFAULT_DIRECTORY).absolute()
    if not (found / PACKAGE / "main.js").is_file() or not (found / LOOPBACK).is_file():
        raise errors.ConfigurationError(
            f"{DIRECTORY_VARIABLE}: no kinesis-local in {found}; run `make setup-fault`"
        )
    if shutil.which(NODE) is None:
        raise errors.ConfigurationError(
            f"{NODE} (Node.js) is not on the PATH; kinesis-local is in it"
        )
    return found


def aws_environment(kinesis_url: str, aws_url: str) -> dict[str, str]:
    """What makes botocore take Kinesis from one emulator and everything else from the other."""
    return {**emulator.aws_environment(aws_url), "AWS_ENDPOINT_URL_KINESIS": kinesis_url}


class KinesisLocal:
    """A running kinesis-local. All its data is in memory and ends with it.

    Attributes:
        url: Its endpoint.
        log_path: What it wrote.
    """

    def __init__(self, directory: Path) -> None:
        """Prepare, without starting.

        Args:
            directory: Where its log goes.
        """
        self._port = emulator.free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.log_path = directory / "kinesis-local.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            ConfigurationError: It is not installed, or ended or stayed silent at start.
        """
        installed = find_directory(os.environ)
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [NODE, "--require", str(installed / LOOPBACK), "main.js"],
                # It reads its certificate from the working directory.
                cwd=installed / PACKAGE,
                env={**os.environ, **self._environment()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._wait_until_ready()

    def stop(self) -> None:
        """End it; its data is gone."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        process.wait()

    def _environment(self) -> dict[str, str]:
        return {
            "KINESIS_MOCK_PLAIN_PORT": str(self._port),
            # Nobody talks TLS to it; 0 is whatever port is free.
            "KINESIS_MOCK_TLS_PORT": "0",
            "LOG_LEVEL": "ERROR",
        }

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                break
            with contextlib.suppress(OSError, urllib.error.URLError):
                urllib.request.urlopen(f"{self.url}/healthcheck", timeout=1).close()  # noqa: S310
                return
            time.sleep(POLL_SECONDS)
        self.stop()
        raise errors.ConfigurationError(
            f"{DIRECTORY_VARIABLE}: kinesis-local did not start; see {self.log_path}"
        )


@contextlib.contextmanager
def running(directory: Path) -> Iterator[str]:
    """The endpoint of a kinesis-local that lives as long as the `with` block.

    Args:
        directory: Where its log goes.
    """
    kinesis = KinesisLocal(directory)
    kinesis.start()
    try:
        yield kinesis.url
    finally:
        kinesis.stop()
