"""What both ingest benches need: an emulator, the service as a process, and its CPU seconds."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3

from telemill.provision import Resources, provision
from telemill.testing import emulator

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
SHARDS = 4


class Service:
    """A running ingest."""

    def __init__(self, pid: int, port: int) -> None:
        self.pid = pid
        self.url = f"http://127.0.0.1:{port}"

    def cpu_seconds(self) -> float:
        """User and system time so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_mb(self) -> float:
        """Largest resident set so far."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
        return 0.0

    def metrics(self) -> dict[str, float]:
        """The service's metrics by name and labels."""
        with urllib.request.urlopen(f"{self.url}/metrics") as answer:  # noqa: S310
            lines = answer.read().decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def wait_until_ready(self, timeout_seconds: float = 60.0) -> None:
        """Until /readyz answers 200."""
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{self.url}/readyz").close()  # noqa: S310
            except OSError:
                time.sleep(0.1)
            else:
                return
        raise TimeoutError(f"{self.url}/readyz")


@contextmanager
def running(directory: Path, **settings: str) -> Iterator[Service]:
    """Ingest on an emulator of its own.

    Args:
        directory: For logs.
        **settings: INGEST_ settings, in lower case.
    """
    os.environ.setdefault(emulator.BINARY_VARIABLE, str(ROOT / emulator.DEFAULT_BINARY))
    with emulator.running(directory / "emulator") as aws:
        os.environ.update(emulator.aws_environment(aws.url))
        boto3.setup_default_session()
        provision(Resources(shard_count=SHARDS), lambda _line: None)
        port = emulator.free_port()
        given = {f"INGEST_{name.upper()}": value for name, value in settings.items()}
        with (directory / "ingest.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "ingest"],
                cwd=ROOT,
                env={**os.environ, **given, "INGEST_HTTP_PORT": str(port)},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            service = Service(process.pid, port)
            service.wait_until_ready()
            yield service
        finally:
            process.terminate()
            process.wait()


def report(name: str, result: dict[str, Any]) -> None:
    """Print a result and keep it in bench/results."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    for key, value in result.items():
        print(f"{key:36} {value}")
