"""Reads one shard, in order, for as long as there is something to read."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import structlog

from telemill import aws, errors
from telemill.kinesis.calls import IteratorExpiredError, StreamCalls
from telemill.kinesis.parsing import Page
from telemill.kinesis.prefetch import Prefetch
from telemill.kinesis.records import Chunk, Record, Shard
from telemill.stages.owner import StartPosition

DEFAULT_GET_RECORDS_PER_SECOND = 2.0
"""A shard takes 5 a second from all its applications together; one application leaves room."""
DEFAULT_MAX_CHUNK_BYTES = 1024 * 1024
MAX_CHUNK_RECORDS = 10_000
MAX_PAGE_BYTES = 10 * 1024 * 1024
FIRST_RESERVED_BYTES = 4 * 1024 * 1024
LEAST_RESERVED_BYTES = 64 * 1024

OPERATION = "GetRecords"

log = structlog.get_logger()


class ShardReader:
    """One shard from one start position. `fetch` until `ended`.

    Args:
        calls: The stream.
        shard: What to read.
        start: Where to begin; not a finished one.
        prefetch: Where the chunks go. Its room is asked for before a request: how large a page is,
            is known only once it is here.
        is_gone: Whether the shard is no longer listed: then "not found" is its end.
        get_records_per_second: Most requests a second, also when far behind.
        max_chunk_bytes: A page is cut into chunks of at most this much data.
        monotonic: Clock for the pace.
    """

    def __init__(
        self,
        calls: StreamCalls,
        shard: Shard,
        start: StartPosition,
        *,
        prefetch: Prefetch,
        is_gone: Callable[[], bool] = lambda: False,
        get_records_per_second: float = DEFAULT_GET_RECORDS_PER_SECOND,
        max_chunk_bytes: int = DEFAULT_MAX_CHUNK_BYTES,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.ended = False
        self._calls = calls
        self._shard = shard
        self._position = start
        self._prefetch = prefetch
        self._is_gone = is_gone
        self._interval_seconds = 1.0 / get_records_per_second
        self._max_chunk_bytes = max_chunk_bytes
        self._monotonic = monotonic
        self._next_request_at = monotonic()
        self._iterator: str | None = None
        self._reserved_bytes = FIRST_RESERVED_BYTES
        self._failures = 0

    async def fetch(self) -> None:
        """Wait for our turn, get the next page and put it into the prefetch queue in chunks.

        The last chunk of a closed shard has `ends_shard`, and `ended` is true from then on. Fails
        only with what is a bug or beyond healing; everything else is tried again.
        """
        while True:
            await self._turn()
            try:
                return await self._fetch_once()
            except IteratorExpiredError:
                self._calls.metrics.retries.labels(operation=OPERATION).inc()
                self._iterator = None
            except (errors.TransientError, aws.ResourceError) as error:
                if isinstance(error, aws.ResourceError):
                    if self._is_gone():
                        return self._vanish()
                    self._iterator = None
                self._failures += 1
                await self._calls.back_off(OPERATION, error, self._failures)

    async def _turn(self) -> None:
        """Keep the pace: immediately when it allows, also when behind."""
        wait_seconds = self._next_request_at - self._monotonic()
        if wait_seconds > 0:
            await self._calls.sleep(wait_seconds)
        self._next_request_at = max(self._next_request_at, self._monotonic())
        self._next_request_at += self._interval_seconds

    async def _fetch_once(self) -> None:
        reserved_bytes = self._reserved_bytes
        await self._prefetch.budget.acquire(reserved_bytes)
        try:
            page = await self._request()
            self._prefetch.put(self._accept(page))
        finally:
            self._prefetch.budget.release(reserved_bytes)

    async def _request(self) -> Page:
        shard_id = self._shard.shard_id
        if self._iterator is None:
            self._iterator = await self._calls.shard_iterator(shard_id, self._position)
        return await self._calls.get_records(shard_id, self._iterator)

    def _accept(self, page: Page) -> list[Chunk]:
        self._failures = 0
        self._calls.succeeded()
        self._iterator = page.next_iterator
        self.ended = page.next_iterator is None
        before = self._position.after
        if page.records:
            self._position = StartPosition(after=page.records[-1].sequence_number)
        self._expect(page.records)
        metrics = self._calls.metrics
        metrics.behind(self._shard.shard_id, page.millis_behind_latest)
        return self._chunks(page, before)

    def _expect(self, records: Sequence[Record]) -> None:
        """Reserve for the next page what this one suggests."""
        expected_bytes = 2 * sum(len(record.data) for record in records)
        self._reserved_bytes = min(MAX_PAGE_BYTES, max(LEAST_RESERVED_BYTES, expected_bytes))

    def _chunks(self, page: Page, before: str | None) -> list[Chunk]:
        parts = list(split(page.records, self._max_chunk_bytes))
        if self.ended and not parts:
            parts = [[]]
        chunks: list[Chunk] = []
        for part in parts:
            chunks.append(Chunk(self._shard, part, page.millis_behind_latest, after=before))
            before = part[-1].sequence_number if part else before
        if self.ended:
            chunks[-1] = replace(chunks[-1], ends_shard=True)
        return chunks

    def _vanish(self) -> None:
        """The shard is past its retention: nothing of it can ever be read again."""
        log.warning("reader.shard_gone", shard_id=self._shard.shard_id)
        self.ended = True
        self._prefetch.put([Chunk(self._shard, [], 0, ends_shard=True)])


def split(records: Sequence[Record], max_bytes: int) -> Iterator[list[Record]]:
    """Cut records into consecutive parts of at most `max_bytes` of data; one record at least."""
    part: list[Record] = []
    size_bytes = 0
    for record in records:
        size = len(record.data)
        if part and (size_bytes + size > max_bytes or len(part) == MAX_CHUNK_RECORDS):
            yield part
            part, size_bytes = [], 0
        part.append(record)
        size_bytes += size
    if part:
        yield part
