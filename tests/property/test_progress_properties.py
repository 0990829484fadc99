"""What holds of positions, claims and cuts whatever happens to the writes."""

import asyncio
import itertools
from contextlib import suppress
from dataclasses import replace

from hypothesis import example, given
from hypothesis import strategies as st

from telemill.errors import ClaimHeldError, PositionError, TransientError
from telemill.kinesis.records import Shard
from telemill.progress import rules
from telemill.progress.claims import Claim, Claims, Host
from telemill.testing.progress import (
    NO_WAIT,
    Fault,
    MemoryProgressStore,
    MemorySnapshotStore,
)

SHARD = Shard("readings", 1, "shardId-000000000000")
NUMBERS = st.lists(st.integers(1, 10**56), min_size=1, max_size=12, unique=True)
FAULTS = st.lists(st.sampled_from([None, Fault.LOST, Fault.APPLIED, Fault.LATE]), max_size=12)
ALL_ACTS = ["open", "save", "declare", "end", "release", "late"]
ACTS = st.lists(
    st.tuples(
        st.sampled_from("ab"),
        st.sampled_from(ALL_ACTS),
    ),
    min_size=1,
    max_size=25,
)
OPEN_SAVE_DECLARE = [("a", "open"), ("a", "save"), ("a", "declare")]
OPEN_SAVE_SAVE = [("a", "open"), ("a", "save"), ("a", "save")]


def state_at(position: str) -> bytes:
    """The state after a position: inline after even ones, an object after odd ones."""
    large = position != rules.SHARD_END and int(position) % 2
    return position.encode() + b"x" * (rules.MAX_INLINE_BYTES * large)


class Table:
    """Two workers on one shard of one table whose writes go wrong."""

    def __init__(self, faults: list[Fault | None], attempts: int) -> None:
        self.store = MemoryProgressStore(retry=replace(NO_WAIT, attempts=attempts))
        self.states = MemorySnapshotStore()
        self.store.table.faults.plan("put_progress", *faults)
        self.numbers = itertools.count(1)
        ids, clock = itertools.count(), itertools.count(0.0, rules.STALE_SECONDS)
        host = Host(monotonic=lambda: next(clock), new_id=lambda: f"w{next(ids)}")
        self.workers = {
            name: Claims(self.store, self.states, "sink", name, host=host) for name in "ab"
        }
        self.claims: dict[str, Claim] = {}

    async def act(self, worker: str, act: str) -> None:
        """One worker does one thing; or may not, or does not learn whether it did.

        It decides by what it knows, which may be old: then it is told so, by a PositionError.
        """
        with suppress(ClaimHeldError, PositionError, TransientError):
            if act == "late":
                self.store.table.faults.deliver_late()
            elif act == "open":
                opened = await self.workers[worker].open(SHARD)
                self.claims[worker] = opened.claim
            elif worker in self.claims:
                await self.write(self.claims[worker], act)

    async def write(self, claim: Claim, act: str) -> None:
        """Save a position with its state, end the shard, declare a cut, or give up."""
        number = str(next(self.numbers))
        if act == "release":
            await claim.release()
        elif act == "end":
            await claim.save(rules.SHARD_END, state_at(rules.SHARD_END))
        elif act == "save":
            position = claim.intent.up_to if claim.intent else number
            await claim.save(position, state_at(position))
        elif claim.intent is None:
            await claim.declare(rules.Cut(claim.position, number))

    def item(self) -> rules.Progress | None:
        """The item as it stands."""
        return self.store.table.items.get(("sink", rules.shard_key(SHARD)))

    def check(self, before: rules.Progress | None) -> None:
        """Nothing went back, and the item is whole."""
        item = self.item()
        if item is None:
            assert before is None
            return
        if before is not None:
            assert item.epoch >= before.epoch
            assert rules.order(item.position) >= rules.order(before.position)
        if item.position is not None:
            kept = self.states.objects[item.state_key] if item.state_key else item.state
            assert kept == state_at(item.position)
        if item.intent is not None:
            assert item.intent.after == item.position


@given(acts=ACTS, faults=FAULTS, attempts=st.integers(1, 3))
@example(acts=[*OPEN_SAVE_SAVE, ("a", "late")], faults=[Fault.LATE], attempts=2)
@example(acts=OPEN_SAVE_DECLARE, faults=[Fault.APPLIED], attempts=1)
@example(acts=[*OPEN_SAVE_DECLARE, ("a", "late")], faults=[Fault.LATE], attempts=1)
@example(acts=[("a", "open"), ("a", "end"), ("a", "save")], faults=[Fault.APPLIED], attempts=1)
def test_an_item_never_goes_back_and_is_always_whole(
    acts: list[tuple[str, str]], faults: list[Fault | None], attempts: int
) -> None:
    """Under lost, unanswered and late writes of two owners, position and state stay together."""

    async def play() -> None:
        table = Table(faults, attempts)
        for worker, act in acts:
            before = table.item()
            await table.act(worker, act)
            table.check(before)

    asyncio.run(play())


@given(acts=ACTS, faults=FAULTS, attempts=st.integers(1, 3))
@example(acts=OPEN_SAVE_SAVE, faults=[Fault.APPLIED], attempts=1)
@example(acts=OPEN_SAVE_SAVE, faults=[Fault.APPLIED], attempts=2)
def test_only_a_take_over_voids_a_claim(
    acts: list[tuple[str, str]], faults: list[Fault | None], attempts: int
) -> None:
    """However its writes fail, an owner that nobody replaced is never told that it was."""

    async def play() -> None:
        table = Table(faults, attempts)
        for worker, act in acts:
            await table.act(worker, act)
            item = table.item()
            for claim in table.claims.values():
                assert not claim.void or (item is not None and item.epoch > claim.epoch)

    asyncio.run(play())


@given(NUMBERS)
def test_positions_are_ordered_as_their_numbers(numbers: list[int]) -> None:
    """None comes first, SHARD_END last, and numbers of any length in between by value."""
    positions = [rules.SHARD_END, *map(str, numbers), None]
    ordered = sorted(positions, key=rules.order)
    assert ordered == [None, *map(str, sorted(numbers)), rules.SHARD_END]


@given(NUMBERS, st.data())
def test_a_repeated_cut_holds_the_same_records(numbers: list[int], data: st.DataObject) -> None:
    """However the records are chunked, and wherever reading begins, a declared cut is the same."""
    records = [str(number) for number in sorted(numbers)]
    first = data.draw(st.integers(0, len(records) - 1))
    last = data.draw(st.integers(first, len(records) - 1))
    cut = rules.Cut(records[first - 1] if first else None, records[last])
    gathering, gathered = rules.resume(cut.after, cut), list[str]()
    made = None
    start = data.draw(st.integers(0, first))
    while made is None:
        end = data.draw(st.integers(start + 1, len(records))) if start < len(records) else start
        chunk = records[start:end]
        skip, count = rules.admit(gathering, chunk)
        taken = chunk[skip : skip + count]
        gathered += taken
        if taken:
            gathering = gathering.with_last(taken[-1])
        full = data.draw(st.booleans())
        made = rules.next_cut(gathering, full=full, passed=skip + count < len(chunk))
        start = end
    assert made == cut
    assert gathered == records[first : last + 1]
