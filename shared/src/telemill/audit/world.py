"""Rows and items side by side, and what rows alone show: what is there twice, what is misplaced."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from telemill.audit import columns, order
from telemill.audit.columns import OBJECT, POSITION, Int64s, Keys, Parents
from telemill.audit.model import Lineage, Report
from telemill.audit.readings import Reader
from telemill.contract import Contract

MAX_NOTES = 1_000
"""Of each kind; nobody reads more."""


class World:
    """Everything that is compared, with the keys of its lineages."""

    def __init__(
        self,
        contract: Contract,
        items: pa.Table,
        rows: pa.Table,
        pending: pa.Table,
        keys: Keys,
        parents: Parents,
    ) -> None:
        self.contract = contract
        self.reader = Reader(contract)
        self.items = items
        self.rows = rows
        self.pending = pending
        self.keys = keys
        self.item_keys, self.row_keys = keys.of[0], keys.of[1]
        self.ancestors = columns.ancestors(parents)

    def lineages(self, keys: Int64s) -> list[Lineage]:
        """What keys stand for."""
        return self.keys.lineages(keys)

    def note(self, report: Report, kind: str, rows: Int64s, text: Callable[[int], str]) -> None:
        """Say where the first of some wrong rows stand."""
        chosen = rows[:MAX_NOTES]
        objects = [""] * len(chosen)
        if OBJECT in self.rows.column_names:
            objects = self.rows.column(OBJECT).take(pa.array(chosen)).to_pylist()
        for lineage, row, key in zip(
            self.lineages(self.row_keys[chosen]), chosen.tolist(), objects, strict=True
        ):
            known = report.notes.get((kind, lineage))
            said = f"{key or 'object unknown'}{text(row)}"
            report.notes[kind, lineage] = said if known is None else f"{known}, {said}"


def find_repeated(world: World, report: Report) -> None:
    """Lineages with several rows."""
    found, counts = np.unique(world.row_keys, return_counts=True)
    repeated = found[counts > 1]
    report.duplicated = world.lineages(repeated)
    rows = np.flatnonzero(np.isin(world.row_keys, repeated[:MAX_NOTES]))
    world.note(report, "duplicated", rows, lambda _: "")


def find_disorder(world: World, report: Report) -> None:
    """Rows behind a later one. Of rows that are there once: where a doubled one belongs is open."""
    places = _places(world)
    if places is None:
        report.unchecked.append("order: the source does not say in which objects rows stand")
        return
    if POSITION not in world.rows.column_names:
        report.unchecked.append("order inside an object: the source does not say it")
    _, inverse, counts = np.unique(world.row_keys, return_inverse=True, return_counts=True)
    single = counts[inverse] == 1
    codes = {shard: code for code, shard in enumerate(world.keys.shards)}
    above = {
        codes[shard]: frozenset(codes[each] for each in ancestors if each in codes)
        for shard, ancestors in world.ancestors.items()
        if shard in codes
    }
    rows = np.flatnonzero(single)[order.misplaced(places.only(single), above)]
    report.out_of_order = world.lineages(world.row_keys[rows])
    world.note(report, "out_of_order", rows, lambda _: "")


def _places(world: World) -> order.Places | None:
    rows = world.rows
    if OBJECT not in rows.column_names:
        return None
    names, objects = columns.codes(rows.column(OBJECT))
    chains, cuts = order.rank_cuts([name or "" for name in names])
    if not len(names):
        chains = cuts = np.zeros(1, np.int64)
    shown = POSITION in rows.column_names
    positions = rows.column(POSITION).to_numpy() if shown else np.zeros(rows.num_rows, np.int64)
    texts = rows.column(world.contract.device.column).cast(pa.string()).fill_null("")
    _, devices = columns.codes(texts)
    return order.Places(
        world.row_keys,
        world.keys.shard(world.row_keys),
        devices,
        objects,
        positions,
        chains[objects],
        cuts[objects],
    )
