"""Where the by-products of a step go: rejected items, alerts."""

from typing import Protocol

from telemill.kinesis.records import Shard
from telemill.stages.step import StepResult


class Outlet(Protocol):
    """Takes by-products of steps and makes them durable. At-least-once.

    A stage calls `write` with every result of a shard in order and `flush` before it moves the
    shard's position. Writing the same results again after a crash must do no harm: names are
    derived from lineage, so a replay overwrites rather than adds.
    """

    async def write(self, shard: Shard, result: StepResult) -> None:
        """Take what concerns this outlet. May buffer; returns when there is room.

        Raises:
            TransientError: The buffer is full and cannot be emptied. What was passed is kept
                and is tried again by the next `flush`.
        """

    async def flush(self, shard: Shard) -> None:
        """Return when everything taken for the shard is durable.

        Raises:
            TransientError: It is not; nothing is lost and a later call tries again.
        """
