"""Transform and the sink of readings as processes, on resources that no other test uses."""

import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3

from telemill import contract, provision
from telemill.audit import Lineage, Report, audit, sources
from telemill.progress import rules
from telemill.testing import processes
from telemill.testing.emulator import free_port
from telemill.testing.processes import Process, Spec

CONTRACT = Path("contracts/fms.yaml")
PATIENCE_SECONDS = 120.0
DEVICES = 5
HOURS = 4
"""Event times spread over so many partitions."""

PUT_PAUSE_SECONDS = 0.05


@dataclass
class Deployment:
    """Resources, processes and what was put.

    Attributes:
        directory: Logs and downloads.
        mark: Part of every name.
        running: Processes by name.
        put_items: How many items were put.
    """

    directory: Path
    mark: str = field(default_factory=lambda: uuid4().hex[:8])
    running: dict[str, Process] = field(default_factory=dict)
    put_items: int = 0

    @property
    def resources(self) -> provision.Resources:
        """All names."""
        mark = self.mark
        return provision.Resources(
            streams=(f"raw-{mark}", f"readings-{mark}"),
            shard_count=2,
            lake_bucket=f"lake-{mark}",
            state_bucket=f"state-{mark}",
            results_bucket=f"results-{mark}",
            progress_table=f"progress-{mark}",
            alert_topic=f"alerts-{mark}",
        )

    @property
    def flags(self) -> list[str]:
        """What tells the commands where things are."""
        raw, readings = self.resources.streams
        return [
            f"--stream={raw}",
            f"--readings-stream={readings}",
            f"--lake-bucket={self.resources.lake_bucket}",
            f"--state-bucket={self.resources.state_bucket}",
            f"--progress-table={self.resources.progress_table}",
            f"--glue-database=db_{self.mark}",
        ]

    # --- processes ---------------------------------------------------------------------------

    def start(self, name: str) -> None:
        """Start transform or the sink."""
        raw, readings = self.resources.streams
        made = self.resources
        common = {
            "LAKE_BUCKET": made.lake_bucket,
            "STATE_BUCKET": made.state_bucket,
            "PROGRESS_TABLE": made.progress_table,
            "WORKER_ID": self.mark,
            "HTTP_PORT": str(free_port()),
        }
        own = {
            "transform": {
                "INPUT_STREAM": raw,
                "OUTPUT_STREAM": readings,
                "COMMIT_INTERVAL_SECONDS": "1",
            },
            "sink": {
                "INPUT_STREAM": readings,
                "GLUE_DATABASE": f"db_{self.mark}",
                "FLUSH_INTERVAL_SECONDS": "1",
            },
        }[name]
        values = {f"{name.upper()}_{key}": value for key, value in {**common, **own}.items()}
        spec = Spec(name, name, (), values, int(common["HTTP_PORT"]))
        self.running[name] = Process(spec, self.directory)

    def ask(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run a command that only needs the lake."""
        return self._run(*arguments, f"--lake-bucket={self.resources.lake_bucket}")

    def command(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run `telemill` to its end."""
        return self._run(*arguments, *self.flags)

    def _run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        line = [sys.executable, "-m", "telemill.cli", *arguments]
        return subprocess.run(
            line, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
        )

    def begin(self, *arguments: str) -> "subprocess.Popen[bytes]":
        """Start `telemill`."""
        line = [sys.executable, "-m", "telemill.cli", *arguments, *self.flags]
        with (self.directory / "command.log").open("ab") as log:
            return subprocess.Popen(line, stdout=log, stderr=log, start_new_session=True)

    # --- records -----------------------------------------------------------------------------

    def put(self, *bodies: bytes) -> None:
        """Put one raw record of some items, on either shard."""
        boto3.client("kinesis").put_record(
            StreamName=self.resources.streams[0],
            Data=b"\n".join(bodies),
            PartitionKey=uuid4().hex,
        )
        self.put_items += len(bodies)

    def put_readings(self, count: int, hours: int = HOURS) -> None:
        """Put records of one reading per device each, spread over so many partitions."""
        for index in range(count):
            self.put(*(reading(device, index % hours) for device in range(DEVICES)))

    @contextmanager
    def putting(self) -> Iterator[None]:
        """Records flow meanwhile, from a thread."""
        stop = threading.Event()

        def flow() -> None:
            while not stop.wait(PUT_PAUSE_SECONDS):
                self.put_readings(1)

        thread = threading.Thread(target=flow)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    # --- the table ---------------------------------------------------------------------------

    def object_keys(self, prefix: str = "readings/") -> list[str]:
        """Objects of the lake."""
        pages = boto3.client("s3").get_paginator("list_objects_v2")
        listed = pages.paginate(Bucket=self.resources.lake_bucket, Prefix=prefix)
        return [each["Key"] for page in listed for each in page.get("Contents", ())]

    def delete(self, keys: list[str]) -> None:
        """Lose objects."""
        s3 = boto3.client("s3")
        for key in keys:
            s3.delete_object(Bucket=self.resources.lake_bucket, Key=key)

    def download(self, prefix: str) -> Path:
        """The objects under a prefix, in a folder of their own."""
        target = self.directory / f"{prefix}-{uuid4().hex[:8]}"
        target.mkdir()
        sources.download(self.resources.lake_bucket, f"{prefix}/", target)
        return target

    def rows(self) -> list[Any]:
        """The table."""
        return sources.stored_rows(self.download("readings"))

    def quarantined(self) -> set[Lineage]:
        """Lineages in the quarantine."""
        return {
            Lineage(row["shard_id"], row["sequence_number"], row["sub_sequence_number"])
            for row in sources.quarantined(self.download("quarantine"))
        }

    def settle(self) -> None:
        """Wait until sink and transform have committed everything that was put."""
        raw, readings = self.resources.streams
        for app, stream in (("transform", raw), ("sink-readings", readings)):
            settled = processes.wait_until(
                lambda app=app, stream=stream: self._has_passed(app, stream),  # type: ignore[misc]
                PATIENCE_SECONDS,
            )
            if not settled:
                raise processes.EndedEarlyError(f"{app} does not catch up with {stream}")

    def _has_passed(self, app: str, stream: str) -> bool:
        found = sources.read_stream(stream)
        table = boto3.client("dynamodb")
        last = {each.shard.shard_id: each for each in found}
        for each in last.values():
            key = {"app": {"S": app}, "shard": {"S": rules.shard_key(each.shard)}}
            item = table.get_item(TableName=self.resources.progress_table, Key=key).get("Item", {})
            position = item.get("position", {}).get("S")
            if rules.order(position) < rules.order(each.record.sequence_number):
                return False
        return True

    def audit(self) -> Report:
        """Everything put against everything there."""
        return audit(
            contract.load(CONTRACT),
            (),
            sources.raw_items(self.resources.streams[0]),
            self.rows(),
            self.quarantined(),
        )


@contextmanager
def deployed(directory: Path) -> Iterator[Deployment]:
    """Resources and both services, running; stopped at the end."""
    made = Deployment(directory)
    provision.provision(made.resources, lambda _line: None)
    try:
        for name in ("transform", "sink"):
            made.start(name)
        yield made
    finally:
        processes.stop_in_order(list(made.running.values()))


def reading(device: int, hours_ago: int = 0, **changes: Any) -> bytes:
    """A reading of the default contract, of another time than any other."""
    moment = datetime.now(UTC) - timedelta(hours=hours_ago, microseconds=device)
    values = {f"sensor{number}": round(random.uniform(20, 90), 2) for number in (1, 2, 3)}  # noqa: S311
    motors = {"motor1": 900.5, "motor2": 910.25, "motor3": 890.75}
    document = {"time": moment.isoformat(), "DeviceId": device, **values, **motors}
    return json.dumps({**document, "isFail": False, **changes}).encode()


def figure(printed: str, name: str) -> int:
    """A number of the summary table a command printed."""
    for line in printed.splitlines():
        cells = [cell.strip() for cell in line.split("│")]
        if name in cells:
            return int(cells[cells.index(name) + 1].replace(",", ""))
    raise ValueError(f"no {name} in {printed}")


def now_text() -> str:
    """This moment, as the commands take it."""
    return datetime.fromtimestamp(time.time(), UTC).isoformat()
