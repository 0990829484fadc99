"""Settings of ingest and its command line."""

import pytest

from ingest.__main__ import main
from ingest.settings import IngestSettings
from telemill import errors, settings


def read(**values: object) -> IngestSettings:
    """Settings as given."""
    return settings.read(IngestSettings, values)


def test_the_defaults_are_valid() -> None:
    """With nothing set, --check passes: 100 devices every 10 s."""
    defaults = read()
    assert "100 devices" in defaults.check()
    assert (defaults.poll_interval_seconds, defaults.poll_timeout_seconds) == (10.0, 5.0)
    assert defaults.host_label == "127.0.0.1:9872"


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"base_url": "ftp://x"}, "INGEST_BASE_URL"),
        ({"base_url": "localhost"}, "INGEST_BASE_URL"),
        ({"base_url": "http://x/?a=1"}, "INGEST_BASE_URL"),
        ({"poll_interval_seconds": 0}, "INGEST_POLL_INTERVAL_SECONDS"),
        ({"lease_expiry_seconds": 8}, "INGEST_LEASE_EXPIRY_SECONDS"),
        ({"raw_format": "avro"}, "INGEST_RAW_FORMAT"),
    ],
)
def test_a_wrong_setting_is_named(values: dict[str, object], named: str) -> None:
    """The error names the variable, what it got and what it takes."""
    with pytest.raises(errors.ConfigurationError, match=named):
        read(**values)


def test_short_leases_are_fine_when_there_are_none() -> None:
    """Without leases their timing is nobody's business."""
    assert not read(lease_expiry_seconds=8, device_leases=False).device_leases


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"devices": "1-x"}, "INGEST_DEVICES"),
        ({"api_key_hashes": "abc"}, "INGEST_API_KEY_HASHES"),
        ({"contract": "contracts/skab.yaml", "devices": "1-100"}, "INGEST_DEVICES"),
    ],
)
def test_check_reads_devices_and_keys(values: dict[str, object], named: str) -> None:
    """--check finds a bad device list and a bad key, and names the variable."""
    with pytest.raises(errors.ConfigurationError, match=f"^{named}: "):
        read(**values).check()


def test_the_default_devices_are_integers() -> None:
    """With text devices nothing is polled until they are listed: no device is called 1-100."""
    assert "0 devices" in read(contract="contracts/skab.yaml").check()
    assert "2 devices" in read(contract="contracts/skab.yaml", devices="pump-1,pump-2").check()


def test_bad_settings_end_with_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line on stderr naming an unknown variable; nothing is started."""
    monkeypatch.setenv("INGEST_POL_INTERVAL_SECONDS", "1")
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
    assert "INGEST_POL_INTERVAL_SECONDS" in capsys.readouterr().err


def test_help_names_the_other_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """--help lists every setting and says that there are replay and key."""
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    assert all(f"INGEST_{name.upper()}" in shown for name in IngestSettings.model_fields)
    assert "replay FILE" in shown


def test_key_prints_a_key_and_its_hash(capsys: pytest.CaptureFixture[str]) -> None:
    """What `key` prints for the settings is valid there."""
    assert main(["key"]) == 0
    hashed = capsys.readouterr().out.split()[-1]
    assert "1 API keys" in read(api_key_hashes=hashed).check()
