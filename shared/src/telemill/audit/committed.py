"""How far the services have come, and what lies between them and the tables.

In this order, so that nothing falls between two looks: raw stream, the transform's positions, the
sink's positions, what `readings` holds behind them, and only then the tables. An item at or before
the transform's position is on `readings` by then; what is behind the sink's position there is on
its way, and the rest has its object, because an object is put before the position moves.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from telemill import aws, errors
from telemill.audit import lake, streams
from telemill.audit.columns import ABSENT, OBJECT, POSITION
from telemill.codec import wire
from telemill.contract import Contract
from telemill.kinesis.records import SHARD_END, Record, Shard
from telemill.progress import rules

Positions = Mapping[str, str | None]
CLOCK_TOLERANCE = timedelta(seconds=2)


def positions(dynamodb: Any, table: str, app: str, shards: list[Shard]) -> Positions:
    """The saved position of an application on each of some shards; None: nothing is saved."""
    wanted = {rules.shard_key(shard): shard.shard_id for shard in shards}
    found: dict[str, str | None] = dict.fromkeys(wanted.values())
    with aws.map_exceptions("dynamodb:Query", table=table):
        for page in dynamodb.get_paginator("query").paginate(
            TableName=table,
            KeyConditionExpression="app = :app",
            ExpressionAttributeValues={":app": {"S": app}},
            ConsistentRead=True,
        ):
            for item in page["Items"]:
                shard_id = wanted.get(item["shard"]["S"])
                if shard_id is not None and "position" in item:
                    found[shard_id] = item["position"]["S"]
    return found


def rows_behind(
    kinesis: Any, shards: list[Shard], saved: Positions, contract: Contract, kind: wire.Kind
) -> pa.Table:
    """The rows that an internal stream holds behind positions, up to its tips.

    Args:
        kinesis: A client.
        shards: Of the stream.
        saved: Position by shard.
        contract: What the rows are.
        kind: Of the rows wanted: a stream may hold others beside them.

    Returns:
        Columns as `lake.read_rows` gives them; rows that a replay put there twice are there twice.
    """
    # Whatever was put before now is wanted, by a clock that may be a little ahead of ours.
    until_us = streams.epoch_us(datetime.now(UTC) + CLOCK_TOLERANCE)
    behind = [shard for shard in shards if saved.get(shard.shard_id) != SHARD_END]

    def read(shard: Shard) -> list[pa.Table]:
        start = streams.after(saved.get(shard.shard_id))
        pages = streams.read_shard(kinesis, shard, start, until_us=until_us)
        records = (record for page in pages for record in page)
        return [part for record in records if (part := _rows(record, contract, kind)) is not None]

    with ThreadPoolExecutor(streams.PARALLEL_SHARDS) as threads:
        parts = [part for found in threads.map(read, behind) for part in found]
    nothing = lake.empty(_schema(contract, kind))
    return pa.concat_tables([nothing, *parts]).unify_dictionaries()


def _schema(contract: Contract, kind: wire.Kind) -> pa.Schema:
    return contract.schemas_of(kind)[1]


def _rows(record: Record, contract: Contract, kind: wire.Kind) -> pa.Table | None:
    """A record's rows as the table will hold them; None for another's and what is put aside."""
    schema = contract.schemas_of(kind)[0]
    try:
        if wire.read_header(record.data).kind != kind:
            return None
        header, batch = wire.decode(record.data, lambda _: schema)
    except errors.RecordError:
        return None
    form = lake.empty(_schema(contract, kind)).schema
    count = batch.num_rows
    made: dict[str, Any] = {
        "shard_id": pa.array([header.raw_shard_id] * count, pa.string()),
        OBJECT: pa.array([""] * count, pa.string()),
        POSITION: pa.array(range(count), pa.int64()),
        ABSENT: pa.array([""] * count, pa.string()),
    }
    columns = [
        (made[field.name] if field.name in made else batch.column(field.name)).cast(field.type)
        for field in form
    ]
    return pa.table(columns, schema=form)
