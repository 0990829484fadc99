"""The progress bar of a replay: one line on stderr, rewritten on a terminal."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from ingest.replay import Progress

BAR_CHARACTERS = 24


def render(path: Path, size_bytes: int, progress: Progress, per_second: float) -> str:
    """One line about one file."""
    share = progress.acknowledged_bytes / size_bytes if size_bytes else 1.0
    done = round(min(share, 1.0) * BAR_CHARACTERS)
    # Rounded down: 100 % is said once, at the end.
    percent = math.floor(min(share, 1.0) * 100)
    bar = "#" * done + "-" * (BAR_CHARACTERS - done)
    refused = f", {progress.refused:,} refused" if progress.refused else ""
    return (
        f"{path.name} [{bar}] {percent:3d}% {progress.accepted:,} readings"
        f"{refused}, {per_second:,.0f}/s"
    )


class ProgressLine:
    """Shows a replay's progress.

    Args:
        out: stderr.
        monotonic: Seconds.
    """

    def __init__(self, out: TextIO, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._monotonic = monotonic
        self._path: Path | None = None
        self._since = (0.0, 0)
        self._open_line = False

    def show(self, path: Path, size_bytes: int, progress: Progress) -> None:
        """Show how far a file is."""
        now = self._monotonic()
        if path != self._path:
            self._path, self._since = path, (now, progress.accepted)
        started, before = self._since
        per_second = (progress.accepted - before) / (now - started) if now > started else 0.0
        line = render(path, size_bytes, progress, per_second)
        is_terminal = self._out.isatty()
        self._out.write(f"\r\x1b[K{line}" if is_terminal else f"{line}\n")
        self._out.flush()
        self._open_line = is_terminal

    def say(self, line: str) -> None:
        """Another line, below."""
        self.end()
        self._out.write(f"{line}\n")

    def end(self) -> None:
        """Leave the line."""
        if self._open_line:
            self._out.write("\n")
            self._open_line = False
