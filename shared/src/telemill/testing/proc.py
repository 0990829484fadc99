"""What Linux knows of running processes (proc(5))."""

import os
from contextlib import suppress
from pathlib import Path

KIBIBYTE = 1024


def below(pid: int) -> list[int]:
    """Processes below one: its children, their children, and so on."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(_fields(stat.read_text())[1]) == pid:
                child = int(stat.parent.name)
                found += [child, *below(child)]
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time so far, its children's apart."""
    ticks = _fields(Path(f"/proc/{pid}/stat").read_text())[11:13]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def rss_bytes(pid: int) -> int:
    """Memory it has now."""
    return _memory(pid, "VmRSS:")


def peak_rss_bytes(pid: int) -> int:
    """The most it has had."""
    return _memory(pid, "VmHWM:")


def command(pid: int) -> list[str]:
    """How it was called."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")


def _memory(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * KIBIBYTE for line in lines if line.startswith(name))


def _fields(stat: str) -> list[str]:
    """Those behind the command, which may hold anything and ends with the last parenthesis."""
    return stat.rpartition(")")[2].split()
