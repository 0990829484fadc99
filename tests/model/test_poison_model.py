"""Records called poison at any moment, rightly or wrongly, while sinks cut, die and wake up again.

The sink's model (`telemill.testing.sink_model`) without unanswered writes, and with one move more:
an owner that has just taken the shard may call any record poison that `rules.condemn` lets it. So
the innocent are named too, also those whose rows another owner has gathered or put. A replaced
owner goes on as a zombie; what it puts, it puts.
"""

import enum
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

import pytest

from telemill.errors import PositionError
from telemill.progress import rules
from telemill.testing.explore import Exploration, explore
from telemill.testing.model import Claim, Save, arrive


class Variant(enum.Enum):
    """The protocol, and rejected ones."""

    SOUND = "as documented"
    NAMED_IN_CUT = "a record of a declared cut may be called poison"
    FORGOTTEN = "the next owner does not learn who is poison"


class World(NamedTuple):
    """What never changes in one exploration.

    Attributes:
        rows: The lineage of the row in each record; one that occurs again is a replay on the
            stream. Odd and even ones go into different objects.
        takes: How often the shard is claimed in all.
        names: How many records are called poison.
    """

    rows: tuple[int, ...]
    takes: int
    names: int
    variant: Variant = Variant.SOUND


class Put(NamedTuple):
    """One object."""

    name: str
    rows: tuple[int, ...]


class Worker(NamedTuple):
    """One process.

    Attributes:
        held: Its item; None while it has no claim.
        fresh: It has read nothing yet: it may still call a record poison.
        cut: The cut it makes, and the watermark after it; `puts` are those left of it.
        aside: Rows of the cut's records that are poison.
    """

    held: rules.Progress | None = None
    fresh: bool = False
    cut: rules.Cut | None = None
    watermark: int = 0
    puts: tuple[Put, ...] = ()
    aside: tuple[int, ...] = ()


class State(NamedTuple):
    """Everything that may differ. `writes` names the next write of claim or progress."""

    item: rules.Progress | None
    workers: tuple[Worker, ...]
    takes: int
    names: int
    writes: int = 0
    objects: frozenset[Put] = frozenset()
    quarantine: frozenset[int] = frozenset()


Move = tuple[str, State, Worker]


def moves(world: World, state: State, worker: Worker) -> Iterator[Move]:
    """All that one worker may do; it may also never do anything again, which is a crash."""
    if state.takes and not (state.item and state.item.position == str(len(world.rows))):
        yield take(world, state)
    if worker.held is None:
        return
    if worker.cut is None:
        if worker.fresh and state.names:
            yield from name(world, state, worker, worker.held)
        yield from begin(world, state, worker, worker.held)
    elif worker.puts:
        put, *rest = worker.puts
        there = any(put.name == each.name for each in state.objects)
        after = state if there else state._replace(objects=state.objects | {put})
        yield f"puts {put.name} {put.rows}", after, worker._replace(puts=tuple(rest))
    else:
        yield save(state, worker, worker.held, worker.cut)


def write(state: State, worker: Worker, wanted: rules.Progress) -> tuple[State, Worker]:
    """A write of an owner takes place, or it learns that it is none."""
    assert worker.held is not None
    item = arrive(state.item, Save(0, wanted, worker.held.write_id))
    if item is None:
        return state, Worker()
    return state._replace(item=item, writes=state.writes + 1), worker._replace(held=item)


def take(world: World, state: State) -> Move:
    """Claim the shard, whoever holds it."""
    before = state.item
    if before is not None and world.variant is Variant.FORGOTTEN:
        before = replace(before, poison=())
    taken = rules.take(before, "sink", "0", "a", str(state.writes))
    item = arrive(before, Claim(0, before, taken))
    after = state._replace(item=item, takes=state.takes - 1, writes=state.writes + 1)
    return "takes", after, Worker(held=item, fresh=True)


def name(world: World, state: State, worker: Worker, held: rules.Progress) -> Iterator[Move]:
    """Call some record poison."""
    for number in map(str, range(1, len(world.rows) + 1)):
        with suppress(PositionError):
            wanted = condemned(world, held, number, str(state.writes))
            after, named = write(state._replace(names=state.names - 1), worker, wanted)
            yield f"names {number}", after, named


def condemned(world: World, held: rules.Progress, number: str, write_id: str) -> rules.Progress:
    """As `rules.condemn`, or as a rejected protocol would."""
    if world.variant is not Variant.NAMED_IN_CUT:
        return rules.condemn(held, number, write_id=write_id)
    undeclared = rules.condemn(replace(held, intent=None), number, write_id=write_id)
    return replace(undeclared, intent=held.intent)


def begin(world: World, state: State, worker: Worker, held: rules.Progress) -> Iterator[Move]:
    """Gather any number of records and declare their cut; a declared one is made again."""
    first = int(held.position or 0)
    last = len(world.rows)
    ends = [int(held.intent.up_to)] if held.intent else range(first + 1, last + 1)
    for end in ends:
        cut = rules.Cut(held.position, str(end))
        gathered = gather(world, worker, held, first, end)._replace(cut=cut, fresh=False)
        if held.intent or not gathered.puts:
            yield f"makes {cut.name} again", state, gathered
        else:
            wanted = rules.declare(held, cut, write_id=str(state.writes))
            yield f"declares {cut.name}", *write(state, gathered, wanted)


def gather(world: World, worker: Worker, held: rules.Progress, first: int, end: int) -> Worker:
    """The objects of a cut: a function of its records, of the state before it, of the poison."""
    watermark, rows, aside = int(held.state or b"0"), list[int](), list[int]()
    for number in range(first + 1, end + 1):
        row = world.rows[number - 1]
        if str(number) in held.poison:
            aside.append(row)
        elif row > watermark:
            rows.append(row)
            watermark = row
    parts = [tuple(row for row in rows if row % 2 == odd) for odd in (0, 1)]
    puts = [Put(f"{held.position}-{end}/{odd}", part) for odd, part in enumerate(parts) if part]
    return worker._replace(watermark=watermark, puts=tuple(puts), aside=tuple(aside))


def save(state: State, worker: Worker, held: rules.Progress, cut: rules.Cut) -> Move:
    """Quarantine what was put aside, then move the position."""
    quarantine = state.quarantine | set(worker.aside)
    state_after = b"%d" % worker.watermark
    wanted = rules.advance(held, cut.up_to, write_id=str(state.writes), state=state_after)
    after, saved = write(state._replace(quarantine=quarantine), worker, wanted)
    done = saved._replace(cut=None, watermark=0, puts=(), aside=())
    return f"saves {cut.up_to}", after, done


def run(world: World) -> Exploration[State]:
    """Explore a world."""

    def steps(state: State) -> Iterator[tuple[str, State]]:
        for index, worker in enumerate(state.workers):
            for what, after, moved in moves(world, state, worker):
                changed = (*state.workers[:index], moved, *state.workers[index + 1 :])
                # Which of two workers does what makes no difference.
                ordered = tuple(sorted(changed, key=repr))
                yield f"{'ab'[index]} {what}", after._replace(workers=ordered)

    def broken(state: State) -> str | None:
        stored = Counter(row for put in state.objects for row in put.rows)
        if doubled := [row for row, times in stored.items() if times > 1]:
            return f"doubled {doubled}"
        position = int(state.item.position or 0) if state.item else 0
        lost = set(world.rows[:position]) - stored.keys() - state.quarantine
        return f"lost {sorted(lost)}" if lost else None

    start = State(None, (Worker(), Worker()), world.takes, world.names)
    return explore(start, steps, broken)


@pytest.mark.parametrize(
    "world",
    [
        World((1, 2, 1), takes=3, names=1),
        World((1, 3, 1, 4), takes=2, names=2),
        World((1, 1), takes=4, names=2),
    ],
    ids=["replay", "two-named", "four-owners"],
)
def test_whoever_is_called_poison_no_row_is_lost_or_doubled(world: World) -> None:
    """Each row is in one object at most, and in one or in the quarantine below the position."""
    found = run(world)
    assert found.broken is None, found.path
    last = str(len(world.rows))
    done = [state for state in found.ends if state.item and state.item.position == last]
    assert any(state.quarantine for state in done)
    assert any(not state.quarantine for state in done)


@pytest.mark.parametrize(
    ("world", "fault"),
    [
        (World((1, 1), 2, 1, Variant.NAMED_IN_CUT), "doubled [1]"),
        (World((1, 3), 2, 1, Variant.FORGOTTEN), "lost [1]"),
    ],
    ids=lambda value: value.variant.name if isinstance(value, World) else "",
)
def test_a_rejected_protocol_loses_or_doubles_rows(world: World, fault: str) -> None:
    """Naming what may be in an object, or naming it for one owner only, has a run that shows."""
    found = run(world)
    assert (found.broken or "").startswith(fault), found.path
