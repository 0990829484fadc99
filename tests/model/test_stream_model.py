"""Every interleaving of two workers of a stream stage, a progress table, a stream and a consumer.

As in the sink's model, a replaced owner may wake up at any later moment, workers crash between any
two effects, and unanswered writes take effect late or never. The stage drops readings it has seen
(its state), puts batches on the stream with one per slot in flight, and saves position and state
captured at one moment once all output up to it is acknowledged. The consumer is
`telemill.stages.watermarks`; what is saved is decided by `telemill.progress.rules`.
"""

import enum
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from typing import NamedTuple

import pyarrow as pa
import pytest

from telemill.codec.wire import Header
from telemill.progress import rules
from telemill.stages.watermarks import Watermarks
from telemill.testing.explore import Exploration, explore
from telemill.testing.model import Claim, Save, arrive, interleave, took_effect


class Variant(enum.Enum):
    """The protocol, and rejected ones."""

    SOUND = "as documented"
    STATE_APART = "the state is written after the position, in a write of its own"
    TWO_IN_FLIGHT = "batches of one slot overtake each other"
    POSITION_FIRST = "the position does not wait for acknowledgements"
    NO_WATERMARK = "the consumer takes what comes"


class World(NamedTuple):
    """What never changes in one exploration.

    Attributes:
        records: Key and slot of the one reading in each raw record. A key that occurs again is a
            duplicate, to be dropped.
        takes: How often the shard is claimed in all.
        crashes: How many workers die.
        unanswered: How many writes get no answer.
        variant: The protocol.
    """

    records: tuple[tuple[str, int], ...]
    takes: int
    crashes: int
    unanswered: int
    variant: Variant = Variant.SOUND


class Put(NamedTuple):
    """A batch of one slot on its way to the stream."""

    slot: int
    rows: tuple[int, ...]

    def __str__(self) -> str:
        return f"put {self.rows}"


Effect = Claim | Save | Put
Keys = tuple[str, ...]


class Worker(NamedTuple):
    """One process.

    Attributes:
        name: Its worker id.
        life: How often it died. With the number of its writes it names the next.
        writes: That number.
        held: Its item; None while it has no claim.
        pending: The write to the table under way.
        refused: The condition of that did not hold: it reads back.
        read: How many records it has stepped through.
        keys: The state after them.
        moment: What it means to save, captured at one moment.
        queue: Batches handed to the writer, unacknowledged. They outlive a lost claim.
    """

    name: str
    life: int = 0
    writes: int = 0
    held: rules.Progress | None = None
    pending: Claim | Save | None = None
    refused: bool = False
    read: int = 0
    keys: Keys = ()
    moment: tuple[int, Keys] | None = None
    queue: tuple[Put, ...] = ()


class State(NamedTuple):
    """Everything that may differ. Of the stream, what its consumer has made of it by slot."""

    item: rules.Progress | None
    workers: tuple[Worker, ...]
    takes: int
    crashes: int
    unanswered: int
    taken: tuple[tuple[int, ...], ...] = ((), ())
    late: frozenset[Effect] = frozenset()


Move = tuple[str, State, Worker]
"""What a worker may do next: what it is called, the world after it, the worker after it."""


# --- table, stream, consumer -----------------------------------------------------------------


def apply(world: World, state: State, effect: Effect) -> tuple[State, bool]:
    """What an effect does when it arrives, and whether its condition held."""
    if isinstance(effect, Put):
        return put(world, state, effect), True
    changed = arrive(state.item, effect)
    return (state if changed is None else state._replace(item=changed)), changed is not None


def put(world: World, state: State, batch: Put) -> State:
    """The stream takes every batch; the consumer takes what is new to it."""
    before = state.taken[batch.slot]
    known = None if world.variant is Variant.NO_WATERMARK or not before else before[-1]
    after = before + consume(known, batch)
    return state._replace(
        taken=tuple(after if slot == batch.slot else rows for slot, rows in enumerate(state.taken))
    )


@cache
def consume(known: int | None, batch: Put) -> tuple[int, ...]:
    """The rows that the real watermarks let through after the row `known`."""
    header = Header("readings", "fms", 1, batch.slot, "transform", "readings-raw", 1, "shardId-0")
    watermarks = Watermarks()
    if known is not None:
        watermarks.take(header, record_batch((known,)), 0)
    taken = watermarks.take(header, record_batch(batch.rows), 0)
    return tuple(int(number) for number in taken.column("sequence_number").to_pylist())


def record_batch(rows: tuple[int, ...]) -> pa.RecordBatch:
    """Rows with nothing but their lineage."""
    numbers = pa.array([str(row) for row in rows], pa.string())
    subs = pa.array([0] * len(rows), pa.int64())
    return pa.record_batch({"sequence_number": numbers, "sub_sequence_number": subs})


# --- a worker --------------------------------------------------------------------------------


def moves(world: World, state: State, worker: Worker) -> Iterator[Move]:
    """All that one worker may do in a state."""
    if worker.refused:
        yield "reads back", state, settle(state, worker)
    elif worker.pending is not None:
        yield from write(world, state, worker, worker.pending)
    elif worker.held is None and state.takes and not committed(world, state.item):
        taken = rules.take(state.item, "transform", "0", worker.name, write_id(worker))
        fewer = state._replace(takes=state.takes - 1)
        yield "looks", fewer, writes(worker, Claim(0, state.item, taken))
    if worker.held is not None:
        yield from work(world, state, worker, worker.held)
    yield from send(world, state, worker)
    if state.crashes and worker != Worker(worker.name, worker.life, worker.writes):
        dead = Worker(worker.name, worker.life + 1)
        yield "crashes", state._replace(crashes=state.crashes - 1), dead


def write(world: World, state: State, worker: Worker, effect: Claim | Save) -> Iterator[Move]:
    """The pending write is answered, or it is not and takes place late."""
    after, held = apply(world, state, effect)
    if held:
        yield f"{effect}: done", after, proceed(after, worker)
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


def settle(state: State, worker: Worker) -> Worker:
    """Read back after a refused write."""
    assert worker.pending is not None
    if took_effect(state.item, worker.pending):
        return proceed(state, worker)
    return Worker(worker.name, worker.life, worker.writes, queue=worker.queue)


def proceed(state: State, worker: Worker) -> Worker:
    """The pending write took place: what the worker goes on with."""
    done = worker._replace(pending=None, refused=False)
    if isinstance(worker.pending, Save):
        return done._replace(held=worker.pending.wanted)
    item = state.item
    assert item is not None
    keys = tuple((item.state or b"").decode())
    return done._replace(held=item, read=int(item.position or 0), keys=keys)


def work(world: World, state: State, worker: Worker, held: rules.Progress) -> Iterator[Move]:
    """Step through a chunk, capture a moment, or save the captured one when it is due."""
    left = len(world.records) - worker.read
    for count in sorted({1, left}) if left else ():
        yield f"steps {count}", state, step(world, worker, count)
    if worker.pending is not None:
        return
    if worker.moment is None:
        if str(worker.read) != (held.position or "0"):
            yield "captures", state, worker._replace(moment=(worker.read, worker.keys))
        elif world.variant is Variant.STATE_APART and held.state != encode(worker.keys):
            wanted = replace(held, state=encode(worker.keys), write_id=write_id(worker))
            yield "adds the state", state, writes(worker, Save(0, wanted, held.write_id))
        return
    position, keys = worker.moment
    waiting = any(row <= position for batch in worker.queue for row in batch.rows)
    if waiting and world.variant is not Variant.POSITION_FIRST:
        return
    saved = held.state if world.variant is Variant.STATE_APART else encode(keys)
    wanted = rules.advance(held, str(position), write_id=write_id(worker), state=saved)
    yield "saves", state, writes(worker._replace(moment=None), Save(0, wanted, held.write_id))


def step(world: World, worker: Worker, count: int) -> Worker:
    """The pure step: drop what was seen, one batch per slot of the rest."""
    keys = worker.keys
    rows: tuple[list[int], list[int]] = ([], [])
    for number in range(worker.read, worker.read + count):
        key, slot = world.records[number]
        if key not in keys:
            keys += (key,)
            rows[slot].append(number + 1)
    batches = tuple(Put(slot, tuple(each)) for slot, each in enumerate(rows) if each)
    return worker._replace(read=worker.read + count, keys=keys, queue=worker.queue + batches)


def encode(keys: Keys) -> bytes:
    """The state as it is kept."""
    return "".join(keys).encode()


def write_id(worker: Worker) -> str:
    """The name of the worker's next write."""
    return f"{worker.name}{worker.life}.{worker.writes}"


def writes(worker: Worker, effect: Claim | Save) -> Worker:
    """Set out to write; the name is used up."""
    return worker._replace(pending=effect, writes=worker.writes + 1)


# --- the explorations ------------------------------------------------------------------------


def expected(world: World) -> tuple[tuple[int, ...], ...]:
    """The rows of each slot: the first reading of each key, in order."""
    first = {key: number for number, (key, _) in reversed([*enumerate(world.records, 1)])}
    rows = [(world.records[number - 1][1], number) for number in sorted(first.values())]
    return tuple(tuple(row for slot, row in rows if slot == each) for each in (0, 1))


def committed(world: World, item: rules.Progress | None) -> bool:
    """Whether every record is below the position."""
    return item is not None and item.position == str(len(world.records))


def run(world: World) -> Exploration[State]:
    """Explore a world."""
    rows = expected(world)

    def steps(state: State) -> Iterator[tuple[str, State]]:
        # Whoever is first is called "a".
        movable = 1 if state.takes == world.takes else len(state.workers)
        return interleave(state, movable, partial(moves, world), partial(apply, world))

    def broken(state: State) -> str | None:
        position = int(state.item.position or 0) if state.item else 0
        for wanted, taken in zip(rows, state.taken, strict=True):
            if taken != wanted[: len(taken)]:
                return f"taken {taken} of {wanted}"
            lost = [row for row in wanted[len(taken) :] if row <= position]
            if lost:
                return f"lost {lost}"
        return None

    start = State(None, (Worker("a"), Worker("b")), world.takes, world.crashes, world.unanswered)
    return explore(start, steps, broken)


THREE = (("A", 0), ("A", 0), ("B", 0))
FOUR = (("A", 0), ("B", 1), ("A", 0), ("C", 0))


@pytest.mark.parametrize(
    "world",
    [
        World(FOUR, takes=2, crashes=0, unanswered=0),
        World(THREE, takes=3, crashes=1, unanswered=0),
        World(THREE, takes=2, crashes=0, unanswered=1),
        World(THREE, takes=2, crashes=1, unanswered=1),
    ],
    ids=["zombies", "crashes", "ghosts", "crash-and-ghost"],
)
def test_every_row_is_taken_once_and_in_order_whatever_happens(world: World) -> None:
    """In no reachable state does the consumer have a row twice, out of order, or too late."""
    found = run(world)
    assert found.broken is None, found.path
    assert any(committed(world, state.item) for state in found.ends), "no run came to its end"


@pytest.mark.parametrize(
    ("variant", "world", "fault"),
    [
        (Variant.STATE_APART, World(THREE, 2, 1, 0), "taken (1, 2) of (1, 3)"),
        (Variant.TWO_IN_FLIGHT, World(THREE, 1, 0, 0), "taken (3,) of (1, 3)"),
        (Variant.POSITION_FIRST, World(THREE, 1, 0, 0), "lost [1]"),
        (Variant.NO_WATERMARK, World(THREE, 2, 1, 0), "taken (1, 1) of (1, 3)"),
    ],
    ids=lambda value: value.name if isinstance(value, Variant) else "",
)
def test_a_rejected_protocol_loses_doubles_or_reorders_rows(
    variant: Variant, world: World, fault: str
) -> None:
    """Each shortcut that looks harmless has a run that the consumer can see."""
    found = run(world._replace(variant=variant))
    assert found.broken == fault, found.path
