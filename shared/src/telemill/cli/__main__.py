"""The `telemill` command: what operators and maintainers run by hand.

A sub-command is a module of this package with `register(commands)`, which adds its parser and sets
`run`, a function of the parsed arguments that returns the exit status. List it in `COMMANDS`.
A package that knows services adds its commands by entry points of the group `telemill.commands`.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from typing import Any

from telemill.cli import audit, contract, cost, provision
from telemill.errors import ConfigurationError

Commands = Any
"""argparse does not export the type of what `add_subparsers` returns."""

ENTRY_POINT_GROUP = "telemill.commands"

COMMANDS: tuple[Callable[[Commands], None], ...] = (
    audit.register,
    contract.register,
    cost.register,
    provision.register,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one sub-command.

    Returns:
        The exit status: 0; 1 if the command says so; 2 if an argument, setting or file is wrong
        (with its text on standard error).
    """
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except BrokenPipeError:
        # The reader (head, less) has had enough. Python would complain again when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="telemill", description="Tools around Telemill.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for register in (*COMMANDS, *_installed()):
        register(commands)
    return parser


def _installed() -> list[Callable[[Commands], None]]:
    """Commands of other packages, by name."""
    found = entry_points(group=ENTRY_POINT_GROUP)
    return [found[name].load() for name in sorted(found.names)]


if __name__ == "__main__":
    sys.exit(main())
