"""The limits of a Kinesis shard, as token buckets. The clock is given, never read.

Source:
    Kinesis Data Streams developer guide, "Quotas and limits".
"""

IN_BYTES_PER_SECOND = 1024 * 1024
IN_RECORDS_PER_SECOND = 1000
OUT_BYTES_PER_SECOND = 2 * 1024 * 1024
OUT_CALLS_PER_SECOND = 5


class Bucket:
    """Holds one second's worth, and is full at the start.

    Args:
        per_second: How fast it fills, and how much it holds.
        now: Clock reading, in seconds.
    """

    def __init__(self, per_second: float, now: float) -> None:
        self._per_second = per_second
        self._level = per_second
        self._at = now

    def fits(self, amount: float, now: float) -> bool:
        """Whether so much may be taken; more than it can hold only when it is full."""
        self._fill(now)
        return self._level >= min(amount, self._per_second)

    def take(self, amount: float) -> None:
        """Take it, into debt if need be."""
        self._level -= amount

    @property
    def level(self) -> float:
        """What was in it when last looked at; below 0: a debt."""
        return self._level

    def _fill(self, now: float) -> None:
        elapsed_seconds = max(0.0, now - self._at)
        self._at = now
        self._level = min(self._per_second, self._level + elapsed_seconds * self._per_second)


class ShardLimits:
    """What one shard takes and gives."""

    def __init__(self, now: float) -> None:
        self._in_bytes = Bucket(IN_BYTES_PER_SECOND, now)
        self._in_records = Bucket(IN_RECORDS_PER_SECOND, now)
        self._out_bytes = Bucket(OUT_BYTES_PER_SECOND, now)
        self._out_calls = Bucket(OUT_CALLS_PER_SECOND, now)

    def take_record(self, size_bytes: int, now: float) -> bool:
        """Whether the shard takes a record now; if so, it counts."""
        bytes_fit = self._in_bytes.fits(size_bytes, now)
        if not (self._in_records.fits(1, now) and bytes_fit):
            return False
        self._in_bytes.take(size_bytes)
        self._in_records.take(1)
        return True

    def take_call(self, now: float) -> bool:
        """Whether the shard answers a GetRecords now; if so, it counts.

        As in the service, an answer may be larger than what is left: the next ones wait for it.
        """
        self._out_bytes.fits(0, now)
        if self._out_bytes.level < 0 or not self._out_calls.fits(1, now):
            return False
        self._out_calls.take(1)
        return True

    def gave(self, size_bytes: int) -> None:
        """Data that an answer carried."""
        self._out_bytes.take(size_bytes)
