"""`telemill doctor` over AWS's wire protocol: a plant with something wrong, then put right."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
from aiobotocore import session

from offline.doctor import command, plant
from offline.doctor.finding import Finding, Status
from sink import catalog, core
from telemill import contract, provision, quarantine, service
from telemill.cli import __main__ as cli

RAW, READINGS, SCORES = "doctor-raw", "doctor-readings", "doctor-scores"
NAMES = {
    "INGEST_RAW_STREAM": RAW,
    "TRANSFORM_INPUT_STREAM": RAW,
    "TRANSFORM_OUTPUT_STREAM": READINGS,
    "ANOMALY_INPUT_STREAM": READINGS,
    "ANOMALY_OUTPUT_STREAM": SCORES,
    "ANOMALY_ALERT_TOPIC": "doctor-alerts",
    "SINK_TABLE": "readings",
    "SINK_INPUT_STREAM": READINGS,
    "SINK_GLUE_DATABASE": "doctor",
} | {
    f"{prefix}_{name}": value
    for prefix in ("INGEST", "TRANSFORM", "SINK", "ANOMALY")
    for name, value in (("PROGRESS_TABLE", "doctor-progress"), ("STATE_BUCKET", "doctor-state"))
}
LAKE = {f"{prefix}_LAKE_BUCKET": "doctor-lake" for prefix in ("TRANSFORM", "SINK", "ANOMALY")}


@pytest.fixture(autouse=True)
def _plant(aws: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of its own: the emulator is the whole session's."""
    for name, value in (NAMES | LAKE).items():
        monkeypatch.setenv(name, value)


def build(**changes: Any) -> None:
    """Everything a plant needs."""
    made = {
        "streams": (RAW, READINGS, SCORES),
        "lake_bucket": "doctor-lake",
        "state_bucket": "doctor-state",
        "progress_table": "doctor-progress",
        "alert_topic": "doctor-alerts",
    }
    provision.provision(provision.Resources(**(made | changes)), lambda _: None)


def doctor(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    """The command's status, and its findings by check and subject that are not well."""
    status = cli.main(["doctor", "--json", *arguments])
    document = json.loads(capsys.readouterr().out)
    found = {
        f"{each['check']} {each['subject']}": each
        for each in document["findings"]
        if each["status"] != "ok"
    }
    assert (status == 1) is (document["status"] == "fail")
    return status, found


def test_an_empty_account_and_a_complete_one(capsys: pytest.CaptureFixture[str]) -> None:
    """Everything that is missing is named with what to do; provisioned, nothing fails."""
    status, found = doctor(capsys)
    assert status == 1
    for missing in (
        f"stream {RAW}",
        f"stream {READINGS}",
        f"stream {SCORES}",
        "bucket doctor-lake",
        "bucket doctor-state",
        "table doctor-progress",
        "topic doctor-alerts",
    ):
        assert found[missing]["status"] == "fail", missing
        assert "telemill provision" in found[missing]["advice"], missing
    build()
    status, found = doctor(capsys)
    assert (status, set(found)) == (0, {"glue doctor.readings", "topic doctor-alerts"})
    # The same for people: a line each, what to do below it.
    assert cli.main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert f"ok   stream      {RAW}: 2 open shards, ACTIVE" in shown
    assert "warn topic       doctor-alerts: nobody is subscribed" in shown
    assert "→ aws sns subscribe" in shown


def test_fewer_shards_than_the_parameter_says(capsys: pytest.CaptureFixture[str]) -> None:
    """The stack's parameter is compared with the stream."""
    build()
    status, found = doctor(capsys, "--raw-shards", "4", "--readings-shards", "2")
    assert (status, found[f"shards {RAW}"]["says"]) == (1, "2 open, 4 expected")
    assert f"shards {READINGS}" not in found


def test_a_table_that_is_another(capsys: pytest.CaptureFixture[str]) -> None:
    """A table with other keys is not ours; one without expiry keeps ended shards."""
    build()
    dynamodb = boto3.client("dynamodb")
    dynamodb.delete_table(TableName="doctor-progress")
    dynamodb.create_table(
        TableName="doctor-progress",
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
    )
    status, found = doctor(capsys)
    assert status == 1
    assert "its keys are id, not app and shard" in found["table doctor-progress"]["says"]
    dynamodb.delete_table(TableName="doctor-progress")
    build()
    dynamodb.update_time_to_live(
        TableName="doctor-progress",
        TimeToLiveSpecification={"Enabled": False, "AttributeName": "expires_at"},
    )
    status, found = doctor(capsys)
    assert (status, found["table doctor-progress"]["status"]) == (0, "warn")


def test_a_catalogue_that_is_not_the_contracts(capsys: pytest.CaptureFixture[str]) -> None:
    """A missing column is worth a restart, another type a failure; as it should be, nothing."""
    build()
    glue = boto3.client("glue")
    form = core.form_of(contract.load(Path("contracts/fms.yaml")), "readings")
    wanted = catalog.define(form, "doctor", "doctor-lake")
    columns = [dict(each) for each in wanted.columns]
    glue.create_database(DatabaseInput={"Name": "doctor"})
    glue.create_table(DatabaseName="doctor", TableInput=wanted.table_input(columns[:-1]))
    _, found = doctor(capsys)
    lacking = found["glue doctor.readings"]
    assert (lacking["status"], columns[-1]["Name"] in lacking["says"]) == ("warn", True)
    columns[0]["Type"] = "binary"
    glue.update_table(DatabaseName="doctor", TableInput=wanted.table_input(columns))
    status, found = doctor(capsys)
    assert (status, found["glue doctor.readings"]["status"]) == (1, "fail")
    right = [dict(each) for each in wanted.columns]
    glue.update_table(DatabaseName="doctor", TableInput=wanted.table_input(right))
    status, found = doctor(capsys)
    assert (status, "glue doctor.readings" in found) == (0, False)
    glue.delete_table(DatabaseName="doctor", Name="readings")
    glue.delete_database(Name="doctor")


def test_a_quarantine_that_grows(capsys: pytest.CaptureFixture[str]) -> None:
    """Objects of the last hour, by reason."""
    build()
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    key = f"{quarantine.PREFIX}/dt={day}/reason=bad_time/shard-1-2.ndjson.zst"
    s3 = boto3.client("s3")
    s3.put_object(Bucket="doctor-lake", Key=key, Body=b"x" * 200_000)
    status, found = doctor(capsys)
    assert (status, found["quarantine doctor-lake"]["status"]) == (0, "warn")
    assert "bad_time 195 KiB" in found["quarantine doctor-lake"]["says"]
    s3.delete_object(Bucket="doctor-lake", Key=key)


async def look(now: float) -> list[Finding]:
    """Everything that is not well, at some time."""
    found: list[Finding] = []
    async with service.clients("kinesis", "s3", "dynamodb", "glue", "sns") as opened:
        async for each in command.look_at(plant.read(), command.Expected(), opened, now):
            found += each
    return [each for each in found if each.status is not Status.OK]


async def test_records_nobody_reads(capsys: pytest.CaptureFixture[str]) -> None:
    """A record waits on one shard: the lag of that application and shard grows with the time."""
    build()
    boto3.client("kinesis").put_record(
        StreamName=RAW, Data=b"{}", PartitionKey="7", ExplicitHashKey="0"
    )
    assert "lag" not in {each.check for each in await look(time.time())}
    (behind,) = [each for each in await look(time.time() + 120) if each.check == "lag"]
    assert behind.status is Status.WARN
    assert behind.subject.startswith(f"transform {RAW} shardId-000000000000")
    (lost,) = [each for each in await look(time.time() + 20 * 3600) if each.check == "lag"]
    assert (lost.status, "raise the retention" in lost.advice) == (Status.FAIL, True)


def test_no_region_and_no_credentials(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nobody to ask: one finding that says so, and nothing is asked."""
    for name in ("AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setattr("telemill.aws._session", _fresh_session)
    status, found = doctor(capsys)
    assert (status, set(found)) == (1, {"region AWS"})
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    status, found = doctor(capsys)
    assert (status, set(found)) == (1, {"credentials AWS"})
    assert "AWS_ACCESS_KEY_ID" in found["credentials AWS"]["advice"]


def _fresh_session() -> Any:
    return session.get_session()
