"""`python -m telemill.testing.failpoints MODULE [ARGUMENT…]`."""

import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from telemill import errors
from telemill.testing.failpoints.table import Failpoint, of_service
from telemill.testing.failpoints.trigger import (
    FILE_VARIABLE,
    SIGNAL_VARIABLE,
    SIGNALS,
    VARIABLE,
    Trigger,
    install,
    parse,
    sending,
)

EXIT_CONFIGURATION = 2


def armed_by(environ: Mapping[str, str], points: Sequence[Failpoint]) -> Trigger:
    """What the environment arms.

    Raises:
        ConfigurationError: Nothing, or what is not there.
    """
    text, file = environ.get(VARIABLE), environ.get(FILE_VARIABLE)
    if not text and not file:
        raise errors.ConfigurationError(f"{VARIABLE}: not set; takes name or name:nth")
    name = environ.get(SIGNAL_VARIABLE, "KILL")
    if name not in SIGNALS:
        raise errors.ConfigurationError(f"{SIGNAL_VARIABLE}: got {name!r}; takes KILL or STOP")
    return Trigger(
        points,
        kill=sending(SIGNALS[name]),
        armed=parse(text, points) if text else None,
        path=Path(file) if file and not text else None,
    )


def prepare(argv: Sequence[str], environ: Mapping[str, str]) -> str:
    """Install the failpoints of the module to run; its name.

    Raises:
        ConfigurationError: There is no such module, failpoint or function.
    """
    if not argv:
        raise errors.ConfigurationError("failpoints: takes a module and its arguments")
    points = of_service(argv[0])
    if not points:
        raise errors.ConfigurationError(f"failpoints: {argv[0]!r} has none")
    install(points, armed_by(environ, points))
    return argv[0]


def main(argv: Sequence[str]) -> int:
    """Run a module under the failpoints that the environment arms."""
    try:
        module = prepare(argv, os.environ)
    except errors.ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_CONFIGURATION
    sys.argv = list(argv)
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
