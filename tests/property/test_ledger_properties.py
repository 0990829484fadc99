"""The ledger under any order of deliveries, acknowledgements and rebalances."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from telemill.kinesis.ledger import Ledger
from telemill.kinesis.records import Chunk, Record, Shard

SHARD = Shard("readings", 1, "shardId-000000000000")


class Rebalances(RuleBasedStateMachine):
    """A model: the list of chunks in order, each with its current offset or acknowledged."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.sequence_number = 10**55
        self.chunks: list[Chunk] = []
        self.offsets: list[int] = []
        self.acknowledged: list[bool] = []
        self.used: set[int] = set()

    @rule(gap=st.integers(1, 10**50))
    def deliver(self, gap: int) -> None:
        """Faust is given the next chunk."""
        self.sequence_number += gap
        chunk = Chunk(SHARD, [Record(str(self.sequence_number), 0, b"", "key")])
        self.chunks.append(chunk)
        self.offsets.append(self.take(self.ledger.deliver(chunk)))
        self.acknowledged.append(False)

    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        """An agent acknowledges any chunk, perhaps one it acknowledged before."""
        if self.chunks:
            index = data.draw(st.integers(0, len(self.chunks) - 1))
            freed = self.ledger.ack(self.offsets[index])
            assert (freed is None) == self.acknowledged[index]
            self.acknowledged[index] = True

    @rule(begun=st.integers(0, 2))
    def rebalance(self, begun: int) -> None:
        """Faust drops its queues; agents work on the first few chunks not acknowledged."""
        pending = [index for index, done in enumerate(self.acknowledged) if not done]
        kept = {self.offsets[index] for index in pending[:begun]}
        redelivered = self.ledger.redeliver(kept)
        assert [chunk for _, chunk in redelivered] == [
            self.chunks[index] for index in pending[begun:]
        ]
        for index, (offset, _) in zip(pending[begun:], redelivered, strict=True):
            self.offsets[index] = self.take(offset)

    def take(self, offset: int) -> int:
        """Offsets are never used twice, and never falsy."""
        assert offset not in self.used
        assert offset >= 1
        self.used.add(offset)
        return offset

    @invariant()
    def position_is_the_acknowledged_prefix(self) -> None:
        """The position is the last record before the first chunk not acknowledged."""
        first_open = next(
            (index for index, done in enumerate(self.acknowledged) if not done), len(self.chunks)
        )
        expected = self.chunks[first_open - 1].records[-1].sequence_number if first_open else None
        assert self.ledger.position == expected
        assert len(self.ledger.pending()) == self.acknowledged.count(False)


TestRebalances = Rebalances.TestCase
TestRebalances.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
