"""The sink's pure parts: what is taken from a record, partitions, Parquet bytes, the open cut."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sink import core, lane, parquet
from telemill import contract, errors
from telemill.codec import wire
from telemill.kinesis.records import SHARD_END, Record
from telemill.progress import rules
from telemill.stages.watermarks import Watermarks
from telemill.testing import batches
from telemill.testing.batches import SHARD

HOUR_US = 3_600_000_000
NOON = 1_751_889_600_000_000
"""2025-07-07T12:00:00Z."""


@pytest.fixture(scope="module")
def fms() -> contract.Contract:
    """The default contract."""
    return contract.load("contracts/fms.yaml")


@pytest.fixture
def form(fms: contract.Contract) -> core.Form:
    """The readings table."""
    return core.form_of(fms, "readings")


def _record(
    form: core.Form, index: int, lineage: list[tuple[int, int]], event_us: Any = None, **header: Any
) -> Record:
    times = event_us or [NOON + each for each in range(len(lineage))]
    rows = batches.batch(form.stream_schema, lineage, times)
    data = wire.encode(batches.header(form.contract, form.table, **header), rows)
    return batches.record(index, data, arrival_us=NOON + index)


def _lineage(batch: pa.RecordBatch) -> list[tuple[str, int]]:
    numbers = batch.column("sequence_number").to_pylist()
    return list(zip(numbers, batch.column("sub_sequence_number").to_pylist(), strict=True))


def _table(form: core.Form, *taken: core.Taken) -> pa.Table:
    rows = lane.Rows(form.table_schema)
    for each in taken:
        rows.add(each)
    return rows.table()


def test_takes_every_row_of_a_new_source(form: core.Form) -> None:
    """Rows never seen before are all taken, in order."""
    record = _record(form, 1, [(1, 0), (1, 1), (2, 0)])
    taken = core.take(record, form, Watermarks())
    assert (taken.batch.num_rows, taken.replayed) == (3, 0)
    assert (taken.oldest_event_us, taken.newest_event_us) == (NOON, NOON + 2)


def test_leaves_out_what_was_taken_before(form: core.Form) -> None:
    """Of a batch that overlaps one taken before, only the rows above it are taken."""
    marks = Watermarks()
    core.take(_record(form, 1, [(1, 0), (1, 1)]), form, marks)
    taken = core.take(_record(form, 2, [(1, 1), (1, 2), (3, 0)]), form, marks)
    number = batches.sequence_number
    assert _lineage(taken.batch) == [(number(1), 2), (number(3), 0)]
    assert taken.replayed == 1
    assert core.take(_record(form, 3, [(1, 0), (3, 0)]), form, marks).batch.num_rows == 0


def test_sources_do_not_hide_each_other(form: core.Form) -> None:
    """Another producer, raw stream life, raw shard or slot has watermarks of its own."""
    marks = Watermarks()
    core.take(_record(form, 1, [(9, 0)]), form, marks)
    for change in (
        {"producer": "other"},
        {"raw_incarnation": 5},
        {"raw_shard_id": "shardId-000000000008"},
        {"slot": 1},
    ):
        assert core.take(_record(form, 2, [(1, 0)], **change), form, marks).batch.num_rows == 1


def test_a_row_gets_its_raw_shard(form: core.Form) -> None:
    """The table's rows say which raw shard they came from, whatever batches they came in."""
    marks = Watermarks()
    one = core.take(_record(form, 1, [(1, 0), (1, 1)], raw_shard_id="a"), form, marks)
    two = core.take(_record(form, 2, [(1, 0)], raw_shard_id="b"), form, marks)
    table = _table(form, one, two)
    assert table.schema.equals(form.table_schema, check_metadata=True)
    assert table.column("shard_id").to_pylist() == ["a", "a", "b"]


@pytest.mark.parametrize("change", [{"contract": "other"}, {"version": 99}, {"kind": "scores"}])
def test_stops_at_a_batch_of_something_else(form: core.Form, change: dict[str, Any]) -> None:
    """A sound batch of another contract, version or table ends the process; it is not put aside."""
    header = batches.header(form.contract, **change)
    rows = batches.batch(form.stream_schema, [(1, 0)], [NOON])
    record = batches.record(1, wire.encode(header, rows))
    with pytest.raises(errors.ConfigurationError, match="this sink takes readings by fms"):
        core.take(record, form, Watermarks())


@pytest.mark.parametrize("lineage", [[(1, 1), (1, 0)], [(1, 0), (1, 0)], [(2, 0), (1, 5)]])
def test_refuses_rows_that_do_not_ascend(form: core.Form, lineage: list[tuple[int, int]]) -> None:
    """Rows out of order are rejected whole: a watermark would lose some of them."""
    marks = Watermarks()
    with pytest.raises(errors.SchemaError, match="do not ascend"):
        core.take(_record(form, 1, lineage), form, marks)
    assert not marks.marks


@pytest.mark.parametrize(
    ("numbers", "subs", "expected"),
    [
        (["9", "10"], [0, 0], True),
        (["10", "9"], [0, 0], False),
        (["9", "9"], [0, 1], True),
        (["9", None], [0, 1], False),
        (["1", "2"], [None, 0], False),
    ],
)
def test_short_sequence_numbers_compare_as_numbers(
    numbers: list[str], subs: list[int], expected: bool
) -> None:
    """9 comes before 10, as emulators number; a missing lineage is no order at all."""
    assert core.ascends(pa.array(numbers), pa.array(subs, pa.int64())) is expected


def test_refuses_a_time_without_an_hour(form: core.Form) -> None:
    """An event time outside the calendar is rejected, not a crash when it is partitioned."""
    for bad in (parquet.FIRST_US - 1, parquet.END_US):
        with pytest.raises(errors.SchemaError, match="event_time"):
            core.take(_record(form, 1, [(1, 0)], [bad]), form, Watermarks())
    for good in (parquet.FIRST_US, parquet.END_US - 1):
        core.take(_record(form, 1, [(1, 0)], [good]), form, Watermarks())


def test_an_empty_batch_is_nothing(form: core.Form) -> None:
    """A batch without rows is taken and changes nothing."""
    marks = Watermarks()
    assert core.take(_record(form, 1, []), form, marks).batch.num_rows == 0
    assert not marks.marks


def test_partitions_are_hours_of_event_time() -> None:
    """An hour is named by its UTC day and hour, also before 1970."""
    assert parquet.partition_of(NOON).path == "dt=2025-07-07/hour=12"
    assert parquet.partition_of(-HOUR_US) == ("1969-12-31", "23")


def test_split_keeps_every_row_in_order(form: core.Form) -> None:
    """Each row is in the partition of its hour, once, in the order of acceptance."""
    times = [NOON, NOON + HOUR_US, NOON - 1, NOON + 5, NOON + HOUR_US - 1, -5]
    record = _record(form, 1, [(1, row) for row in range(6)], times)
    parts = parquet.split(_table(form, core.take(record, form, Watermarks())))
    found = {part.path: table.column("sub_sequence_number").to_pylist() for part, table in parts}
    assert found == {
        "dt=1969-12-31/hour=23": [5],
        "dt=2025-07-07/hour=11": [2],
        "dt=2025-07-07/hour=12": [0, 3, 4],
        "dt=2025-07-07/hour=13": [1],
    }


def test_bytes_do_not_depend_on_how_rows_were_read(form: core.Form) -> None:
    """The same rows give the same object, whatever batches they came in: replays repeat it."""
    lineage = [(index // 7, index % 7) for index in range(2 * lane.BATCH_ROWS + 600)]
    times = range(NOON, NOON + len(lineage))
    whole = core.take(_record(form, 1, lineage, times), form, Watermarks())
    marks = Watermarks()
    pieces = [
        core.take(
            _record(form, start, lineage[start:end], range(NOON + start, NOON + end)), form, marks
        )
        for start, end in pairwise([*range(0, len(lineage), 77), len(lineage)])
    ]
    bodies = [parquet.encode(table) for table in (_table(form, whole), _table(form, *pieces))]
    assert bodies[0].equals(bodies[1])


def test_objects_are_fit_for_athena(form: core.Form) -> None:
    """An object has zstd, statistics, the contract's schema and row groups of 128 k at most."""
    count = parquet.ROW_GROUP_ROWS + 10
    record = _record(form, 1, [(1, row) for row in range(count)])
    body = parquet.encode(_table(form, core.take(record, form, Watermarks())))
    file = pq.ParquetFile(pa.BufferReader(body))
    groups = [file.metadata.row_group(index) for index in range(file.metadata.num_row_groups)]
    assert [group.num_rows for group in groups] == [parquet.ROW_GROUP_ROWS, 10]
    columns = [groups[0].column(index) for index in range(groups[0].num_columns)]
    assert {column.compression for column in columns} == {"ZSTD"}
    assert all(column.is_stats_set for column in columns)
    assert file.schema_arrow.equals(form.table_schema, check_metadata=True)
    assert file.schema_arrow.field("sensor1").metadata[b"unit"] == "°C".encode()


def test_scores_have_their_own_table(fms: contract.Contract) -> None:
    """The scores deployment takes batches of scores and no readings."""
    scores = core.form_of(fms, "scores")
    taken = core.take(_record(scores, 1, [(1, 0)]), scores, Watermarks())
    assert _table(scores, taken).schema.equals(fms.score_table_schema, check_metadata=True)


def test_the_scores_sink_takes_the_alerts_beside(fms: contract.Contract) -> None:
    """Rows of both tables come by one stream; each has its own rows and its own watermarks."""
    scores = core.form_of(fms, "scores")
    alerts = core.form_of(fms, "alerts")
    watermarks, counts = Watermarks(), Counter()
    open_cut = lane.Lane(SHARD, scores, rules.resume(None), watermarks, 168.0)
    open_cut.gather(_record(scores, 1, [(1, 0), (2, 0), (3, 0)]), 0.0, counts)
    open_cut.gather(_record(alerts, 2, [(2, 0)]), 0.0, counts)
    open_cut.gather(_record(scores, 3, [(4, 0)]), 0.0, counts)
    open_cut.gather(_record(alerts, 4, [(2, 0), (4, 0)]), 0.0, counts)
    sealed = open_cut.seal(full=True)
    assert sealed is not None
    assert sealed.beside is not None
    assert (sealed.rows.count, sealed.beside.count, sealed.rejected) == (4, 2, ())
    assert sealed.beside.table().schema.equals(fms.alert_table_schema, check_metadata=True)
    assert sealed.beside.table().column("sequence_number").to_pylist() == [
        batches.sequence_number(2),
        batches.sequence_number(4),
    ]
    assert counts["readings_in",] == 4
    assert {origin.producer for origin in watermarks.marks} == {"transform", "transform#alerts"}


def test_the_readings_sink_takes_no_alerts(form: core.Form, fms: contract.Contract) -> None:
    """They are not on its stream: something is wired wrongly, and good rows wait."""
    record = _record(core.form_of(fms, "alerts"), 1, [(1, 0)])
    with pytest.raises(errors.ConfigurationError, match="a batch of alerts"):
        core.take(record, form, Watermarks())


def _lane(form: core.Form, gathering: rules.Gathering | None = None) -> lane.Lane:
    return lane.Lane(SHARD, form, gathering or rules.resume(None), Watermarks(), 168.0)


def test_a_cut_is_due_by_age_only_when_something_waits(form: core.Form) -> None:
    """The oldest record decides; an empty cut is never due."""
    open_cut = _lane(form)
    assert not open_cut.due(1e9, 15.0)
    open_cut.gather(_record(form, 1, [(1, 0)]), 100.0, Counter())
    open_cut.gather(_record(form, 2, [(2, 0)]), 110.0, Counter())
    assert (open_cut.due(114.9, 15.0), open_cut.due(115.0, 15.0)) == (False, True)


def test_sealing_opens_the_next_cut_behind(form: core.Form) -> None:
    """A sealed cut holds what was gathered; the next begins where it ends."""
    open_cut = _lane(form)
    open_cut.gather(_record(form, 4, [(1, 0)]), 0.0, Counter())
    sealed = open_cut.seal(full=True)
    assert sealed is not None
    assert sealed.cut == rules.Cut(None, batches.sequence_number(4))
    assert (sealed.rows.count, sealed.position) == (1, batches.sequence_number(4))
    assert open_cut.seal(full=True) is None
    open_cut.gather(_record(form, 5, [(2, 0)]), 0.0, Counter())
    after = open_cut.seal(full=True)
    assert after is not None
    assert after.cut == rules.Cut(batches.sequence_number(4), batches.sequence_number(5))


def test_a_declared_cut_ends_where_it_was_declared(form: core.Form) -> None:
    """Neither age nor size nor shutdown ends a cut that is read again."""
    cut = rules.Cut(None, batches.sequence_number(2))
    open_cut = _lane(form, rules.resume(None, cut))
    open_cut.gather(_record(form, 1, [(1, 0)]), 0.0, Counter())
    assert open_cut.seal(full=True) is None
    open_cut.gather(_record(form, 2, [(2, 0)]), 0.0, Counter())
    sealed = open_cut.seal(full=False)
    assert sealed is not None
    assert (sealed.cut, sealed.rows.count) == (cut, 2)


def test_the_end_of_a_shard_is_saved_with_its_last_cut(form: core.Form) -> None:
    """The last cut's position is SHARD_END; a shard that ends empty saves it all the same."""
    open_cut = _lane(form)
    open_cut.gather(_record(form, 1, [(1, 0)]), 0.0, Counter())
    open_cut.ends = True
    sealed = open_cut.seal(full=True, passed=True)
    assert sealed is not None
    assert (sealed.position, sealed.rows.count) == (SHARD_END, 1)
    assert open_cut.seal(full=True, passed=True) is None
    empty = _lane(form)
    empty.ends = True
    sealed = empty.seal(full=True, passed=True)
    assert sealed is not None
    assert (sealed.cut, sealed.position) == (None, SHARD_END)


def test_a_bad_record_is_part_of_the_cut(form: core.Form) -> None:
    """What cannot be decoded is kept whole for the quarantine; the rows beside it are taken."""
    counts: Counter[tuple[str, ...]] = Counter()
    open_cut = _lane(form)
    open_cut.gather(batches.record(1, b"not a batch"), 0.0, counts)
    open_cut.gather(_record(form, 2, [(1, 0)]), 0.0, counts)
    sealed = open_cut.seal(full=True)
    assert sealed is not None
    assert [(each.reason, each.data) for each in sealed.rejected] == [("decode", b"not a batch")]
    assert sealed.rejected[0].sequence_number == batches.sequence_number(1)
    assert (sealed.rows.count, counts["rejected", "decode"]) == (1, 1)


def test_small_batches_are_joined(form: core.Form) -> None:
    """A thousand one-row batches weigh about what their rows do, not what batches do."""
    open_cut = _lane(form)
    for index in range(1, 1025):
        open_cut.gather(_record(form, index, [(index, 0)]), 0.0, Counter())
    assert open_cut.rows.count == 1024
    assert open_cut.size_bytes < 1024 * 400


def test_watermarks_are_forgotten_when_no_replay_can_come(form: core.Form) -> None:
    """A source is forgotten a day after the raw retention, by the records' own time."""
    open_cut = _lane(form)
    open_cut.gather(_record(form, 1, [(1, 0)], raw_shard_id="old"), 0.0, Counter())
    later = NOON + int(timedelta(hours=168 + 25) / timedelta(microseconds=1))
    late = _record(form, 2, [(1, 0)], raw_shard_id="new")._replace(arrival_us=later)
    before = open_cut.seal(full=True)
    open_cut.gather(late, 0.0, Counter())
    after = open_cut.seal(full=True)
    assert before is not None
    assert after is not None
    assert (b"old" in before.state, b"old" in after.state) == (True, False)


def test_noon_is_noon() -> None:
    """The tests' own constant is the hour it says."""
    assert datetime.fromtimestamp(NOON / 1e6, UTC).isoformat() == "2025-07-07T12:00:00+00:00"
