"""What has arrived in the tables: rows, distinct rows, bytes."""

import io
from typing import Any, NamedTuple

import boto3
import pyarrow as pa
import pyarrow.parquet as pq

from bench.deployment import BenchError
from telemill import names

LINEAGE = ("shard_id", "sequence_number", "sub_sequence_number")


class Stored(NamedTuple):
    """A table as it stands in the lake."""

    rows: int
    distinct_rows: int
    bytes: int
    objects: int

    def require(self, rows: int, table: str) -> None:
        """Check that every reading is there exactly once.

        Raises:
            BenchError: One is missing or doubled.
        """
        if (self.rows, self.distinct_rows) != (rows, rows):
            raise BenchError(
                f"{table}: {self.rows} rows, {self.distinct_rows} distinct; expected {rows}"
            )


def read(table: str) -> Stored:
    """Read the lineage of all rows of a table."""
    s3 = boto3.client("s3")
    pages = s3.get_paginator("list_objects_v2").paginate(
        Bucket=names.LAKE_BUCKET, Prefix=f"{table}/"
    )
    keys = [(each["Key"], each["Size"]) for page in pages for each in page.get("Contents", ())]
    parts = [_lineage(s3, key) for key, _ in keys]
    if not parts:
        return Stored(0, 0, 0, 0)
    lineage = pa.concat_tables(parts)
    distinct = lineage.group_by(list(LINEAGE)).aggregate([]).num_rows
    return Stored(lineage.num_rows, distinct, sum(size for _, size in keys), len(keys))


def _lineage(s3: Any, key: str) -> pa.Table:
    body = s3.get_object(Bucket=names.LAKE_BUCKET, Key=key)["Body"].read()
    return pq.read_table(io.BytesIO(body), columns=list(LINEAGE), partitioning=None)
