"""GetRecords page by page, for who reads a shard once and not for ever."""

from telemill.kinesis.calls import IteratorExpiredError, StreamCalls
from telemill.kinesis.parsing import Page
from telemill.kinesis.records import Shard
from telemill.stages.owner import StartPosition

GET_RECORDS_PER_SECOND = 2.0
"""Of the shard's five, which the live services share."""


class Pages:
    """The pages of one shard from a start on.

    Args:
        calls: The stream. What may heal is tried again for as long as it takes.
        shard: Which shard.
        start: Where to begin.
    """

    def __init__(self, calls: StreamCalls, shard: Shard, start: StartPosition) -> None:
        self._calls = calls
        self._shard = shard
        self._start = start
        self._iterator: str | None = None
        self._is_first = True

    async def next(self) -> Page:
        """The next page, at a pace that leaves the live services their share."""
        if not self._is_first:
            await self._calls.sleep(1.0 / GET_RECORDS_PER_SECOND)
        self._is_first = False
        page = await self._calls.persist("GetRecords", self._request)
        self._iterator = page.next_iterator
        if page.records:
            self._start = StartPosition(after=page.records[-1].sequence_number)
        return page

    async def _request(self) -> Page:
        shard_id = self._shard.shard_id
        if self._iterator is None:
            self._iterator = await self._calls.shard_iterator(shard_id, self._start)
        try:
            return await self._calls.get_records(shard_id, self._iterator)
        except IteratorExpiredError:
            self._iterator = None
            raise


def is_last(page: Page) -> bool:
    """Whether nothing follows a page now: the tip, or the shard's end."""
    return page.next_iterator is None or page.millis_behind_latest == 0
