"""KINESIS_*: the same variables in every service that reads; a wrong one is one clear line."""

from collections.abc import Callable
from pathlib import Path

import pytest

import anomaly.__main__
import sink.__main__
import transform.__main__
from sink.settings import SinkSettings
from telemill import settings
from telemill.reader_settings import ReaderSettings
from transform.settings import TransformSettings

JAVA_17 = "#!/bin/sh\necho 'openjdk version \"17.0.15\" 2025-04-15' >&2\n"
JAVA_7 = "#!/bin/sh\necho 'java version \"1.7.0_80\"' >&2\n"


def load(settings_class: type[ReaderSettings], *argv: str) -> ReaderSettings:
    """As a service's `__main__` does."""
    return settings.load(settings_class, argv, prog="test", description="A test.")


def refusal(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The line with which a service refuses to start."""
    with pytest.raises(SystemExit) as ended:
        load(TransformSettings, *argv)
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    return line


def java_home(directory: Path, script: str) -> str:
    """A JAVA_HOME whose java is a script."""
    program = directory / "bin" / "java"
    program.parent.mkdir()
    program.write_text(script)
    program.chmod(0o755)
    return str(directory)


@pytest.mark.parametrize("service", [TransformSettings, SinkSettings])
def test_every_reader_has_the_same_variables(
    service: type[ReaderSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the service's prefix, as environment variable and as flag."""
    monkeypatch.setenv("KINESIS_COORDINATOR", "kcl")
    monkeypatch.setenv("KINESIS_FAN_OUT", "true")
    chosen = load(service, "--kinesis-max-leases", "3")
    assert chosen.uses_kcl
    assert chosen.kinesis_fan_out
    assert chosen.kinesis_max_leases == 3


def test_single_is_the_embedded_default() -> None:
    """No Java, no jars, no lease table unless somebody asks for them."""
    chosen = load(TransformSettings)
    assert not chosen.uses_kcl
    assert chosen.initial_position == "TRIM_HORIZON"
    assert chosen.lease_table("transform") == "telemill-leases-transform"


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("LATEST", "LATEST"),
        ("2026-03-01T06:00:00Z", 1_772_344_800_000_000),
        ("2026-03-01T07:00:00.5+01:00", 1_772_344_800_500_000),
    ],
)
def test_a_start_is_a_name_or_a_time(
    text: str, position: str | int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A time is the same moment in every zone."""
    monkeypatch.setenv("KINESIS_START_POSITION", text)
    assert load(TransformSettings).initial_position == position


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("KINESIS_COORDINATOR", "zookeeper", "got 'zookeeper'; takes single | kcl"),
        ("KINESIS_START_POSITION", "yesterday", "(a time like 2026-03-01T06:00:00Z)"),
        ("KINESIS_START_POSITION", "2026-03-01T06:00:00", "(a time like 2026-03-01T06:00:00Z)"),
        ("KINESIS_FAN_OUT", "true", "KINESIS_FAN_OUT: got true; takes KINESIS_COORDINATOR=kcl"),
        ("KINESIS_FAILOVER_SECONDS", "0.5", "takes number (seconds), 1 to 300"),
        ("KINESIS_COORDINATER", "kcl", "no such setting (did you mean KINESIS_COORDINATOR?)"),
    ],
)
def test_a_wrong_setting_is_named(
    name: str,
    value: str,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Status 2, and one line with the variable, what it got and what it takes."""
    monkeypatch.setenv(name, value)
    line = refusal(capsys)
    assert name in line
    assert says in line


def test_the_kcl_without_its_jars_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--check finds them missing, and names the folder and the command."""
    monkeypatch.setenv("JAVA_HOME", java_home(tmp_path, JAVA_17))
    monkeypatch.setenv("KINESIS_COORDINATOR", "kcl")
    line = refusal(capsys, "--check", "--kinesis-kcl-jars", str(tmp_path / "none"))
    assert f"KINESIS_KCL_JARS: got {tmp_path / 'none'}" in line
    assert "run `make kcl-jars`" in line


@pytest.mark.parametrize(
    "main", [transform.__main__.main, anomaly.__main__.main, sink.__main__.main]
)
def test_a_service_without_its_jars_ends_before_it_asks_anyone(
    main: Callable[[list[str]], int],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Status 2 and one line at the start, while AWS cannot be reached at all."""
    monkeypatch.setenv("JAVA_HOME", java_home(tmp_path, JAVA_17))
    monkeypatch.setenv("KINESIS_COORDINATOR", "kcl")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert main(["--kinesis-kcl-jars", str(tmp_path / "none"), "--http-port", "0"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert f"KINESIS_KCL_JARS: got {tmp_path / 'none'}" in line


@pytest.mark.parametrize(
    ("script", "says"),
    [(JAVA_7, "which is Java 7; takes a Java 8 or newer"), (None, "which holds no bin/java")],
)
def test_the_kcl_without_a_usable_java_says_what_to_do(
    script: str | None,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Too old, or not there: --check names where it looked and the package."""
    home = java_home(tmp_path, script) if script else str(tmp_path)
    monkeypatch.setenv("JAVA_HOME", home)
    monkeypatch.setenv("KINESIS_COORDINATOR", "kcl")
    line = refusal(capsys, "--check")
    assert f"JAVA_HOME: got {home}, {says}" in line
    assert "openjdk-17-jre-headless" in line
