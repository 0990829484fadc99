"""What the daemon is given and what it writes: properties, Java, log lines."""

import stat
from pathlib import Path

import pytest

from telemill import errors
from telemill.kcl import java, properties
from telemill.kcl.daemon_log import MAX_LINE_BYTES, DaemonLog, Line
from telemill.kcl.properties import DaemonSettings

SETTINGS = DaemonSettings(
    application="transform", stream="readings-raw", worker_id="w-1", region="eu-central-1"
)


def rendered(settings: DaemonSettings) -> dict[str, str]:
    """The properties file, read."""
    text = properties.render(settings, "./python -I -S relay.py")
    pairs = (line.split(" = ", 1) for line in text.splitlines())
    return dict(pairs)  # type: ignore[arg-type]


def changed(**values: object) -> DaemonSettings:
    """The settings with some others."""
    whole = {name: getattr(SETTINGS, name) for name in DaemonSettings.__dataclass_fields__}
    return DaemonSettings(**{**whole, **values})


def test_windows_for_checkpoints_come_on_an_idle_shard() -> None:
    """Empty record lists are delivered too, and the daemon gives us time to drain."""
    found = rendered(changed(shutdown_grace_millis=45_000))
    assert found["callProcessRecordsEvenForEmptyRecordList"] == "true"
    assert found["shutdownGraceMillis"] == "45000"
    assert found["gracefulLeaseHandoffTimeoutMillis"] == "45000"
    assert found["metricsLevel"] == "NONE"


def test_polling_and_fan_out_exclude_one_another() -> None:
    """Any polling property would make the KCL poll: with fan-out there is none."""
    polling = rendered(changed(max_records=5_000, idle_millis=250))
    assert polling["retrievalMode"] == "POLLING"
    assert (polling["maxRecords"], polling["idleTimeBetweenReadsInMillis"]) == ("5000", "250")
    fan_out = rendered(changed(fan_out=True))
    assert fan_out["retrievalMode"] == "FANOUT"
    assert not {"maxRecords", "idleTimeBetweenReadsInMillis"} & fan_out.keys()


def test_endpoints_are_told_only_when_there_are_any() -> None:
    """AWS's own are the SDK's business; an emulator's are named for both services."""
    assert not {"kinesisEndpoint", "dynamoDBEndpoint"} & rendered(SETTINGS).keys()
    found = rendered(changed(kinesis_endpoint="http://k:1", dynamodb_endpoint="http://d:2"))
    assert (found["kinesisEndpoint"], found["dynamoDBEndpoint"]) == ("http://k:1", "http://d:2")


def test_a_stream_by_arn_is_told_as_one() -> None:
    """Another account's stream is named by its ARN."""
    arn = "arn:aws:kinesis:eu-central-1:000000000000:stream/readings-raw"
    found = rendered(changed(stream=arn))
    assert found["streamArn"] == arn
    assert "streamName" not in found


def test_the_initial_position_is_a_name_or_a_time() -> None:
    """TRIM_HORIZON by name, a time in epoch seconds; LATEST is refused."""
    assert rendered(SETTINGS)["initialPositionInStream"] == "TRIM_HORIZON"
    found = rendered(changed(initial_position=1_700_000_000))
    assert found["initialPositionInStreamExtended"] == "1700000000"
    assert "initialPositionInStream" not in found
    with pytest.raises(errors.ConfigurationError, match="LATEST"):
        changed(initial_position="LATEST")


def test_an_endpoint_that_is_no_url_is_refused() -> None:
    """The variable is named, with what it got."""
    with pytest.raises(errors.ConfigurationError, match="AWS_ENDPOINT_URL: got localhost:4566"):
        changed(kinesis_endpoint="localhost:4566")


@pytest.mark.parametrize(
    ("endpoint", "speaks"),
    [
        (None, True),
        ("https://kinesis.eu-central-1.amazonaws.com", True),
        ("https://vpce-1.kinesis.cn-north-1.vpce.amazonaws.com.cn", True),
        ("http://127.0.0.1:4566", False),
        ("http://amazonaws.com.example:4566", False),
    ],
)
def test_only_aws_is_spoken_to_in_binary(endpoint: str | None, speaks: bool) -> None:
    """Emulators tell arrival times in another unit there."""
    assert changed(kinesis_endpoint=endpoint).speaks_cbor is speaks


def test_values_cannot_write_further_properties() -> None:
    """A line end, a backslash or a letter beyond ASCII stays part of its value."""
    text = properties.render(changed(worker_id="ü\nstreamName = other\\"), "relay")
    assert "workerId = \\u00fc\\u000astreamName = other\\\\\n" in text
    assert text.isascii()


def test_a_bound_on_leases_is_told() -> None:
    """By default there is none."""
    assert "maxLeasesForWorker" not in rendered(SETTINGS)
    assert rendered(changed(max_leases=4))["maxLeasesForWorker"] == "4"


def fake_java(directory: Path, script: str) -> Path:
    """A JAVA_HOME whose java is a shell script."""
    program = directory / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return directory


@pytest.mark.parametrize("version", ["1.8.0_402", "11.0.2", "17.0.15", "25"])
def test_java_8_and_newer_are_taken(tmp_path: Path, version: str) -> None:
    """JAVA_HOME wins; both ways to write a version are known."""
    home = fake_java(tmp_path, f"""echo 'openjdk version "{version}" 2025-04-15' >&2""")
    assert java.find({"JAVA_HOME": str(home)}) == home / "bin" / "java"


def test_java_on_the_path_is_taken(tmp_path: Path) -> None:
    """Without JAVA_HOME the PATH is searched."""
    home = fake_java(tmp_path, """echo 'openjdk version "21.0.1"' >&2""")
    assert java.find({"PATH": str(home / "bin")}) == home / "bin" / "java"


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("""echo 'java version "1.7.0_80"' >&2""", "which is Java 7; takes a Java 8 or newer"),
        ("exit 1", "which does not run"),
        ("echo hello", "which does not tell its version"),
    ],
)
def test_a_java_of_no_use_is_one_clear_error(tmp_path: Path, script: str, says: str) -> None:
    """Too old, broken or none at all: what was found and what is taken."""
    home = fake_java(tmp_path, script)
    with pytest.raises(errors.ConfigurationError, match=f"JAVA_HOME: got .*{says}"):
        java.find({"JAVA_HOME": str(home)})


def test_no_java_is_one_clear_error(tmp_path: Path) -> None:
    """Neither in JAVA_HOME nor on the PATH."""
    with pytest.raises(errors.ConfigurationError, match="no java on the PATH"):
        java.find({"PATH": str(tmp_path)})
    with pytest.raises(errors.ConfigurationError, match="which holds no bin/java"):
        java.find({"JAVA_HOME": str(tmp_path)})


def test_log_lines_become_events() -> None:
    """Level, class and text; what no logger wrote is the JVM's."""
    log = DaemonLog()
    output = b"INFO Scheduler Starting \nWARN Foo bad | at x \nTerminating due to OutOfMemory\n"
    assert list(log.feed(output)) == [
        Line("info", "Scheduler", "Starting"),
        Line("warning", "Foo", "bad | at x"),
        Line("warning", "jvm", "Terminating due to OutOfMemory"),
    ]


def test_lines_are_put_together_and_none_is_lost() -> None:
    """Whatever the pieces, the lines are the same; the last needs no line end."""
    output = b"INFO A one\n\nERROR B two\nINFO C three"
    for size in range(1, len(output) + 1):
        log = DaemonLog()
        pieces = [output[at : at + size] for at in range(0, len(output), size)]
        lines = [line for piece in [*pieces, b""] for line in log.feed(piece)]
        assert [line.text for line in lines] == ["one", "two", "three"]


def test_a_line_without_end_is_bounded() -> None:
    """Its beginning is an event, the rest is skipped, the next line is read again."""
    log = DaemonLog()
    lines = list(log.feed(b"INFO A " + b"x" * 3 * MAX_LINE_BYTES))
    lines += log.feed(b"y" * 2 * MAX_LINE_BYTES)
    lines += log.feed(b"end\nINFO B next\n")
    assert [line.logger for line in lines] == ["A", "B"]
    assert len(lines[0].text) <= MAX_LINE_BYTES


def test_what_records_hold_is_never_logged() -> None:
    """The KCL prints whole messages when a pipe breaks: data is cut out, also when cut off."""
    log = DaemonLog()
    [line] = log.feed(b'ERROR W Cannot write {"data":"c2VjcmV0","partitionKey":"k","data":"c2Vj\n')
    assert line.text == 'Cannot write {"data":"...","partitionKey":"k","data":"..."'


def test_the_tail_tells_what_went_wrong() -> None:
    """Warnings and errors come before chatter; without any, the last lines are all there is."""
    log = DaemonLog()
    list(log.feed(b"INFO A one\n"))
    assert log.tail() == "A: one"
    list(log.feed(b"ERROR B two\nINFO C three\n"))
    assert log.tail() == "B: two"
