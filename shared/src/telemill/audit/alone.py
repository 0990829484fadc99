"""What the tables show by themselves, when the raw stream has forgotten the records. Pure.

Proved: a lineage with several rows; a row behind a later one of its device. Only hinted at: a place
of a raw record that nothing accounts for. It may be a loss, or the duplicate of a stored reading,
which is not stored on purpose; the record alone could tell.
"""

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

from telemill.audit import columns, order
from telemill.audit.columns import Int64s, Keys, Parents
from telemill.audit.model import Gap, Lineage, Report, SilentCut, StoredRow
from telemill.audit.world import World, find_disorder, find_repeated
from telemill.codec.raw import MAX_ROWS
from telemill.contract import Contract


def audit_tables(
    contract: Contract,
    rows: Iterable[StoredRow] | pa.Table,
    quarantined: Iterable[Lineage] | pa.Table,
    parents: Parents | None = None,
    *,
    object_names: Sequence[str] = (),
) -> Report:
    """Find what was doubled and reordered, and what may be missing.

    Args:
        contract: What the readings are.
        rows: Of the readings table; see `compare.audit`.
        quarantined: Lineages in the quarantine.
        parents: Parents of each raw shard that has any.
        object_names: Every object of the table, for the cuts between them; empty: not known.
    """
    items = columns.items_table([])
    table = columns.rows_table(rows, contract)
    aside = columns.lineage_table(quarantined)
    keys = columns.encode(items, table, aside)
    world = World(contract, items, table, table.slice(0, 0), keys, parents or {})
    report = Report(stored=table.num_rows, raw_read=False, not_compared=table.num_rows)
    report.quarantined = len(np.unique(keys.of[2]))
    find_repeated(world, report)
    find_disorder(world, report)
    report.gaps = _gaps(keys)
    report.silent_cuts = silent_cuts(object_names)
    report.unchecked.append("lost and altered: they show only beside the raw stream")
    return report


def _gaps(keys: Keys) -> list[Gap]:
    """Places between those that are there, inside each user record.

    Only of records that have rows: those of one record arrived at one time, so of a span they are
    all there; the quarantine is read by days.
    """
    _, stored, aside = keys.of
    if not len(stored):
        return []
    aside = aside[np.isin(keys.record(aside), keys.record(stored))]
    present: Int64s = np.unique(np.concatenate([stored, aside]))
    subs, records = keys.sub(present), keys.record(present)
    users, places = subs // MAX_ROWS, subs % MAX_ROWS
    same = (records[1:] == records[:-1]) & (users[1:] == users[:-1])
    skipped = np.where(same, places[1:] - places[:-1] - 1, places[1:])
    behind = np.flatnonzero(skipped) + 1
    # The first of all has nothing before it.
    if places[0]:
        behind = np.r_[0, behind]
    found = []
    for row, lineage in zip(behind.tolist(), keys.lineages(present[behind]), strict=True):
        size = int(skipped[row - 1]) if row else int(places[0])
        sub = lineage.sub_sequence_number
        first = lineage._replace(sub_sequence_number=sub - size)
        found.append(Gap(first, lineage._replace(sub_sequence_number=sub - 1), size))
    return found


def silent_cuts(object_names: Sequence[str]) -> list[SilentCut]:
    """Where one cut does not begin at the end of the one before it."""
    cuts = sorted({cut for name in object_names if (cut := order.cut_of(name)) is not None})
    return [
        SilentCut(left.application, left.shard_id, str(left.up_to), str(right.after))
        for left, right in itertools.pairwise(cuts)
        if left[:3] == right[:3] and left.up_to < right.after
    ]
