"""How far each application is behind on each shard: the age of the first record it has not done.

That is the one behind its saved position, and its age is by AWS's clock, as its arrival is.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from botocore.exceptions import ClientError

from offline.doctor.finding import Finding, fail, ok, warn
from offline.doctor.plant import Reader
from offline.doctor.streams import Stream
from telemill import aws, errors
from telemill.kinesis import parsing
from telemill.kinesis.records import SHARD_END, Shard
from telemill.progress import rules, suspicion
from telemill.progress.claims import LATEST, TRIM_HORIZON
from telemill.progress.store import ProgressTable
from telemill.stages.owner import StartPosition

WARN_SECONDS = 60.0
"""As the alarm of a reader that is behind."""
FAIL_SECONDS = 300.0
NEARLY_LOST = 0.5
"""Of the retention: what waits longer is in danger of being gone unread."""

EMPTY_PAGES = 20
"""GetRecords may answer nothing though records follow; so often it is asked on."""

THROTTLED_TRIES = 5
THROTTLED_PAUSE_SECONDS = 0.5
"""The services have most of a shard's five reads a second."""


class Waiting(NamedTuple):
    """The oldest record that is not worked on."""

    arrival_us: int


class Reads:
    """Single reads of a stream, beside its consumers.

    Args:
        kinesis: The client.
        sleep: Waits some seconds, when consumers take all the reads.
    """

    def __init__(
        self, kinesis: Any, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    ) -> None:
        self._kinesis = kinesis
        self._sleep = sleep

    async def iterator(self, shard: Shard, **start: object) -> str:
        """An iterator; arguments as of GetShardIterator."""
        with aws.map_exceptions("kinesis:GetShardIterator", stream=shard.stream):
            answer = await self._kinesis.get_shard_iterator(
                StreamName=shard.stream, ShardId=shard.shard_id, **start
            )
        found: str = answer["ShardIterator"]
        return found

    async def page(self, shard: Shard, iterator: str, limit: int) -> parsing.Page:
        """One GetRecords; waits a little when it is throttled."""
        for _ in range(THROTTLED_TRIES - 1):
            try:
                return await self._page(shard, iterator, limit)
            except errors.ThroughputExceededError:
                await self._sleep(THROTTLED_PAUSE_SECONDS)
        return await self._page(shard, iterator, limit)

    async def _page(self, shard: Shard, iterator: str, limit: int) -> parsing.Page:
        with aws.map_exceptions("kinesis:GetRecords", stream=shard.stream):
            answer = await self._kinesis.get_records(ShardIterator=iterator, Limit=limit)
        return parsing.page_of(answer)

    async def first_from(self, shard: Shard, start: StartPosition) -> Waiting | None:
        """The first record from a position on; None when there is none."""
        iterator: str | None = await self.iterator(shard, **_arguments(start))
        for _ in range(EMPTY_PAGES):
            if iterator is None:
                return None
            page = await self.page(shard, iterator, 1)
            if page.records:
                return Waiting(page.records[0].arrival_us)
            if not page.millis_behind_latest:
                return None
            iterator = page.next_iterator
        return None


async def check(
    reads: Reads, found: Stream, table: ProgressTable, reader: Reader, now: float
) -> list[Finding]:
    """Each shard that an application is not done with.

    Args:
        reads: Of the stream.
        found: The stream.
        table: The positions.
        reader: The application.
        now: AWS's time, epoch seconds.
    """
    findings, done = [], 0
    began = await _start(table, reader, found)
    for shard in found.shards:
        progress = await table.get(reader.application, rules.shard_key(shard))
        if progress is not None and progress.position == SHARD_END:
            done += 1
            continue
        findings += await _check_shard(reads, found, shard, reader, progress, began, now)
    if not findings and done:
        return [ok("lag", reader.application, f"all {done} shards are read to their end")]
    return findings


async def _start(table: ProgressTable, reader: Reader, found: Stream) -> StartPosition | None:
    """Where an application began to read; None: it will begin at the end when it starts."""
    fixed = await table.get_fact(f"start/{reader.application}/{found.name}/{found.incarnation}")
    wanted = reader.settings.initial_position if fixed is None else fixed
    if wanted == LATEST:
        return None
    return StartPosition(timestamp_us=None if wanted == TRIM_HORIZON else int(wanted))


def _arguments(start: StartPosition) -> dict[str, object]:
    """Of GetShardIterator."""
    if start.after is not None:
        return {
            "ShardIteratorType": "AFTER_SEQUENCE_NUMBER",
            "StartingSequenceNumber": start.after,
        }
    if start.timestamp_us is not None:
        moment = datetime.fromtimestamp(start.timestamp_us / 1_000_000, UTC)
        return {"ShardIteratorType": "AT_TIMESTAMP", "Timestamp": moment}
    return {"ShardIteratorType": "TRIM_HORIZON"}


async def _check_shard(
    reads: Reads,
    found: Stream,
    shard: Shard,
    reader: Reader,
    progress: rules.Progress | None,
    began: StartPosition | None,
    now: float,
) -> list[Finding]:
    subject = f"{reader.application} {shard.stream} {shard.shard_id}"
    if progress is not None and progress.position is not None:
        start: StartPosition | None = StartPosition(after=progress.position)
    else:
        start = began
    if start is None:
        return [ok("lag", subject, "has not begun, and will begin at the latest record")]
    try:
        waiting = await reads.first_from(shard, start)
    except ClientError as error:
        advice = "records may be gone unread: compare with `telemill audit --no-raw`"
        return [fail("lag", subject, f"cannot read behind its position: {error}", advice)]
    return [
        _lag(subject, found, waiting, now, is_claimed=progress is not None),
        *_trouble(subject, progress),
    ]


def _lag(
    subject: str, found: Stream, waiting: Waiting | None, now: float, *, is_claimed: bool
) -> Finding:
    if waiting is None:
        says = "nothing waits" if is_claimed else "nothing waits; nobody has claimed it yet"
        return ok("lag", subject, says)
    seconds = max(0.0, now - waiting.arrival_us / 1_000_000)
    says = f"{seconds:,.0f} s behind"
    if not is_claimed:
        says += ", and nobody has ever claimed it"
    if seconds >= NEARLY_LOST * found.retention_hours * 3600:
        left = max(0.0, found.retention_hours - seconds / 3600)
        advice = f"records are gone in {left:.0f} h: raise the retention now, then start workers"
        return fail("lag", subject, says, advice)
    if seconds >= FAIL_SECONDS:
        return fail("lag", subject, says, "look at the service's /readyz and log; add workers")
    if seconds >= WARN_SECONDS:
        return warn("lag", subject, says, "look again in a minute: it catches up, or add workers")
    return ok("lag", subject, says)


def _trouble(subject: str, progress: rules.Progress | None) -> list[Finding]:
    if progress is None or not (progress.crashes or progress.poison):
        return []
    says = f"{progress.crashes} workers in a row died here"
    if progress.poison:
        says += f"; put aside: {', '.join(progress.poison)}"
    advice = "look at the service's log; docs/delivery.md#poison says what happens"
    if progress.crashes >= suspicion.CAUTIOUS_AFTER_CRASHES:
        return [fail("crashes", subject, says, advice)]
    return [warn("crashes", subject, says, advice)]
