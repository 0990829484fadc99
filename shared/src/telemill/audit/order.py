"""Which rows stand behind a later one of their device, as far as a table can show. Pure.

What shows order: the place of a row in its object, and the sink's cuts. A cut is a range of one
shard of `readings`; all its rows were taken after those of the cuts before it, whatever partitions
they lie in. Between two partitions of one cut no order is left. Objects that are not the sink's
(a backfill's) fill holes: of them only the order inside counts.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from telemill.audit.columns import Bools, Int64s

_CUT = re.compile(
    r"(?P<app>[A-Za-z0-9_.-]+)-(?P<incarnation>\d+)-(?P<shard>shardId-\d+)"
    r"-(?P<after>start|\d+)-(?P<up_to>\d+)\.parquet"
)
NO_CHAIN = -1


class Cut(NamedTuple):
    """What the name of a sink's object says; compares in the order the rows were taken.

    Shards are compared by their number: a child's is larger than its parents'.
    """

    application: str
    incarnation: int
    shard_number: int
    after: int
    up_to: int
    shard_id: str

    @property
    def chain(self) -> tuple[str, int]:
        """Within it cuts follow one another."""
        return self.application, self.incarnation


def cut_of(object_key: str) -> Cut | None:
    """The cut an object is of; None for an object that is not the sink's."""
    match = _CUT.fullmatch(object_key.rpartition("/")[2])
    if match is None:
        return None
    shard_id = match["shard"]
    return Cut(
        match["app"],
        int(match["incarnation"]),
        int(shard_id.rpartition("-")[2]),
        -1 if match["after"] == "start" else int(match["after"]),
        int(match["up_to"]),
        shard_id,
    )


@dataclass(frozen=True, slots=True)
class Places:
    """Where rows stand; every array has one entry a row.

    Attributes:
        keys: Of the lineage.
        shards: Code of the raw shard.
        devices: Code of the device.
        objects: Code of the object.
        positions: Place in the object.
        chains: Whose cuts follow one another; NO_CHAIN for an object that is no cut's.
        cuts: Rank of the cut in its chain.
    """

    keys: Int64s
    shards: Int64s
    devices: Int64s
    objects: Int64s
    positions: Int64s
    chains: Int64s
    cuts: Int64s

    def only(self, chosen: Bools) -> "Places":
        """Some rows."""
        return Places(*(getattr(self, name)[chosen] for name in self.__slots__))


def rank_cuts(names: list[str]) -> tuple[Int64s, Int64s]:
    """Chain and rank of the cut of each object name."""
    found = [cut_of(name) for name in names]
    chains = {chain: code for code, chain in enumerate(sorted({c.chain for c in found if c}))}
    ranks = {cut: rank for rank, cut in enumerate(sorted({c for c in found if c}))}
    return (
        np.array([chains[c.chain] if c else NO_CHAIN for c in found], np.int64),
        np.array([ranks[c] if c else 0 for c in found], np.int64),
    )


def misplaced(places: Places, ancestors: Mapping[int, frozenset[int]]) -> Bools:
    """Which rows stand behind one of their device that was accepted after them.

    Args:
        places: Rows, none of them twice.
        ancestors: Raw shards (codes) whose rows come before those of a raw shard.
    """
    wrong = np.zeros(len(places.keys), np.bool_)
    if not len(wrong):
        return wrong
    within = _groups(places.objects, places.devices, places.shards)
    wrong |= _behind(within, places.positions, places.keys)
    in_chain = places.chains != NO_CHAIN
    if in_chain.any():
        cut = places.only(in_chain)
        across = _groups(cut.chains, cut.devices, cut.shards)
        wrong[in_chain] |= _behind(across, cut.cuts, cut.keys)
    for child, above in ancestors.items():
        for parent in above:
            wrong |= _before_its_parent(places, parent, child)
    return wrong


def _groups(*columns: Int64s) -> Int64s:
    """One code for each combination of values."""
    codes = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        _, inverse = np.unique(column, return_inverse=True)
        _, codes = np.unique(codes * (int(inverse.max()) + 1) + inverse, return_inverse=True)
    return codes.astype(np.int64)


def _behind(groups: Int64s, steps: Int64s, keys: Int64s) -> Bools:
    """Rows whose key is below the highest of an earlier step of their group."""
    _, ranks = np.unique(keys, return_inverse=True)
    order = np.lexsort((steps, groups))
    group, step, rank = groups[order], steps[order], ranks[order].astype(np.int64)
    begins = np.r_[True, (group[1:] != group[:-1]) | (step[1:] != step[:-1])]
    starts = np.flatnonzero(begins)
    # Groups ascend, so adding (group × more than any rank) lets one running maximum serve all.
    lifted = group[starts] * (len(keys) + 1)
    highest = np.maximum.accumulate(np.maximum.reduceat(rank, starts) + lifted) - lifted
    before = np.r_[-1, highest[:-1] + (lifted[:-1] - lifted[1:])]
    found = np.zeros(len(keys), np.bool_)
    found[order] = rank < before[np.cumsum(begins) - 1]
    return found


def _before_its_parent(places: Places, parent: int, child: int) -> Bools:
    """Rows of a parent shard that stand behind a row of its child, of the same device."""
    wrong = np.zeros(len(places.keys), np.bool_)
    of_parent, of_child = places.shards == parent, places.shards == child
    if not (of_parent.any() and of_child.any()):
        return wrong
    within = _groups(places.objects, places.devices)
    across = _groups(places.chains, places.devices)
    for groups, steps, chosen in (
        (within, places.positions, np.ones_like(wrong)),
        (across, places.cuts, places.chains != NO_CHAIN),
    ):
        first = np.full(int(groups.max()) + 1, np.iinfo(np.int64).max)
        mine = of_child & chosen
        np.minimum.at(first, groups[mine], steps[mine])
        wrong |= of_parent & chosen & (steps > first[groups])
    return wrong
