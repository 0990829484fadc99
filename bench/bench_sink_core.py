"""The sink core on one core: rows a second and bytes a row. `python -m bench sink-core`.

A thousand devices in 64 slots, batches as the transform puts them. Timed is everything from the
record's bytes to the object's: decode, checks, watermarks, joining, partitions, Parquet with zstd.
Making the input is not. CPU time of the process, one thread, best of several runs; on a shared core
it still doubles under load, so run it on a quiet machine.

- 500 rows a batch: 500 readings of one raw record (what ingest pushes), or of 500 raw records (one
  JSON each), or of 10.
- 1 row a batch: the least that a record can carry.
- late: 500 rows a batch, spread over 200 hours.
"""

import random
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from sink import core, lane, parquet  # isort: skip  # first: it chooses Arrow's allocator
import pyarrow as pa

from bench.measurement import Measurement
from telemill import contract
from telemill.codec import wire
from telemill.kinesis.records import Record
from telemill.progress import rules
from telemill.stages.watermarks import Watermarks
from telemill.testing import batches
from telemill.testing.batches import SHARD

FMS = contract.load(Path(__file__).parents[1] / "contracts" / "fms.yaml")
FORM = core.form_of(FMS, "readings")
START_US = 1_751_876_489_000_000
HOUR_US = 3_600_000_000
SLOTS = 64
DEVICES = 1000
RUNS = 15
LEAST_ROWS_PER_SECOND = 600_000.0
"""The issue's target, for the first case."""
MEASURES = {
    "sensor1": (80, 5.0),
    "sensor2": (90, 4.0),
    "sensor3": (75, 6.0),
    "motor1": (1200, 100),
    "motor2": (850, 80),
    "motor3": (1100, 90),
}
"""Mean and standard deviation of the published generator; two decimals as the API gives them."""


class Case(NamedTuple):
    """One line of the table."""

    name: str
    batch_rows: int
    rows_per_raw_record: int
    rows: int
    hours: int = 1


CASES = (
    Case("500 rows a batch, of one raw record", 500, 500, 150_000),
    Case("500 rows a batch, of 50 raw records", 500, 10, 150_000),
    Case("500 rows a batch, of 500 raw records", 500, 1, 150_000),
    Case("75 rows a batch (10 k/s, 64 slots, 0.5 s)", 75, 75, 150_000),
    Case("1 row a batch", 1, 1, 5_000),
    Case("500 rows a batch, 200 hours", 500, 500, 150_000, 200),
)


def records(case: Case) -> list[Record]:
    """The input of a case; the same every time."""
    chance = random.Random(7)  # noqa: S311
    return [_record(case, index, chance) for index in range(case.rows // case.batch_rows)]


def _record(case: Case, index: int, chance: random.Random) -> Record:
    # A slot's batches come one after the other; its raw records are its own.
    turn, slot = divmod(index, SLOTS)
    first = turn * case.batch_rows
    lineage = [divmod(first + row, case.rows_per_raw_record) for row in range(case.batch_rows)]
    second = START_US + turn * 1_000_000
    times = [second + chance.randrange(case.hours) * HOUR_US for _ in lineage]
    made = batches.batch(FORM.stream_schema, lineage, times)
    values = {
        name: pa.array([round(chance.gauss(*shape), 2) for _ in lineage])
        for name, shape in MEASURES.items()
    }
    values["device_id"] = pa.array([chance.randrange(1, DEVICES) for _ in lineage], pa.int64())
    columns = [values.get(field.name, made.column(field.name)) for field in FORM.stream_schema]
    rows = pa.RecordBatch.from_arrays(columns, schema=FORM.stream_schema)
    data = wire.encode(batches.header(FMS, slot=slot), rows)
    return batches.record(index + 1, data, arrival_us=second)


def objects_of(given: list[Record]) -> list[int]:
    """The whole core: from records to the sizes of the objects of one cut."""
    open_cut = lane.Lane(SHARD, FORM, rules.resume(None), Watermarks(), 168.0)
    counts: Counter[tuple[str, ...]] = Counter()
    for record in given:
        open_cut.gather(record, 0.0, counts)
    sealed = open_cut.seal(full=True)
    if sealed is None or sealed.rejected:
        raise RuntimeError("the input is not what the sink takes")
    return [parquet.encode(table).size for _, table in parquet.split(sealed.rows.table())]


def measure() -> list[Measurement]:
    """All cases, on one thread."""
    pa.set_cpu_count(1)
    first, *others = CASES
    found = _measured(first, LEAST_ROWS_PER_SECOND)
    return found + [figure for case in others for figure in _measured(case)]


def _measured(case: Case, least: float | None = None) -> list[Measurement]:
    """The best of several runs, and the size of what comes out."""
    given = records(case)
    seconds, sizes = [], []
    for _ in range(RUNS):
        started = time.process_time()
        sizes = objects_of(given)
        seconds.append(time.process_time() - started)
    best = min(seconds)
    return [
        Measurement(case.name, case.rows / best, "readings/s", best, at_least=least),
        Measurement(f"{case.name}: Parquet", sum(sizes) / case.rows, "bytes/reading"),
    ]
