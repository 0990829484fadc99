"""The `carry` policy: a null takes the device's previous value, across portions and restarts."""

import numpy as np
import numpy.typing as npt

from telemill.contract import QUALITY_IMPUTED
from transform.dedupe import UNTRACKED, Groups
from transform.validate import Column, Int64s

NONE = -1


def fill_previous(
    column: Column, quality: Int64s, devices: Int64s, previous: npt.NDArray[np.object_]
) -> Column:
    """Fill nulls, in order of acceptance; sets the imputed bit where it does.

    Args:
        column: One value field of kept rows, already checked: only valid values are carried.
        quality: Of the rows; changed in place.
        devices: Row of each reading's device in `previous`, or UNTRACKED.
        previous: Last valid value of each device, None without one; changed in place.
    """
    groups = Groups.of(devices)
    source = _sources(column.null, groups)
    values, null = column.values.copy(), column.null.copy()
    for row in np.flatnonzero(column.null & (devices != UNTRACKED)).tolist():
        carried = column.values[source[row]] if source[row] != NONE else previous[devices[row]]
        if carried is not None:
            values[row], null[row] = carried, False
            quality[row] |= QUALITY_IMPUTED
    _remember(column, devices, groups, source, previous)
    return Column(values, null)


def _sources(null: npt.NDArray[np.bool_], groups: Groups) -> Int64s:
    """For each row, the last row of its device up to it with a value, or NONE."""
    places = np.arange(len(null))
    last = np.maximum.accumulate(np.where(null[groups.order], NONE, places))
    begins = np.repeat(groups.starts, groups.sizes)
    source = np.full(len(null), NONE, np.int64)
    found = last >= begins
    source[groups.order[found]] = groups.order[last[found]]
    return source


def _remember(
    column: Column,
    devices: Int64s,
    groups: Groups,
    source: Int64s,
    previous: npt.NDArray[np.object_],
) -> None:
    for row in groups.order[groups.starts + groups.sizes - 1].tolist():
        if devices[row] != UNTRACKED and source[row] != NONE:
            previous[devices[row]] = column.values[source[row]].item()
