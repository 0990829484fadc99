"""What the sink takes from a record, and what it refuses. Pure: no I/O, no clock.

A record of `readings` or `scores` holds one batch. Beside the scores, their stream has the rows of
the table `alerts`: few, so that a deployment of their own would cost more than it does; the sink of
scores fills both tables, each cut at once. Its rows are checked, those taken before are
left out (a producer's replay), and the rest gets the columns of the table.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, islice
from operator import lt
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from sink import parquet
from telemill import errors
from telemill.codec import trace, wire
from telemill.contract import Contract, Table
from telemill.kinesis.records import Record
from telemill.stages import internal
from telemill.stages.watermarks import Watermarks

LARGE_BATCH_ROWS = 256
"""From here on the fixed cost of Arrow's kernels is less than what lists cost by the row."""

TableName = Literal["readings", "scores"]
"""What a sink is deployed for."""

ALERTS: Table = "alerts"


def tables_of(deployed: TableName) -> tuple[Table, ...]:
    """The tables that one deployment fills."""
    return (deployed, ALERTS) if deployed == "scores" else (deployed,)


@dataclass(frozen=True, slots=True)
class Form:
    """What one table looks like, on the stream and in the lake.

    Attributes:
        table: Its name, and the `kind` its records say.
        contract: What the readings are.
        stream_schema: Columns of a batch on the stream.
        table_schema: The same with the raw shard.
        beside: The other table whose rows are on the same stream, if any.
    """

    table: Table
    contract: Contract
    stream_schema: pa.Schema
    table_schema: pa.Schema
    beside: "Form | None" = None

    def of(self, header: wire.Header) -> "Form":
        """The form of a batch with this header: this one or the one beside it.

        Raises:
            SchemaError: It is for another table, contract or version.
        """
        for form in (self, self.beside):
            if form is not None and header.kind == form.table:
                break
        else:
            form = None
        ours = (self.contract.name, self.contract.version)
        if form is None or (header.contract, header.version) != ours:
            raise errors.SchemaError(
                f"a batch of {header.kind} by contract {header.contract} version {header.version};"
                f" this sink takes {self.table} by {ours[0]} version {ours[1]}"
            )
        return form

    def schema_for(self, header: wire.Header) -> pa.Schema:
        """The schema of a batch with this header; raises as `of` does."""
        return self.of(header).stream_schema


def form_of(contract: Contract, table: Table) -> Form:
    """The form of a contract's table."""
    beside = form_of(contract, ALERTS) if table == "scores" else None
    return Form(table, contract, *contract.schemas_of(table), beside)


class Taken(NamedTuple):
    """The new rows of one record.

    Attributes:
        batch: Rows in the stream's schema; none when all are a replay.
        raw_shard_id: The raw shard of all of them.
        replayed: Rows left out because they were taken before.
        oldest_event_us: Smallest event time of the record; 0 without rows.
        newest_event_us: Largest event time of the record; 0 without rows.
        table: Whose rows they are.
        trace: The sampled trace it belongs to; empty without.
    """

    batch: pa.RecordBatch
    raw_shard_id: str
    replayed: int
    oldest_event_us: int
    newest_event_us: int
    table: Table = "readings"
    trace: bytes = b""


def take(record: Record, form: Form, watermarks: Watermarks) -> Taken:
    """The rows of a record that are new; `watermarks` count them as taken from now on.

    Raises:
        RecordError: The record is broken; no watermark moved.
        ConfigurationError: A sound batch of another table, contract or version.
    """
    header, batch = internal.decode(record.data, form.schema_for)
    oldest_us, newest_us = _check(batch)
    fresh = watermarks.take(_origin(header, form), batch, record.arrival_us)
    return Taken(
        fresh,
        raw_shard_id=header.raw_shard_id,
        replayed=batch.num_rows - fresh.num_rows,
        oldest_event_us=oldest_us,
        newest_event_us=newest_us,
        table=form.of(header).table,
        trace=trace.sampled(header.trace) if header.trace else b"",
    )


def _origin(header: wire.Header, form: Form) -> wire.Header:
    """Rows of the table beside ascend by themselves: their watermarks are their own."""
    if header.kind == form.table:
        return header
    return replace(header, producer=f"{header.producer}#{header.kind}")


def join(
    batches: Sequence[pa.RecordBatch], raw_shard_ids: Sequence[str], schema: pa.Schema
) -> pa.RecordBatch:
    """One batch in the table's schema.

    Args:
        batches: At least one, in the stream's schema.
        raw_shard_ids: Of each of them.
        schema: The stream's schema with `shard_id`.
    """
    joined = pa.concat_batches(batches)
    rows = [batch.num_rows for batch in batches]
    columns = joined.columns
    columns.insert(schema.get_field_index("shard_id"), _repeated(raw_shard_ids, rows))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _repeated(texts: Sequence[str], counts: Sequence[int]) -> Any:
    if len(set(texts)) == 1:
        return pa.repeat(pa.scalar(texts[0], pa.string()), sum(counts))
    runs = pa.RunEndEncodedArray.from_arrays(
        pa.array(accumulate(counts), pa.int32()), pa.array(texts, pa.string())
    )
    return pc.run_end_decode(runs)


def _check(batch: pa.RecordBatch) -> tuple[int, int]:
    """Smallest and largest event time of a batch whose lineage ascends and whose hours exist.

    Raises:
        SchemaError: Rows do not ascend, or a time is in no hour of the calendar. Watermarks are
            only sound on rows that ascend, so such a batch must not be taken in part.
    """
    if batch.num_rows == 0:
        return 0, 0
    _check_lineage(batch)
    return _check_times(batch)


def _check_lineage(batch: pa.RecordBatch) -> None:
    if not ascends(batch.column("sequence_number"), batch.column("sub_sequence_number")):
        raise errors.SchemaError("rows do not ascend in (sequence_number, sub_sequence_number)")


def _check_times(batch: pa.RecordBatch) -> tuple[int, int]:
    times = batch.column("event_time")
    if times.null_count:
        raise errors.SchemaError("event_time is missing")
    micros = times.view(pa.int64()).to_pylist()
    oldest_us, newest_us = min(micros), max(micros)
    if not parquet.FIRST_US <= oldest_us <= newest_us < parquet.END_US:
        raise errors.SchemaError("event_time is outside the years 1 to 9999")
    return oldest_us, newest_us


def ascends(numbers: Any, sub_numbers: Any) -> bool:
    """Whether (number, sub-number) strictly ascends from row to row, without nulls.

    Args:
        numbers: Sequence numbers as digits without leading zeros.
        sub_numbers: As many integers.
    """
    if numbers.null_count or sub_numbers.null_count:
        return False
    if len(numbers) >= LARGE_BATCH_ROWS:
        found = _ascends_where_equally_long(numbers, sub_numbers)
        if found is not None:
            return found
    # Digits compare like numbers once the longer is the greater. Lists and not Arrow kernels:
    # those it takes cost more than the rows of a small batch.
    digits = numbers.to_pylist()
    rows = list(zip(map(len, digits), digits, sub_numbers.to_pylist(), strict=True))
    return all(map(lt, rows, islice(rows, 1, None)))


def _ascends_where_equally_long(numbers: Any, sub_numbers: Any) -> bool | None:
    """The same with Arrow's kernels; None when the numbers differ in length, as emulators' may."""
    lengths = pc.min_max(pc.binary_length(numbers))
    if lengths["min"].as_py() != lengths["max"].as_py():
        return None
    before, after = numbers[:-1], numbers[1:]
    higher_sub = pc.less(sub_numbers[:-1], sub_numbers[1:])
    ascends_by_sub = pc.and_(pc.equal(before, after), higher_sub)
    found: bool = pc.all(pc.or_(pc.less(before, after), ascends_by_sub)).as_py()
    return found
