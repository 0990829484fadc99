"""Settings: what is taken, what is refused, and what is shown."""

from pathlib import Path

import pydantic
import pytest

from telemill import settings
from telemill.errors import ConfigurationError


class PumpSettings(settings.ServiceSettings):
    """A service of its own."""

    model_config = settings.config("PUMP_")

    flush_interval_seconds: float = settings.setting(
        15.0, unit="seconds", description="Age at which a cut ends.", gt=0
    )
    devices: tuple[int, ...] = settings.setting(
        (1, 2), unit="devices", description="Which to poll."
    )
    api_key: pydantic.SecretStr | None = settings.setting(
        None, unit="", description="Proves who asks.", min_length=8
    )

    @pydantic.field_validator("devices")
    @classmethod
    def _positive(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(device < 1 for device in value):
            raise ValueError("devices begin at 1")
        return value


class NeedySettings(settings.HttpSettings):
    """Has a setting without a default."""

    model_config = settings.config("NEEDY_")
    base_url: str = settings.setting(unit="URL", description="The API.")


def load(*argv: str) -> PumpSettings:
    """Load as a service does."""
    return settings.load(PumpSettings, argv, prog="pump", description="Pumps.")


def refusal(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line on stderr of a refused start."""
    with pytest.raises(SystemExit) as ended:
        load(*argv)
    captured = capsys.readouterr()
    assert ended.value.code == 2
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err.strip()


def test_environment_and_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flag overrides the environment, which overrides the default."""
    monkeypatch.setenv("PUMP_HTTP_PORT", "9000")
    monkeypatch.setenv("PUMP_FLUSH_INTERVAL_SECONDS", "3")
    loaded = load("--http-port", "9001", "--emf-enabled", "--log-level=debug")
    assert (loaded.http_port, loaded.flush_interval_seconds) == (9001, 3.0)
    assert (loaded.emf_enabled, loaded.log_level, loaded.slot_count) == (True, "debug", 64)


@pytest.mark.parametrize("text", ["3,4", " 3 , 4,", "[3, 4]"])
def test_lists(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """A list is comma-separated or a JSON array."""
    monkeypatch.setenv("PUMP_DEVICES", text)
    assert load().devices == (3, 4)


def test_settings_are_frozen() -> None:
    """Nothing changes a setting after the start."""
    with pytest.raises(pydantic.ValidationError):
        load().http_port = 1


def test_malformed_value(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A malformed value ends the start with its name, what it got and what it takes."""
    monkeypatch.setenv("PUMP_FLUSH_INTERVAL_SECONDS", "soon")
    assert refusal(capsys) == (
        "pump: PUMP_FLUSH_INTERVAL_SECONDS: got 'soon'; takes number (seconds), above 0"
    )


def test_validator_of_a_service(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A service's own check says why."""
    monkeypatch.setenv("PUMP_DEVICES", "0")
    assert refusal(capsys).endswith("(devices begin at 1)")


def test_unknown_variable_suggests(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A variable with the prefix which is no setting is refused with the nearest name."""
    monkeypatch.setenv("PUMP_FLUSH_INTERVALL_SECONDS", "3")
    assert refusal(capsys) == (
        "pump: PUMP_FLUSH_INTERVALL_SECONDS: no such setting"
        " (did you mean PUMP_FLUSH_INTERVAL_SECONDS?)"
    )


def test_all_problems_on_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Several problems are all named at once, on one line."""
    monkeypatch.setenv("PUMP_HTTP_PORT", "99999")
    monkeypatch.setenv("PUMP_LOG_LEVEL", "loud\nvery")
    monkeypatch.setenv("PUMP_COLOUR", "red")
    line = refusal(capsys)
    assert "PUMP_HTTP_PORT: got '99999'; takes integer (port), 0 to 65535" in line
    assert "takes debug | info | warning | error" in line
    assert "PUMP_COLOUR: no such setting" in line


def test_kubernetes_service_links_are_not_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Kubernetes injects for a Service of our name does not stop the start."""
    for name, value in {
        "PUMP_SERVICE_HOST": "10.0.0.1",
        "PUMP_SERVICE_PORT_HTTP": "80",
        "PUMP_PORT": "tcp://10.0.0.1:80",
        "PUMP_PORT_80_TCP": "tcp://10.0.0.1:80",
        "PUMP_PORT_80_TCP_ADDR": "10.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    assert load().http_port == 8080


def test_secrets_are_never_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A secret's value is in no message, no help and no repr, and is no flag."""
    monkeypatch.setenv("PUMP_API_KEY", "hunter2")
    assert "hunter2" not in refusal(capsys)
    assert "--api-key: no such argument" in refusal(capsys, "--api-key", "hunter2")
    monkeypatch.setenv("PUMP_API_KEY", "hunter2hunter2")
    assert "hunter2" not in repr(load())


def test_required_setting_missing() -> None:
    """A setting without a default which is not set is named."""
    with pytest.raises(ConfigurationError, match=r"NEEDY_BASE_URL: not set; takes text \(URL\)"):
        settings.read(NeedySettings)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("--http-prot", "1"), "--http-prot: no such argument (did you mean --http-port?)"),
        (("--http-port",), "--http-port: got no value; takes integer (port), 0 to 65535"),
        (("run",), "run: no such argument"),
    ],
)
def test_bad_arguments(
    capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], says: str
) -> None:
    """An argument which is no setting is refused like a wrong setting."""
    assert refusal(capsys, *argv) == f"pump: {says}"


def test_help_lists_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    """--help shows name, default, unit, type and description of each setting, aligned."""
    with pytest.raises(SystemExit) as ended:
        load("--help")
    lines = capsys.readouterr().out.splitlines()
    assert ended.value.code == 0
    assert all(len(line) <= 100 for line in lines)
    for name, info in PumpSettings.model_fields.items():
        assert any(f" PUMP_{name.upper()} " in line for line in lines)
        assert any(line.strip() == info.description for line in lines)
    heading = next(line for line in lines if "SETTING" in line)
    row = next(line for line in lines if "PUMP_FLUSH_INTERVAL_SECONDS" in line)
    for column, text in (("DEFAULT", "15.0"), ("UNIT", "seconds"), ("TAKES", "number, above 0")):
        assert row[heading.index(column) :].startswith(text)


def test_check_loads_the_contract(capsys: pytest.CaptureFixture[str]) -> None:
    """--check validates the settings and the contract file, says so in one line and exits 0."""
    with pytest.raises(SystemExit) as ended:
        load("--check")
    assert ended.value.code == 0
    line = capsys.readouterr().out
    assert line.startswith("pump: valid: ")
    assert "contract fms version" in line


def test_check_names_a_broken_contract(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """--check refuses a contract file which cannot be read, on one line."""
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: x\nfields: [\n")
    assert str(broken) in refusal(capsys, "--check", "--contract", str(broken))


def test_a_setting_needs_a_unit() -> None:
    """A settings class with an undescribed setting cannot be defined."""
    with pytest.raises(TypeError, match="needs a description and a unit"):
        type(
            "Bad",
            (settings.HttpSettings,),
            {"__annotations__": {"x": int}, "x": 1, "__module__": __name__},
        )
