"""Images whose service needs no numpy have none: the other commands work there all the same."""

import subprocess
import sys

WITHOUT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "numpy":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "numpy" else found(name, *rest)
from importlib import metadata
import telemill.cli.__main__ as cli
cli._installed = lambda: []
sys.exit(cli.main(sys.argv[1:]))
"""


def without_numpy(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `telemill` where numpy cannot be imported."""
    return subprocess.run(
        [sys.executable, "-c", WITHOUT, *arguments], capture_output=True, text=True, check=False
    )


def test_other_commands_need_no_numpy() -> None:
    """`provision`, `contract` and `cost` start."""
    for arguments in (
        ("provision", "--help"),
        ("contract", "check", "contracts/fms.yaml"),
        ("cost", "--devices", "1", "--interval", "1"),
    ):
        done = without_numpy(*arguments)
        assert done.returncode == 0, done.stderr


def test_the_audit_says_what_it_needs() -> None:
    """One line, status 2, no traceback."""
    done = without_numpy("audit")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "numpy is not installed" in done.stderr
