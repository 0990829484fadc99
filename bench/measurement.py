"""What a bench finds out, and the file that keeps it."""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
MEGABYTE = 1e6
PACKAGES = ("aiobotocore", "aiohttp", "faust-streaming", "msgspec", "numpy", "pyarrow", "zstandard")

SPEED_RUNS = 5


@dataclass(frozen=True, slots=True)
class Measurement:
    """One figure.

    Attributes:
        name: What was measured.
        figure: How much.
        unit: Of what.
        cpu_seconds: What measuring it took of the measured code's CPU time; 0 where not meant.
        at_least: The target, when more is better.
        at_most: The target, when less is better.
    """

    name: str
    figure: float
    unit: str
    cpu_seconds: float = 0.0
    at_least: float | None = None
    at_most: float | None = None

    @property
    def target(self) -> str:
        """The target as text; "" without one."""
        if self.at_least is not None:
            return f">= {amount(self.at_least)}"
        return "" if self.at_most is None else f"<= {amount(self.at_most)}"

    @property
    def reached(self) -> bool | None:
        """Whether the target was reached; None without one."""
        if self.at_least is not None:
            return self.figure >= self.at_least
        return None if self.at_most is None else self.figure <= self.at_most


def amount(number: float) -> str:
    """A number in as many digits as one reads: 312,000, 41.2, 0.031."""
    if abs(number) >= 1000 or number == int(number):
        return f"{number:,.0f}"
    return f"{number:.3g}" if abs(number) < 10 else f"{number:.1f}"


def core_speed() -> float:
    """What a CPU second is worth now: megabytes of JSON the standard library decodes in one.

    On a shared machine that changes from minute to minute, by two and more. Figures can be
    compared only where this one is about the same.
    """
    text = json.dumps(
        [
            {"time": f"2025-07-07T08:{n % 60:02}:00Z", "DeviceId": n, "s": n / 7}
            for n in range(20_000)
        ]
    )
    return max(_speed(lambda: json.loads(text), len(text) / MEGABYTE) for _ in range(SPEED_RUNS))


def _speed(work: Callable[[], object], amount_done: float) -> float:
    started = time.process_time()
    work()
    return amount_done / (time.process_time() - started)


def keep(bench: str, found: Sequence[Measurement], speeds: Sequence[float]) -> Path:
    """Write the figures of one bench, and where they were measured, to `bench/results`.

    Args:
        bench: Its name.
        found: Its figures.
        speeds: `core_speed` before and after.
    """
    record = {
        "bench": bench,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "core_json_megabytes_per_second": [round(speed) for speed in speeds],
        "machine": machine(),
        "figures": [
            {key: value for key, value in asdict(each).items() if value is not None}
            | ({} if each.reached is None else {"reached": each.reached})
            for each in found
        ],
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{bench}.json"
    path.write_text(json.dumps(record, indent=2) + "\n")
    return path


def kept(bench: str) -> list[tuple[Measurement, str]]:
    """The figures of a bench's last run, each with the core's speed before and after."""
    path = RESULTS / f"{bench}.json"
    if not path.exists():
        return []
    record = json.loads(path.read_text())
    speeds = "-".join(map(str, record["core_json_megabytes_per_second"]))
    figures = [
        {key: value for key, value in each.items() if key != "reached"}
        for each in record["figures"]
    ]
    return [(Measurement(**figure), speeds) for figure in figures]


def machine() -> dict[str, Any]:
    """Cores, processor, memory, Python, packages and commit."""
    return {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": sys.version.split()[0],
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "commit": _commit(),
    }


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _commit() -> str:
    """The commit measured, with "+" when files differ from it; "" outside a checkout."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty=+"],  # noqa: S607
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip()
