"""What the audit compares and what it says: plain values."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

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

    def __str__(self) -> str:
        return f"{self.shard_id}/{self.sequence_number}/{self.sub_sequence_number}"


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


class Gap(NamedTuple):
    """Lineages missing in a row.

    With the raw stream: items of one raw shard, next to one another, that are lost. From the
    tables alone: places of one raw record between others that are there.
    """

    first: Lineage
    last: Lineage
    size: int


class SilentCut(NamedTuple):
    """A range of a shard of `readings` between two cuts of the sink that no object is named by.

    Either no row of it was new, or its objects are gone.
    """

    application: str
    shard_id: str
    after: str
    up_to: str


@dataclass(slots=True)
class Report:
    """What the audit found; `ok` when nothing is lost, doubled, out of order or altered.

    Attributes:
        raw_items: Items Kinesis took.
        stored: Rows in the table.
        quarantined: Items in the quarantine.
        duplicates: Items that are the same reading as a stored one, and not stored themselves.
        in_flight: Items that no position has passed yet: neither stored nor lost.
        not_compared: Rows whose raw record was not read (outside the range, or trimmed).
        scores: Scores in the table; None when they were not audited.
        lost: Items that are nowhere.
        duplicated: Lineages with more than one row.
        out_of_order: Rows that stand behind a later one of their device.
        altered: Rows whose values are not those of their item.
        unknown: Rows whose item the raw stream never held.
        unscored: Stored readings without a score.
        scored_twice: Readings with more than one score.
        scored_without_reading: Scores whose reading is not stored.
        alerts: Alerts opened, in the table; None when they were not audited.
        alerted_twice: Readings with a second row of one change of an alert.
        alert_rows_missing: Readings whose alert lacks the row before theirs.
        gaps: `lost` as ranges; without the raw stream, places that nothing accounts for.
        silent_cuts: Only without the raw stream: cuts that left no object.
        uncollected: Readings served that Kinesis never acknowledged; by scenario.
        raw_read: Whether the raw stream was compared.
        unchecked: What these sources could not show.
        notes: Of a wrong lineage, its object or partition and what is wrong (not of all).
    """

    raw_items: int = 0
    stored: int = 0
    quarantined: int = 0
    duplicates: int = 0
    in_flight: int = 0
    not_compared: int = 0
    scores: int | None = None
    lost: list[Lineage] = field(default_factory=list)
    duplicated: list[Lineage] = field(default_factory=list)
    out_of_order: list[Lineage] = field(default_factory=list)
    altered: list[Lineage] = field(default_factory=list)
    unknown: list[Lineage] = field(default_factory=list)
    unscored: list[Lineage] = field(default_factory=list)
    scored_twice: list[Lineage] = field(default_factory=list)
    scored_without_reading: list[Lineage] = field(default_factory=list)
    alerts: int | None = None
    alerted_twice: list[Lineage] = field(default_factory=list)
    alert_rows_missing: list[Lineage] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    silent_cuts: list[SilentCut] = field(default_factory=list)
    uncollected: Counter[str] = field(default_factory=Counter)
    raw_read: bool = True
    unchecked: list[str] = field(default_factory=list)
    notes: dict[tuple[str, Lineage], str] = field(default_factory=dict)

    @property
    def wrong(self) -> dict[str, list[Lineage]]:
        """Every way the promise can break, with the lineages that show it."""
        return {name: getattr(self, name) for name in WRONG}

    @property
    def ok(self) -> bool:
        """Whether the promise held. Uncollected readings never reached us and do not count."""
        return not any(self.wrong.values())


WRONG = (
    "lost",
    "duplicated",
    "out_of_order",
    "altered",
    "unknown",
    "unscored",
    "scored_twice",
    "scored_without_reading",
    "alerted_twice",
    "alert_rows_missing",
)
"""The lists of a Report that have to be empty."""
