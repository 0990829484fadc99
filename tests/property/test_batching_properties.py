"""PutRecords packing under any order of puts, acknowledgements and failures."""

from collections import defaultdict

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from telemill.kinesis import batching
from telemill.kinesis.batching import Entry, Outbox


class Puts(RuleBasedStateMachine):
    """A model of the stream: what was put per slot, and what it has, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.outbox: Outbox[int] = Outbox()
        self.put: defaultdict[int, list[int]] = defaultdict(list)
        self.stored: defaultdict[int, list[int]] = defaultdict(list)
        self.flying: list[Entry[int]] = []
        self.count = 0

    @rule(slot=st.integers(0, 8), size_bytes=st.integers(1, batching.MAX_RECORD_BYTES))
    def add(self, slot: int, size_bytes: int) -> None:
        """A record comes."""
        self.count += 1
        self.put[slot].append(self.count)
        self.outbox.add(Entry(slot, b"", "k", self.count, size_bytes))

    @rule()
    def send(self) -> None:
        """A request leaves; it keeps the service's limits."""
        request = self.outbox.next_request()
        assert len(request) <= batching.MAX_REQUEST_RECORDS
        assert sum(entry.size_bytes for entry in request) <= batching.MAX_REQUEST_BYTES
        self.flying.extend(request)
        slots = [entry.slot for entry in self.flying]
        assert len(slots) == len(set(slots))

    @rule(data=st.data(), arrives=st.booleans(), known=st.booleans())
    def answer(self, data: st.DataObject, arrives: bool, known: bool) -> None:
        """A record arrives or not, and its answer or not: unless both do, it is sent again."""
        if not self.flying:
            return
        entry = self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1)))
        if arrives:
            self.stored[entry.slot].append(entry.ticket)
        if arrives and known:
            self.outbox.acknowledge(entry)
        else:
            self.outbox.fail(entry)

    @invariant()
    def order_holds_inside_a_slot(self) -> None:
        """Each slot's records are on the stream in the order put; repeats only side by side."""
        for slot, stored in self.stored.items():
            assert stored == sorted(stored)
            once = list(dict.fromkeys(stored))
            assert once == self.put[slot][: len(once)]

    def teardown(self) -> None:
        """With a healthy stream everything put gets there."""
        while True:
            for entry in self.flying:
                self.stored[entry.slot].append(entry.ticket)
                self.outbox.acknowledge(entry)
            self.flying = self.outbox.next_request()
            if not self.flying:
                break
        assert len(self.outbox) == 0
        for slot, put in self.put.items():
            assert list(dict.fromkeys(self.stored[slot])) == put


TestPuts = Puts.TestCase
TestPuts.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
