"""What was injected: one JSON line each, and counts."""

import datetime as dt
import io
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import msgspec

from telemill.testing.faults.decide import Call
from telemill.testing.faults.plan import FAULTS


class Journal:
    """The log of one run, and what GET /_faults shows of it.

    Attributes:
        counts: How often each fault was injected. Faults of records count records.
        by_operation: The same by `service:Operation`.
    """

    def __init__(self, path: Path) -> None:
        """Begin a new file."""
        self.counts: Counter[str] = Counter(dict.fromkeys(FAULTS, 0))
        self.by_operation: defaultdict[str, Counter[str]] = defaultdict(Counter)
        # Unbuffered: what is logged is on disk, also when the run ends by SIGKILL.
        self._file: io.FileIO = path.open("wb", buffering=0)

    def close(self) -> None:
        """No more lines."""
        self._file.close()

    def event(self, event: str, **facts: Any) -> None:
        """Something that is no fault: the start, a new plan."""
        self._write({"event": event, "time": _now(), **facts})

    def fault(self, call: Call, fault: str, facts: dict[str, Any], count: int = 1) -> None:
        """A fault that a call met."""
        self.counts[fault] += count
        self.by_operation[f"{call.service}:{call.operation}"][fault] += count
        entry = {
            "sequence": call.sequence,
            "time": _now(),
            "service": call.service,
            "operation": call.operation,
            "call": call.number,
            "fault": fault,
        }
        self._write(entry | facts)

    def _write(self, entry: dict[str, Any]) -> None:
        self._file.write(msgspec.json.encode(entry) + b"\n")


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")
