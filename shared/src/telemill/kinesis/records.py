"""What moves: records of a shard, in chunks. Pure values, no I/O."""

from dataclasses import dataclass, field
from typing import NamedTuple

MAX_HASH_KEY = 2**128 - 1
SHARD_END = "SHARD_END"
"""The position after the last record of a closed shard (the KCL's own word for it)."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One shard of one stream.

    Attributes:
        stream: Stream name.
        incarnation: Creation time of the stream in epoch milliseconds. A stream deleted and
            created again has the same name and shard ids, but is another incarnation.
        shard_id: As Kinesis names it.
        parents: Parent and adjacent parent; empty for a first shard.
        expired_parents: Those of them that are not listed any more: their records are gone.
        first_hash_key: Lowest hash key of the shard, inclusive.
        last_hash_key: Highest hash key of the shard, inclusive.
    """

    stream: str
    incarnation: int
    shard_id: str
    parents: tuple[str, ...] = ()
    first_hash_key: int = 0
    last_hash_key: int = MAX_HASH_KEY
    expired_parents: tuple[str, ...] = ()

    def holds(self, hash_key: int) -> bool:
        """Whether a hash key falls into this shard."""
        return self.first_hash_key <= hash_key <= self.last_hash_key


class Record(NamedTuple):
    """One Kinesis record.

    Attributes:
        sequence_number: Decimal digits as Kinesis gave them (up to 56; compare as int).
        arrival_us: ApproximateArrivalTimestamp, epoch microseconds UTC.
        data: The bytes as they were put.
        partition_key: As put.
    """

    sequence_number: str
    arrival_us: int
    data: bytes
    partition_key: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive records of one shard, in order: the unit a service handles at a time.

    Attributes:
        shard: Where they come from.
        records: At least one, unless `ends_shard`.
        millis_behind_latest: As GetRecords reported it for the last record.
        ends_shard: The shard is closed and these are its last records (maybe none).
        after: The record right before these, as they were read; None: nobody knows.
    """

    shard: Shard
    records: list[Record] = field(default_factory=list)
    millis_behind_latest: int = 0
    ends_shard: bool = False
    after: str | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes of record data held."""
        return sum(len(record.data) for record in self.records)
