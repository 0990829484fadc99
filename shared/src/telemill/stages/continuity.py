"""The last guard against a chunk that was lost between the reader and a stage."""

import structlog

from telemill import errors
from telemill.kinesis.records import Chunk
from telemill.progress.positions import order

log = structlog.get_logger()


def require_continuous(chunk: Chunk, reached: str | None) -> None:
    """Make sure that nothing was left out between what was worked on and a chunk.

    What hands chunks on may lose one (a rebalance of Faust takes back what waits in its queues);
    the records behind it must not move the position over it.

    Args:
        chunk: The next one.
        reached: The last record that was worked on.

    Raises:
        LeaseLostError: The shard has to be claimed anew and read from its position.
    """
    if order(chunk.after) > order(reached):
        log.error("stage.gap", shard_id=chunk.shard.shard_id, reached=reached, after=chunk.after)
        raise errors.LeaseLostError(
            f"{chunk.shard.shard_id}: records between {reached} and {chunk.after} did not come"
        )
