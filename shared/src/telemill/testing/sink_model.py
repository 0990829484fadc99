"""A model of sinks: two workers, a progress table and a bucket, for tests/model.

Two workers may claim a shard at any moment: a replaced owner is a zombie that wakes up at any later
one. Each may crash between any two effects; any write may go unanswered, and then takes effect at
any later moment, or never, while its worker tries again. `telemill.progress.rules` decides what is
done, `telemill.stages.watermarks` what is new; the model adds only what table and bucket do.
"""

import enum
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from telemill.progress import rules
from telemill.testing import reshard_model as streams
from telemill.testing.explore import Exploration, explore
from telemill.testing.model import Claim, Save, arrive, interleave, took_effect
from telemill.testing.reshard_model import Row


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
    ONE_WATERMARK = "one watermark a slot, whatever raw shard the rows are of"
    BLIND_TO_SLOTS = "one watermark a raw shard, whatever slot the rows are of"
    FORGETFUL = "the first row of another raw shard ends the watermarks of the one before"
    ORPHAN = "a child shard starts without its parents' state"
    ONE_PARENT = "a child shard starts with the state of its first parent"
    EAGER_CHILD = "a child shard does not wait for its parents' end"


class Shard(NamedTuple):
    """A shard of the sink's stream.

    Attributes:
        rows: Of each record the one row. One that occurs again is a replay on the stream.
        parents: Indexes of shards.
        slots: Its own; of its parents' watermarks it keeps these.
    """

    rows: tuple[Row, ...]
    parents: tuple[int, ...] = ()
    slots: frozenset[int] = frozenset({0, 1})


class World(NamedTuple):
    """What never changes in one exploration.

    Attributes:
        shards: Parents first. Odd and even numbers go into different partitions.
        takes: How many claims there are; so many workers die, so many writes get no answer.
    """

    shards: tuple[Shard, ...]
    takes: int
    crashes: int
    unanswered: int
    variant: Variant = Variant.SOUND


class Put(NamedTuple):
    """An object on its way to the bucket."""

    name: str
    rows: tuple[Row, ...]

    def __str__(self) -> str:
        return f"put {self.name} ({streams.shown(self.rows)})"


Effect = Claim | Save | Put


class Worker(NamedTuple):
    """One process.

    Attributes:
        name: Its worker id; `life` is how often it died.
        held: Its item of `shard`; None while it has no claim.
        pending: What it does now; `refused` when the condition of that did not hold.
        gathering: The cut it reads; its new `rows`; the `watermarks` after them.
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
    rows: tuple[Row, ...] = ()
    watermarks: bytes = streams.NOTHING
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
    """Of a shard's records: those of all shards before it are smaller."""
    first = 1 + sum(len(each.rows) for each in world.shards[:shard])
    return [str(first + index) for index in range(len(world.shards[shard].rows))]


def apply(world: World, state: State, effect: Effect) -> tuple[State, bool]:
    """What an effect does when it arrives, and whether its condition held."""
    if isinstance(effect, Put):
        if any(effect.name == there.name for there in state.objects):
            return state, False
        return state._replace(objects=state.objects | {effect}), True
    item, items = state.items[effect.shard], list(state.items)
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
"""What a worker may do: what it is called, the world and the worker after it."""


def moves(world: World, state: State, worker: Worker) -> Iterator[Move]:
    """All that one worker may do."""
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
    """Look at a shard that may be opened, and set out to claim it."""
    if not state.takes:
        return
    eager = world.variant is Variant.EAGER_CHILD
    for shard in streams.openable(state.items, world.shards, eager=eager):
        item = state.items[shard]
        taken = rules.take(item, "sink", str(shard), worker.name, streams.write_id(worker))
        fewer = state._replace(takes=state.takes - 1)
        yield f"looks at shard {shard}", fewer, writes(worker, Claim(shard, item, taken))


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
        wanted = replace(
            worker.held or effect.wanted, intent=worker.cut, write_id=streams.write_id(worker)
        )
        anew = effect._replace(wanted=wanted)
        yield f"{effect}: unanswered, made anew", doubt, writes(worker, anew)


def settle(world: World, state: State, worker: Worker) -> Worker:
    """Read back after a refused write."""
    pending = worker.pending
    assert isinstance(pending, Claim | Save)  # noqa: S101
    found = state.items[pending.shard]
    if took_effect(found, pending):
        return proceed(world, state, worker)
    ours = found if found is not None and found.owner == worker.name else None
    if world.variant is Variant.UNSETTLED and isinstance(pending, Save) and ours is not None:
        on_top = Save(pending.shard, pending.wanted, ours.write_id)
        return worker._replace(refused=False, pending=on_top)
    return idle(state, worker)


def proceed(world: World, state: State, worker: Worker) -> Worker:
    """The pending effect took place: what the worker goes on with."""
    effect, done = worker.pending, worker._replace(pending=None, refused=False)
    if isinstance(effect, Claim):
        return opened(world, state, done, effect.shard)
    if isinstance(effect, Save):
        return saved(world, state, done, effect.wanted)
    return put_next(world, done)


def opened(world: World, state: State, worker: Worker, shard: int) -> Worker:
    """As `telemill.progress.claims.Claims.open` and the sink's stage."""
    item = state.items[shard]
    assert item is not None  # noqa: S101
    if item.ended:
        return idle(state, worker)
    intent = None if world.variant is Variant.INTENT_IGNORED else item.intent
    return worker._replace(
        shard=shard,
        held=replace(item, intent=intent),
        gathering=rules.resume(item.position, intent),
        watermarks=restored(world, state.items, shard),
    )


def restored(world: World, items: Sequence[rules.Progress | None], shard: int) -> bytes:
    """Own watermarks; before the first position, the parents', filtered to own slots."""
    item, (_, parents, slots) = items[shard], world.shards[shard]
    if item is not None and item.position is not None:
        return item.state or streams.NOTHING
    kept = {Variant.ORPHAN: 0, Variant.ONE_PARENT: 1}.get(world.variant, len(parents))
    found = [items[parent] for parent in parents[:kept]]
    states = [each.state for each in found if each is not None and each.state is not None]
    return streams.union(states, slots.__contains__)


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
            row = world.shards[worker.shard].rows[skip]
            worker = gather(world.variant, worker, numbers[skip], row)


def gather(variant: Variant, worker: Worker, number: str, row: Row) -> Worker:
    """One more record: its row counts unless it is a replay."""
    assert worker.gathering is not None  # noqa: S101
    before = worker.watermarks
    origin = "any" if variant is Variant.ONE_WATERMARK else row.raw
    slot = 0 if variant is Variant.BLIND_TO_SLOTS else row.slot
    if variant is Variant.FORGETFUL and streams.knows_others(before, origin):
        before = streams.NOTHING
    after, known = streams.take(before, origin, slot, (row.number,))
    return worker._replace(
        gathering=worker.gathering.with_last(number),
        rows=worker.rows if known else (*worker.rows, row),
        watermarks=after,
    )


def objects_of(world: World, worker: Worker, cut: rules.Cut) -> Iterator[tuple[Put, ...]]:
    """The objects of a cut, by partition; all ways to split them, if they are split."""
    even, odd = (tuple(row for row in worker.rows if row.number % 2 == each) for each in (0, 1))
    name = f"{worker.shard}/{cut.name}"
    yield tuple(put for put in (Put(f"{name}/0", even), Put(f"{name}/1", odd)) if put.rows)
    if world.variant is Variant.SPLIT_BY_SIZE and len(odd) > 1:
        yield (Put(f"{name}/1", odd[:1]), Put(f"{name}/1/more", odd[1:]))


def make(
    world: World, worker: Worker, held: rules.Progress, cut: rules.Cut, puts: tuple[Put, ...]
) -> Worker:
    """Begin a cut: declare it unless it is declared, or has no object."""
    cutting = worker._replace(cut=cut, puts=puts)
    if not puts or held.intent is not None or world.variant is Variant.NO_INTENT:
        return put_next(world, cutting)
    wanted = rules.declare(held, cut, write_id=streams.write_id(worker))
    if world.variant is Variant.STATE_IN_INTENT:
        wanted = replace(wanted, state=worker.watermarks)
    return writes(cutting, Save(worker.shard, wanted, held.write_id))


def put_next(world: World, worker: Worker) -> Worker:
    """Put the next object; after the last, save the position."""
    if worker.puts:
        return worker._replace(pending=worker.puts[0], puts=worker.puts[1:])
    assert worker.held and worker.cut  # noqa: PT018, S101
    # A sink may end the shard with its last cut or after it: owners take turns.
    up_to = worker.cut.up_to
    ends = up_to == sequence_numbers(world, worker.shard)[-1] and worker.held.epoch % 2 == 0
    save = advance(worker, worker.held, rules.SHARD_END if ends else up_to)
    if world.variant is Variant.STATE_APART:
        save = save._replace(wanted=replace(save.wanted, state=worker.held.state))
    return writes(worker, save)


def advance(worker: Worker, held: rules.Progress, position: str) -> Save:
    """The write of position and state."""
    wanted = rules.advance(
        held, position, write_id=streams.write_id(worker), state=worker.watermarks
    )
    return Save(worker.shard, wanted, held.write_id)


def saved(world: World, state: State, worker: Worker, held: rules.Progress) -> Worker:
    """After a declaration, the objects; after a position, the next cut or the next shard."""
    if held.intent is not None:
        return put_next(world, worker._replace(held=held))
    if held.state != worker.watermarks:  # only where it is written apart
        wanted = replace(held, state=worker.watermarks, write_id=streams.write_id(worker))
        return writes(worker, Save(worker.shard, wanted, held.write_id))
    if held.ended:
        return idle(state, worker)
    return worker._replace(held=held, gathering=rules.resume(held.position), rows=(), cut=None)


def writes(worker: Worker, effect: Effect) -> Worker:
    """Set out to write; the name is used up."""
    return worker._replace(pending=effect, writes=worker.writes + 1)


def run(world: World) -> Exploration[State]:
    """Explore a world."""

    def steps(state: State) -> Iterator[tuple[str, State]]:
        # Whoever is first is called "a".
        movable = 1 if state.takes == world.takes else len(state.workers)
        return interleave(state, movable, partial(moves, world), partial(apply, world))

    none = (None,) * len(world.shards)
    workers = (Worker("a"), Worker("b"))
    start = State(none, workers, world.takes, world.crashes, world.unanswered, reached=none)
    return explore(start, steps, partial(broken, world))


def broken(world: World, state: State) -> str | None:
    """What is wrong: a row in two objects, one missing below a position, a position gone back."""
    stored = Counter(row for put in state.objects for row in put.rows)
    if doubled := [row for row, times in stored.items() if times > 1]:
        return f"doubled {streams.shown(doubled)}"
    lost = committed(world, state) - stored.keys()
    if lost:
        return f"lost {streams.shown(sorted(lost))}"
    if world.variant in {Variant.UNCONDITIONAL, Variant.EPOCH_ALONE}:
        return None  # They put positions back; what is asked is what that does to the rows.
    positions = tuple(item.position if item else None for item in state.items)
    return None if positions == state.reached else "a position went back"


def committed(world: World, state: State) -> set[Row]:
    """The rows at or before the positions."""
    return {
        row
        for index, (shard, item) in enumerate(zip(world.shards, state.items, strict=True))
        for number, row in zip(sequence_numbers(world, index), shard.rows, strict=True)
        if item is not None and rules.order(number) <= rules.order(item.position)
    }
