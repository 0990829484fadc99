"""Compare what was served, what Kinesis took and what the tables hold. Pure.

The audit is independent of the services: it splits raw records with the codecs, reads items with
the standard library's JSON and compares them with the rows of the tables through the lineage.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa

from telemill.audit import columns
from telemill.audit.columns import Bools, Int64s, Parents
from telemill.audit.duplicates import HOUR_US, Candidates, Originals
from telemill.audit.model import (
    READING_STATUSES,
    Gap,
    Lineage,
    RawItem,
    Report,
    ServedBody,
    StoredRow,
)
from telemill.audit.values import Comparison
from telemill.audit.world import MAX_NOTES, World, find_disorder, find_repeated
from telemill.contract import Contract
from telemill.kinesis.records import SHARD_END

AFTER_ALL = np.iinfo(np.int64).max

FindRows = Callable[[Sequence[datetime]], pa.Table]
"""Stored rows of some hours of event time, as `columns.rows_table` makes them."""


@dataclass(frozen=True, slots=True)
class InFlight:
    """What was not committed yet when the tables were read.

    Attributes:
        positions: Of the transform on each raw shard; None: nothing is processed yet.
        rows: Rows on `readings` behind the sink's positions.
    """

    positions: Mapping[str, str | None]
    rows: pa.Table


def audit(
    contract: Contract,
    served: Iterable[ServedBody],
    raw_items: Iterable[RawItem] | pa.Table,
    rows: Iterable[StoredRow] | pa.Table,
    quarantined: Iterable[Lineage] | pa.Table,
    parents: Parents | None = None,
    *,
    in_flight: InFlight | None = None,
    complete: bool = True,
    find_rows: FindRows | None = None,
    time_step_us: int = 1,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Report:
    """Find what was lost, doubled, reordered or changed on the way.

    Args:
        contract: What the readings are.
        served: The ground truth; empty when there is none.
        raw_items: Items of the raw stream, objects or columns (`columns.RAW_ITEMS`).
        rows: Rows of the readings table, in the order they stand in each object; as columns with
            `object` and `position`.
        quarantined: Lineages found in the quarantine (repeats do no harm).
        parents: Parents of each raw shard that has any.
        in_flight: What is not committed yet; None: everything is.
        complete: Whether these are all items there ever were. Otherwise rows beyond those of
            their shard are not compared.
        find_rows: Gives further stored rows, for the originals of duplicates.
        time_step_us: How exact the rows' times are.
        on_progress: Told how many items are compared, of how many.
    """
    items = columns.items_table(raw_items)
    table = columns.rows_table(rows, contract)
    aside = columns.lineage_table(quarantined)
    pending = in_flight.rows if in_flight else table.slice(0, 0)
    positions = _positions(in_flight)
    keys = columns.encode(items, table, aside, pending, positions)
    world = World(contract, items, table, pending, keys, parents or {})
    report = Report(raw_items=items.num_rows, stored=table.num_rows)
    _, stored, in_quarantine, _, reached = keys.of
    held = np.unique(in_quarantine)
    report.quarantined = len(held) if complete else int(np.isin(held, world.item_keys).sum())
    find_repeated(world, report)
    find_disorder(world, report)
    _find_altered(world, report, complete, time_step_us, on_progress)
    missing = ~np.isin(world.item_keys, np.concatenate([stored, in_quarantine]))
    waiting = missing & _waiting(world, reached, in_flight)
    report.in_flight = int(waiting.sum())
    _find_lost(world, report, np.flatnonzero(missing & ~waiting), find_rows, time_step_us)
    report.uncollected = _uncollected(served, items)
    return report


def _positions(in_flight: InFlight | None) -> pa.Table:
    """The last lineage each position passed."""
    reached = in_flight.positions if in_flight else {}
    return columns.lineage_table(
        [
            Lineage(shard, position, AFTER_ALL)
            for shard, position in reached.items()
            if position is not None and position != SHARD_END
        ]
    )


def _waiting(world: World, reached: Int64s, in_flight: InFlight | None) -> Bools:
    """Items no position has passed: behind the transform's, or on the way to the sink."""
    if in_flight is None:
        return np.zeros(len(world.item_keys), np.bool_)
    last = np.full(len(world.keys.shards), -1, np.int64)
    last[world.keys.shard(reached)] = reached
    for code, shard in enumerate(world.keys.shards):
        if in_flight.positions.get(shard) == SHARD_END:
            last[code] = AFTER_ALL
    behind: Bools = world.item_keys > last[world.keys.shard(world.item_keys)]
    return behind | np.isin(world.item_keys, world.keys.of[3])


def _find_altered(
    world: World,
    report: Report,
    complete: bool,
    time_step_us: int,
    on_progress: Callable[[int, int], None],
) -> None:
    of_item = columns.first_of(world.row_keys, world.item_keys)
    foreign = of_item < 0
    unknown = foreign if complete else foreign & _inside(world)
    report.not_compared = int((foreign & ~unknown).sum())
    rows = np.flatnonzero(unknown)
    report.unknown = world.lineages(world.row_keys[rows])
    world.note(report, "unknown", rows, lambda _: "")
    comparison = Comparison(world.contract, world.reader, time_step_us)
    altered, why = comparison.run(world.items, world.rows, of_item, on_progress)
    report.altered = world.lineages(world.row_keys[altered])
    world.note(report, "altered", altered, lambda row: f": {why[row]}")


def _inside(world: World) -> Bools:
    """Rows between the first and the last item read of their raw shard."""
    shards, rows = world.keys.shard(world.item_keys), world.keys.shard(world.row_keys)
    count = len(world.keys.shards)
    first = np.full(count, AFTER_ALL, np.int64)
    last = np.full(count, -1, np.int64)
    np.minimum.at(first, shards, world.item_keys)
    np.maximum.at(last, shards, world.item_keys)
    return (world.row_keys >= first[rows]) & (world.row_keys <= last[rows])


def _find_lost(
    world: World,
    report: Report,
    missing: Int64s,
    find_rows: FindRows | None,
    time_step_us: int,
) -> None:
    candidates = Candidates(world.reader, world.items, missing)
    originals = Originals(
        world.contract,
        world.reader,
        world.items,
        world.item_keys,
        world.keys,
        world.ancestors,
        time_step_us,
    )
    left = candidates.without_originals(originals, [world.rows, world.pending])
    if find_rows is not None and len(left):
        more = find_rows([_instant(hour) for hour in candidates.hours(left)])
        left = candidates.without_originals(originals, [more], among=left)
    report.duplicates = len(missing) - len(left)
    ordered = left[np.argsort(world.item_keys[left], kind="stable")]
    report.lost = world.lineages(world.item_keys[ordered])
    for row, lineage in zip(ordered[:MAX_NOTES].tolist(), report.lost, strict=False):
        report.notes["lost", lineage] = candidates.where(row)
    report.gaps = _ranges(world, ordered)


def _ranges(world: World, lost: Int64s) -> list[Gap]:
    """Lost items that follow one another in their raw shard, as ranges."""
    if not len(lost):
        return []
    everything = np.unique(world.item_keys)
    places = np.searchsorted(everything, world.item_keys[lost])
    shards = world.keys.shard(world.item_keys[lost])
    breaks = np.flatnonzero((np.diff(places) != 1) | (np.diff(shards) != 0)) + 1
    starts, ends = np.r_[0, breaks], np.r_[breaks, len(lost)] - 1
    firsts = world.lineages(world.item_keys[lost[starts]])
    lasts = world.lineages(world.item_keys[lost[ends]])
    counts = (ends - starts + 1).tolist()
    return [Gap(*each) for each in zip(firsts, lasts, counts, strict=True)]


def _instant(hour: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(hours=hour)


def _uncollected(served: Iterable[ServedBody], items: pa.Table) -> Counter[str]:
    missing: Counter[str] = Counter()
    answers = [
        (answer.body.strip(), answer.scenario or "none")
        for answer in served
        if answer.status in READING_STATUSES and answer.body.strip()
    ]
    if not answers:
        return missing
    taken: Counter[bytes] = Counter()
    for batch in items.select(["body"]).to_batches():
        taken.update(body.strip() for body in batch.column(0).to_pylist())
    for body, scenario in answers:
        if taken[body] > 0:
            taken[body] -= 1
        else:
            missing[scenario] += 1
    return missing


def audit_scores(
    report: Report,
    rows: Iterable[StoredRow] | pa.Table,
    scores: Iterable[StoredRow] | pa.Table,
    contract: Contract,
    *,
    pending_rows: pa.Table | None = None,
    pending_scores: pa.Table | None = None,
    find_rows: FindRows | None = None,
) -> None:
    """Add to a report whether every stored reading was scored exactly once.

    Args:
        report: Of the readings.
        rows: Of the readings table.
        scores: Rows of the scores table.
        contract: What the readings are.
        pending_rows: Rows of `readings` that the sink or the detector has not committed.
        pending_scores: Rows of `scores` that the sink has not committed.
        find_rows: Gives further stored rows: some may have been stored since.
    """
    table, scored = (columns.rows_table(each, contract) for each in (rows, scores))
    nothing = columns.LINEAGE.empty_table()
    waiting = [each for each in (pending_rows, pending_scores) if each is not None]
    aside = pa.concat_tables([nothing, *(each.select(columns.LINEAGE.names) for each in waiting)])
    keys = columns.encode(table, scored, aside)
    stored_keys, score_keys, waiting_keys = keys.of
    found, counts = np.unique(score_keys, return_counts=True)
    report.scores = len(score_keys)
    report.unscored = keys.lineages(_without(np.unique(stored_keys), found, waiting_keys))
    report.scored_twice = keys.lineages(found[counts > 1])
    orphans = keys.lineages(_without(found, stored_keys, waiting_keys))
    if orphans and find_rows is not None:
        orphans = _still_missing(orphans, scored, contract, find_rows)
    report.scored_without_reading = orphans


def _still_missing(
    orphans: list[Lineage], scores: pa.Table, contract: Contract, find_rows: FindRows
) -> list[Lineage]:
    keys = columns.encode(scores, columns.lineage_table(orphans))
    chosen = scores.filter(pa.array(np.isin(keys.of[0], keys.of[1])))
    micros = chosen.column(contract.time.column).cast(pa.int64()).to_numpy()
    hours = np.unique(micros // HOUR_US).tolist()
    keys = columns.encode(columns.lineage_table(orphans), find_rows([_instant(h) for h in hours]))
    return keys.lineages(_without(keys.of[0], keys.of[1]))


def _without(keys: Int64s, *others: Int64s) -> Int64s:
    left: Int64s = keys[~np.isin(keys, np.concatenate(others))]
    return left
