"""What a coordinator asks of whoever processes a shard."""

from dataclasses import dataclass
from typing import Protocol

from telemill.kinesis.records import Chunk, Shard


@dataclass(frozen=True, slots=True)
class StartPosition:
    """Where to read a shard from.

    Exactly one case holds: `finished` (nothing left to read, ever); `after` a sequence number;
    at `timestamp_us`; or, with none of them, from the trim horizon.
    """

    after: str | None = None
    timestamp_us: int | None = None
    finished: bool = False


class ShardOwner(Protocol):
    """Processes the shards a coordinator gives it. One per service process.

    The coordinator calls `open` once per shard before reading it, only when every parent still
    listed is finished; `process` with chunks in order, one at a time per shard; and `close` once,
    on shutdown or when the shard is taken away. After `process` returned for a chunk with
    `ends_shard`, `finished` answers when its last position is saved.
    """

    async def open(self, shard: Shard) -> StartPosition:
        """Claim the shard and load its state.

        Raises:
            ClaimHeldError: Another live worker owns it: ask again in a second.
            TransientError: The progress store cannot be reached: ask again with back-off.
        """

    async def process(self, chunk: Chunk) -> None:
        """Take the next chunk. May return before its output is durable.

        Raises:
            PositionError: The claim is void: the coordinator drops the shard without `close`.
        """

    async def finished(self, shard: Shard) -> bool:
        """Whether the shard's position is SHARD_END, in this process or the store."""

    async def close(self, shard: Shard, *, release: bool) -> None:
        """Drain, save the position and, with `release`, give the claim up.

        Never raises on a void claim; raises TransientError when the drain failed.
        """
