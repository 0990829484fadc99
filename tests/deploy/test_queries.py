"""The named queries of the domain, run by DuckDB on rows whose answers are known."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest

from telemill import contract
from tests.deploy import published

ROOT = Path(__file__).parents[2]
READING = contract.load(ROOT / "contracts" / "fms.yaml")
DAY = "2025-07-07"
SENSOR1 = READING.values[0]


def named(name: str) -> str:
    """The text of a published query."""
    for _, query in published.resources("catalog", "AWS::Athena::NamedQuery"):
        if query["Name"] == name:
            return str(query["QueryString"])
    raise AssertionError(name)


@pytest.fixture
def lake() -> duckdb.DuckDBPyConnection:
    """Two devices, three readings each, in two hours; scores of device 1."""
    made = duckdb.connect()
    # Athena's spelling of DuckDB's operator.
    made.execute("CREATE MACRO bitwise_and(a, b) AS a & b")
    made.execute(
        "CREATE TABLE readings (device_id BIGINT, event_time TIMESTAMP, ingest_time TIMESTAMP,"
        " sensor1 DOUBLE, sensor2 DOUBLE, sensor3 DOUBLE, motor1 DOUBLE, motor2 DOUBLE,"
        " motor3 DOUBLE, is_fail BOOLEAN, quality BIGINT, dt VARCHAR, hour VARCHAR)"
    )
    made.execute(
        "CREATE TABLE scores (device_id BIGINT, event_time TIMESTAMP, score DOUBLE,"
        " is_anomaly BOOLEAN, dt VARCHAR)"
    )
    missing, outside = READING.missing_bit(SENSOR1), READING.range_bit(SENSOR1)
    for device, hour, minute, sensor1, fails, quality in (
        (1, "08", 0, 80.0, False, 0),
        (1, "08", 1, 90.0, True, 0),
        (1, "09", 0, None, False, missing),
        (2, "08", 0, 70.0, False, 0),
        (2, "08", 1, None, False, outside),
        (2, "09", 0, 72.0, False, 0),
    ):
        at = datetime(2025, 7, 7, int(hour), minute, tzinfo=UTC).replace(tzinfo=None)
        row = [device, at, at, sensor1, 50.0, 60.0, 1.0, 2.0, 3.0, fails, quality, DAY, hour]
        made.execute("INSERT INTO readings VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    for minute, score, anomalous in ((0, None, False), (1, 0.5, False), (2, 0.99999, True)):
        at = datetime(2025, 7, 7, 8, minute, tzinfo=UTC).replace(tzinfo=None)
        made.execute("INSERT INTO scores VALUES (1, ?, ?, ?, ?)", [at, score, anomalous, DAY])
    return made


def rows(lake: duckdb.DuckDBPyConnection, name: str) -> list[dict[str, Any]]:
    """The answer, a row a dictionary."""
    text = named(name)
    found = lake.execute(text, [DAY] * text.count("?"))
    columns = [each[0] for each in found.description or ()]
    return [dict(zip(columns, row, strict=True)) for row in found.fetchall()]


def test_daily_summary(lake: duckdb.DuckDBPyConnection) -> None:
    """One row a device: readings, failures, and the range of each measure."""
    first, second = rows(lake, "daily-summary")
    assert (first["device_id"], first["readings"], first["is_fail_readings"]) == (1, 3, 1)
    assert (first["sensor1_min"], first["sensor1_avg"], first["sensor1_max"]) == (80, 85, 90)
    assert (first["sensor1_nulls"], second["sensor1_nulls"]) == (1, 1)
    assert {f"{each.column}_sd" for each in READING.measures} <= set(first)


def test_hour_of_day(lake: duckdb.DuckDBPyConnection) -> None:
    """One row an hour."""
    assert [
        (each["hour"], each["readings"], each["devices"]) for each in rows(lake, "hour-of-day")
    ] == [
        ("08", 4, 2),
        ("09", 2, 2),
    ]


def test_anomaly_ranking(lake: duckdb.DuckDBPyConnection) -> None:
    """Devices by anomalies, with the first of the day."""
    (only,) = rows(lake, "anomaly-ranking")
    assert (only["device_id"], only["anomalies"], only["scored"]) == (1, 1, 2)
    assert only["first_anomaly"] == datetime(2025, 7, 7, 8, 2)  # noqa: DTZ001


def test_data_quality(lake: duckdb.DuckDBPyConnection) -> None:
    """One row a field: completeness counts what is absent, accuracy what is present and wrong."""
    by_field = {each["field"]: each for each in rows(lake, "data-quality")}
    assert set(by_field) == {each.column for each in READING.values}
    assert by_field["sensor1"]["completeness"] == pytest.approx(5 / 6)
    assert by_field["sensor1"]["accuracy"] == pytest.approx(4 / 5)
    assert by_field["motor1"]["completeness"] == by_field["motor1"]["accuracy"] == 1


def test_freshness(lake: duckdb.DuckDBPyConnection) -> None:
    """One row a device: its newest reading and how old that is."""
    found = rows(lake, "freshness")
    assert {each["device_id"] for each in found} == {1, 2}
    newest = datetime(2025, 7, 7, 9, 0)  # noqa: DTZ001
    assert all(each["newest"] == newest and each["age_seconds"] > 0 for each in found)


def test_every_query_is_tested() -> None:
    """A query that is published is one of those above."""
    published_names = {
        query["Name"] for _, query in published.resources("catalog", "AWS::Athena::NamedQuery")
    }
    assert published_names == {
        "daily-summary",
        "hour-of-day",
        "anomaly-ranking",
        "data-quality",
        "freshness",
    }
