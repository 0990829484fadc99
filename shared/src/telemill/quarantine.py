"""The quarantine: what cannot be a reading, kept on S3 with its original bytes.

Objects are `quarantine/dt=YYYY-MM-DD/reason=R/<shard>-<first>-<last>.ndjson.zst`, the day that of
arrival. A row is one JSON object: reason, error, body (base64), device_id (null when unknown),
stream, shard_id, sequence_number, sub_sequence_number, arrival_time. An object is named by its
lineage, so a replay that cuts alike overwrites; one that cuts differently writes rows again. The
quarantine is read by lineage: (stream, shard_id, sequence_number, sub_sequence_number).
"""

import asyncio
import base64
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import structlog

from telemill import aws, errors
from telemill.codec import compression
from telemill.health import Health
from telemill.kinesis.records import Shard
from telemill.seldom import Seldom
from telemill.stages.step import Rejected, StepResult

PREFIX = "quarantine"
MAX_BUFFERED_BYTES = 8 * 2**20
MAX_ERROR_CHARACTERS = 500

FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 10.0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HEALTH_NAME = "quarantine"

log = structlog.get_logger()


class Row(msgspec.Struct):
    """One line of an object."""

    reason: str
    error: str
    body: str
    device_id: str | None
    stream: str
    shard_id: str
    sequence_number: str
    sub_sequence_number: int
    arrival_time: str

    @property
    def lineage(self) -> str:
        """As it stands in an object's name."""
        return f"{self.sequence_number}.{self.sub_sequence_number}"


@dataclass(slots=True)
class _Spool:
    """Rows of one shard waiting to be written, by day and reason.

    Attributes:
        rows: Encoded lines with their lineage; a key without rows is absent.
        lock: Held while an object is written: `flush` waits for one under way.
    """

    rows: dict[tuple[str, str], list[tuple[str, bytes]]] = field(default_factory=dict)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class QuarantineOutlet:
    """Writes rejected items to S3. An outlet (`telemill.stages.outlet`); at-least-once.

    While S3 cannot be reached or the bucket is missing it waits and tries again, with growing
    pauses: the stage stands still, /readyz says why, and nothing is dropped. A cancelled call
    leaves its rows for the next `flush`.
    """

    def __init__(
        self,
        client: Any,
        bucket: str,
        *,
        health: Health | None = None,
        max_buffered_bytes: int = MAX_BUFFERED_BYTES,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Wire it.

        Args:
            client: aiobotocore's S3 client.
            bucket: Where to.
            health: Told while writing fails.
            max_buffered_bytes: Rows held, over all shards, before they are written unasked.
            sleep: Waits some seconds.
            jitter: A number from 0 to 1, for the pauses.
        """
        self._client = client
        self._bucket = bucket
        self._health = health
        self._max_buffered_bytes = max_buffered_bytes
        self._sleep = sleep
        self._jitter = jitter
        self._spools: dict[str, _Spool] = {}
        self._buffered_bytes = 0
        self._seldom = Seldom()

    @property
    def buffered_bytes(self) -> int:
        """Rows taken and not yet durable."""
        return self._buffered_bytes

    async def write(self, shard: Shard, result: StepResult) -> None:
        """Take the rejected items; writes when the buffer is full."""
        spool = self._spool(shard)
        # All are taken before anything is awaited, so that a cancelled call drops none. One chunk
        # is bounded, and so is what it rejects.
        for rejected in result.rejected:
            self._take(spool, shard, rejected)
        if self._buffered_bytes >= self._max_buffered_bytes:
            await self._drain(shard, spool)

    async def flush(self, shard: Shard) -> None:
        """Return when everything taken for the shard is on S3."""
        await self._drain(shard, self._spool(shard))

    def _spool(self, shard: Shard) -> _Spool:
        return self._spools.setdefault(_shard_name(shard), _Spool())

    def _take(self, spool: _Spool, shard: Shard, rejected: Rejected) -> None:
        row = _row(shard, rejected)
        line = msgspec.json.encode(row) + b"\n"
        key = (row.arrival_time[:10], row.reason)
        spool.rows.setdefault(key, []).append((row.lineage, line))
        self._buffered_bytes += len(line)

    async def _drain(self, shard: Shard, spool: _Spool) -> None:
        async with spool.lock:
            for key in list(spool.rows):
                await self._write_object(shard, spool, key)

    async def _write_object(self, shard: Shard, spool: _Spool, key: tuple[str, str]) -> None:
        rows = spool.rows[key]
        count = len(rows)  # more may be taken while this is under way
        name = f"{_shard_name(shard)}-{rows[0][0]}-{rows[-1][0]}.ndjson.zst"
        day, reason = key
        lines = b"".join(line for _, line in rows)
        path = f"{PREFIX}/dt={day}/reason={reason}/{name}"
        await self._put(path, compression.zstd_compress(lines))
        del rows[:count]
        self._buffered_bytes -= len(lines)
        if not rows:
            del spool.rows[key]
        log.info("quarantine.object_written", key=path, rows=count)

    async def _put(self, path: str, body: bytes) -> None:
        """Write an object, however long it takes."""
        longest = FIRST_PAUSE_SECONDS
        while True:
            try:
                with aws.map_exceptions("s3:PutObject", bucket=self._bucket):
                    await self._client.put_object(Bucket=self._bucket, Key=path, Body=body)
            except (errors.TransientError, aws.ResourceError) as error:
                self._failed(error)
                await self._sleep(longest * self._jitter())
                longest = min(2 * longest, LONGEST_PAUSE_SECONDS)
            else:
                if self._health is not None:
                    self._health.clear(_HEALTH_NAME)
                return

    def _failed(self, error: errors.TelemillError) -> None:
        if times := self._seldom.due(self._bucket):
            log.warning(
                "quarantine.write_failed", bucket=self._bucket, error=str(error), times=times
            )
        if self._health is not None:
            self._health.set(_HEALTH_NAME, str(error))


def _shard_name(shard: Shard) -> str:
    return f"{shard.stream}-{shard.incarnation}-{shard.shard_id}"


def _row(shard: Shard, rejected: Rejected) -> Row:
    arrival = _EPOCH + timedelta(microseconds=rejected.arrival_us)
    return Row(
        reason=rejected.reason,
        error=rejected.error[:MAX_ERROR_CHARACTERS],
        body=base64.b64encode(rejected.data).decode(),
        device_id=rejected.device_id,
        stream=shard.stream,
        shard_id=rejected.shard_id,
        sequence_number=rejected.sequence_number,
        sub_sequence_number=rejected.sub_sequence_number,
        arrival_time=arrival.isoformat(timespec="microseconds").replace("+00:00", "Z"),
    )
