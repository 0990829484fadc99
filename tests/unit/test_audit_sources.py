"""Where the audit's rows come from: objects, Athena's answers, the quarantine, records."""

import base64
import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from botocore.exceptions import ClientError

from telemill import contract, errors
from telemill.audit import Lineage, aside, athena, columns, lake, sources, streams
from telemill.codec import compression, raw, wire
from telemill.kinesis.records import Record, Shard
from telemill.testing import batches

CONTRACT = contract.load("contracts/fms.yaml")
SCHEMA = CONTRACT.table_schema
SHARD = Shard("readings-raw", 1, "shardId-000000000003")
NOON = datetime(2025, 7, 7, 12, tzinfo=UTC)


def write(path: Path, arrived: datetime, without: str = "") -> None:
    """An object of one row."""
    values: dict[str, Any] = {
        "device_id": 1,
        "event_time": NOON,
        "ingest_time": arrived,
        "sensor1": 80.5,
        "quality": 0,
        "shard_id": "shardId-0",
        "sequence_number": "100",
        "sub_sequence_number": 0,
    }
    columns = [each for each in SCHEMA if each.name != without]
    arrays = [pa.array([values.get(each.name)], each.type) for each in columns]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(arrays, names=[each.name for each in columns]), path)


def test_rows_know_their_object_their_place_and_what_it_lacks(tmp_path: Path) -> None:
    """Rows of objects older than a column of the contract are told apart from those with nulls."""
    write(tmp_path / "readings/dt=2025-07-07/hour=12/a.parquet", NOON)
    write(tmp_path / "readings/dt=2025-07-07/hour=12/b.parquet", NOON, without="motor3")
    folder = lake.Folder(tmp_path)
    rows = lake.read_rows(folder, lake.object_names(folder, "readings"), SCHEMA).to_pylist()
    assert [Path(row["object"]).name for row in rows] == ["a.parquet", "b.parquet"]
    assert [(row["position"], row["absent"]) for row in rows] == [(0, ""), (0, "motor3")]


def test_a_span_chooses_rows_and_days(tmp_path: Path) -> None:
    """Only rows that arrived in the span, and no partitions before the oldest event wanted."""
    write(tmp_path / "readings/dt=2025-07-07/hour=12/a.parquet", NOON)
    write(tmp_path / "readings/dt=2025-07-07/hour=12/b.parquet", NOON + timedelta(hours=1))
    write(tmp_path / "readings/dt=2025-07-06/hour=12/c.parquet", NOON)
    folder = lake.Folder(tmp_path)
    span = lake.Span(NOON, NOON + timedelta(minutes=1), datetime(2025, 7, 7, tzinfo=UTC))
    found = lake.object_names(folder, "readings", span)
    assert [Path(name).name for name in found] == ["a.parquet", "b.parquet"]
    assert lake.read_rows(folder, found, SCHEMA, span).num_rows == 1
    assert lake.read_hours(folder, "readings", SCHEMA, [NOON]).num_rows == 2


def test_the_quarantine_is_read_from_a_day_on(tmp_path: Path) -> None:
    """Days before are not opened."""
    for day in ("2025-07-06", "2025-07-07"):
        path = tmp_path / f"quarantine/dt={day}/reason=not_json/x.ndjson.zst"
        path.parent.mkdir(parents=True)
        path.write_bytes(compression.zstd_compress(json.dumps({"day": day}).encode() + b"\n"))
    rows = list(lake.read_quarantine(lake.Folder(tmp_path), NOON))
    assert rows == [{"day": "2025-07-07"}]
    assert len(sources.quarantined(tmp_path / "quarantine")) == 2


def quarantine_row(body: bytes, sub: int = 0, stream: str = "readings-raw") -> dict[str, Any]:
    """A row of the quarantine."""
    return {
        "reason": "odd",
        "body": base64.b64encode(body).decode(),
        "stream": stream,
        "shard_id": SHARD.shard_id,
        "sequence_number": "100",
        "sub_sequence_number": sub,
    }


def lineages(table: pa.Table) -> list[Lineage]:
    """As values."""
    return [Lineage(*row.values()) for row in table.to_pylist()]


def test_a_record_put_aside_whole_stands_for_all_its_items() -> None:
    """Only byte by byte: an item that looks like a list of items is one item."""
    data = raw.encode_ndjson([b'{"a":1}', b'{"a":2}', b'{"a":3}'])
    stream = streams.items_of(SHARD, [Record("100", 0, data, "k")])
    whole = aside.aside([quarantine_row(data)] * 2, "readings-raw", CONTRACT, stream)
    assert lineages(whole.lineages) == [Lineage(SHARD.shard_id, "100", sub) for sub in range(3)]
    assert whole.reasons == {"odd": 3}
    listed = aside.aside([quarantine_row(b'[{"a":1},{"a":2}]')], "readings-raw", CONTRACT, stream)
    assert lineages(listed.lineages) == [Lineage(SHARD.shard_id, "100", 0)]


def test_an_internal_record_put_aside_stands_for_its_rows() -> None:
    """If it can be read; else it is counted, and its rows count as lost."""
    batch = batches.batch(CONTRACT.stream_schema, [(5, 0), (5, 1)], [1, 2])
    data = wire.encode(batches.header(CONTRACT), batch)
    rows = [quarantine_row(data, stream="readings"), quarantine_row(b"?", stream="readings")]
    found = aside.aside(rows, "readings-raw", CONTRACT)
    number = batches.sequence_number(5)
    assert lineages(found.lineages) == [Lineage(batches.RAW_SHARD_ID, number, n) for n in (0, 1)]
    assert found.unreadable == 1


@pytest.mark.parametrize("data", [b"\x28\xb5\x2f\xfdbroken", b"", b"no json"])
def test_what_cannot_be_split_is_one_item(data: bytes) -> None:
    """As the quarantine will hold it."""
    assert streams.split(Record("1", 0, data, "k"), SHARD) == ([(0, data)], 0)


def test_reading_by_time_leaves_no_holes() -> None:
    """A record with another time between two of the range belongs to what is read."""
    bounds = streams._Bounds(NOON, NOON + timedelta(seconds=10))
    first = streams.epoch_us(NOON)
    seconds = (0, 9, 11, 8, 12, 13)
    page = [Record(str(s), first + s * 1_000_000, b"", "k") for s in seconds]
    found = bounds.within([page[:3], page[3:]], lambda _count: None)
    assert [record.sequence_number for record in found] == ["0", "9", "11", "8"]
    assert bounds.until_us is not None
    assert bounds.until_us > first + 10_000_000


def test_a_log_that_is_none_is_named(tmp_path: Path) -> None:
    """The simulator's log is checked like every other input."""
    path = tmp_path / "served.ndjson"
    path.write_text("nonsense\n")
    with pytest.raises(errors.ConfigurationError, match=r"served\.ndjson"):
        sources.served_bodies(path)


class FakeAthena:
    """Athena with one answer; `"$path"` only if it is known.

    Attributes:
        asked: The queries.
    """

    def __init__(self, rows: list[list[str | None]], *, knows_path: bool, written: bool) -> None:
        self.asked: list[str] = []
        self._rows = rows
        self._knows_path = knows_path
        self._written = written

    def start_query_execution(self, **arguments: Any) -> dict[str, str]:
        self.asked.append(arguments["QueryString"])
        return {"QueryExecutionId": "q"}

    def get_query_execution(self, **_: Any) -> dict[str, Any]:
        failed = "$path" in self.asked[-1] and not self._knows_path
        status = {
            "State": "FAILED" if failed else "SUCCEEDED",
            "StateChangeReason": "column $path?\nmore",
        }
        place = {"OutputLocation": "s3://results/audit/q.csv"}
        return {"QueryExecution": {"Status": status, "ResultConfiguration": place}}

    def get_object(self, **_: Any) -> dict[str, Any]:
        if not self._written:
            raise ClientError({"Error": {"Code": "NoSuchKey"}}, "GetObject")
        lines = ['"header"']
        lines += [",".join("" if cell is None else f'"{cell}"' for cell in r) for r in self._rows]
        return {"Body": io.BytesIO("\n".join(lines).encode() + b"\n")}

    def get_paginator(self, _name: str) -> "FakeAthena":
        return self

    def paginate(self, **_: Any) -> Iterator[dict[str, Any]]:
        cells = [[{} if c is None else {"VarCharValue": c} for c in row] for row in self._rows]
        rows = [{"Data": [{"VarCharValue": "header"}]}, *({"Data": row} for row in cells)]
        yield {"ResultSet": {"Rows": rows[:2]}}
        yield {"ResultSet": {"Rows": rows[2:]}}


FORM = pa.schema(
    [
        ("event_time", pa.timestamp("us", "UTC")),
        ("sensor1", pa.float64()),
        ("is_fail", pa.bool_()),
        *columns.LINEAGE,
    ]
)
ROWS: list[list[str | None]] = [
    ["s0", "100", "0", "2025-07-07 12:00:00.123", "80.5", "true", "s3://lake/a.parquet"],
    ["s0", "101", "1", "2025-07-07 14:00:00.5+02", None, "False", "s3://lake/b.parquet"],
]


@pytest.mark.parametrize("written", [True, False])
def test_what_athena_answers_becomes_rows(written: bool) -> None:
    """From the object it wrote, or page by page: times with and without zone, nulls, objects."""
    client = FakeAthena(ROWS, knows_path=True, written=written)
    found = athena.Athena(client, client, "db").read_rows("readings", FORM, lake.Span(NOON))
    assert "ingest_time >= TIMESTAMP '2025-07-07 12:00:00.000000'" in client.asked[0]
    assert [row["event_time"].isoformat() for row in found.to_pylist()] == [
        "2025-07-07T12:00:00.123000+00:00",
        "2025-07-07T12:00:00.500000+00:00",
    ]
    assert found.column("sensor1").to_pylist() == [80.5, None]
    assert found.column("is_fail").to_pylist() == [True, False]
    assert found.column("object").to_pylist() == ["s3://lake/a.parquet", "s3://lake/b.parquet"]


@pytest.mark.parametrize("written", [True, False])
def test_an_engine_without_objects_is_asked_again(written: bool) -> None:
    """Then rows have no object, and an empty answer is no rows."""
    client = FakeAthena([], knows_path=False, written=written)
    found = athena.Athena(client, client, "db").read_hours("readings", FORM, [NOON])
    assert found.num_rows == 0
    assert "object" not in found.column_names
    assert "dt = '2025-07-07' AND hour = '12'" in client.asked[-1]


def test_a_failed_query_is_one_line() -> None:
    """Athena's reason may have many."""
    client = FakeAthena([], knows_path=False, written=True)
    with pytest.raises(errors.ConfigurationError, match="not the name of a table"):
        athena.Athena(client, client, "db").read_rows('x"; DROP', FORM, lake.Span())
