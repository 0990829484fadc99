"""The same SQL through the Athena API and through DuckDB on the downloaded files."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import duckdb

from telemill import names

ATHENA_TIMEOUT_SECONDS = 60.0
ATHENA_POLL_SECONDS = 0.2

Rows = list[Sequence[Any]]


class Answer(NamedTuple):
    """The result of one query."""

    title: str
    sql: str
    columns: list[str]
    rows: Rows


PER_DEVICE = (
    "Devices with the most flagged readings",
    """SELECT device_id, count(*) AS readings,
       sum(CASE WHEN quality > 0 THEN 1 ELSE 0 END) AS flagged,
       round(avg(sensor1), 2) AS temperature,
       sum(CASE WHEN is_fail THEN 1 ELSE 0 END) AS failures
FROM {readings} GROUP BY device_id ORDER BY flagged DESC, device_id LIMIT 5""",
)
EXACTLY_ONCE = (
    "Exactly once: rows and distinct lineages",
    """SELECT count(*) AS row_count,
       count(DISTINCT shard_id || '/' || sequence_number || '/'
             || cast(sub_sequence_number AS varchar)) AS lineages
FROM {readings}""",
)
MOST_ANOMALOUS = (
    "Most anomalous devices",
    """SELECT device_id, sum(CASE WHEN is_anomaly THEN 1 ELSE 0 END) AS anomalies,
       round(max(score), 4) AS highest
FROM {scores} GROUP BY device_id ORDER BY anomalies DESC, device_id LIMIT 5""",
)
QUERIES = (EXACTLY_ONCE, PER_DEVICE, MOST_ANOMALOUS)


def through_athena() -> list[Answer]:
    """Run the queries on the Glue tables.

    Raises:
        RuntimeError: A query failed; the text is Athena's reason.
    """
    athena = boto3.client("athena")
    return [_athena(athena, title, sql) for title, sql in QUERIES]


def _athena(athena: Any, title: str, sql: str) -> Answer:
    query = sql.format(readings="readings", scores="scores")
    execution = athena.start_query_execution(
        QueryString=query,
        QueryExecutionContext={"Database": names.GLUE_DATABASE},
        ResultConfiguration={"OutputLocation": f"s3://{names.RESULTS_BUCKET}/"},
    )["QueryExecutionId"]
    deadline = time.monotonic() + ATHENA_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        status = athena.get_query_execution(QueryExecutionId=execution)["QueryExecution"]["Status"]
        if status["State"] in {"SUCCEEDED", "FAILED", "CANCELLED"}:
            break
        time.sleep(ATHENA_POLL_SECONDS)
    if status["State"] != "SUCCEEDED":
        raise RuntimeError(f"Athena: {title}: {status.get('StateChangeReason', status['State'])}")
    result = athena.get_query_results(QueryExecutionId=execution)["ResultSet"]["Rows"]
    header, *rows = [[cell.get("VarCharValue") for cell in row["Data"]] for row in result]
    return Answer(title, query, header, [list(row) for row in rows])


def through_duckdb(parquet: Path) -> list[Answer]:
    """Run the queries on the downloaded Hive partitions."""
    connection = duckdb.connect()
    tables = {
        table: f"read_parquet('{parquet / table}/**/*.parquet', hive_partitioning = true)"
        for table in ("readings", "scores")
    }
    answers = []
    for title, sql in QUERIES:
        cursor = connection.execute(sql.format(**tables))
        columns = [column[0] for column in cursor.description or ()]
        shown = sql.format(readings="readings", scores="scores")
        answers.append(Answer(title, shown, columns, [list(row) for row in cursor.fetchall()]))
    return answers


def agree(ours: Sequence[Answer], theirs: Sequence[Answer]) -> bool:
    """Whether both engines gave the same rows (Athena answers in text)."""
    return all(
        [_texts(row) for row in left.rows] == [_texts(row) for row in right.rows]
        for left, right in zip(ours, theirs, strict=True)
    )


def _texts(row: Sequence[Any]) -> list[str]:
    return [_text(cell) for cell in row]


def _text(cell: object) -> str:
    try:
        return f"{float(str(cell)):.4f}"
    except ValueError:
        return str(cell)
