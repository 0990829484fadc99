"""The sink's check of large batches, on Arrow's buffers, says what comparing neighbours says."""

from itertools import pairwise

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from sink import core

FIRST = 49_653 * 10**51
"""Real sequence numbers have 56 digits; from 98 on, two and three digits are mixed."""

steps = st.lists(
    st.tuples(st.integers(0, 40), st.sampled_from([(0, 1), (0, 1), (1, -3), (0, 0), (-1, 0)])),
    min_size=1,
    max_size=4,
)
"""So many rows of one raw record, then a step of (number, sub-number) that may go wrong."""


@given(
    start=st.sampled_from([10, 98, FIRST]),
    unusual=steps,
    before=st.integers(0, 5),
    rows=st.integers(core.LARGE_BATCH_ROWS, core.LARGE_BATCH_ROWS + 40),
)
def test_a_large_batch_ascends_when_each_row_is_above_the_one_before(
    start: int, unusual: list[tuple[int, tuple[int, int]]], before: int, rows: int
) -> None:
    """One raw record or several, 56 digits or few, a slice or a whole array: the same answer."""
    lineage = [(start, 0)]
    for count, step in unusual:
        lineage += [(lineage[-1][0], lineage[-1][1] + row) for row in range(1, count + 1)]
        lineage.append((lineage[-1][0] + step[0], max(0, lineage[-1][1] + step[1])))
    last, sub = lineage[-1]
    lineage += [(last, sub + row) for row in range(1, rows + 1)]
    cut = [(start, 0)] * before + lineage
    numbers = pa.array([str(number) for number, _ in cut], pa.string())[before:]
    subs = pa.array([sub for _, sub in cut], pa.int64())[before:]
    assert core.ascends(numbers, subs) is all(low < high for low, high in pairwise(lineage))
