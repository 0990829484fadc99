"""The workspace keeps what its documents say: separate installs, living links, named tests."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
SERVICES = ("ingest", "transform", "sink", "anomaly")


def installed_with(package: str) -> set[str]:
    """Everything the lock installs for one package of the workspace."""
    lock = tomllib.loads((ROOT / "uv.lock").read_text())
    needs: dict[str, set[str]] = {}
    for each in lock["package"]:
        extras = each.get("optional-dependencies", {}).values()
        listed = [*each.get("dependencies", ()), *(one for extra in extras for one in extra)]
        needs.setdefault(each["name"], set()).update(one["name"] for one in listed)
    found: set[str] = set()
    waiting = [package]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += needs.get(name, ())
    return found


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_installs_no_other_service(service: str) -> None:
    """Installing one service installs none of the others, nor tools of the demo."""
    others = {f"telemill-{other}" for other in SERVICES if other != service}
    tools = {"telemill-simulator", "telemill-demo", "telemill-offline", "duckdb"}
    assert not installed_with(f"telemill-{service}") & (others | tools)


def test_the_sink_does_not_install_what_only_anomaly_needs() -> None:
    """The library numpy comes with transform and anomaly, not with sink or ingest."""
    assert "numpy" in installed_with("telemill-anomaly")
    assert "numpy" not in installed_with("telemill-sink")
    assert "numpy" not in installed_with("telemill-ingest")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_named_files_exist(document: Path) -> None:
    """Every relative link of a document, and every test or bench file it names, exists."""
    text = document.read_text()
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", text)
    missing = [link for link in links if not (document.parent / link).exists()]
    named = re.findall(
        r"`((?:tests|bench|contracts|services|shared|simulator)/[\w/.-]+\.\w+)`", text
    )
    missing += [name for name in named if not (ROOT / name).exists()]
    assert not missing


def test_make_help_lists_every_target() -> None:
    """`make help` shows each target that a user may call."""
    makefile = (ROOT / "Makefile").read_text()
    phony = set(re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[0].split())
    shown = subprocess.run(
        ["make", "--no-print-directory", "help"],  # noqa: S607
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    listed = set(re.findall(r"^  make (\S+)", shown, re.MULTILINE))
    assert phony == listed
