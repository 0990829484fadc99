"""A model of a stage from stream to stream and of its consumer, for tests/model.

Two workers, the progress table, the output stream and who reads it. As in the model of sinks, a
replaced owner may wake up at any later moment, workers crash between any two effects, and
unanswered writes take effect late or never. The stage puts what its step makes on the stream, one
batch per slot in flight, and saves position and state captured at one moment once all output up to
it is acknowledged. What is saved is decided by `telemill.progress.rules`; the consumer is
`telemill.stages.watermarks`. What the stage does with a record is `telemill.testing.model_steps`.
"""

import enum
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import NamedTuple, TypeVar

from telemill.progress import rules
from telemill.testing import reshard_model as streams
from telemill.testing.explore import Exploration, explore
from telemill.testing.model import Claim, Save, arrive, interleave, took_effect
from telemill.testing.model_steps import Out, Step
from telemill.testing.reshard_model import Row

T = TypeVar("T")


class Variant(enum.Enum):
    """The protocol, and rejected ones."""

    SOUND = "as documented"
    STATE_APART = "the state is written after the position, in a write of its own"
    TWO_IN_FLIGHT = "batches of one slot overtake each other"
    POSITION_FIRST = "the position does not wait for acknowledgements"
    NO_WATERMARK = "the consumer takes what comes"
    ONE_WATERMARK = "the consumer has one watermark a slot, whatever raw shard the rows are of"
    FORGETFUL = "the consumer forgets a raw shard with the first row of another"
    ORPHAN = "a child shard starts without its parents' state"
    ONE_PARENT = "a child shard starts with the state of its first parent"
    EAGER_CHILD = "a child shard does not wait for its parents' end"
    UNFILTERED = "a child shard keeps its parents' state of all slots"


class Shard(NamedTuple):
    """A shard of the stage's input.

    Attributes:
        records: The row in each, and the contract key of its reading.
        parents: Indexes of shards.
        slots: Its own, where its stream is slotted.
    """

    records: tuple[tuple[Row, str], ...]
    parents: tuple[int, ...] = ()
    slots: frozenset[int] = frozenset({0, 1})


class World(NamedTuple):
    """What never changes in one exploration.

    Attributes:
        step: What the stage does.
        shards: Parents first.
        takes: How many claims there are; so many workers die, so many writes get no answer.
    """

    step: Step
    shards: tuple[Shard, ...]
    takes: int
    crashes: int
    unanswered: int
    variant: Variant = Variant.SOUND


class Put(NamedTuple):
    """A batch of one slot and raw shard on its way to the stream, of records of `shard`."""

    shard: int
    up_to: int
    rows: tuple[Out, ...]

    @property
    def slot(self) -> int:
        """Of all its rows."""
        return self.rows[0].row.slot

    def __str__(self) -> str:
        return f"put {streams.shown(self.rows)}"


Effect = Claim | Save | Put


class Worker(NamedTuple):
    """One process.

    Attributes:
        name: Its worker id; with `life` (how often it died) and `writes` it names its writes.
        held: Its item of `shard`; None while it has no claim.
        pending: The write under way; `refused` when the condition of that did not hold.
        read: How many records it has stepped through; `state` is that after them.
        moment: What it means to save, captured at one moment.
        queue: Batches handed to the writer, unacknowledged. They outlive a lost claim.
    """

    name: str
    life: int = 0
    writes: int = 0
    shard: int = 0
    held: rules.Progress | None = None
    pending: Claim | Save | None = None
    refused: bool = False
    read: int = 0
    state: bytes = b""
    moment: tuple[int, bytes] | None = None
    queue: tuple[Put, ...] = ()


class State(NamedTuple):
    """Everything that may differ. Of the stream, what its consumer has made of it by slot."""

    items: tuple[rules.Progress | None, ...]
    workers: tuple[Worker, ...]
    takes: int
    crashes: int
    unanswered: int
    taken: tuple[tuple[Out, ...], ...] = ((), ())
    marks: tuple[bytes, ...] = (streams.NOTHING, streams.NOTHING)
    late: frozenset[Effect] = frozenset()


Move = tuple[str, State, Worker]
"""What a worker may do next: what it is called, the world after it, the worker after it."""


# --- table, stream, consumer -----------------------------------------------------------------


def apply(world: World, state: State, effect: Effect) -> tuple[State, bool]:
    """What an effect does when it arrives, and whether its condition held."""
    if isinstance(effect, Put):
        return put(world, state, effect), True
    changed = arrive(state.items[effect.shard], effect)
    if changed is None:
        return state, False
    return state._replace(items=_with(state.items, effect.shard, changed)), True


def put(world: World, state: State, batch: Put) -> State:
    """The stream takes every batch; the consumer takes what is new to it."""
    if world.variant is Variant.NO_WATERMARK:
        known, marks = 0, streams.NOTHING
    else:
        raw = batch.rows[0].row.raw
        origin = "any" if world.variant is Variant.ONE_WATERMARK else raw
        before = state.marks[batch.slot]
        if world.variant is Variant.FORGETFUL and streams.knows_others(before, origin):
            before = streams.NOTHING
        numbers = tuple(each.row.number for each in batch.rows)
        marks, known = streams.take(before, origin, batch.slot, numbers)
    taken = state.taken[batch.slot] + batch.rows[known:]
    return state._replace(
        taken=_with(state.taken, batch.slot, taken), marks=_with(state.marks, batch.slot, marks)
    )


def _with(values: tuple[T, ...], index: int, value: T) -> tuple[T, ...]:
    return (*values[:index], value, *values[index + 1 :])


# --- a worker --------------------------------------------------------------------------------


def moves(world: World, state: State, worker: Worker) -> Iterator[Move]:
    """All that one worker may do in a state."""
    if worker.refused:
        yield "reads back", state, settle(world, state, worker)
    elif worker.pending is not None:
        yield from write(world, state, worker, worker.pending)
    elif worker.held is None and state.takes:
        yield from begin(world, state, worker)
    if worker.held is not None:
        yield from work(world, state, worker, worker.held)
    yield from send(world, state, worker)
    if state.crashes and worker != Worker(worker.name, worker.life, worker.writes):
        dead = Worker(worker.name, worker.life + 1)
        yield "crashes", state._replace(crashes=state.crashes - 1), dead


def begin(world: World, state: State, worker: Worker) -> Iterator[Move]:
    """Set out to claim a shard."""
    eager = world.variant is Variant.EAGER_CHILD
    for shard in streams.openable(state.items, world.shards, eager=eager):
        item = state.items[shard]
        taken = rules.take(item, "stage", str(shard), worker.name, streams.write_id(worker))
        fewer = state._replace(takes=state.takes - 1)
        yield f"looks at shard {shard}", fewer, writes(worker, Claim(shard, item, taken))


def write(world: World, state: State, worker: Worker, effect: Claim | Save) -> Iterator[Move]:
    """The pending write is answered, or it is not and takes place late."""
    after, held = apply(world, state, effect)
    if held:
        yield f"{effect}: done", after, proceed(world, after, worker)
    else:
        yield f"{effect}: refused", state, worker._replace(refused=True)
    if state.unanswered:
        yield f"{effect}: unanswered", in_doubt(state, effect), worker


def send(world: World, state: State, worker: Worker) -> Iterator[Move]:
    """The writer puts the first batch of a slot, or (rejected) any."""
    overtaking = world.variant is Variant.TWO_IN_FLIGHT
    for index, batch in enumerate(worker.queue):
        if not overtaking and any(batch.slot == before.slot for before in worker.queue[:index]):
            continue
        after, _ = apply(world, state, batch)
        rest = worker.queue[:index] + worker.queue[index + 1 :]
        yield f"{batch}: done", after, worker._replace(queue=rest)
        if state.unanswered:
            yield f"{batch}: unanswered", in_doubt(state, batch), worker


def in_doubt(state: State, effect: Effect) -> State:
    """One more effect on its way."""
    return state._replace(unanswered=state.unanswered - 1, late=state.late | {effect})


def settle(world: World, state: State, worker: Worker) -> Worker:
    """Read back after a refused write."""
    assert worker.pending is not None  # noqa: S101
    if took_effect(state.items[worker.pending.shard], worker.pending):
        return proceed(world, state, worker)
    return idle(worker)


def idle(worker: Worker) -> Worker:
    """Without a claim; what the writer holds is still put."""
    return Worker(worker.name, worker.life, worker.writes, queue=worker.queue)


def proceed(world: World, state: State, worker: Worker) -> Worker:
    """The pending write took place: what the worker goes on with."""
    done = worker._replace(pending=None, refused=False)
    if isinstance(worker.pending, Save):
        held = worker.pending.wanted
        apart = world.variant is Variant.STATE_APART
        return idle(done) if held.ended and not apart else done._replace(held=held)
    assert worker.pending is not None  # noqa: S101
    return opened(world, state, done, worker.pending.shard)


def opened(world: World, state: State, worker: Worker, index: int) -> Worker:
    """As `telemill.progress.claims.Claims.open`: own state, else the parents'."""
    item, shard = state.items[index], world.shards[index]
    assert item is not None  # noqa: S101
    if item.ended:
        return idle(worker)
    kept = {Variant.ORPHAN: 0, Variant.ONE_PARENT: 1}.get(world.variant, len(shard.parents))
    parents = [state.items[each] for each in shard.parents[:kept]]
    found = parents if item.position is None else [item]
    states = tuple(each.state for each in found if each is not None and each.state is not None)
    slots = frozenset({0, 1}) if world.variant is Variant.UNFILTERED else shard.slots
    read = _read_up_to(world, index, item.position)
    start = world.step.restore(states, slots)
    return worker._replace(shard=index, held=item, read=read, state=start)


def work(world: World, state: State, worker: Worker, held: rules.Progress) -> Iterator[Move]:
    """Step through a chunk, capture a moment, or save the captured one when it is due."""
    left = len(world.shards[worker.shard].records) - worker.read
    for count in sorted({1, left}) if left else ():
        yield f"steps {count}", state, step(world, worker, count)
    if worker.pending is not None:
        return
    if worker.moment is None:
        if worker.read != _read_up_to(world, worker.shard, held.position):
            yield "captures", state, worker._replace(moment=(worker.read, worker.state))
        elif world.variant is Variant.STATE_APART and held.state != worker.state:
            wanted = replace(held, state=worker.state, write_id=streams.write_id(worker))
            save = Save(worker.shard, wanted, held.write_id)
            yield "adds the state", state, writes(worker, save)
        return
    read, captured = worker.moment
    mine = (batch for batch in worker.queue if batch.shard == worker.shard)
    if any(batch.up_to < read for batch in mine) and world.variant is not Variant.POSITION_FIRST:
        return
    saved = held.state if world.variant is Variant.STATE_APART else captured
    position = _position(world, worker.shard, read)
    wanted = rules.advance(held, position, write_id=streams.write_id(worker), state=saved)
    save = Save(worker.shard, wanted, held.write_id)
    yield "saves", state, writes(worker._replace(moment=None), save)


def step(world: World, worker: Worker, count: int) -> Worker:
    """The pure step of some records: one batch for each slot and raw shard of what comes out."""
    state, made = worker.state, []
    records = world.shards[worker.shard].records
    for place in range(worker.read, worker.read + count):
        state, out = world.step.step(state, *records[place])
        if out is not None:
            made.append((place, out))
    made.sort(key=lambda each: each[1].row.slot)
    batches = tuple(
        Put(worker.shard, rows[-1][0], tuple(out for _, out in rows))
        for rows in (list(group) for _, group in groupby(made, _origin))
    )
    read = worker.read + count
    return worker._replace(read=read, state=state, queue=worker.queue + batches)


def _origin(made: tuple[int, Out]) -> tuple[int, str]:
    return made[1].row.slot, made[1].row.raw


def _position(world: World, shard: int, read: int) -> str:
    """After so many records: the number of the last, as all are counted, or the shard's end."""
    if read == len(world.shards[shard].records):
        return rules.SHARD_END
    return str(read + sum(len(each.records) for each in world.shards[:shard]))


def _read_up_to(world: World, shard: int, position: str | None) -> int:
    if position is None:
        return 0
    if position == rules.SHARD_END:
        return len(world.shards[shard].records)
    return int(position) - sum(len(each.records) for each in world.shards[:shard])


def writes(worker: Worker, effect: Claim | Save) -> Worker:
    """Set out to write; the name is used up."""
    return worker._replace(pending=effect, writes=worker.writes + 1)


# --- the exploration -------------------------------------------------------------------------


def run(world: World) -> Exploration[State]:
    """Explore a world."""

    def steps(state: State) -> Iterator[tuple[str, State]]:
        # Whoever is first is called "a".
        movable = 1 if state.takes == world.takes else len(state.workers)
        return interleave(state, movable, partial(moves, world), partial(apply, world))

    none = (None,) * len(world.shards)
    workers = (Worker("a"), Worker("b"))
    start = State(none, workers, world.takes, world.crashes, world.unanswered)
    return explore(start, steps, _judge(world))


def expected(world: World) -> list[dict[int, Out]]:
    """Of each shard, by the place of its record, what is put out when nothing goes wrong."""
    finals: list[bytes] = []
    rows: list[dict[int, Out]] = []
    for shard in world.shards:
        state = world.step.restore(tuple(finals[each] for each in shard.parents), shard.slots)
        made: dict[int, Out] = {}
        for place, record in enumerate(shard.records):
            state, out = world.step.step(state, *record)
            if out is not None:
                made[place] = out
        finals.append(state)
        rows.append(made)
    return rows


def _judge(world: World) -> Callable[[State], str | None]:
    """What is wrong in a state: along every path of shards, slot by slot."""
    rows = expected(world)
    paths = [
        (slot, [out for shard in path for out in rows[shard].values() if out.row.slot == slot])
        for path in streams.paths(world.shards)
        for slot in (0, 1)
    ]
    every = {out for made in rows for out in made.values()}

    def broken(state: State) -> str | None:
        for slot, wanted in paths:
            # A row that should not be is a fault on every path.
            taken = [out for out in state.taken[slot] if out in wanted or out not in every]
            if taken != wanted[: len(taken)]:
                return f"taken {streams.shown(taken)} of {streams.shown(wanted)}"
        return _lost(world, state, rows)

    return broken


def _lost(world: World, state: State, rows: list[dict[int, Out]]) -> str | None:
    taken = {out for slot in state.taken for out in slot}
    for index, (item, made) in enumerate(zip(state.items, rows, strict=True)):
        read = _read_up_to(world, index, item.position if item else None)
        lost = [out for place, out in made.items() if place < read and out not in taken]
        if lost:
            return f"lost {streams.shown(lost)}"
    return None
