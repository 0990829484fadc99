"""What the full path is compared with: raw stream to Parquet in one hop, with boto3, tuned by hand.

`python -m bench.one_hop READINGS` reads every shard from the beginning until it has had so many
readings. It promises nothing: no validation, duplicates, positions, state or second stream; when it
dies, rows are lost or doubled. GetRecords answers are read by msgspec as in our reader, without
which boto3 needs several times as much.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import msgspec
import pyarrow as pa

from sink import parquet
from telemill import contract, names
from telemill.codec import compression
from telemill.kinesis import parsing

FMS = contract.load(Path(__file__).parents[1] / "contracts" / "fms.yaml")
FIELDS = (FMS.device, FMS.time, *FMS.values)
ROWS_PER_OBJECT = 64 * 1024
LIMIT_BYTES = 1 << 26


def main() -> None:
    """Read, write, end."""
    wanted, taken = int(sys.argv[1]), 0
    kinesis, s3 = boto3.client("kinesis"), boto3.client("s3")
    parsing.install(kinesis)
    decoder = msgspec.json.Decoder(FMS.reading_struct)
    rows: list[Any] = []
    for number, page in enumerate(_pages(kinesis, wanted)):
        for record in page:
            rows += decoder.decode_lines(compression.decompress(record.data, limit=LIMIT_BYTES))
        if len(rows) >= ROWS_PER_OBJECT or taken + len(rows) >= wanted:
            body = parquet.encode(_table(rows)).to_pybytes()
            s3.put_object(Bucket=names.LAKE_BUCKET, Key=f"one-hop/{number}.parquet", Body=body)
            taken += len(rows)
            rows = []
        if taken >= wanted:
            return


def _pages(kinesis: Any, wanted: int) -> Iterator[list[Any]]:
    """Records of all shards in turn, as fast as they come."""
    described = kinesis.list_shards(StreamName=names.RAW_STREAM)["Shards"]
    iterators = [
        kinesis.get_shard_iterator(
            StreamName=names.RAW_STREAM, ShardId=each["ShardId"], ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]
        for each in described
    ]
    while wanted:
        for index, iterator in enumerate(iterators):
            answer = kinesis.get_records(ShardIterator=iterator, Limit=10_000)
            iterators[index] = answer["NextShardIterator"]
            yield answer["Records"]


def _table(rows: list[Any]) -> pa.Table:
    columns = {field.column: [getattr(row, field.column) for row in rows] for field in FIELDS}
    columns[FMS.time.column] = pa.array(columns[FMS.time.column]).cast(pa.timestamp("us", "UTC"))
    return pa.table(columns)


if __name__ == "__main__":
    main()
