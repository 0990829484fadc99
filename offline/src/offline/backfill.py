"""Re-read a time range of the raw stream and add the rows that the table lacks.

Shard by shard, parents before children, in cuts of bounded size: derive rows, add what is lacking,
save the position with the history after it. A crash anywhere repeats at most one cut, whose rows
are then found stored.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from offline.additions import Additions
from offline.core import Tally, in_order
from offline.derive import Deriver
from offline.live import Behind, LivePath, Passed
from offline.pages import Pages, is_last
from offline.places import Place, Places
from offline.raw_range import ShardRange, TimeRange
from sink.lane import Rows
from telemill.contract import Contract
from telemill.errors import TransientError
from telemill.kinesis.calls import StreamCalls
from telemill.kinesis.reader import split
from telemill.kinesis.records import SHARD_END, Chunk, Record, Shard
from telemill.stages.owner import StartPosition
from transform.dedupe import History

CUT_ROWS = 100_000
CUT_BYTES = 32 * 1024 * 1024
CUT_RECORDS = 50_000
"""A cut ends when it has so much: what is held in memory, and what a crash repeats."""

CHUNK_BYTES = 1024 * 1024
RANGE_NAME_CHARACTERS = 16


class BehindError(TransientError):
    """The live path has not passed the range yet.

    Attributes:
        behind: Where.
    """

    def __init__(self, behind: list[Behind]) -> None:
        super().__init__("; ".join(map(str, behind)))
        self.behind = behind


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is, for who watches.

    Attributes:
        shard: The shard at work.
        shard_index: Its place among all, from 0.
        shard_count: Of all.
        done: Share of the range on this shard, 0 to 1.
        tally: So far.
    """

    shard: Shard
    shard_index: int
    shard_count: int
    done: float
    tally: Tally


Watch = Callable[[Progress], None]


def run_name(stream: str, incarnation: int, time_range: TimeRange, contract: Contract) -> str:
    """Names a run by what it does, so that the same command goes on with it."""
    what = repr((stream, incarnation, time_range, contract))
    digest = hashlib.sha256(what.encode()).hexdigest()
    return f"backfill-{digest[:RANGE_NAME_CHARACTERS]}"


async def wait_for_live_path(
    live: LivePath,
    to_us: int,
    *,
    patience_seconds: float | None,
    waiting: Callable[[list[Behind]], None],
    monotonic: Callable[[], float],
) -> Passed:
    """Return once the live path can add nothing of a range any more.

    Args:
        live: Transform and the sink.
        to_us: End of the range, not in the future.
        patience_seconds: How long the sink may take for what stands in its stream now; None: and
            transform, too, as long as it takes.
        waiting: Told what is waited for.
        monotonic: Clock for the patience.

    Raises:
        BehindError: Not in time.
    """
    while True:
        passed = await live.transform_positions()
        behind = await live.behind_time(passed, to_us)
        if not behind:
            break
        if patience_seconds is not None:
            raise BehindError(behind)
        waiting(behind)
        await live.pause()
    tips = await live.tips()
    started = monotonic()
    while behind := await live.behind_tips(tips):
        if patience_seconds is not None and monotonic() - started >= patience_seconds:
            raise BehindError(behind)
        waiting(behind)
        await live.pause()
    return passed


@dataclass(slots=True)
class _Cut:
    """What is gathered and not yet added."""

    rows: Rows
    most_records: int
    records: int = 0
    position: str | None = None
    rejected: dict[str, int] = field(default_factory=dict)

    @property
    def is_full(self) -> bool:
        rows = self.rows
        too_long = rows.count >= CUT_ROWS or self.records >= self.most_records
        return too_long or rows.size_bytes >= CUT_BYTES


class Backfill:
    """One run.

    Args:
        calls: The raw stream.
        deriver: Records to rows.
        additions: Rows into the table.
        places: How far the run is.
        time_range: What is re-read.
        passed: Up to where the live path adds nothing any more.
        watch: Told after every page.
        cut_records: Most records of a cut.

    Attributes:
        tally: What was done.
        cut_short: Shards with records of the range above the live positions.
        finished_before: Shards that another process had finished for this run.
    """

    def __init__(
        self,
        calls: StreamCalls,
        deriver: Deriver,
        additions: Additions,
        places: Places,
        time_range: TimeRange,
        passed: Passed,
        watch: Watch,
        *,
        cut_records: int = CUT_RECORDS,
    ) -> None:
        self.tally = Tally()
        self.cut_short: list[str] = []
        self.finished_before = 0
        self._calls = calls
        self._deriver = deriver
        self._additions = additions
        self._places = places
        self._range = time_range
        self._passed = passed
        self._watch = watch
        self._cut_records = cut_records

    async def run(self) -> Tally:
        """All shards; what was done.

        Raises:
            PositionError: Another process has taken the run over.
            TransientError: A store could not be reached; the same run may be begun again.
        """
        for index, shard in enumerate(self._passed.shards):
            place = await self._places.open(shard)
            if place.finished:
                self.finished_before += 1
                continue
            await self._run_shard(shard, place, index)
        return self.tally

    async def _run_shard(self, shard: Shard, place: Place, index: int) -> None:
        history = self._deriver.restore(place.states, shard)
        bound = self._passed.positions[shard.shard_id]
        wanted = ShardRange(self._range, bound, inside=place.position is not None)
        start = (
            StartPosition(timestamp_us=self._range.start_us)
            if place.position is None
            else StartPosition(after=place.position)
        )
        cut = self._open_cut()
        pages = Pages(self._calls, shard, start)
        while not wanted.ended:
            page = await pages.next()
            part = wanted.take(page.records, at_tip=is_last(page))
            for records in split(part.warm_up, CHUNK_BYTES):
                self._deriver.warm_up(Chunk(shard, records), history)
            for records in self._chunks(part.meant):
                self._derive(Chunk(shard, records), history, cut)
                if cut.is_full:
                    await self._finish(cut, place, history)
                    cut = self._open_cut()
            self._report(shard, index, page.records)
        await self._finish(cut, place, history, ended=True)
        if wanted.cut_short:
            self.cut_short.append(shard.shard_id)
        self._report(shard, index, None)

    def _open_cut(self) -> _Cut:
        return _Cut(self._deriver.open_rows(), self._cut_records)

    def _chunks(self, records: list[Record]) -> Iterator[list[Record]]:
        for start in range(0, len(records), self._cut_records):
            yield from split(records[start : start + self._cut_records], CHUNK_BYTES)

    def _derive(self, chunk: Chunk, history: History, cut: _Cut) -> None:
        for reason, count in self._deriver.derive(chunk, history, cut.rows).items():
            cut.rejected[reason] = cut.rejected.get(reason, 0) + count
        cut.records += len(chunk.records)
        cut.position = chunk.records[-1].sequence_number

    async def _finish(
        self, cut: _Cut, place: Place, history: History, *, ended: bool = False
    ) -> None:
        """Add a cut's rows, then move the position: never the other way round."""
        state = self._deriver.snapshot(history)
        await self._additions.add(in_order(cut.rows.table()), self.tally)
        position = SHARD_END if ended else cut.position
        if position is not None:
            await place.save(position, state)
        self.tally.records += cut.records
        self.tally.rejected.update(cut.rejected)

    def _report(self, shard: Shard, index: int, records: list[Record] | None) -> None:
        done = 1.0
        if records is not None:
            length_us = max(1, self._range.to_us - self._range.start_us)
            newest_us = records[-1].arrival_us if records else self._range.start_us
            done = min(1.0, max(0.0, (newest_us - self._range.start_us) / length_us))
        count = len(self._passed.shards)
        self._watch(Progress(shard, index, count, done, self.tally))
