"""Rows of a table through Athena, for who may query but not read the bucket."""

import io
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlparse

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
from botocore.exceptions import ClientError

from telemill import aws, errors
from telemill.audit.columns import LINEAGE, NAMES, OBJECT
from telemill.audit.lake import Span

POLL_SECONDS = 0.5
TIMEOUT_SECONDS = 1_800.0
"""Athena ends a query after half an hour by itself."""
HOURS_AT_ONCE = 200
"""A query is at most 262,144 bytes long."""
TIME_STEP_US = 1_000
"""Athena reads times of Parquet as milliseconds."""

_NAME = re.compile(r"[a-z0-9_]+")
_ENDED = frozenset({"SUCCEEDED", "FAILED", "CANCELLED"})


@dataclass(slots=True)
class Athena:
    """Where queries go.

    Attributes:
        client: A boto3 Athena client.
        s3: A boto3 S3 client: results are fetched as the object Athena writes.
        database: Glue database.
        workgroup: None for Athena's own default.
        output: s3:// folder of the results; None where the workgroup says it.
        shows_objects: Whether `"$path"` is known; found out by the first query.
    """

    client: Any
    s3: Any
    database: str
    workgroup: str | None = None
    output: str | None = None
    shows_objects: bool = True

    def read_rows(self, table: str, schema: pa.Schema, span: Span) -> pa.Table:
        """The rows of a span; with `object` where the engine shows it."""
        conditions = [
            f"ingest_time {operator} TIMESTAMP '{bound.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}'"
            for operator, bound in ((">=", span.start), ("<", span.end))
            if bound is not None
        ]
        if span.oldest_event is not None:
            conditions.append(f"dt >= '{span.oldest_event.astimezone(UTC):%Y-%m-%d}'")
        return self._select(table, schema, " AND ".join(conditions))

    def read_hours(self, table: str, schema: pa.Schema, hours: Sequence[datetime]) -> pa.Table:
        """All rows whose event time lies in some hours."""
        parts = []
        for start in range(0, len(hours), HOURS_AT_ONCE):
            asked = (
                f"(dt = '{hour:%Y-%m-%d}' AND hour = '{hour:%H}')"
                for hour in hours[start : start + HOURS_AT_ONCE]
            )
            parts.append(self._select(table, schema, " OR ".join(asked)))
        return pa.concat_tables([self._form(schema).empty_table(), *parts]).unify_dictionaries()

    def _form(self, schema: pa.Schema) -> pa.Schema:
        kept = [each for each in schema if each.name not in LINEAGE.names]
        fields = [*LINEAGE, *(pa.field(each.name, each.type) for each in kept)]
        return pa.schema([*fields, pa.field(OBJECT, NAMES)] if self.shows_objects else fields)

    def _select(self, table: str, schema: pa.Schema, condition: str) -> pa.Table:
        if self.shows_objects:
            try:
                return self._query(table, schema, condition)
            except UnknownPathError:
                self.shows_objects = False
        return self._query(table, schema, condition)

    def _query(self, table: str, schema: pa.Schema, condition: str) -> pa.Table:
        form = self._form(schema)
        names = ", ".join(map(_selected, form))
        where = f" WHERE {condition}" if condition else ""
        sql = f"SELECT {names} FROM {_checked(table)}{where}"  # noqa: S608
        return _typed(self._run(sql, form.names), form)

    def _run(self, sql: str, names: Sequence[str]) -> pa.Table:
        """The result as texts."""
        asked: dict[str, Any] = {
            "QueryString": sql,
            "QueryExecutionContext": {"Database": self.database},
        }
        if self.workgroup is not None:
            asked["WorkGroup"] = self.workgroup
        if self.output is not None:
            asked["ResultConfiguration"] = {"OutputLocation": self.output}
        with aws.map_exceptions("athena:StartQueryExecution", database=self.database):
            query = self.client.start_query_execution(**asked)["QueryExecutionId"]
        execution = self._wait(query)
        status = execution["Status"]
        if status["State"] != "SUCCEEDED":
            why = str(status.get("StateChangeReason", status["State"])).partition("\n")[0]
            if "$path" in why:
                raise UnknownPathError(why)
            raise errors.ConfigurationError(f"Athena: {why}")
        found = self._written(execution["ResultConfiguration"]["OutputLocation"], names)
        return self._pages(query, names) if found is None else found

    def _written(self, url: str, names: Sequence[str]) -> pa.Table | None:
        """The CSV that Athena wrote: a thousand times fewer calls than asking for pages.

        None when it is not there or not ours to read.
        """
        place = urlparse(url)
        try:
            answer = self.s3.get_object(Bucket=place.netloc, Key=place.path.lstrip("/"))
        except ClientError as error:
            if error.response["Error"]["Code"] not in {"NoSuchKey", "AccessDenied", "403"}:
                raise
            return None
        return pa_csv.read_csv(
            io.BytesIO(answer["Body"].read()),
            read_options=pa_csv.ReadOptions(column_names=names, skip_rows=1),
            convert_options=pa_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
                null_values=[""],
            ),
        )

    def _pages(self, query: str, names: Sequence[str]) -> pa.Table:
        parts = [pa.schema([(name, pa.string()) for name in names]).empty_table()]
        with aws.map_exceptions("athena:GetQueryResults"):
            pages = self.client.get_paginator("get_query_results").paginate(QueryExecutionId=query)
            for number, page in enumerate(pages):
                rows = page["ResultSet"]["Rows"][0 if number else 1 :]  # the first is the header
                texts = [[cell.get("VarCharValue") for cell in row["Data"]] for row in rows]
                arrays = [pa.array(column, pa.string()) for column in zip(*texts, strict=True)]
                if arrays:
                    parts.append(pa.table(arrays, names=list(names)))
        return pa.concat_tables(parts)

    def _wait(self, query: str) -> dict[str, Any]:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while True:
            with aws.map_exceptions("athena:GetQueryExecution"):
                answer = self.client.get_query_execution(QueryExecutionId=query)
            execution: dict[str, Any] = answer["QueryExecution"]
            if execution["Status"]["State"] in _ENDED:
                return execution
            if time.monotonic() > deadline:
                raise errors.ServiceUnavailableError(f"Athena: query {query} does not end")
            time.sleep(POLL_SECONDS)


class UnknownPathError(errors.TelemillError):
    """The engine has no `"$path"` (the emulator's)."""


def _selected(column: pa.Field) -> str:
    if column.name == OBJECT:
        return '"$path" AS object'
    if pa.types.is_timestamp(column.type):
        return f'CAST("{column.name}" AS varchar)'
    return f'"{column.name}"'


def _checked(table: str) -> str:
    if not _NAME.fullmatch(table):
        raise errors.ConfigurationError(f"--table: not the name of a table: {table!r}")
    return f'"{table}"'


def _typed(texts: pa.Table, form: pa.Schema) -> pa.Table:
    """Texts in the types of the schema."""
    columns = [
        (_instants if pa.types.is_timestamp(each.type) else _same)(texts.column(each.name)).cast(
            each.type
        )
        for each in form
    ]
    return pa.table(columns, schema=form)


def _same(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    return texts


def _instants(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Times as Athena (`2026-01-01 00:00:00.000`) and DuckDB (with `+00:00`) spell them."""
    zoned = pc.match_substring_regex(texts, r"([+-]\d\d(:?\d\d)?|Z|UTC)$")
    plain = pc.replace_substring_regex(texts, r" ?UTC$", "")
    with_zone = pc.if_else(zoned, plain, pc.binary_join_element_wise(plain, "Z", ""))
    return with_zone.cast(pa.timestamp("us", "UTC"))
