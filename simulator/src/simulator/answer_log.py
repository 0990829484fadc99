"""The ground truth: every answer the simulator gave, as NDJSON."""

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from simulator.scenarios import Answer

BUFFER_BYTES = 1 << 20
ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)
CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a client which hung up before it was answered."""


class AnswerLog:
    """Appends lines to a file, buffered; nothing is kept without a path.

    Args:
        path: Appended to; None for no log.
    """

    def __init__(self, path: Path | None) -> None:
        self._file: IO[bytes] | None = path.open("ab", buffering=BUFFER_BYTES) if path else None

    def write(self, line: bytes) -> None:
        """Take one line; it is in the file after the next `flush`."""
        if self._file is not None:
            self._file.write(line)

    def flush(self) -> None:
        """Give the lines to the operating system."""
        if self._file is not None:
            self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()


def line(
    served_at: float, device: int | str, tick: int, scenario: str, answer: Answer, *, aborted: bool
) -> bytes:
    """One answer as a line.

    Args:
        served_at: Unix time the answer was sent, or given up.
        device: As asked for: text when it was no number.
        tick: Of the request.
        scenario: What was at work.
        answer: What was, or would have been, sent.
        aborted: The client hung up first: status 499, and the body nobody got.
    """
    entry: dict[str, Any] = {
        "served_at": datetime.fromtimestamp(served_at, UTC).isoformat(timespec="milliseconds"),
        "device_id": device,
        "tick": tick,
        "scenario": scenario,
        "status": CLIENT_CLOSED_REQUEST if aborted else answer.status,
        **_text(answer.body),
    }
    if aborted:
        entry["aborted"] = True
    return ENCODER.encode(entry).encode() + b"\n"


def _text(body: bytes) -> dict[str, str]:
    try:
        return {"body": body.decode()}
    except UnicodeDecodeError:
        return {"body": base64.b64encode(body).decode(), "body_encoding": "base64"}
