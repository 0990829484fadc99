"""What goes into the next PutRecords. Pure.

PutRecords promises no order among its records, and an answer may be lost. So a slot has at most
one record in one request, and none in two requests at a time: what is behind waits until what is
ahead is acknowledged. Records that failed go first.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from telemill import errors

# Limits of the service: Kinesis Data Streams API reference, PutRecords.
MAX_REQUEST_RECORDS = 500
MAX_REQUEST_BYTES = 10 * 1024 * 1024
MAX_RECORD_BYTES = 1024 * 1024
MAX_PARTITION_KEY_CHARACTERS = 256

ENTRY_OVERHEAD_BYTES = 1280
"""What a waiting record costs in memory beside its data: entry, futures, callbacks, object headers.
50,000 records of 100 bytes, put by ingest, took 1,356 bytes each (CPython 3.11, 64 bit)."""

Ticket = TypeVar("Ticket")


@dataclass(slots=True)
class Entry(Generic[Ticket]):
    """One record on its way.

    Attributes:
        slot: Whose order it keeps.
        data: The record's bytes.
        partition_key: As it will be put.
        ticket: The caller's own: what to tell when the record is acknowledged.
        size_bytes: What the service counts: data and partition key.
        put_at: Clock reading when it was put.
        failures: How often it was sent and not taken.
    """

    slot: int
    data: bytes
    partition_key: str
    ticket: Ticket
    size_bytes: int
    put_at: float = 0.0
    failures: int = 0

    @property
    def memory_bytes(self) -> int:
        """What it takes of the buffer, about."""
        return self.size_bytes + ENTRY_OVERHEAD_BYTES


def size_of(data: bytes, partition_key: str) -> int:
    """The size of a record as the service counts it.

    Raises:
        RecordTooLargeError: The service would refuse it.
    """
    if len(partition_key) > MAX_PARTITION_KEY_CHARACTERS:
        raise errors.RecordTooLargeError(
            f"a partition key of {len(partition_key)} characters;"
            f" Kinesis takes {MAX_PARTITION_KEY_CHARACTERS}"
        )
    size_bytes = len(data) + len(partition_key.encode())
    if size_bytes > MAX_RECORD_BYTES:
        raise errors.RecordTooLargeError(
            f"a record of {size_bytes} bytes; Kinesis takes {MAX_RECORD_BYTES}"
        )
    return size_bytes


class Outbox(Generic[Ticket]):
    """Records to be put, in order per slot.

    Attributes:
        max_request_bytes: Most bytes in one request; lower than the limit once the service has
            refused a request for its size.
    """

    def __init__(self) -> None:
        self.max_request_bytes = MAX_REQUEST_BYTES
        self._slots: dict[int, deque[Entry[Ticket]]] = {}
        # Slots whose first record may be sent, longest waiting first; each at most once in one of
        # the two, and in neither while a record of it is in flight.
        self._again: deque[int] = deque()
        self._ready: deque[int] = deque()
        self._in_flight: set[int] = set()
        self._count = 0

    def __len__(self) -> int:
        """Records not acknowledged."""
        return self._count

    def add(self, entry: Entry[Ticket]) -> None:
        """Queue a record behind the others of its slot."""
        self._count += 1
        entries = self._slots.get(entry.slot)
        if entries is None:
            self._slots[entry.slot] = deque((entry,))
            self._ready.append(entry.slot)
        else:
            entries.append(entry)

    def next_request(self) -> list[Entry[Ticket]]:
        """Take what goes into one PutRecords, at most one record a slot; empty when nothing may.

        Each entry must come back through `acknowledge` or `fail`.
        """
        request: list[Entry[Ticket]] = []
        room_bytes = self.max_request_bytes
        for queue in (self._again, self._ready):
            while queue and len(request) < MAX_REQUEST_RECORDS:
                entry = self._slots[queue[0]][0]
                if entry.size_bytes > room_bytes:
                    return request
                room_bytes -= entry.size_bytes
                request.append(entry)
                self._in_flight.add(queue.popleft())
        return request

    def acknowledge(self, entry: Entry[Ticket]) -> None:
        """The record is in the stream: the next of its slot may go."""
        entries = self._land(entry)
        entries.popleft()
        self._count -= 1
        if entries:
            self._ready.append(entry.slot)
        else:
            del self._slots[entry.slot]

    def fail(self, entry: Entry[Ticket]) -> None:
        """The record may not be in the stream: it goes again, before anything else of its slot."""
        self._land(entry)
        self._again.append(entry.slot)

    def refused(self, request: Sequence[Entry[Ticket]]) -> bool:
        """The service calls a request invalid: it may take less at a time than we know.

        The limit was 5 MiB before it was 10, and may still be elsewhere.

        Returns:
            Whether smaller requests are worth trying; they will be smaller from now on.
        """
        size_bytes = sum(entry.size_bytes for entry in request)
        if size_bytes <= MAX_RECORD_BYTES:
            return False
        smaller_bytes = max(size_bytes // 2, MAX_RECORD_BYTES)
        self.max_request_bytes = min(self.max_request_bytes, smaller_bytes)
        return True

    def oldest(self, slot: int) -> Entry[Ticket] | None:
        """The record of a slot that has waited longest."""
        entries = self._slots.get(slot)
        return entries[0] if entries else None

    def entries(self) -> list[Entry[Ticket]]:
        """Everything not acknowledged."""
        return [entry for entries in self._slots.values() for entry in entries]

    def clear(self) -> list[Entry[Ticket]]:
        """Give up everything not acknowledged."""
        left = self.entries()
        self._count = 0
        for container in (self._slots, self._again, self._ready, self._in_flight):
            container.clear()
        return left

    def _land(self, entry: Entry[Ticket]) -> deque[Entry[Ticket]]:
        self._in_flight.remove(entry.slot)
        return self._slots[entry.slot]
