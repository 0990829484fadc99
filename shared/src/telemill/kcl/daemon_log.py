"""What the MultiLangDaemon writes: its log lines as ours, the last ones kept. Pure."""

import re
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

MAX_LINE_BYTES = 16 * 1024
KEPT_LINES = 20
_LEVELS = {
    b"TRACE": "debug",
    b"DEBUG": "debug",
    b"INFO": "info",
    b"WARN": "warning",
    b"ERROR": "error",
}
_RECORD_DATA = re.compile(r'"data":"[^"]*("|$)')


class Line(NamedTuple):
    """One event of the daemon.

    Attributes:
        level: As our log names it.
        logger: The Java class; "jvm" for what no logger wrote.
        text: What it says, on one line, without what records hold.
    """

    level: str
    logger: str
    text: str


class DaemonLog:
    """Cuts output into lines.

    Attributes:
        last: The last events, oldest first.
    """

    def __init__(self) -> None:
        self.last: deque[Line] = deque(maxlen=KEPT_LINES)
        self._rest = b""
        self._skipping = False

    def feed(self, output: bytes) -> Iterator[Line]:
        """The lines that are complete now. b"" is the end: what is left is a line too."""
        *lines, self._rest = (self._rest + output).split(b"\n")
        if not output:
            lines, self._rest = [self._rest], b""
        for line in lines:
            if self._skipping:
                self._skipping = False
            elif line.strip():
                yield self._keep(line)
        if len(self._rest) > MAX_LINE_BYTES:
            if not self._skipping:
                yield self._keep(self._rest)
            self._rest, self._skipping = b"", True

    def tail(self) -> str:
        """The last warnings and errors, or what else there is, for an error's text."""
        grave = [line for line in self.last if line.level != "info"] or list(self.last)
        return " / ".join(f"{line.logger}: {line.text}" for line in grave[-3:])

    def _keep(self, raw: bytes) -> Line:
        line = _parse(raw[:MAX_LINE_BYTES])
        self.last.append(line)
        return line


def _parse(raw: bytes) -> Line:
    level, _, rest = raw.strip().partition(b" ")
    if level not in _LEVELS:
        return Line("warning", "jvm", _text(raw))
    logger, _, text = rest.partition(b" ")
    return Line(_LEVELS[level], logger.decode(errors="replace"), _text(text))


def _text(raw: bytes) -> str:
    return _RECORD_DATA.sub('"data":"..."', raw.decode(errors="replace").strip())
