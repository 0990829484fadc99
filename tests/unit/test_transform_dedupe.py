"""Which readings were there before."""

from collections.abc import Sequence

import numpy as np
import pytest

from telemill import errors
from transform import dedupe, hashing, snapshot, validate
from transform.dedupe import CONFLICT, DUPLICATE, KEEP, UNTRACKED, History


def history(window: int = 4, max_devices: int = 100) -> History:
    """An empty one."""
    return History(window, max_devices)


def screened(into: History, rows: Sequence[tuple[str, int, int]]) -> list[int]:
    """The outcome of rows of (device, event time, hash)."""
    devices = np.concatenate([into.rows_of([key]) for key, _, _ in rows])
    times = np.array([time for _, time, _ in rows], np.int64)
    hashes = np.array([value for _, _, value in rows], np.uint64)
    into.seen(devices, times)
    outcome: list[int] = into.screen(devices, times, hashes).outcome.tolist()
    return outcome


def test_same_key_same_values_is_a_duplicate() -> None:
    """The second of two equal readings is dropped, in one batch or in the next."""
    known = history()
    assert screened(known, [("a", 10, 1), ("a", 10, 1)]) == [KEEP, DUPLICATE]
    assert screened(known, [("a", 10, 1)]) == [DUPLICATE]


def test_same_key_other_values_is_a_conflict() -> None:
    """The first of two readings that contradict each other stays, whatever comes after."""
    known = history()
    assert screened(known, [("a", 10, 1), ("a", 10, 2), ("a", 10, 1)]) == [
        KEEP,
        CONFLICT,
        DUPLICATE,
    ]


def test_devices_are_apart() -> None:
    """The same time of another device is another reading."""
    assert screened(history(), [("a", 10, 1), ("b", 10, 1)]) == [KEEP, KEEP]


def test_window_is_the_last_accepted() -> None:
    """After `window` further readings a device's reading is forgotten, not before."""
    known = history(window=3)
    assert screened(known, [("a", time, 1) for time in (1, 2, 3)]) == [KEEP] * 3
    assert screened(known, [("a", 1, 1)]) == [DUPLICATE]
    assert screened(known, [("a", 4, 1), ("a", 1, 1)]) == [KEEP, KEEP]


def test_batch_larger_than_the_window() -> None:
    """Of many readings at once the last ones are remembered."""
    known = history(window=3)
    assert screened(known, [("a", time, 1) for time in range(10)]) == [KEEP] * 10
    assert screened(known, [("a", 9, 1), ("a", 7, 1), ("a", 6, 1)]) == [
        DUPLICATE,
        DUPLICATE,
        KEEP,
    ]


def test_out_of_order_is_kept_and_told() -> None:
    """An older reading not seen before is kept; that it came late is known."""
    known = history()
    rows = np.zeros(3, np.int64)
    known.rows_of(["a"])
    verdicts = known.screen(rows, np.array([5, 3, 7]), np.ones(3, np.uint64))
    assert verdicts.outcome.tolist() == [KEEP] * 3
    assert verdicts.out_of_order.tolist() == [False, True, False]


def test_devices_beyond_the_limit_are_not_remembered() -> None:
    """Memory is bounded: the first devices are tracked, duplicates of others pass."""
    known = history(max_devices=2)
    rows = [("a", 1, 1), ("b", 1, 1), ("c", 1, 1), ("c", 1, 1), ("a", 1, 1)]
    assert screened(known, rows) == [KEEP, KEEP, KEEP, KEEP, DUPLICATE]
    assert len(known) == 2
    assert known.rows_of(["c"]).tolist() == [UNTRACKED]


def test_silent_devices_are_forgotten() -> None:
    """A device not heard of for `keep_days` is forgotten, and its place is free again."""
    known = history(max_devices=1)
    assert screened(known, [("a", dedupe.DAY_US, 1)]) == [KEEP]
    known.advance_to(9, keep_days=8)
    assert screened(known, [("a", dedupe.DAY_US, 1)]) == [DUPLICATE]
    known.advance_to(10, keep_days=8)
    assert len(known) == 0
    assert screened(known, [("b", 1, 1)]) == [KEEP]


def test_memory_of_a_thousand_devices() -> None:
    """The documented size: 1,000 devices at the default window take less than 11 MB."""
    known = History(512, 10_000)
    known.rows_of([str(device) for device in range(1000)])
    assert known.size_bytes < 11_000_000


def filled() -> History:
    """A history whose rings have turned, partly filled and empty ones."""
    known = history(window=3)
    screened(known, [("a", time, time) for time in (5, 6, 7, 8)] + [("b", 1, 1)])
    known.rows_of(["c"])
    known.day = 20_000
    return known


def restored(*snapshots: bytes, window: int = 3) -> History:
    """The union of snapshots."""
    known = history(window)
    snapshot.restore(known, snapshots)
    return known


def test_snapshot_continues_exactly() -> None:
    """What is restored decides as what was saved would have, and saves the same bytes."""
    known = filled()
    again = restored(snapshot.pack(known))
    rows = [("a", 6, 6), ("a", 5, 5), ("a", 6, 6), ("a", 7, 0), ("b", 1, 2), ("c", 1, 1)]
    assert screened(again, rows) == screened(known, rows)
    assert snapshot.pack(again) == snapshot.pack(known)
    assert again.day == 20_000


def test_union_of_parents() -> None:
    """A merged shard knows what both parents knew, whichever is named first."""
    first, second = history(), history()
    screened(first, [("a", 1, 1), ("b", 3, 1)])
    screened(second, [("a", 2, 1), ("a", 1, 1)])
    parts = snapshot.pack(first), snapshot.pack(second)
    both = restored(*parts, window=4)
    assert snapshot.pack(both) == snapshot.pack(restored(*reversed(parts), window=4))
    assert screened(both, [("a", 1, 1), ("a", 2, 1), ("b", 3, 2)]) == [
        DUPLICATE,
        DUPLICATE,
        CONFLICT,
    ]


def test_a_union_carries_the_values_of_who_saw_the_device_last() -> None:
    """Both parents know the newest reading since their split; a late one went to one of them."""
    times, hashes = np.array([20], np.int64), np.array([1], np.uint64)
    stale = dedupe.Entry(times, hashes, 20, 100, (9.0,))
    fresh = dedupe.Entry(times, hashes, 20, 200, (10.0,))
    assert dedupe.union(stale, fresh).carried == dedupe.union(fresh, stale).carried == (10.0,)


def test_smaller_window_keeps_the_last() -> None:
    """A state saved with a larger window is cut to the readings taken last."""
    known = restored(snapshot.pack(filled()), window=2)
    assert screened(known, [("a", 8, 8), ("a", 6, 6)]) == [DUPLICATE, KEEP]


@pytest.mark.parametrize("cut", [0, 3, 10, -1])
def test_damaged_snapshot(cut: int) -> None:
    """A state that was cut off is refused, not guessed at."""
    with pytest.raises(errors.DecodeError):
        restored(snapshot.pack(filled())[:cut])


def columns(*arrays: np.ndarray) -> list[validate.Column]:
    """Columns; NaN and None are null."""
    return [
        validate.Column(array, np.array([value != value for value in array]))  # noqa: PLR0124
        for array in arrays
    ]


def test_hash_is_the_same_for_ever() -> None:
    """The hash is part of the saved state: these numbers must not change."""
    values = columns(
        np.array([85.69, np.nan, 0.0]),
        np.array([1, -1, 2**40]),
        np.array([True, False, True]),
        np.array(["run", "", "é"], np.object_),
    )
    assert [f"{each:016x}" for each in hashing.hash_rows(values, 3).tolist()] == [
        "ce1fdcc3c7ad2cdc",
        "b68c1a90bb1c9ec4",
        "099c699f107fa2b0",
    ]


def test_hash_tells_values_apart() -> None:
    """Equal values hash alike, -0.0 like 0.0; other values, and values swapped, do not."""
    one = hashing.hash_rows(columns(np.array([0.0, -0.0, -1.0, 999.0, np.nan])), 5).tolist()
    assert one[0] == one[1]
    assert len(set(one)) == 4
    left, right = np.array([1.0]), np.array([2.0])
    assert hashing.hash_rows(columns(left, right), 1) != hashing.hash_rows(columns(right, left), 1)
