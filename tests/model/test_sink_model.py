"""Every interleaving of two sinks, a progress table and a bucket, in a small world.

Two workers may claim a shard at any moment, so that a replaced owner is a zombie that wakes up at
any later one; each may crash between any two effects; and any write may go unanswered: it then
takes effect at any later moment, or never, while its worker tries again. What is decided is
decided by `telemill.progress.rules`; the model adds only what table and bucket do. Protocols that
were rejected are explored as well: the model finds their fault.
"""

import enum
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import pytest

from telemill.progress import rules
from telemill.testing.explore import Exploration, explore
from telemill.testing.model import Claim, Save, arrive, interleave, took_effect


class Variant(enum.Enum):
    """The protocol, and rejected ones."""

    SOUND = "as documented"
    STATE_APART = "the state is written after the position, in a write of its own"
    STATE_IN_INTENT = "the intent carries the watermarks after the cut"
    SPLIT_BY_SIZE = "objects are split by size inside a cut"
    NO_INTENT = "objects are put without a declared cut"
    INTENT_IGNORED = "a new owner makes a cut of its own"
    UNCONDITIONAL = "writes do not name the epoch"
    EPOCH_ALONE = "writes name the epoch, but not the write they follow"
    UNSETTLED = "after an unanswered save the cut is made anew, on top of whatever stands there"
    ORPHAN = "a child shard starts without its parent's state"


class World(NamedTuple):
    """What never changes in one exploration.

    Attributes:
        shards: Parent first; the lineage of the row in each record. One that occurs again is a
            replay on the stream. Odd and even lineages go into different partitions.
        takes: How many claims there are; so many workers die, so many writes get no answer.
    """

    shards: tuple[tuple[int, ...], ...]
    takes: int
    crashes: int
    unanswered: int
    variant: Variant = Variant.SOUND


class Put(NamedTuple):
    """An object on its way to the bucket."""

    name: str
    rows: tuple[int, ...]

    def __str__(self) -> str:
        return f"put {self.name} {self.rows}"


Effect = Claim | Save | Put


class Worker(NamedTuple):
    """One process.

    Attributes:
        name: Its worker id; with `life` (how often it died) and `writes` it names its writes.
        held: Its item of `shard`; None while it has no claim.
        pending: What it does just now; `refused` when the condition of that did not hold.
        gathering: The cut it reads; its new `rows`; the `watermark` after them.
        cut: The cut it makes, and its objects still to be put.
    """

    name: str
    life: int = 0
    writes: int = 0
    shard: int = 0
    held: rules.Progress | None = None
    pending: Effect | None = None
    refused: bool = False
    gathering: rules.Gathering | None = None
    rows: tuple[int, ...] = ()
    watermark: int = 0
    cut: rules.Cut | None = None
    puts: tuple[Put, ...] = ()


class State(NamedTuple):
    """Everything that may differ. `reached` is the furthest position of each shard so far."""

    items: tuple[rules.Progress | None, ...]
    workers: tuple[Worker, ...]
    takes: int
    crashes: int
    unanswered: int
    objects: frozenset[Put] = frozenset()
    reached: tuple[str | None, ...] = ()
    late: frozenset[Effect] = frozenset()


def sequence_numbers(world: World, shard: int) -> list[str]:
    """Of a shard's records: its parent's go before."""
    first = 1 + sum(len(rows) for rows in world.shards[:shard])
    return [str(first + index) for index in range(len(world.shards[shard]))]


def apply(world: World, state: State, effect: Effect) -> tuple[State, bool]:
    """What an effect does when it arrives, and whether its condition held."""
    if isinstance(effect, Put):
        if any(effect.name == there.name for there in state.objects):
            return state, False
        return state._replace(objects=state.objects | {effect}), True
    items = list(state.items)
    item = items[effect.shard]
    changed = arrive_rejected(world, item, effect) or arrive(item, effect)
    items[effect.shard] = changed or item
    reached = tuple(
        max(before, item.position if item else None, key=rules.order)
        for before, item in zip(state.reached, items, strict=True)
    )
    return state._replace(items=tuple(items), reached=reached), changed is not None


def arrive_rejected(
    world: World, item: rules.Progress | None, effect: Claim | Save
) -> rules.Progress | None:
    """The item after a write that only a rejected protocol lets through."""
    if item is None or isinstance(effect, Claim):
        return None
    through = world.variant is Variant.UNCONDITIONAL or (
        world.variant is Variant.EPOCH_ALONE and rules.is_live(item, effect.wanted.epoch)
    )
    return rules.moved(item, effect.wanted) if through else None


# --- a worker --------------------------------------------------------------------------------

Move = tuple[str, State, Worker]
"""What a worker may do next: what it is called, the world after it, the worker after it."""


def moves(world: World, state: State, worker: Worker) -> Iterator[Move]:
    """All that one worker may do in a state."""
    if worker.refused:
        yield "reads back", state, settle(world, state, worker)
    elif worker.pending is not None:
        yield from perform(world, state, worker, worker.pending)
    elif worker.held is None:
        yield from begin(world, state, worker)
    else:
        yield from read(world, state, worker, worker.held)
    busy = worker.pending is not None or worker.held is not None
    if busy and state.crashes:
        dead = idle(state, Worker(worker.name, worker.life + 1))
        yield "crashes", state._replace(crashes=state.crashes - 1), dead


def idle(state: State, worker: Worker) -> Worker:
    """Without a claim; when none is left to take, what it did before makes no difference."""
    return Worker(worker.name, *((worker.life, worker.writes) if state.takes else ()))


def begin(world: World, state: State, worker: Worker) -> Iterator[Move]:
    """Look at the first shard that is not ended, and set out to claim it."""
    for shard, item in enumerate(state.items):
        if item is not None and item.ended:
            continue
        if state.takes:
            taken = rules.take(item, "sink", str(shard), worker.name, write_id(worker))
            fewer = state._replace(takes=state.takes - 1)
            yield f"looks at shard {shard}", fewer, writes(worker, Claim(shard, item, taken))
        return


def perform(world: World, state: State, worker: Worker, effect: Effect) -> Iterator[Move]:
    """The pending effect is answered, or it is not and takes place late."""
    after, held = apply(world, state, effect)
    if held or isinstance(effect, Put):
        answer = "done" if held else "was there"
        yield f"{effect}: {answer}", after, proceed(world, after, worker)
    else:
        yield f"{effect}: refused", state, worker._replace(refused=True)
    if not state.unanswered:
        return
    doubt = state._replace(unanswered=state.unanswered - 1, late=state.late | {effect})
    yield f"{effect}: unanswered, repeated", doubt, worker
    if world.variant is Variant.UNSETTLED and isinstance(effect, Save) and worker.cut is not None:
        wanted = replace(worker.held or effect.wanted, intent=worker.cut, write_id=write_id(worker))
        anew = effect._replace(wanted=wanted)
        yield f"{effect}: unanswered, made anew", doubt, writes(worker, anew)


def settle(world: World, state: State, worker: Worker) -> Worker:
    """Read back after a refused write."""
    assert isinstance(worker.pending, Claim | Save)
    found = state.items[worker.pending.shard]
    if took_effect(found, worker.pending):
        return proceed(world, state, worker)
    ours = isinstance(worker.pending, Save) and found is not None
    if ours and world.variant is Variant.UNSETTLED and found.owner == worker.name:
        on_top = worker.pending._replace(previous=found.write_id)
        return worker._replace(refused=False, pending=on_top)
    return idle(state, worker)


def proceed(world: World, state: State, worker: Worker) -> Worker:
    """The pending effect took place: what the worker goes on with."""
    effect, done = worker.pending, worker._replace(pending=None, refused=False)
    if isinstance(effect, Claim):
        return opened(world, state, done, effect.shard)
    return (
        saved(world, state, done, effect.wanted)
        if isinstance(effect, Save)
        else put_next(world, done)
    )


def opened(world: World, state: State, worker: Worker, shard: int) -> Worker:
    """As `telemill.progress.claims.Claims.open`: own state, else the parent's, else none."""
    item = state.items[shard]
    assert item is not None
    if item.ended:
        return idle(state, worker)
    parent = state.items[shard - 1] if shard and world.variant is not Variant.ORPHAN else None
    kept = parent if item.position is None else item
    intent = None if world.variant is Variant.INTENT_IGNORED else item.intent
    return worker._replace(
        shard=shard,
        held=replace(item, intent=intent),
        gathering=rules.resume(item.position, intent),
        watermark=int(kept.state or b"0") if kept else 0,
    )


def read(world: World, state: State, worker: Worker, held: rules.Progress) -> Iterator[Move]:
    """Gather some records and make the cut, or end the shard.

    Gathering touches nothing others see, so it is one move with the cut that follows.
    """
    numbers = sequence_numbers(world, worker.shard)
    if worker.gathering == rules.resume(numbers[-1]):
        yield "ends the shard", state, writes(worker, advance(worker, held, rules.SHARD_END))
        return
    count = 1
    while count and worker.gathering is not None:
        skip, count = rules.admit(worker.gathering, numbers)
        cut = rules.next_cut(worker.gathering, full=True, passed=not count)
        if cut is not None:
            for puts in objects_of(world, worker, cut):
                yield f"cuts {cut.name}", state, make(world, worker, held, cut, puts)
        if count:
            worker = gather(worker, numbers[skip], world.shards[worker.shard][skip])


def gather(worker: Worker, number: str, row: int) -> Worker:
    """One more record: its row counts unless it is a replay."""
    assert worker.gathering is not None
    return worker._replace(
        gathering=worker.gathering.with_last(number),
        rows=(*worker.rows, row) if row > worker.watermark else worker.rows,
        watermark=max(row, worker.watermark),
    )


def objects_of(world: World, worker: Worker, cut: rules.Cut) -> Iterator[tuple[Put, ...]]:
    """The objects of a cut, by partition; all ways to split them, if they are split."""
    rows = [tuple(row for row in worker.rows if row % 2 == odd) for odd in (0, 1)]
    names = [f"{worker.shard}/{cut.name}/{odd}" for odd in (0, 1)]
    yield tuple(Put(name, part) for name, part in zip(names, rows, strict=True) if part)
    if world.variant is Variant.SPLIT_BY_SIZE and len(rows[1]) > 1:
        odd, name = rows[1], names[1]
        yield (Put(name, odd[:1]), Put(f"{name}/more", odd[1:]))


def make(
    world: World, worker: Worker, held: rules.Progress, cut: rules.Cut, puts: tuple[Put, ...]
) -> Worker:
    """Begin a cut: declare it unless it is declared, or has no object."""
    cutting = worker._replace(cut=cut, puts=puts)
    if not puts or held.intent is not None or world.variant is Variant.NO_INTENT:
        return put_next(world, cutting)
    wanted = rules.declare(held, cut, write_id=write_id(worker))
    if world.variant is Variant.STATE_IN_INTENT:
        wanted = replace(wanted, state=b"%d" % worker.watermark)
    return writes(cutting, Save(worker.shard, wanted, held.write_id))


def put_next(world: World, worker: Worker) -> Worker:
    """Put the next object; after the last, save the position."""
    if worker.puts:
        return worker._replace(pending=worker.puts[0], puts=worker.puts[1:])
    assert worker.held and worker.cut  # noqa: PT018
    # A sink may end the shard with its last cut or after it: owners take turns.
    last = worker.cut.up_to == sequence_numbers(world, worker.shard)[-1]
    ends = last and worker.held.epoch % 2 == 0
    save = advance(worker, worker.held, rules.SHARD_END if ends else worker.cut.up_to)
    if world.variant is Variant.STATE_APART:
        save = save._replace(wanted=replace(save.wanted, state=worker.held.state))
    return writes(worker, save)


def advance(worker: Worker, held: rules.Progress, position: str) -> Save:
    """The write of position and state."""
    state = b"%d" % worker.watermark
    wanted = rules.advance(held, position, write_id=write_id(worker), state=state)
    return Save(worker.shard, wanted, held.write_id)


def saved(world: World, state: State, worker: Worker, held: rules.Progress) -> Worker:
    """After a declaration, the objects; after a position, the next cut or the next shard."""
    if held.intent is not None:
        return put_next(world, worker._replace(held=held))
    apart = b"%d" % worker.watermark
    if held.state != apart:  # only where it is written apart
        wanted = replace(held, state=apart, write_id=write_id(worker))
        return writes(worker, Save(worker.shard, wanted, held.write_id))
    if held.ended:
        return idle(state, worker)
    return worker._replace(held=held, gathering=rules.resume(held.position), rows=(), cut=None)


def write_id(worker: Worker) -> str:
    """The name of the worker's next write."""
    return f"{worker.name}{worker.life}.{worker.writes}"


def writes(worker: Worker, effect: Effect) -> Worker:
    """Set out to write; the name is used up."""
    return worker._replace(pending=effect, writes=worker.writes + 1)


def run(world: World) -> Exploration[State]:
    """Explore a world."""

    def steps(state: State) -> Iterator[tuple[str, State]]:
        # Whoever is first is called "a".
        movable = 1 if state.takes == world.takes else len(state.workers)
        return interleave(state, movable, partial(moves, world), partial(apply, world))

    def broken(state: State) -> str | None:
        stored = Counter(row for put in state.objects for row in put.rows)
        if doubled := [row for row, times in stored.items() if times > 1]:
            return f"doubled {doubled}"
        lost = committed(world, state) - stored.keys()
        if lost:
            return f"lost {sorted(lost)}"
        if world.variant in {Variant.UNCONDITIONAL, Variant.EPOCH_ALONE}:
            return None  # They put positions back; what is asked is what that does to the rows.
        positions = tuple(item.position if item else None for item in state.items)
        return None if positions == state.reached else "a position went back"

    none = (None,) * len(world.shards)
    workers = (Worker("a"), Worker("b"))
    start = State(none, workers, world.takes, world.crashes, world.unanswered, reached=none)
    return explore(start, steps, broken)


def committed(world: World, state: State) -> set[int]:
    """The rows at or before the positions."""
    return {
        row
        for shard, item in enumerate(state.items)
        for number, row in zip(sequence_numbers(world, shard), world.shards[shard], strict=True)
        if item is not None and rules.order(number) <= rules.order(item.position)
    }


ONE_SHARD = ((1, 3, 1, 4),)
PARENT_AND_CHILD = ((1, 2), (1, 3))


@pytest.mark.parametrize(
    "world",
    [
        World(ONE_SHARD, takes=2, crashes=1, unanswered=0),
        World(((1, 3, 1),), takes=3, crashes=1, unanswered=0),
        World(((1, 3),), takes=2, crashes=0, unanswered=2),
        World(((1, 3, 1),), takes=2, crashes=1, unanswered=1),
        World(PARENT_AND_CHILD, takes=4, crashes=0, unanswered=0),
    ],
    ids=["zombies", "three-owners", "ghosts", "crash-and-ghost", "reshard"],
)
def test_every_row_is_stored_once_whatever_happens(world: World) -> None:
    """In no reachable state is a row in two objects, or missing at or below the position."""
    found = run(world)
    assert found.broken is None, found.path
    assert any(all(item and item.ended for item in state.items) for state in found.ends)


@pytest.mark.parametrize(
    ("variant", "world", "fault"),
    [
        (Variant.STATE_APART, World(((1, 3, 1),), 2, 1, 0), "doubled [1]"),
        (Variant.STATE_IN_INTENT, World(((1, 3),), 2, 1, 0), "lost"),
        (Variant.SPLIT_BY_SIZE, World(((1, 3),), 2, 1, 0), "doubled [3]"),
        (Variant.NO_INTENT, World(((1, 3),), 2, 1, 0), "doubled"),
        (Variant.INTENT_IGNORED, World(((1, 3),), 2, 1, 0), "doubled"),
        (Variant.UNCONDITIONAL, World(((1, 3),), 2, 0, 0), "doubled"),
        (Variant.EPOCH_ALONE, World(((1, 3, 1),), 2, 1, 1), "doubled [3]"),
        (Variant.UNSETTLED, World(((1, 3),), 1, 0, 1), "a position went back"),
        (Variant.ORPHAN, World(PARENT_AND_CHILD, 2, 0, 0), "doubled [1]"),
    ],
    ids=lambda value: value.name if isinstance(value, Variant) else "",
)
def test_a_rejected_protocol_loses_or_doubles_rows(
    variant: Variant, world: World, fault: str
) -> None:
    """Each shortcut that looks harmless has a run that breaks the tables; the protocol has none."""
    found = run(world._replace(variant=variant))
    assert (found.broken or "").startswith(fault), found.path
