"""What holds of the transform core for any input."""

import json
from collections import Counter, deque
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from telemill.kinesis.records import Chunk, Record
from telemill.stages.step import StepResult
from transform import decode, testing, times
from transform.core import TransformStep
from transform.dedupe import CONFLICT, DUPLICATE, KEEP, History
from transform.items import Item, Refusal

PLANT = testing.plant()
NAMES = [field.name for field in PLANT.fields]

SECONDS = st.integers(0, 59).map(lambda second: f"2025-07-07T08:21:{second:02}Z")
ODD_TIMES = st.sampled_from(
    ["2025-07-07 08:21:05", "2025-07-07T10:21:05+02:00", "soon", "", "2025-07-07T09:00:00Z", "é"]
)
ODD_VALUES = st.sampled_from(
    [
        None,
        -1,
        0,
        -0.0,
        5.0,
        1e300,
        2**70,
        "85.2",
        "5",
        "true",
        "",
        'a"b',
        "a\\b",
        "é",
        [1],
        {"a": 1},
    ]
)


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """Readings of few devices and times, some with what they should not have."""
    document = testing.reading(draw(st.integers(1, 3)), draw(SECONDS))
    document["heat"] = draw(st.sampled_from([85.5, 85.25, -1, 999]))
    if draw(st.booleans()):
        return document
    for name in draw(st.lists(st.sampled_from(NAMES), max_size=2)):
        document[name] = draw(ODD_VALUES)
    if draw(st.booleans()):
        document["time"] = draw(ODD_TIMES)
    for name in draw(st.lists(st.sampled_from(NAMES), max_size=1)):
        del document[name]
    if draw(st.booleans()):
        document[draw(st.sampled_from(["extra", "heat2"]))] = draw(ODD_VALUES)
    return document


@st.composite
def lines(draw: st.DrawFn) -> bytes:
    """A line of NDJSON, now and then a damaged one."""
    text = json.dumps(draw(documents()), ensure_ascii=draw(st.booleans())).encode()
    damage = draw(st.integers(0, 12))
    if damage == 0:
        return text[: len(text) // 2]
    if damage == 1:
        return text + text
    if damage == 2:
        return text[:-1] + b', "heat": 1}'
    if damage == 3:
        return text.replace(b", ", b" ,\t")
    if damage == 4:
        return draw(st.binary(max_size=8))
    return text


BODIES = st.one_of(
    st.lists(lines(), min_size=1, max_size=6).map(b"\n".join),
    st.lists(documents(), max_size=4).map(lambda made: json.dumps(made).encode()),
    documents().map(lambda made: json.dumps(made, indent=1).encode()),
    st.binary(max_size=40),
)


class SlowDecoder(decode.Decoder):
    """Reads every item by the slow path."""

    def _lines(self, body: bytes) -> None:
        return None

    def _elements(self, body: bytes) -> None:
        return None

    def _read_strictly(self, lines: list[bytes]) -> list[Any]:
        found: list[Item | Refusal] = [self._reader.read(line) for line in lines]
        return found


def records(bodies: list[bytes]) -> list[Record]:
    """A record of each body, arriving one after the other."""
    return [
        testing.record(index, body, testing.NOW_US + index * 1_000_000)
        for index, body in enumerate(bodies)
    ]


def run(step: TransformStep, made: list[Record]) -> StepResult:
    """One chunk through an empty history."""
    return step.step(Chunk(testing.SHARD, made), step.restore([], testing.SHARD))


@given(st.lists(BODIES, max_size=5))
@settings(max_examples=200, deadline=None)
def test_fast_path_gives_what_the_slow_path_gives(bodies: list[bytes]) -> None:
    """However a document is read, bytes put out, refusals and counts are the same."""
    slow = TransformStep(PLANT)
    slow._decoder = SlowDecoder(PLANT)
    fast_result, slow_result = (
        run(TransformStep(PLANT), records(bodies)),
        run(slow, records(bodies)),
    )
    assert fast_result.outputs == slow_result.outputs
    assert [each._replace(error="") for each in fast_result.rejected] == [
        each._replace(error="") for each in slow_result.rejected
    ]
    assert fast_result.counts == slow_result.counts


@given(st.lists(BODIES, max_size=5))
@settings(max_examples=100, deadline=None)
def test_nothing_is_lost(bodies: list[bytes]) -> None:
    """Every item is put out once, refused once with its lineage, or counted as a duplicate."""
    result = run(TransformStep(PLANT), records(bodies))
    rows = testing.rows([result], PLANT)
    assert (
        len(rows) + len(result.rejected) + result.counts["duplicate",]
        == result.counts["readings_in",]
    )
    lineage = [(row["sequence_number"], row["sub_sequence_number"]) for row in rows]
    lineage += [(each.sequence_number, each.sub_sequence_number) for each in result.rejected]
    assert len(set(lineage)) == len(lineage)
    assert len(bodies) <= result.counts["readings_in",]


@given(st.lists(BODIES, min_size=1, max_size=6), st.data())
@settings(max_examples=80, deadline=None)
def test_cuts_and_restarts_change_no_row(bodies: list[bytes], data: st.DataObject) -> None:
    """Rows, refusals and counts do not depend on where chunks are cut or a worker restarts."""
    step = TransformStep(PLANT)
    whole = run(step, records(bodies))
    state = step.restore([], testing.SHARD)
    results = []
    rest = records(bodies)
    while rest:
        count = data.draw(st.integers(1, len(rest)))
        results.append(step.step(Chunk(testing.SHARD, rest[:count]), state))
        rest = rest[count:]
        if data.draw(st.booleans()):
            state = step.restore([step.snapshot(state)], testing.SHARD)
    assert testing.rows(results, PLANT) == testing.rows([whole], PLANT)
    assert [each for result in results for each in result.rejected] == whole.rejected
    assert sum((result.counts for result in results), Counter()) == whole.counts


@given(st.lists(BODIES, max_size=4))
@settings(max_examples=30, deadline=None)
def test_same_input_same_bytes(bodies: list[bytes]) -> None:
    """Two workers put out byte-identical records and save byte-identical states."""
    workers = [TransformStep(PLANT), TransformStep(PLANT)]
    states = [worker.restore([], testing.SHARD) for worker in workers]
    chunk = Chunk(testing.SHARD, records(bodies))
    one, two = (worker.step(chunk, state) for worker, state in zip(workers, states, strict=True))
    assert one == two
    assert workers[0].snapshot(states[0]) == workers[1].snapshot(states[1])


class Model:
    """Duplicates by the letter: the last event times of each device, in order of acceptance."""

    def __init__(self, window: int) -> None:
        self.known: dict[int, deque[tuple[int, int]]] = {}
        self.window = window

    def take(self, device: int, time: int, value: int) -> int:
        known = self.known.setdefault(device, deque(maxlen=self.window))
        for each, other in known:
            if each == time:
                return DUPLICATE if other == value else CONFLICT
        known.append((time, value))
        return KEEP


ROWS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12), st.integers(0, 1)), max_size=40)


@given(st.lists(ROWS, max_size=5), st.integers(1, 6))
@settings(max_examples=200, deadline=None)
def test_history_agrees_with_its_model(batches: list[Any], window: int) -> None:
    """The vectorised history decides as a queue per device does."""
    model, history = Model(window), History(window, 100)
    for rows in batches:
        expected = [model.take(*row) for row in rows]
        columns = np.array(rows, np.int64).reshape(-1, 3)
        devices = np.array(
            [history.rows_of([str(device)])[0] for device in columns[:, 0]], np.int64
        )
        verdicts = history.screen(devices, columns[:, 1], columns[:, 2].astype(np.uint64))
        assert verdicts.outcome.tolist() == expected


DIGITS = st.text("0123456789", min_size=1, max_size=4)
SHAPES = st.sampled_from(
    [
        "2025-07-07T08:21:29Z",
        "2025-07-07 08:21:29",
        "2025-07-07T08:21:29.123Z",
        "2025-07-07T08:21:29.123456+02:00",
        "2025-07-07T08:21:29-0530",
    ]
)


@st.composite
def shaped_times(draw: st.DrawFn) -> list[str]:
    """Texts of one shape with some characters changed, mostly to other digits."""
    shape = draw(SHAPES)
    found = []
    for _ in range(draw(st.integers(1, 6))):
        characters = list(shape)
        for place in draw(st.lists(st.integers(0, len(shape) - 1), max_size=3)):
            characters[place] = draw(st.sampled_from("0123456789 0123456789-:Z"))
        found.append("".join(characters))
    return found


@given(shaped_times())
@settings(max_examples=300, deadline=None)
def test_times_are_read_alike_together_and_alone(texts: list[str]) -> None:
    """The vectorised cast gives what reading each text gives."""
    assert times.parse(pa.array(texts)).tolist() == [times.parse_one(text) for text in texts]


@given(st.lists(st.text(max_size=24) | SECONDS | ODD_TIMES, max_size=6))
@settings(max_examples=60, deadline=None)
def test_any_text_is_a_time_or_not(texts: list[str]) -> None:
    """No text breaks the parser, and none changes how another is read."""
    found = times.parse(pa.array(texts, pa.string())).tolist()
    assert found == [times.parse_one(text) for text in texts]
