"""Raw records and quarantined items to rows of the table, by the cores of transform and sink. Pure.

Nothing here is a second implementation: `TransformStep` decodes and cleans, `sink.core` takes what
it puts out, as if the stream between them were a list.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from offline.core import in_order
from offline.items import Item
from sink import core as sink_core
from sink.core import Form
from sink.lane import Rows
from telemill import errors
from telemill.codec import wire
from telemill.contract import Contract
from telemill.kinesis.records import Chunk, Record, Shard
from telemill.stages.step import Output, StepResult
from telemill.stages.watermarks import Watermarks
from transform import reasons
from transform.core import TransformStep
from transform.dedupe import History

NO_DEVICES = 0
"""A history that remembers nobody: each quarantined item stands for itself."""

SPLITS = "splits"
"""An item that now decodes to several: their numbers belong to other items of its record."""

UNDECODABLE = "undecodable"
"""A record of an internal stream that the sink's core cannot read either."""


@dataclass(slots=True)
class Derived:
    """What records gave.

    Attributes:
        rows: In the table's schema, in order of lineage.
        rejected: Items that are no readings, by reason.
    """

    rows: pa.Table
    rejected: Counter[str] = field(default_factory=Counter)


class Deriver:
    """Raw records in order, with a history: what the live path makes of them.

    Args:
        contract: What a reading is.
    """

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self.form: Form = sink_core.form_of(contract, "readings")
        self._step = TransformStep(contract)

    def restore(self, states: Sequence[bytes], shard: Shard) -> History:
        """The history to begin a shard with: its own, or the union of its parents'."""
        return self._step.restore(states, shard)

    def snapshot(self, history: History) -> bytes:
        """The history as bytes."""
        return self._step.snapshot(history)

    def warm_up(self, chunk: Chunk, history: History) -> None:
        """Let the history see records whose rows are not wanted."""
        self._step.step(chunk, history)

    def derive(self, chunk: Chunk, history: History, into: Rows) -> Counter[str]:
        """Add the rows of consecutive records to `into`; returns what was rejected, by reason."""
        result = self._step.step(chunk, history)
        _gather(result.outputs, self.form, into)
        return _reasons(result)

    def open_rows(self) -> Rows:
        """Where rows are gathered."""
        return Rows(self.form.table_schema)


class ItemDeriver:
    """Quarantined items, each on its own and with its original lineage.

    Nothing is remembered between items: what is a duplicate or a conflict is decided against the
    table, and a `carry` field stays null.

    Args:
        contract: What a reading is, today.
    """

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self.form: Form = sink_core.form_of(contract, "readings")
        self._step = TransformStep(contract, max_devices=NO_DEVICES)

    def derive(self, items: Sequence[Item], shard: Shard) -> Derived:
        """Rows of items of one raw shard.

        Args:
            items: Each once.
            shard: Where they come from, with its range of hash keys.
        """
        # Several items may be of one record, and an item alone is always row 0: so each is stepped
        # under a number of its own, and gets its lineage back afterwards.
        records = [
            Record(str(place + 1), item.arrival_us, item.body, "")
            for place, item in enumerate(items)
        ]
        result = self._step.step(Chunk(shard, records), self._step.restore([], shard))
        rejected = _reasons(result)
        into = Rows(self.form.table_schema)
        _gather(result.outputs, self.form, into)
        rows = into.table()
        splitting = _splitting(rows, result, items)
        rejected.update({SPLITS: len(splitting)} if splitting else {})
        return Derived(in_order(_with_lineage(rows, items, splitting)), rejected)

    def decode(self, item: Item) -> pa.Table | None:
        """Rows of a record of `readings` that a consumer could not read then; None: nor can we."""
        record = Record(item.lineage.sequence_number, item.arrival_us, item.body, "")
        into = Rows(self.form.table_schema)
        try:
            into.add(sink_core.take(record, self.form, Watermarks()))
        except (errors.RecordError, errors.ConfigurationError):
            return None
        return in_order(into.table())


def _gather(outputs: Sequence[Output], form: Form, into: Rows) -> None:
    for output in outputs:
        record = Record("0", 0, output.data, output.partition_key)
        # Marks of its own: nothing here is a producer's replay.
        into.add(sink_core.take(record, form, Watermarks()))


def _reasons(result: StepResult) -> Counter[str]:
    return Counter(rejected.reason for rejected in result.rejected)


def _splitting(rows: pa.Table, result: StepResult, items: Sequence[Item]) -> set[int]:
    """Items that gave more than one, and whose numbers are not all their own.

    What was put aside undecoded (`decode`, `too_large`) was never split, so every number of it is
    free. Any other item was one of several.
    """
    subs = [*rows["sub_sequence_number"].to_pylist()]
    places = [int(number) - 1 for number in rows["sequence_number"].to_pylist()]
    for rejected in result.rejected:
        subs.append(rejected.sub_sequence_number)
        places.append(int(rejected.sequence_number) - 1)
    whole = {reasons.DECODE, reasons.TOO_LARGE}
    return {
        place
        for place, sub in zip(places, subs, strict=True)
        if sub and items[place].reason not in whole
    }


def _with_lineage(rows: pa.Table, items: Sequence[Item], left_out: set[int]) -> pa.Table:
    """Rows stepped under the numbers of their items, with the items' own lineage."""
    places = [int(number) - 1 for number in rows["sequence_number"].to_pylist()]
    subs = rows["sub_sequence_number"].to_pylist()
    lineage = {
        "shard_id": [items[place].lineage.shard_id for place in places],
        "sequence_number": [items[place].lineage.sequence_number for place in places],
        "sub_sequence_number": [
            items[place].lineage.sub_sequence_number + sub
            for place, sub in zip(places, subs, strict=True)
        ],
    }
    for name, column in lineage.items():
        index = rows.schema.get_field_index(name)
        field_of = rows.schema.field(index)
        rows = rows.set_column(index, field_of, pa.array(column, field_of.type))
    return rows.filter(pa.array([place not in left_out for place in places], pa.bool_()))


def raw_range_of(body: bytes) -> wire.Header | None:
    """Where the rows of an unreadable internal record come from, if its header can be read."""
    try:
        return wire.read_header(body)
    except errors.RecordError:
        return None
