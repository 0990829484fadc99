"""How far the live services are: below their positions, and only there, rows may be added.

docs/backfill.md has the argument. In short: what transform's saved position covers was
acknowledged by `readings` before the position was read. Once the sink's positions have passed
everything that stood in `readings` at a later moment, all of that is in the table; and whatever a
paused producer may put once more is below the sink's watermarks.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field

from offline.pages import Pages, is_last
from telemill.kinesis.calls import StreamCalls
from telemill.kinesis.records import SHARD_END, Record, Shard
from telemill.progress import rules
from telemill.progress.store import ProgressStore
from telemill.stages.owner import StartPosition

POLL_SECONDS = 1.0
VISIBLE_SECONDS = 5.0
"""By then an acknowledged record can be read: "typically less than 1 second" (Kinesis Data Streams
developer guide, terminology: put-to-get delay)."""

US_PER_SECOND = 1_000_000

Sleep = Callable[[float], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Behind:
    """One shard that a live service has yet to read.

    Attributes:
        app: Which service.
        stream: Of its input.
        shard_id: Which shard.
        seconds: By how much; None when it was never read.
    """

    app: str
    stream: str
    shard_id: str
    seconds: float | None

    def __str__(self) -> str:
        where = f"{self.app} on {self.stream} {self.shard_id}"
        if self.seconds is None:
            return f"{where}: it has saved no position there"
        return f"{where}: {self.seconds:.1f} s behind"


@dataclass(frozen=True, slots=True)
class Source:
    """A stream with the application whose positions count.

    Attributes:
        calls: Of the stream.
        app: Application id.
    """

    calls: StreamCalls
    app: str


@dataclass(slots=True)
class Passed:
    """Up to where the live path adds nothing any more, of each raw shard listed.

    Attributes:
        incarnation: Of the raw stream.
        shards: Those listed.
        positions: By shard id: a sequence number, SHARD_END, or None.
    """

    incarnation: int
    shards: list[Shard]
    positions: Mapping[str, str | None] = field(default_factory=dict)

    def covers(self, shard_id: str, sequence_number: str) -> bool:
        """Whether a record lies below: a shard no longer listed cannot be read by anybody."""
        if shard_id not in self.positions:
            return True
        return rules.order(sequence_number) <= rules.order(self.positions[shard_id])


class LivePath:
    """Transform and the sink of `readings`, as their progress items show them.

    Args:
        raw: The raw stream and transform.
        readings: The stream `readings` and the table's sink.
        store: Their progress items.
        sleep: Waits some seconds.
    """

    def __init__(
        self, raw: Source, readings: Source, store: ProgressStore, sleep: Sleep = asyncio.sleep
    ) -> None:
        self._raw = raw
        self._readings = readings
        self._store = store
        self._sleep = sleep

    async def transform_positions(self) -> Passed:
        """Where transform is, on every raw shard listed."""
        incarnation, shards = await list_shards(self._raw.calls)
        positions = {shard.shard_id: await self._position(self._raw.app, shard) for shard in shards}
        return Passed(incarnation, shards, positions)

    async def behind_time(self, passed: Passed, to_us: int) -> list[Behind]:
        """Raw shards on which transform has not passed a time of arrival.

        Args:
            passed: Its positions.
            to_us: Not in the future: nothing older can arrive any more.
        """
        behind = []
        for shard in passed.shards:
            position = passed.positions[shard.shard_id]
            found = await self._first_after(self._raw.calls, shard, position)
            if found is not None and found.arrival_us < to_us:
                seconds = (to_us - found.arrival_us) / US_PER_SECOND
                name = (self._raw.app, shard.stream, shard.shard_id)
                behind.append(Behind(*name, None if position is None else seconds))
        return behind

    async def tips(self) -> dict[Shard, tuple[str, int]]:
        """The last record of each shard of `readings` that the sink has yet to pass.

        Called after `transform_positions`; first waits until all that was acknowledged before can
        be read. Read from the sink's own position on: a sink that keeps
        up is a flush interval from the tip.

        Returns:
            Sequence number and arrival, of the shards that hold something behind the position.
        """
        await self._sleep(VISIBLE_SECONDS)
        _, shards = await list_shards(self._readings.calls)
        found = {}
        for shard in shards:
            position = await self._position(self._readings.app, shard)
            last = await self._last_after(shard, position)
            if last is not None:
                found[shard] = (last.sequence_number, last.arrival_us)
        return found

    async def behind_tips(self, tips: Mapping[Shard, tuple[str, int]]) -> list[Behind]:
        """Shards of `readings` on which the sink has not passed a tip."""
        behind = []
        for shard, (number, arrival_us) in tips.items():
            position = await self._position(self._readings.app, shard)
            if rules.order(position) >= rules.order(number):
                continue
            first = await self._first_after(self._readings.calls, shard, position)
            if first is None:
                # What stood there is past its retention: nobody reads it any more.
                continue
            seconds = max(0.0, (arrival_us - first.arrival_us) / US_PER_SECOND)
            name = (self._readings.app, shard.stream, shard.shard_id)
            behind.append(Behind(*name, None if position is None else seconds))
        return behind

    async def pause(self) -> None:
        """Before looking again."""
        await self._sleep(POLL_SECONDS)

    async def _position(self, app: str, shard: Shard) -> str | None:
        item = await self._store.read(app, rules.shard_key(shard))
        return None if item is None else item.position

    async def _first_after(
        self, calls: StreamCalls, shard: Shard, position: str | None
    ) -> Record | None:
        """The first record behind a position; None when there is none now."""
        if position == SHARD_END:
            return None
        pages = Pages(calls, shard, StartPosition(after=position))
        while True:
            page = await pages.next()
            if page.records:
                return page.records[0]
            if is_last(page):
                return None

    async def _last_after(self, shard: Shard, position: str | None) -> Record | None:
        """The last record of a shard at this moment; None when a position has passed it."""
        if position == SHARD_END:
            return None
        pages = Pages(self._readings.calls, shard, StartPosition(after=position))
        last = None
        while True:
            page = await pages.next()
            last = page.records[-1] if page.records else last
            if is_last(page):
                return last


async def list_shards(calls: StreamCalls) -> tuple[int, list[Shard]]:
    """A stream's incarnation and its shards, parents before children."""
    incarnation = await calls.persist("DescribeStreamSummary", calls.incarnation)
    listed = await calls.persist("ListShards", lambda: calls.list_shards(incarnation))
    return incarnation, parents_first(listed)


def parents_first(shards: Iterable[Shard]) -> list[Shard]:
    """Shards so that each comes after its parents; siblings by id."""
    waiting = {shard.shard_id: shard for shard in shards}
    ordered: list[Shard] = []
    while waiting:
        free = [
            shard
            for shard in waiting.values()
            if not any(parent in waiting for parent in shard.parents)
        ]
        ordered += sorted(free, key=lambda each: each.shard_id)
        for shard in free:
            del waiting[shard.shard_id]
    return ordered
