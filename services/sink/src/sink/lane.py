"""One input shard in the sink: the open cut, and when it is over. Pure; `stage` acts.

Which records belong to a cut is decided by `telemill.progress.rules`; this holds their rows.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from sink import core, parquet
from sink.core import Form, Taken
from telemill import errors
from telemill.kinesis.records import SHARD_END, Record, Shard
from telemill.progress import rules
from telemill.progress.rules import Cut, Gathering
from telemill.stages import internal
from telemill.stages.step import CountKey, Rejected
from telemill.stages.watermarks import Watermarks
from telemill.tracing import Span

LOOSE_BATCHES = 128
"""So many batches are joined into one: a batch of one row weighs some KiB, its row 170 bytes."""

BATCH_ROWS = 16 * 1024
"""Rows of a full batch: some MiB."""

BATCH_OVERHEAD_BYTES = 4096
"""What an Arrow batch costs beside its buffers (14 columns of array objects)."""

US_PER_HOUR = 3_600_000_000


class Rows:
    """The rows of a cut, in order of acceptance, and what they weigh.

    They are kept in batches of a fixed number of rows: what `table` gives does not depend on how
    they came, and needs no copy of everything at once.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._full: list[pa.RecordBatch] = []
        self._rest: list[pa.RecordBatch] = []
        self._loose: list[Taken] = []
        self._rest_rows = 0
        self._rest_bytes = 0
        self._full_bytes = 0
        self.count = 0

    @property
    def size_bytes(self) -> int:
        """Memory held."""
        return self._full_bytes + self._rest_bytes

    def add(self, taken: Taken) -> None:
        """Take the rows of one record, if it has any."""
        if not taken.batch.num_rows:
            return
        self.count += taken.batch.num_rows
        self._loose.append(taken)
        self._rest_rows += taken.batch.num_rows
        self._rest_bytes += int(taken.batch.get_total_buffer_size()) + BATCH_OVERHEAD_BYTES
        if self._rest_rows >= BATCH_ROWS:
            self._fill()
        elif len(self._loose) >= LOOSE_BATCHES:
            self._join()

    def table(self) -> pa.Table:
        """All rows in the table's schema."""
        self._fill()
        return pa.Table.from_batches([*self._full, *self._rest], self._schema)

    def _join(self) -> None:
        """Make one batch of the loose ones."""
        if self._loose:
            batches = [taken.batch for taken in self._loose]
            raw_shard_ids = [taken.raw_shard_id for taken in self._loose]
            self._rest.append(core.join(batches, raw_shard_ids, self._schema))
            self._rest_bytes = sum(batch.nbytes for batch in self._rest)
            self._loose = []

    def _fill(self) -> None:
        """Make one batch of all that are not full, and cut full ones off it."""
        self._join()
        rest = pa.concat_batches(self._rest) if self._rest else None
        while rest is not None and rest.num_rows >= BATCH_ROWS:
            self._full.append(rest.slice(0, BATCH_ROWS))
            self._full_bytes += self._full[-1].nbytes
            rest = rest.slice(BATCH_ROWS)
        self._rest = [rest] if rest is not None and rest.num_rows else []
        self._rest_rows = sum(batch.num_rows for batch in self._rest)
        self._rest_bytes = sum(batch.nbytes for batch in self._rest)


@dataclass(frozen=True, slots=True)
class SealedCut:
    """A cut that is over: everything needed to make it durable.

    Attributes:
        shard: The input shard.
        cut: Which records; None when there were none and only the shard's end is to be saved.
        position: What to save once it is durable: the cut's end, or SHARD_END.
        rows: Their new rows.
        rejected: Those that hold no rows of this table.
        state: The watermarks after it.
        oldest_event_us: Smallest event time of each batch of rows.
        beside: New rows of the other table on the stream, if there is one.
        spans: Of the records that carry a sampled trace; they end with the cut.
    """

    shard: Shard
    cut: Cut | None
    position: str
    rows: Rows
    rejected: Sequence[Rejected]
    state: bytes
    oldest_event_us: Sequence[int]
    beside: Rows | None = None
    spans: Sequence[Span] = ()

    @property
    def size_bytes(self) -> int:
        """Memory held."""
        beside = self.beside.size_bytes if self.beside else 0
        return self.rows.size_bytes + beside + sum(len(each.data) for each in self.rejected)

    @property
    def count(self) -> int:
        """Rows of both tables."""
        return self.rows.count + (self.beside.count if self.beside else 0)


class Lane:
    """The open cut of one shard.

    Attributes:
        shard: The input shard.
        gathering: How far it was read.
        rows: New rows gathered, not yet sealed.
        beside: The same of the other table on the stream, if there is one.
        hours: Hours of event time they fall into (of each batch, the first and the last).
        ends: The shard is closed and was read to its end.
        cuts: How many were sealed.
        spans: Of records of the open cut that carry a sampled trace, put here by who takes them.
    """

    def __init__(
        self,
        shard: Shard,
        form: Form,
        gathering: Gathering,
        watermarks: Watermarks,
        raw_retention_hours: float,
    ) -> None:
        self.shard = shard
        self.gathering = gathering
        self.ends = False
        self.cuts = 0
        self._end_sealed = False
        self._form = form
        self._watermarks = watermarks
        self._raw_retention_hours = raw_retention_hours
        self._newest_arrival_us = 0
        self._open()

    def _open(self) -> None:
        self.rows, self.beside = _rows_of(self._form)
        self._since: float | None = None
        self._rejected: list[Rejected] = []
        self._rejected_bytes = 0
        self._oldest_event_us: list[int] = []
        self.hours: set[int] = set()
        self.spans: list[Span] = []

    @property
    def repeats(self) -> bool:
        """Whether it re-reads a cut that was declared before: only its declared end ends it."""
        return self.gathering.declared is not None

    @property
    def size_bytes(self) -> int:
        """Memory held by the open cut."""
        beside = self.beside.size_bytes if self.beside else 0
        return self.rows.size_bytes + beside + self._rejected_bytes

    def gather(self, record: Record, since: float, counts: Counter[CountKey]) -> Taken | None:
        """Take the next record of the open cut, or reject it; the cut goes on behind it.

        Args:
            record: As `rules.admit` allowed it.
            since: When the record began to wait, on the clock that `due` is asked with.
            counts: What happened is added.

        Returns:
            What was taken of it; None when it is rejected.
        """
        self._reach(record, since, counts)
        try:
            taken = core.take(record, self._form, self._watermarks)
        except errors.RecordError as error:
            self._reject(record, error, counts)
            return None
        if taken.table == self._form.table:
            counts["readings_in",] += taken.batch.num_rows + taken.replayed
            counts["replayed",] += taken.replayed
        self._add(taken)
        return taken

    def put_aside(
        self,
        record: Record,
        error: errors.RecordError,
        since: float,
        counts: Counter[CountKey],
    ) -> None:
        """Reject the next record without a look at it; the arguments are those of `gather`."""
        self._reach(record, since, counts)
        self._reject(record, error, counts)

    def rehearse(self, taken: Iterable[Taken | None]) -> None:
        """Do with the rows of some records what will be done with the cut's, for nothing."""
        rows, beside = _rows_of(self._form)
        for each in taken:
            if each is not None:
                self._fitting(each, rows, beside).add(each)
        for some in (rows, beside):
            if some is not None and some.count:
                for _, part in parquet.split(some.table()):
                    parquet.encode(part)

    def _reach(self, record: Record, since: float, counts: Counter[CountKey]) -> None:
        self.gathering = self.gathering.with_last(record.sequence_number)
        self._newest_arrival_us = max(self._newest_arrival_us, record.arrival_us)
        self._since = since if self._since is None else self._since
        counts["records_in",] += 1

    def _reject(self, record: Record, error: errors.RecordError, counts: Counter[CountKey]) -> None:
        counts["rejected", error.reason] += 1
        rejected = internal.rejected(record, self.shard, error)
        self._rejected.append(rejected)
        self._rejected_bytes += len(rejected.data)

    def _add(self, taken: Taken) -> None:
        if not taken.batch.num_rows:
            return
        self._fitting(taken, self.rows, self.beside).add(taken)
        self._oldest_event_us.append(taken.oldest_event_us)
        self.hours.update(
            (taken.oldest_event_us // US_PER_HOUR, taken.newest_event_us // US_PER_HOUR)
        )

    def _fitting(self, taken: Taken, rows: Rows, beside: Rows | None) -> Rows:
        """Where the rows of a record belong."""
        return rows if beside is None or taken.table == self._form.table else beside

    def discard(self) -> None:
        """Forget what was gathered: somebody else reads it again."""
        self._open()

    def due(self, now: float, flush_interval_seconds: float) -> bool:
        """Whether age or the shard's end asks for a cut."""
        if self.ends:
            return not self._end_sealed
        return self._since is not None and now - self._since >= flush_interval_seconds

    def seal(self, *, full: bool, passed: bool = False) -> SealedCut | None:
        """End the open cut, if the protocol allows it, and open the next one behind it.

        Args:
            full: Size, age, shutdown or the shard's end asks for it.
            passed: Records beyond a declared cut, or the shard's end, were seen.
        """
        cut = rules.next_cut(self.gathering, full=full, passed=passed)
        # The shard's end is saved with its last cut; after a repeated cut others may follow.
        at_end = self.ends and not self.repeats and not self._end_sealed
        if cut is None and not at_end:
            return None
        self._end_sealed = self._end_sealed or at_end
        self._watermarks.expire(self._newest_arrival_us, self._raw_retention_hours)
        sealed = SealedCut(
            shard=self.shard,
            cut=cut,
            position=SHARD_END if at_end or cut is None else cut.up_to,
            rows=self.rows,
            rejected=tuple(self._rejected),
            state=self._watermarks.snapshot(),
            oldest_event_us=tuple(self._oldest_event_us),
            beside=self.beside,
            spans=tuple(self.spans),
        )
        if cut is not None:
            self.cuts += 1
            self.gathering = rules.resume(cut.up_to)
        self._open()
        return sealed


def _rows_of(form: Form) -> tuple[Rows, Rows | None]:
    return Rows(form.table_schema), Rows(form.beside.table_schema) if form.beside else None
