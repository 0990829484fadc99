"""Become another program that is killed with its parent. Run by path, with -I -S: no packages.

    python -I -S launch.py PARENT_PID PROGRAM ARGUMENTS...

A JVM that outlives its killed worker would keep renewing leases of shards nobody reads. The signal
survives exec; it comes when the *thread* that started us ends, which is the worker's main thread.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
"""linux/prctl.h"""


def main() -> None:
    """Ask for the signal, make sure that the parent still lives, exec."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != int(sys.argv[1]):
        raise SystemExit(1)
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606


if __name__ == "__main__":
    main()
