"""`telemill contract`: what it prints and how it ends."""

from pathlib import Path

import msgspec
import pytest

from telemill import contract
from telemill.cli import __main__ as command

ROOT = Path(__file__).parents[2]
FMS = ROOT / "contracts" / "fms.yaml"
SKAB = ROOT / "contracts" / "skab.yaml"

GOOD = FMS.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def fms() -> contract.Contract:
    """The default contract."""
    return contract.load(FMS)


# The command


def test_check_is_silent_about_good_files(capsys: pytest.CaptureFixture[str]) -> None:
    """Good files are one line each and status 0."""
    assert command.main(["contract", "check", str(FMS), str(SKAB)]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        f"{FMS}: fms version 1, measures: 6, flags: 1",
        f"{SKAB}: skab version 1, measures: 8, flags: 0",
    ]
    assert err == ""


def test_check_reports_every_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The problems of all files come at once, on standard error, with status 2."""
    broken = tmp_path / "broken.yaml"
    broken.write_text(GOOD.replace("float64", "float", 1), encoding="utf-8")
    missing = tmp_path / "missing.yaml"
    assert command.main(["contract", "check", str(broken), str(FMS), str(missing)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    first, second = err.splitlines()
    assert first.startswith(f"{broken}:26: ")
    assert second.startswith(f"{missing}: ")


def test_check_against_an_older_contract(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A change that needs a version is status 1."""
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    old.write_text(GOOD, encoding="utf-8")
    new.write_text(GOOD.replace("unit: PSI", "unit: bar"), encoding="utf-8")
    assert command.main(["contract", "check", str(new), "--against", str(old)]) == 1
    assert "unit changed" in capsys.readouterr().err
    assert command.main(["contract", "check", str(old), "--against", str(old)]) == 0


def test_table_and_glue_print_what_is_derived(
    fms: contract.Contract, capsys: pytest.CaptureFixture[str]
) -> None:
    """The commands print the contract's own derivations."""
    assert command.main(["contract", "table", str(FMS)]) == 0
    assert capsys.readouterr().out == fms.markdown_table()
    assert command.main(["contract", "glue", str(FMS)]) == 0
    printed = msgspec.json.decode(capsys.readouterr().out)
    assert printed == {
        "readings": fms.glue_columns("readings"),
        "scores": fms.glue_columns("scores"),
        "alerts": fms.glue_columns("alerts"),
    }


def test_table_into_a_document(
    tmp_path: Path, fms: contract.Contract, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only what is between the markers changes, and a second time changes nothing."""
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- contract:fms -->\nold\n<!-- /contract:fms -->\nb\n", encoding="utf-8")
    command_line = ["contract", "table", str(FMS), "--into", str(page)]
    assert command.main(command_line) == 0
    once = page.read_text(encoding="utf-8")
    assert command.main(command_line) == 0
    assert page.read_text(encoding="utf-8") == once
    assert fms.markdown_table() in once
    assert "old" not in once
    page.write_text("nothing here", encoding="utf-8")
    assert command.main(command_line) == 2
    assert str(page) in capsys.readouterr().err
