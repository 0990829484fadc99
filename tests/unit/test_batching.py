"""What goes into one PutRecords."""

import pytest

from telemill import errors
from telemill.kinesis import batching
from telemill.kinesis.batching import Entry, Outbox

MIB = 1024 * 1024


def entry(slot: int, name: str = "", size_bytes: int = 10) -> Entry[str]:
    """A record known by its ticket."""
    return Entry(slot, b"", "key", name or f"slot {slot}", size_bytes)


def tickets(request: list[Entry[str]]) -> list[str]:
    """The names of what is in a request."""
    return [one.ticket for one in request]


def test_one_record_of_a_slot_at_a_time() -> None:
    """The second record of a slot waits until the first is acknowledged."""
    outbox: Outbox[str] = Outbox()
    for name in ("first", "second"):
        outbox.add(entry(7, name))
    request = outbox.next_request()
    assert tickets(request) == ["first"]
    assert outbox.next_request() == []
    outbox.acknowledge(request[0])
    assert tickets(outbox.next_request()) == ["second"]


def test_a_request_has_at_most_500_records() -> None:
    """PutRecords takes 500."""
    outbox: Outbox[str] = Outbox()
    for slot in range(600):
        outbox.add(entry(slot))
    assert [len(outbox.next_request()) for _ in range(3)] == [500, 100, 0]


def test_a_request_has_at_most_10_mib() -> None:
    """PutRecords takes 10 MiB of data and partition keys together."""
    outbox: Outbox[str] = Outbox()
    for slot in range(25):
        outbox.add(entry(slot, size_bytes=MIB))
    assert [len(outbox.next_request()) for _ in range(4)] == [10, 10, 5, 0]


def test_what_failed_goes_first() -> None:
    """A failed record is in the next request, ahead of every other slot and of its own slot."""
    outbox: Outbox[str] = Outbox()
    outbox.add(entry(1, "failed"))
    request = outbox.next_request()
    outbox.add(entry(2, "later"))
    outbox.add(entry(1, "behind"))
    outbox.fail(request[0])
    assert tickets(outbox.next_request()) == ["failed", "later"]


def test_giving_up_returns_everything_in_flight_or_not() -> None:
    """Nothing is forgotten when the writer stops."""
    outbox: Outbox[str] = Outbox()
    for name in ("a", "b"):
        outbox.add(entry(1, name))
    outbox.next_request()
    assert tickets(outbox.clear()) == ["a", "b"]
    assert len(outbox) == 0


@pytest.mark.parametrize(
    ("data", "partition_key"),
    [(b"x" * MIB, "k"), (b"x" * (MIB - 3), "ключ"), (b"", "k" * 257)],
)
def test_a_record_the_service_would_refuse_is_refused_first(
    data: bytes, partition_key: str
) -> None:
    """1 MiB counts data and the bytes of the partition key; the key has at most 256 characters."""
    with pytest.raises(errors.RecordTooLargeError):
        batching.size_of(data, partition_key)


def test_the_largest_record_is_taken() -> None:
    """Exactly 1 MiB with its key fits."""
    assert batching.size_of(b"x" * (MIB - 3), "key") == MIB
