"""Which lineages rows of the quarantine stand for. Pure."""

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from telemill import errors
from telemill.audit import columns
from telemill.audit.model import Lineage
from telemill.audit.streams import RawStream, digest
from telemill.codec import wire
from telemill.contract import Contract


@dataclass(slots=True)
class Aside:
    """What the quarantine holds.

    Attributes:
        lineages: Of raw items.
        reasons: Distinct lineages by reason.
        unreadable: Records of internal streams that cannot be read: nobody knows their rows.
    """

    lineages: pa.Table
    reasons: dict[str, int] = field(default_factory=dict)
    unreadable: int = 0


def aside(
    rows: Iterable[Mapping[str, Any]],
    raw_stream: str,
    contract: Contract,
    raw: RawStream | None = None,
) -> Aside:
    """Read rows of the quarantine; a replay may have written one several times.

    Args:
        rows: As `lake.read_quarantine` gives them.
        raw_stream: Its name: other rows are records of `readings` or `scores`, put aside whole.
        contract: What such records hold.
        raw: What was read of the raw stream: a record put aside whole stands for all its items.
    """
    found: dict[Lineage, str] = {}
    broken: set[tuple[str, str, str]] = set()
    for row in rows:
        if row["stream"] == raw_stream:
            lineages = _raw_lineages(row, raw)
        else:
            inner = _inner_lineages(row, contract)
            if inner is None:
                broken.add((row["stream"], row["shard_id"], row["sequence_number"]))
                continue
            lineages = inner
        for lineage in lineages:
            found.setdefault(lineage, row["reason"])
    reasons: dict[str, int] = {}
    for reason in found.values():
        reasons[reason] = reasons.get(reason, 0) + 1
    return Aside(columns.lineage_table(found), dict(sorted(reasons.items())), len(broken))


def _raw_lineages(row: Mapping[str, Any], raw: RawStream | None) -> list[Lineage]:
    shard_id, number = row["shard_id"], row["sequence_number"]
    whole = raw.whole.get((shard_id, number)) if raw else None
    # Only byte by byte the record itself is the record: an item may look like a list of items.
    if whole is not None and digest(base64.b64decode(row["body"])) == whole[1]:
        return [Lineage(shard_id, number, sub) for sub in whole[0]]
    return [Lineage(shard_id, number, row["sub_sequence_number"])]


def _inner_lineages(row: Mapping[str, Any], contract: Contract) -> list[Lineage] | None:
    try:
        header, batch = wire.decode(
            base64.b64decode(row["body"]),
            lambda header: (
                contract.stream_schema
                if header.kind == "readings"
                else contract.score_stream_schema
            ),
        )
    except errors.RecordError:
        return None
    if header.kind != "readings":
        return []
    numbers = batch.column("sequence_number").to_pylist()
    subs = batch.column("sub_sequence_number").to_pylist()
    return [Lineage(header.raw_shard_id, *each) for each in zip(numbers, subs, strict=True)]
