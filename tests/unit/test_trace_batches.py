"""Records of several traces: a record belongs to one at the most, and no reading changes."""

import itertools

import pytest

from ingest import core
from telemill.codec import compression, trace, wire
from telemill.stages.step import StepResult
from transform import testing
from transform.core import TransformStep

PLANT = testing.plant()


def context(number: int) -> bytes:
    """One of several traces."""
    return trace.context(number << 64 | 1, number)


def records(marks: list[int], device: int = 7) -> list[bytes]:
    """A raw record of one reading for each mark; 0 is nobody's trace."""
    made = []
    for index, mark in enumerate(marks):
        time = f"2025-07-07T08:21:{index:02}Z"
        data = compression.zstd_compress(testing.ndjson([testing.reading(device, time=time)]))
        made.append(trace.on_raw(data, context(mark)) if mark else data)
    return made


def run(*data: bytes) -> StepResult:
    """One chunk through an empty history."""
    step = TransformStep(PLANT)
    return step.step(testing.chunk(*data), step.restore([], testing.SHARD))


@pytest.mark.parametrize("marks", [*itertools.product([0, 1, 2], repeat=4)])
def test_a_batch_is_of_one_trace_at_the_most(marks: tuple[int, ...]) -> None:
    """Every traced row is in a batch of its own trace; the rows are those without tracing."""
    result = run(*records([*marks]))
    assert testing.rows([result], PLANT) == testing.rows([run(*records([0] * 4))], PLANT)
    row_traces = []
    for output in result.outputs:
        header, batch = wire.decode(output.data, lambda _: PLANT.stream_schema)
        row_traces += [header.trace] * batch.num_rows
    for mark, found in zip(marks, row_traces, strict=True):
        assert not mark or found == context(mark)
    changes = [mark for mark, _ in itertools.groupby(mark for mark in marks if mark)]
    assert len(result.outputs) == max(1, len(changes))


def test_slots_are_cut_apart_from_one_another() -> None:
    """A trace in one slot cuts no batch of another."""
    data = [*records([1, 2], device=7), *records([0, 0], device=8)]
    found = [(output.rows, trace.of_record(output.data)) for output in run(*data).outputs]
    assert sorted(found) == [(1, context(1)), (1, context(2)), (2, b"")]


def test_untraced_records_give_the_bytes_they_always_gave() -> None:
    """A record that is refused, traced or not, leaves the others' batches as they are."""
    plain = records([0, 0])
    alone = [output.data for output in run(*plain).outputs]
    beside = run(*plain, trace.on_raw(compression.zstd_compress(b"nothing"), context(1)))
    assert [output.data for output in beside.outputs] == alone


def test_ingest_closes_a_record_where_another_trace_begins() -> None:
    """Items of two sampled pushes are never in one raw record; untraced ones join either."""
    packer = core.Packer("ndjson")
    for item, mark in ((b"1", 0), (b"2", 1), (b"3", 0), (b"4", 2), (b"5", 2)):
        packer.add(core.Group(3, ["7"], [item]), context(mark) if mark else b"")
    found = [(batch.items, batch.trace) for batch in packer.take()]
    assert found == [([b"1", b"2", b"3"], context(1)), ([b"4", b"5"], context(2))]
