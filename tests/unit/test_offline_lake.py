"""Objects of a table: read in part, created once, added as a chain."""

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from botocore.exceptions import ClientError, ReadTimeoutError

from offline import lake
from offline.additions import next_key
from offline.core import COMPARED_COLUMNS
from offline.lake import S3Lake
from offline.testing import MemoryLake
from sink import parquet
from telemill import errors
from telemill.progress.retrying import Retry
from telemill.testing import batches
from transform.testing import NOW_US, plant

PLANT = plant()


class CountingLake(MemoryLake):
    """Counts the bytes that are fetched."""

    fetched_bytes = 0

    async def fetch(self, key: str, first: int | None, length: int) -> tuple[bytes, int] | None:
        answer = await super().fetch(key, first, length)
        self.fetched_bytes += len(answer[0]) if answer else 0
        return answer


def _rows(count: int) -> pa.Table:
    lineage = [(index, 0) for index in range(count)]
    batch = batches.batch(PLANT.stream_schema, lineage, [NOW_US + index for index in range(count)])
    schema = PLANT.table_schema
    columns = batch.columns
    columns.insert(schema.get_field_index("shard_id"), pa.array(["shard"] * count))
    # Values that do not compress, so that the columns left out weigh something.
    place = schema.get_field_index("heat")
    columns[place] = pa.array([float(hash((index, 1)) % 10**9) for index in range(count)])
    columns[place + 1] = pa.array([float(hash((index, 2)) % 10**9) for index in range(count)])
    return pa.Table.from_arrays(columns, schema=schema)


async def test_only_the_columns_asked_for_are_read() -> None:
    """Of a large object its footer and the key columns are fetched, in every row group."""
    rows = _rows(40_000)
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, row_group_size=9_000)
    body = sink.getvalue().to_pybytes()
    counting = CountingLake({"k": body})
    stored = await lake.open_object(counting, "k")
    assert stored is not None
    found = await stored.read(COMPARED_COLUMNS)
    assert found is not None
    assert found.equals(rows.select(COMPARED_COLUMNS))
    assert counting.fetched_bytes < 0.8 * len(body)
    smallest, largest = stored.event_span() or (None, None)
    assert [smallest, largest] == [rows["event_time"][0].as_py(), rows["event_time"][-1].as_py()]


async def test_a_footer_larger_than_the_tail_is_read_whole() -> None:
    """Many row groups make a footer that the first fetch does not hold."""
    sink = pa.BufferOutputStream()
    pq.write_table(_rows(600), sink, row_group_size=4)
    counting = CountingLake({"k": sink.getvalue().to_pybytes()})
    stored = await lake.open_object(counting, "k")
    assert stored is not None
    assert stored.footer.serialized_size > lake.TAIL_BYTES
    found = await stored.read(["event_time"])
    assert found is not None
    assert found.num_rows == 600


async def test_an_object_that_is_gone_holds_nothing() -> None:
    """An object deleted between the listing and the read is no error."""
    gone = MemoryLake()
    assert await lake.open_object(gone, "k") is None
    gone.objects["k"] = parquet.encode(_rows(20_000)).to_pybytes()
    stored = await lake.open_object(gone, "k")
    assert stored is not None
    gone.objects.clear()
    assert await stored.read(["quality", "heat", "speed"]) is None


@pytest.mark.parametrize("body", [b"", b"PAR1", b"not parquet at all"])
async def test_what_is_no_parquet_is_named(body: bytes) -> None:
    """An object that cannot be read stops the run: its partition cannot be judged."""
    with pytest.raises(errors.ConfigurationError, match="some/key"):
        await lake.open_object(MemoryLake({"some/key": body}), "some/key")


def test_the_chain_goes_on_behind_its_last_object() -> None:
    """The next name follows the highest there is; other objects do not count."""
    prefix = "readings/dt=2025-07-07/hour=08/"
    assert next_key(prefix, []) == f"{prefix}backfill-000001.parquet"
    keys = [f"{prefix}backfill-000003.parquet", f"{prefix}sink-a-9.parquet"]
    assert next_key(prefix, keys) == f"{prefix}backfill-000004.parquet"


class AmbiguousS3:
    """An S3 client whose first PutObject takes effect and is never answered."""

    def __init__(self, taken_by: dict[str, str] | None = None) -> None:
        self.metadata = taken_by
        self.puts = 0

    async def put_object(self, **arguments: Any) -> None:
        self.puts += 1
        if self.metadata is not None:
            answer = {"Error": {"Code": "PreconditionFailed", "Message": ""}}
            raise ClientError(answer, "PutObject")
        self.metadata = arguments["Metadata"]
        raise ReadTimeoutError(endpoint_url="s3")

    async def head_object(self, **_: Any) -> dict[str, Any]:
        return {"Metadata": self.metadata}


async def _no_sleep(_seconds: float) -> None:
    return None


async def test_our_own_first_try_is_told_from_another_run() -> None:
    """A creation whose answer was lost counts as ours; an object of another run does not."""
    ours = AmbiguousS3()
    assert await S3Lake(ours, "b", Retry(sleep=_no_sleep)).create("k", b"", {})
    assert ours.puts == 2
    theirs = AmbiguousS3({lake.WRITER_KEY: "somebody"})
    assert not await S3Lake(theirs, "b", Retry(sleep=_no_sleep)).create("k", b"", {})
