"""How positions of one shard compare. Pure."""

from telemill.kinesis.records import SHARD_END


def order(position: str | None) -> tuple[int, int]:
    """A sort key of positions: None, then sequence numbers as numbers, then SHARD_END."""
    if position is None:
        return (0, 0)
    return (2, 0) if position == SHARD_END else (1, int(position))
