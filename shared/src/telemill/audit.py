"""Compare what was served, what Kinesis took and what the tables hold. Pure.

The audit is independent of the services: it splits raw records with the codecs, reads items with
the standard library's JSON and compares them with the rows of the tables through the lineage.
"""

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from telemill.contract import Contract

READING_STATUSES = frozenset({200, 499})
"""Answers that carry a reading: 200, and 499, where the client hung up before it came."""


class Lineage(NamedTuple):
    """Where a row came from, for ever: its raw record and its place in it."""

    shard_id: str
    sequence_number: str
    sub_sequence_number: int

    @property
    def order(self) -> tuple[int, int]:
        """The order of acceptance inside one raw shard."""
        return int(self.sequence_number), self.sub_sequence_number


class RawItem(NamedTuple):
    """One item of a raw record as Kinesis holds it."""

    lineage: Lineage
    body: bytes


class ServedBody(NamedTuple):
    """One answer of the FMS API that could have been a reading."""

    device_id: str
    scenario: str
    status: int
    body: bytes


class StoredRow(NamedTuple):
    """One row of the readings table: its lineage, its object and its columns."""

    lineage: Lineage
    object_key: str
    columns: Mapping[str, Any]


@dataclass(slots=True)
class Report:
    """What the audit found; `ok` when nothing is lost, doubled, out of order or altered.

    Attributes:
        raw_items: Items Kinesis took.
        stored: Rows in the table.
        quarantined: Items in the quarantine.
        duplicates: Items that are the same reading as a stored one, and not stored themselves.
        lost: Items that are nowhere.
        duplicated: Rows beyond the first of one lineage.
        out_of_order: Rows that stand behind a later one of their device in one object or partition.
        altered: Rows whose values are not those of their item.
        uncollected: Readings served that Kinesis never acknowledged; by scenario.
    """

    raw_items: int = 0
    stored: int = 0
    quarantined: int = 0
    duplicates: int = 0
    lost: list[Lineage] = field(default_factory=list)
    duplicated: list[Lineage] = field(default_factory=list)
    out_of_order: list[Lineage] = field(default_factory=list)
    altered: list[Lineage] = field(default_factory=list)
    uncollected: Counter[str] = field(default_factory=Counter)

    @property
    def ok(self) -> bool:
        """Whether the promise held. Uncollected readings never reached us and do not count."""
        return not (self.lost or self.duplicated or self.out_of_order or self.altered)


def audit(
    contract: Contract,
    served: Iterable[ServedBody],
    raw_items: Sequence[RawItem],
    rows: Sequence[StoredRow],
    quarantined: Iterable[Lineage],
) -> Report:
    """Find what was lost, doubled, reordered or changed on the way.

    Args:
        contract: What the readings are.
        served: The ground truth; empty when there is none.
        raw_items: All items of the raw stream.
        rows: All rows of the readings table, in the order they stand in each object.
        quarantined: Lineages found in the quarantine (repeats do no harm).
    """
    report = Report(raw_items=len(raw_items), stored=len(rows))
    in_quarantine = set(quarantined)
    report.quarantined = len(in_quarantine)
    stored = Counter(row.lineage for row in rows)
    report.duplicated = [lineage for lineage, count in stored.items() if count > 1]
    report.out_of_order = _out_of_order(contract, rows)
    bodies = {item.lineage: item.body for item in raw_items}
    report.altered = [row.lineage for row in rows if _is_altered(contract, row, bodies)]
    known = {_reading_key(contract, bodies[lineage]) for lineage in stored if lineage in bodies}
    for item in raw_items:
        if item.lineage in stored or item.lineage in in_quarantine:
            continue
        key = _reading_key(contract, item.body)
        if key is not None and key in known:
            report.duplicates += 1
        else:
            report.lost.append(item.lineage)
    report.uncollected = _uncollected(served, raw_items)
    return report


def _uncollected(served: Iterable[ServedBody], raw_items: Iterable[RawItem]) -> Counter[str]:
    taken = Counter(item.body.strip() for item in raw_items)
    missing: Counter[str] = Counter()
    for answer in served:
        body = answer.body.strip()
        if answer.status not in READING_STATUSES or not body:
            continue
        if taken[body] > 0:
            taken[body] -= 1
        else:
            missing[answer.scenario or "none"] += 1
    return missing


def _reading_key(contract: Contract, body: bytes) -> str | None:
    """Device, time and values in one comparable text; None for what is no JSON object."""
    document = _parsed(body)
    if document is None:
        return None
    names = [field.name for field in contract.fields]
    return json.dumps({name: document.get(name) for name in names}, sort_keys=True)


def _parsed(body: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _out_of_order(contract: Contract, rows: Sequence[StoredRow]) -> list[Lineage]:
    """Rows that do not follow the order of acceptance.

    Inside an object the order of rows counts; between objects of one partition the ranges of
    lineage of one device must not interleave.
    """
    sequences: dict[tuple[str, str, Any], list[Lineage]] = defaultdict(list)
    for row in rows:
        device = row.columns[contract.device.column]
        sequences[row.object_key, row.lineage.shard_id, device].append(row.lineage)
    wrong = [later for sequence in sequences.values() for later in _descents(sequence)]
    ranges: dict[tuple[str, str, Any], list[list[Lineage]]] = defaultdict(list)
    for (object_key, shard_id, device), sequence in sequences.items():
        ranges[object_key.rpartition("/")[0], shard_id, device].append(sequence)
    for group in ranges.values():
        group.sort(key=lambda sequence: sequence[0].order)
        wrong += _descents([end for sequence in group for end in (sequence[0], sequence[-1])])
    return wrong


def _descents(sequence: Sequence[Lineage]) -> list[Lineage]:
    return [later for earlier, later in itertools.pairwise(sequence) if later.order < earlier.order]


def _is_altered(contract: Contract, row: StoredRow, bodies: Mapping[Lineage, bytes]) -> bool:
    body = bodies.get(row.lineage)
    document = _parsed(body) if body is not None else None
    if document is None:
        return True
    device = contract.device_key(document.get(contract.device.name))
    if contract.device_key(row.columns[contract.device.column]) != device:
        return True
    if row.columns[contract.time.column] != _instant(document.get(contract.time.name)):
        return True
    return any(
        row.columns[field.column] is not None
        and field.default is None
        and float(row.columns[field.column]) != float(document[field.name])
        for field in contract.measures
    )


def _instant(value: object) -> datetime | None:
    if not isinstance(value, str):
        return None
    instant = datetime.fromisoformat(value.strip())
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
