"""What the Faust consumer asks of a coordinator, and a coordinator of the consumer."""

from typing import Protocol

from telemill.kinesis.prefetch import Prefetch
from telemill.kinesis.records import Shard


class Listener(Protocol):
    """Told which shards this worker reads. The calls are quick and never fail."""

    def assigned(self, shard: Shard) -> None:
        """The shard's owner has opened it: chunks will come."""

    def revoked(self, shard: Shard) -> None:
        """No more chunks of this shard, finished or dropped; those queued are void."""

    def failed(self, error: BaseException) -> None:
        """The coordinator cannot go on: the process must end."""


class Coordinator(Protocol):
    """Decides which shards this worker reads, opens and closes their owner, fills the queue."""

    @property
    def stream(self) -> str:
        """Name of the stream it reads."""

    @property
    def prefetch(self) -> Prefetch:
        """Where the chunks come from, in order per shard."""

    async def start(self, listener: Listener) -> None:
        """Begin to claim and read; returns at once."""

    def drop(self, shard: Shard) -> None:
        """The owner says the claim on a shard is void: read it no more, try to claim it later."""

    async def stop(self, *, drain: bool) -> None:
        """Stop reading; with `drain`, close every open shard and release its claim.

        Called once nothing is being processed any more. Chunks in the queue are dropped.

        Raises:
            TransientError: A shard could not be closed.
        """


class NoShards:
    """The coordinator of a service that reads no stream."""

    def __init__(self) -> None:
        self.stream = ""
        self.prefetch = Prefetch()

    async def start(self, listener: Listener) -> None:
        """Nothing will be assigned."""

    def drop(self, shard: Shard) -> None:
        """Nothing was assigned."""

    async def stop(self, *, drain: bool) -> None:
        """Nothing to close."""
