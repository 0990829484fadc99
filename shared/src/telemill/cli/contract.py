"""`telemill contract`: check a contract file, and print what follows from it."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from telemill import contract
from telemill.contract import Contract
from telemill.errors import ConfigurationError


def register(commands: Any) -> None:
    """Add the sub-command."""
    parser = commands.add_parser("contract", help="check contract files, print what they mean")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    _register_check(actions)
    _register_table(actions)
    _register_glue(actions)


def _register_check(actions: Any) -> None:
    help_text = "report every problem of contract files; exit 2 if there is one"
    parser = actions.add_parser("check", help=help_text, description=help_text)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument(
        "--against",
        type=Path,
        metavar="OLD",
        help="also report what the version in OLD does not allow (exit 1)",
    )
    parser.set_defaults(run=_run_check)


def _register_table(actions: Any) -> None:
    help_text = "print the fields as a markdown table"
    parser = actions.add_parser("table", help=help_text, description=help_text)
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument(
        "--into",
        type=Path,
        metavar="DOCUMENT",
        help="instead, put it between the contract's markers in DOCUMENT",
    )
    parser.set_defaults(run=_run_table)


def _register_glue(actions: Any) -> None:
    help_text = "print the columns of the Glue tables as JSON"
    parser = actions.add_parser("glue", help=help_text, description=help_text)
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.set_defaults(run=_run_glue)


def _run_check(options: argparse.Namespace) -> int:
    checked = check(options.files)
    problems: list[str] = []
    if options.against:
        old = contract.load(options.against)
        for path, new in zip(options.files, checked, strict=True):
            problems += [f"{path}: {problem}" for problem in contract.compatible(old, new)]
    for path, each in zip(options.files, checked, strict=True):
        sys.stdout.write(f"{path}: {summary(each)}\n")
    sys.stderr.writelines(f"{problem}\n" for problem in problems)
    return 1 if problems else 0


def _run_table(options: argparse.Namespace) -> int:
    loaded = contract.load(options.file)
    if options.into is None:
        sys.stdout.write(loaded.markdown_table())
    else:
        _rewrite(options.into, loaded)
    return 0


def _run_glue(options: argparse.Namespace) -> int:
    json.dump(glue(contract.load(options.file)), sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")
    return 0


def check(paths: Sequence[Path]) -> list[Contract]:
    """Load every contract file.

    Raises:
        ConfigurationError: Every problem of every file, one a line.
    """
    loaded: list[Contract] = []
    problems: list[str] = []
    for path in paths:
        try:
            loaded.append(contract.load(path))
        except ConfigurationError as error:
            problems.append(str(error))
    if problems:
        raise ConfigurationError("\n".join(problems))
    return loaded


def summary(loaded: Contract) -> str:
    """One line about a good contract."""
    measures, values = len(loaded.measures), len(loaded.values)
    counts = f"measures: {measures}, flags: {values - measures}"
    return f"{loaded.name} version {loaded.version}, {counts}"


def glue(loaded: Contract) -> dict[str, list[dict[str, str]]]:
    """The columns of the Glue tables."""
    return {table: loaded.glue_columns(table) for table in contract.TABLES}


def with_table(document: str, loaded: Contract, source: Path | str) -> str:
    """A document with the contract's table put between its markers.

    Args:
        document: Holds the lines `<!-- contract:NAME -->` and `<!-- /contract:NAME -->` once.
        loaded: The contract.
        source: Names the document in the error.

    Raises:
        ConfigurationError: The markers are not there.
    """
    opening, closing = f"<!-- contract:{loaded.name} -->\n", f"<!-- /contract:{loaded.name} -->"
    before, opened, rest = document.partition(opening)
    _, closed, after = rest.partition(closing)
    if not opened or not closed:
        raise ConfigurationError(f"{source}: no place between {opening.strip()} and {closing}")
    return f"{before}{opening}\n{loaded.markdown_table()}\n{closing}{after}"


def _rewrite(path: Path, loaded: Contract) -> None:
    try:
        document = path.read_text(encoding="utf-8")
        path.write_text(with_table(document, loaded, path), encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: cannot be rewritten: {error}") from error
