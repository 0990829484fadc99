"""Lingering, packing and acknowledgements."""

import asyncio
from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry

from ingest import core
from ingest.outbox import HELD_BYTES, Outbox
from telemill import errors
from telemill.codec import compression
from telemill.metrics import Metrics


class FakeWriter:
    """Keeps what it was given; the test acknowledges."""

    def __init__(self) -> None:
        self.puts: list[tuple[int, bytes, str]] = []
        self.acks: list[asyncio.Future[str]] = []
        self.is_full = False

    def try_put(self, slot: int, data: bytes, partition_key: str) -> "asyncio.Future[str]":
        """As the real one."""
        if self.is_full:
            raise errors.ServiceUnavailableError("full")
        self.puts.append((slot, data, partition_key))
        self.acks.append(asyncio.get_running_loop().create_future())
        return self.acks[-1]


class Timers:
    """Functions waiting to be called."""

    def __init__(self) -> None:
        self.due: list[tuple[float, Callable[[], None]]] = []

    def call_later(self, seconds: float, function: Callable[[], None]) -> None:
        """As the loop's."""
        self.due.append((seconds, function))

    def fire(self) -> None:
        """Let the time pass."""
        due, self.due = self.due, []
        for _, function in due:
            function()


def outbox(writer: FakeWriter, timers: Timers, linger_seconds: float = 0.25) -> Outbox:
    """One with NDJSON."""
    return Outbox(
        writer,
        raw_format="ndjson",
        slot_count=64,
        linger_seconds=linger_seconds,
        metrics=Metrics(CollectorRegistry()),
        call_later=timers.call_later,
    )


def group(slot: int, *items: bytes) -> core.Group:
    """Some items of a slot."""
    return core.Group(slot, ["7"] * len(items), list(items))


async def settle() -> None:
    """Let callbacks run."""
    for _ in range(3):
        await asyncio.sleep(0)


async def test_items_wait_for_others_of_their_slot() -> None:
    """Nothing is put before the linger is over; then each slot is one record."""
    writer, timers = FakeWriter(), Timers()
    subject = outbox(writer, timers)
    first, second = subject.add([group(1, b"1"), group(2, b"2")]), subject.add([group(1, b"3")])
    assert not writer.puts
    assert [seconds for seconds, _ in timers.due] == [0.25]
    timers.fire()
    assert [slot for slot, _, _ in writer.puts] == [1, 2]
    writer.acks[0].set_result("n")
    await settle()
    assert second.done()
    assert not first.done()
    writer.acks[1].set_result("n")
    await settle()
    assert first.done()


async def test_no_linger_puts_at_once() -> None:
    """With 0 seconds an item is put within the call."""
    writer, timers = FakeWriter(), Timers()
    outbox(writer, timers, 0.0).add([group(1, b"1")])
    assert len(writer.puts) == 1
    assert not timers.due


async def test_a_full_batch_does_not_wait() -> None:
    """A batch that can take no more goes at once, the rest lingers."""
    writer, timers = FakeWriter(), Timers()
    acknowledged = outbox(writer, timers).add([group(1, *[b"x" * 100_000] * 12)])
    assert len(writer.puts) == 2
    timers.fire()
    assert len(writer.puts) == 3
    for ack in writer.acks:
        ack.set_result("n")
    await settle()
    assert acknowledged.done()


async def test_items_gather_while_their_slot_waits_for_kinesis() -> None:
    """Behind a record not acknowledged the next one fills; other slots do not wait for it."""
    writer, timers = FakeWriter(), Timers()
    subject = outbox(writer, timers)
    subject.add([group(1, b"1")])
    timers.fire()
    later = [subject.add([group(1, b"2"), group(2, b"a")]), subject.add([group(1, b"3")])]
    timers.fire()
    assert [slot for slot, _, _ in writer.puts] == [1, 2]
    writer.acks[0].set_result("n")
    await settle()
    assert [slot for slot, _, _ in writer.puts] == [1, 2, 1]
    assert compression.decompress(writer.puts[2][1], limit=99) == b"2\n3\n"
    for ack in writer.acks[1:]:
        ack.set_result("n")
    await asyncio.gather(*later)


async def test_what_has_not_lingered_does_not_go_with_an_acknowledgement() -> None:
    """A free slot is no reason to send a record of one item."""
    writer, timers = FakeWriter(), Timers()
    subject = outbox(writer, timers)
    subject.add([group(1, b"1")])
    timers.fire()
    subject.add([group(1, b"2")])
    writer.acks[0].set_result("n")
    await settle()
    assert len(writer.puts) == 1
    timers.fire()
    assert len(writer.puts) == 2


async def test_what_gathers_is_bounded() -> None:
    """A batch that has grown large goes to the writer, which bounds what waits."""
    writer, timers = FakeWriter(), Timers()
    subject = outbox(writer, timers)
    subject.add([group(1, b"1")])
    timers.fire()
    subject.add([group(1, b"x" * HELD_BYTES)])
    timers.fire()
    assert len(writer.puts) == 2


async def test_a_refused_record_holds_up_nobody_behind_it() -> None:
    """When a record fails, what gathered behind it is put all the same."""
    writer, timers = FakeWriter(), Timers()
    subject = outbox(writer, timers)
    failing = subject.add([group(1, b"1")])
    timers.fire()
    behind = subject.add([group(1, b"2")])
    timers.fire()
    writer.acks[0].set_exception(errors.ServiceUnavailableError("stopped"))
    with pytest.raises(errors.ServiceUnavailableError):
        await failing
    await settle()
    writer.acks[1].set_result("n")
    await behind


async def test_a_drain_leaves_nothing_behind() -> None:
    """`flush` hands over also what waits for its slot."""
    writer, timers = FakeWriter(), Timers()
    subject = outbox(writer, timers)
    for number in range(3):
        subject.add([group(1, b"%d" % number)])
        timers.fire()
    subject.flush()
    assert len(writer.puts) == 2


async def test_no_room_is_the_callers_failure() -> None:
    """A full writer fails those whose items it refused, and a later one succeeds."""
    writer, timers = FakeWriter(), Timers()
    subject = outbox(writer, timers)
    writer.is_full = True
    refused = subject.add([group(1, b"1")])
    timers.fire()
    with pytest.raises(errors.ServiceUnavailableError):
        await refused
    writer.is_full = False
    taken = subject.add([group(1, b"2")])
    timers.fire()
    writer.acks[0].set_result("n")
    await taken


async def test_giving_up_waiting_harms_nobody() -> None:
    """A caller that stopped waiting does not take the acknowledgement from the others."""
    writer, timers = FakeWriter(), Timers()
    subject = outbox(writer, timers)
    gone, there = subject.add([group(1, b"1")]), subject.add([group(1, b"2")])
    gone.cancel()
    timers.fire()
    writer.acks[0].set_result("n")
    await there


async def test_nothing_to_take_is_done() -> None:
    """An empty body waits for nobody."""
    await outbox(FakeWriter(), Timers()).add([])


async def test_a_bug_in_the_writer_is_not_swallowed() -> None:
    """A failure that is no TelemillError also ends who watches `broken`."""
    writer, timers = FakeWriter(), Timers()
    subject = outbox(writer, timers, 0.0)
    watching = asyncio.ensure_future(subject.broken())
    acknowledged = subject.add([group(1, b"1")])
    writer.acks[0].set_exception(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        await acknowledged
    with pytest.raises(ZeroDivisionError):
        await watching
