"""What the streams and tables hold, read as it grows, and the audit of it.

A cell of the matrix is audited on what it added: readings taken, rows, scores, quarantined items.
That is decisive because everything has drained, and because an object that was there before must
still be what it was. `balance` audits everything together once more.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import boto3
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from telemill import audit, errors, names
from telemill.audit import Lineage, RawItem, Report, ServedBody, alerts, columns
from telemill.codec import compression, raw
from telemill.contract import Contract
from telemill.kinesis.records import Record, Shard

MAX_QUARANTINE_BYTES = 1 << 30
ACCEPTED = 200
"""How the audit knows an answer that carries a reading."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What an audit comes to.

    Attributes:
        report: The audit.
        changed: Objects of the tables that are gone or not what they were.
    """

    report: Report
    changed: list[str]

    def figures(self) -> dict[str, int]:
        """Each kind of fault with its number; all 0 when the promise held."""
        found = {kind: len(lineages) for kind, lineages in self.report.wrong.items()}
        # Here a client goes on until it is answered 202: nothing may be missing in the stream.
        found["uncollected"] = self.report.uncollected.total()
        found["objects_changed"] = len(self.changed)
        return found

    @property
    def ok(self) -> bool:
        """Whether the promise held."""
        return not any(self.figures().values())


@dataclass(slots=True)
class Entries:
    """What was added, by a cell or by all of them: columns of the audit, chunk by chunk."""

    served: list[ServedBody] = field(default_factory=list)
    raw_items: list[pa.Table] = field(default_factory=list)
    rows: list[pa.Table] = field(default_factory=list)
    scores: list[pa.Table] = field(default_factory=list)
    alerts: list[pa.Table] = field(default_factory=list)
    quarantined: list[Lineage] = field(default_factory=list)

    def add(self, more: "Entries") -> None:
        """Take others up."""
        self.served += more.served
        self.raw_items += more.raw_items
        self.rows += more.rows
        self.scores += more.scores
        self.alerts += more.alerts
        self.quarantined += more.quarantined


class Books:
    """Reads what is new, and audits.

    Args:
        contract: What the readings are.
    """

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._kinesis = boto3.client("kinesis")
        self._s3 = boto3.client("s3")
        self._positions: dict[str, str] = {}
        self._etags: dict[str, str] = {}
        self._parents: dict[str, list[str]] = defaultdict(list)
        self._all = Entries()

    @property
    def readings(self) -> int:
        """Items of the raw stream seen so far."""
        return sum(table.num_rows for table in self._all.raw_items)

    def close(self, accepted: Sequence[bytes]) -> Finding:
        """Audit what is new since the last call.

        Args:
            accepted: Bodies that were answered 202 since then.
        """
        new, changed = self._read()
        new.served = [_served(item) for body in accepted for item in body.split(b"\n")]
        self._all.add(new)
        return self._audit(new, changed)

    def balance(self) -> Finding:
        """Audit everything, also across the calls of `close`."""
        return self._audit(self._all, [])

    def _audit(self, entries: Entries, changed: list[str]) -> Finding:
        rows = _joined(entries.rows, columns.rows_table([], self._contract))
        report = audit.audit(
            self._contract,
            entries.served,
            _joined(entries.raw_items, columns.RAW_ITEMS.empty_table()),
            rows,
            entries.quarantined,
            self._parents,
        )
        scores = _joined(entries.scores, columns.LINEAGE.empty_table())
        audit.audit_scores(report, rows, scores, self._contract)
        wanted = alerts.schema(self._contract)
        changes = _joined(entries.alerts, wanted.empty_table())
        audit.audit_alerts(report, changes, from_the_beginning=entries is self._all)
        return Finding(report, changed)

    def _read(self) -> tuple[Entries, list[str]]:
        items = (item for shard in self._shards() for item in self._items(shard))
        new = Entries(raw_items=[columns.items_table(items)])
        added, changed = self._objects()
        for key in added:
            body = self._s3.get_object(Bucket=names.LAKE_BUCKET, Key=key)["Body"].read()
            match key.partition("/")[0]:
                case "readings":
                    new.rows.append(self._rows(key, body))
                case "scores":
                    new.scores.append(_lineages(body))
                case "alerts":
                    wanted = alerts.schema(self._contract)
                    stored = pq.read_table(pa.BufferReader(body), columns=wanted.names)
                    new.alerts.append(stored.select(wanted.names).cast(wanted))
                case "quarantine":
                    new.quarantined += _quarantined(body)
        return new, changed

    def _rows(self, key: str, body: bytes) -> pa.Table:
        stored = pq.read_table(pa.BufferReader(body))
        table = stored.select(self._contract.table_schema.names).cast(self._contract.table_schema)
        count = table.num_rows
        table = table.append_column(columns.OBJECT, pa.array([key] * count, pa.string()))
        return table.append_column(columns.POSITION, pa.array(range(count), pa.int64()))

    # --- the raw stream ----------------------------------------------------------------------

    def _shards(self) -> list[Shard]:
        summary = self._kinesis.describe_stream_summary(StreamName=names.RAW_STREAM)
        created = summary["StreamDescriptionSummary"]["StreamCreationTimestamp"]
        shards = []
        for page in self._kinesis.get_paginator("list_shards").paginate(
            StreamName=names.RAW_STREAM
        ):
            for each in page["Shards"]:
                parents = [each.get("ParentShardId"), each.get("AdjacentParentShardId")]
                self._parents[each["ShardId"]] = [parent for parent in parents if parent]
                shards.append(_shard(each, round(created.timestamp() * 1000)))
        return shards

    def _items(self, shard: Shard) -> Iterator[RawItem]:
        for record in self._records(shard):
            self._positions[shard.shard_id] = record.sequence_number
            yield from _split(record, shard)

    def _records(self, shard: Shard) -> Iterator[Record]:
        iterator = self._kinesis.get_shard_iterator(
            StreamName=shard.stream, ShardId=shard.shard_id, **self._start(shard)
        )["ShardIterator"]
        while iterator:
            answer = self._kinesis.get_records(ShardIterator=iterator)
            for each in answer["Records"]:
                yield _record(each)
            if not answer["Records"] and answer["MillisBehindLatest"] == 0:
                return
            iterator = answer.get("NextShardIterator")

    def _start(self, shard: Shard) -> dict[str, str]:
        position = self._positions.get(shard.shard_id)
        if position is None:
            return {"ShardIteratorType": "TRIM_HORIZON"}
        return {
            "ShardIteratorType": "AFTER_SEQUENCE_NUMBER",
            "StartingSequenceNumber": position,
        }

    # --- the lake ----------------------------------------------------------------------------

    def objects(self) -> dict[str, str]:
        """Every object of the lake with its ETag."""
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=names.LAKE_BUCKET)
        return {each["Key"]: each["ETag"] for page in pages for each in page.get("Contents", ())}

    def _objects(self) -> tuple[list[str], list[str]]:
        """New keys, and those of tables that are gone or not what they were."""
        found = self.objects()
        changed = [
            key
            for key, etag in self._etags.items()
            if key.endswith(".parquet") and found.get(key) != etag
        ]
        # A quarantine object may be written again, and longer: it is read again then.
        added = [key for key, etag in found.items() if self._etags.get(key) != etag]
        self._etags = found
        return [key for key in added if key not in changed], changed


def _served(item: bytes) -> ServedBody:
    return ServedBody("", "pushed", ACCEPTED, item)


def _shard(described: Mapping[str, Any], incarnation: int) -> Shard:
    return Shard(
        stream=names.RAW_STREAM,
        incarnation=incarnation,
        shard_id=described["ShardId"],
        first_hash_key=int(described["HashKeyRange"]["StartingHashKey"]),
        last_hash_key=int(described["HashKeyRange"]["EndingHashKey"]),
    )


def _record(each: Mapping[str, Any]) -> Record:
    arrival: datetime = each["ApproximateArrivalTimestamp"]
    arrival_us = round(arrival.timestamp() * 1_000_000)
    return Record(each["SequenceNumber"], arrival_us, each["Data"], each["PartitionKey"])


def _split(record: Record, shard: Shard) -> Iterator[RawItem]:
    try:
        documents, _ = raw.documents(record, shard)
    except errors.RecordError:
        yield RawItem(Lineage(shard.shard_id, record.sequence_number, 0), record.data)
        return
    for document in documents:
        for row, body in enumerate(raw.lines(document.data)):
            number = raw.sub_sequence_number(document.index, row)
            yield RawItem(Lineage(shard.shard_id, record.sequence_number, number), body)


def _joined(tables: Sequence[pa.Table], nothing: pa.Table) -> pa.Table:
    return pa.concat_tables(tables).unify_dictionaries() if tables else nothing


def _lineages(body: bytes) -> pa.Table:
    found = pq.read_table(pa.BufferReader(body), columns=columns.LINEAGE.names)
    return found.select(columns.LINEAGE.names).cast(columns.LINEAGE)


def _quarantined(body: bytes) -> list[Lineage]:
    lines = compression.decompress(body, limit=MAX_QUARANTINE_BYTES).splitlines()
    rows = (msgspec.json.decode(line) for line in lines)
    return [
        Lineage(row["shard_id"], row["sequence_number"], row["sub_sequence_number"]) for row in rows
    ]
