"""Both stages over stores in memory: workers die of one record until it is put aside."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from prometheus_client import CollectorRegistry

from sink import core, parquet, testing
from telemill import contract, errors
from telemill.health import Health
from telemill.kinesis.records import Chunk, Record, Shard
from telemill.metrics import Metrics
from telemill.progress import rules
from telemill.progress.claims import Claims
from telemill.stages.guard import Guard, Watchdog
from telemill.stages.step import Output, Rejected, StepResult
from telemill.stages.stream import StreamStage
from telemill.testing import batches
from telemill.testing.progress import MemoryProgressStore, MemorySnapshotStore

SHARD = Shard("in", 1, "s0")
OTHER = Shard("in", 1, "s1")
RECORDS = 300
POISON = 211
MOST_RESTARTS = 5


class Death(Exception):  # noqa: N818
    """The process ends here."""


class Sum:
    """Puts out each record's running sum; dies of a record that is poison.

    Attributes:
        sizes: How many records each step had.
    """

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error or Death()
        self.sizes: list[int] = []

    def restore(self, states: Sequence[bytes], shard: Shard) -> list[int]:
        return [sum(int(state) for state in states)]

    def snapshot(self, state: list[int]) -> bytes:
        return str(state[0]).encode()

    def step(self, chunk: Chunk, state: list[int]) -> StepResult:
        self.sizes.append(len(chunk.records))
        if any(record.data == b"poison" for record in chunk.records):
            raise self.error
        result = StepResult()
        for record in chunk.records:
            state[0] += int(record.data)
            result.outputs.append(Output(0, b"%d" % state[0], "p", 1))
        return result


class Stream:
    """The output stream: what was put, with who put it; acknowledges at once."""

    def __init__(self) -> None:
        self.put_data: list[bytes] = []

    async def put(self, slot: int, data: bytes, partition_key: str) -> "asyncio.Future[str]":
        self.put_data.append(data)
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        future.set_result("1")
        return future


class Aside:
    """A quarantine."""

    def __init__(self) -> None:
        self.rejected: list[Rejected] = []

    async def write(self, shard: Shard, result: StepResult) -> None:
        self.rejected += result.rejected

    async def flush(self, shard: Shard) -> None:
        """All of it is durable."""


class World:
    """What outlives a process."""

    def __init__(self) -> None:
        self.store = MemoryProgressStore()
        self.aside = Aside()
        self.health = Health()
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry)
        self.ready_while_stepping: list[bool] = []

    def stage(self, step: Sum, stream: Stream) -> StreamStage[list[int]]:
        """A process starts."""
        return StreamStage(
            step,
            claims=Claims(self.store, MemorySnapshotStore(), "app", "w"),
            writer=stream,
            outlets=[self.aside],
            metrics=self.metrics,
            health=self.health,
            commit_interval_seconds=0.0,
        )

    @property
    def item(self) -> rules.Progress:
        return self.store.table.items["app", rules.shard_key(SHARD)]


def records(poison: int | None = POISON) -> list[Record]:
    """From 1 on, one of them poison."""
    return [
        Record(str(n), n, b"poison" if n == poison else b"%d" % n, "p")
        for n in range(1, RECORDS + 1)
    ]


async def live(world: World, step: Sum, sizes: Sequence[int] = (150, 100)) -> Stream:
    """A process from its start to its end, or its death."""
    stream = Stream()
    stage = world.stage(step, stream)
    start = await stage.open(SHARD)
    rest = [each for each in records() if int(each.sequence_number) > int(start.after or 0)]
    for size in (*sizes, RECORDS):
        part, rest = rest[:size], rest[size:]
        if part:
            await stage.process(Chunk(SHARD, part))
    await stage.close(SHARD, release=True)
    return stream


async def lives(world: World, run: Callable[[], object]) -> int:
    """Restart whatever ended; how often that was needed."""
    for restarts in range(MOST_RESTARTS + 1):
        try:
            await run()  # type: ignore[misc]
        except Death:
            continue
        return restarts
    pytest.fail("the shard stands still")


async def test_a_stream_stage_passes_poison_after_five_restarts() -> None:
    """One record is put aside whole; what comes out is what its absence gives."""
    world = World()
    streams: list[Stream] = []

    async def once() -> None:
        streams.append(await live(world, Sum()))

    assert await lives(world, once) == MOST_RESTARTS
    sums, total = [], 0
    for record in records():
        if record.data != b"poison":
            total += int(record.data)
            sums.append(b"%d" % total)
    assert streams[-1].put_data == sums
    (row,) = world.aside.rejected
    assert (row.reason, row.data, row.sequence_number) == ("poison", b"poison", str(POISON))
    assert (world.item.position, world.item.poison) == (str(RECORDS), ())
    assert world.registry.get_sample_value("telemill_poison_records_total") == 1
    assert world.health.is_ready


async def test_a_shard_without_crashes_writes_no_note() -> None:
    """Care costs nothing until a worker died."""
    world = World()
    step = Sum()
    stage = world.stage(step, Stream())
    await stage.open(SHARD)
    await stage.process(Chunk(SHARD, records(poison=None)))
    assert step.sizes == [RECORDS]
    assert "put_progress" not in world.store.table.faults.calls


async def test_no_output_of_a_trial_is_put_before_the_note_moves_on() -> None:
    """Of a record that is named, no owner that was careful put anything out."""
    world = World()
    for _ in range(4):
        with pytest.raises(Death):
            await live(world, Sum())
    stream, step = Stream(), Sum()
    stage = world.stage(step, stream)
    await stage.open(SHARD)
    await stage.process(Chunk(SHARD, records()[:150]))
    before = len(stream.put_data)
    with pytest.raises(Death):
        await stage.process(Chunk(SHARD, records()[150:]))
    assert world.item.suspects is not None
    assert (world.item.suspects.trying, world.item.suspects.tries) == (str(POISON), 2)
    assert len(stream.put_data) < POISON
    assert len(stream.put_data) >= before


async def test_an_update_in_the_wrong_order_is_no_crash() -> None:
    """Sound records that wait for a newer version are never put aside, however often it ends."""
    world = World()
    for _ in range(2 * MOST_RESTARTS):
        with pytest.raises(errors.ConfigurationError):
            await live(world, Sum(errors.ConfigurationError("contract: version 2")))
    assert (world.item.crashes, world.item.poison) == (0, ())


async def test_kills_at_random_only_make_slow() -> None:
    """Three deaths without a culprit: every record is put out, none aside, care ends by itself."""
    world = World()
    for _ in range(3):
        stage = world.stage(Sum(), Stream())
        await stage.open(SHARD)
        await stage.process(Chunk(SHARD, records(poison=None)[:200]))
    step, stream = Sum(), Stream()
    stage = world.stage(step, stream)
    await stage.open(SHARD)
    await stage.process(Chunk(SHARD, records(poison=None)))
    await stage.close(SHARD, release=True)
    assert len(stream.put_data) == RECORDS
    assert step.sizes == [128, *[1] * 72, 100]
    assert world.health.is_ready
    assert (world.aside.rejected, world.item.crashes, world.item.suspects) == ([], 0, None)


async def test_nothing_else_goes_on_while_one_record_is_tried() -> None:
    """A crash in a trial is that record's: other steps wait, and a trial waits for them."""
    guard, order = Guard(), list[str]()
    gate = asyncio.Event()

    async def other() -> None:
        async with guard.together("encoding"):
            order.append("other begins")
            await gate.wait()
            order.append("other ends")

    async def trial() -> None:
        async with guard.alone():
            order.append("trial begins")
            await asyncio.sleep(0)
            order.append("trial ends")

    first = asyncio.create_task(other())
    await asyncio.sleep(0)
    second = asyncio.create_task(trial())
    await asyncio.sleep(0)
    third = asyncio.create_task(other())
    gate.set()
    await asyncio.gather(first, second, third)
    assert order == [
        *("other begins", "other ends"),
        *("trial begins", "trial ends"),
        *("other begins", "other ends"),
    ]


def test_a_step_that_hangs_is_told_and_one_that_ended_is_not() -> None:
    """Only a step that takes longer than its limit ends the process, and the log says which."""
    import threading  # noqa: PLC0415

    expired, said = threading.Event(), list[tuple[str, float]]()

    def expire(what: str, seconds: float) -> None:
        said.append((what, seconds))
        expired.set()

    watchdog = Watchdog(0.2, expire=expire)
    with watchdog.limit("a quick one"):
        pass
    with watchdog.limit("one that hangs"):
        assert expired.wait(30.0)
    assert said == [("one that hangs", 0.2)]


@pytest.fixture(scope="module")
def form() -> core.Form:
    """The readings table of the default contract."""
    return core.form_of(contract.load("contracts/fms.yaml"), "readings")


@pytest.mark.parametrize("place", ["take", "encode"])
@pytest.mark.parametrize("cut_after", [frozenset[int](), frozenset({0, 1})], ids=["one", "cuts"])
async def test_a_sink_passes_poison_after_five_restarts(
    form: core.Form, place: str, cut_after: frozenset[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether its rows break when taken or when encoded, every other row is stored once."""
    poisoned = batches.sequence_number(POISON)
    take, encode = core.take, parquet.encode

    def dying_take(record: Record, *rest: object) -> core.Taken:
        if place == "take" and record.sequence_number == poisoned:
            raise Death
        return take(record, *rest)  # type: ignore[arg-type]

    def dying_encode(table: object) -> object:
        numbers = table.column("sequence_number").to_pylist()  # type: ignore[attr-defined]
        if place == "encode" and poisoned in numbers:
            raise Death
        return encode(table)

    monkeypatch.setattr(core, "take", dying_take)
    monkeypatch.setattr(parquet, "encode", dying_encode)
    world = testing.World(form)
    shard = batches.SHARD
    stream = [testing.record_of(form, n, [(n, 0)]) for n in range(1, RECORDS + 1)]

    async def once() -> None:
        assert await testing.run_once(world, shard, stream, (150, 100), cut_after=cut_after)

    assert await lives(World(), once) == MOST_RESTARTS
    expected = testing.stored_rows(*((n, 0) for n in range(1, RECORDS + 1) if n != POISON))
    assert Counter(world.rows()) == Counter(expected)
    (row,) = world.outlet.durable
    assert (row.reason, row.sequence_number) == ("poison", poisoned)
    assert row.data == stream[POISON - 1].data
    assert world.item(shard).poison == ()
