"""What a service's pure core is: chunks and state in, outputs and state out."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar

from telemill.kinesis.records import Chunk, Shard

State = TypeVar("State")


class Output(NamedTuple):
    """One record for the output stream.

    Attributes:
        slot: Decides the explicit hash key.
        data: Wire-encoded, at most 1 MiB.
        partition_key: As it is put.
        rows: Rows held, for the counters.
    """

    slot: int
    data: bytes
    partition_key: str
    rows: int


class Rejected(NamedTuple):
    """Something that cannot be a reading, for the quarantine.

    Attributes:
        reason: A short bounded label (metric label and quarantine partition).
        error: What exactly is wrong, for a person.
        data: The original bytes of the item, or of the record where it cannot be split.
        device_id: Canonical device key where it is known.
        shard_id: Of the raw record.
        sequence_number: Of the raw record.
        sub_sequence_number: Of the item in the record.
        arrival_us: When Kinesis took the record, epoch microseconds UTC.
    """

    reason: str
    error: str
    data: bytes
    device_id: str | None
    shard_id: str
    sequence_number: str
    sub_sequence_number: int
    arrival_us: int


CountKey = tuple[str, ...]
"""A counter and its bounded labels, such as `("rejected", "bad_time")`."""


@dataclass(slots=True)
class StepResult:
    """What one chunk gave.

    Attributes:
        outputs: For the output stream, in order inside each slot.
        rejected: For the quarantine, in order of the input.
        alerts: For the alert topic (anomaly only).
        alert_rows: Rows of the table `alerts` (anomaly only): an outlet completes them and adds
            them to `outputs`.
        counts: What happened, for the metrics; see `telemill.metrics.Metrics.apply`.
        oldest_event_us: Smallest event time put out; None without rows.
        newest_event_us: Largest event time put out; None without rows.
    """

    outputs: list[Output] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    alerts: list[Any] = field(default_factory=list)
    alert_rows: list[Any] = field(default_factory=list)
    counts: Counter[CountKey] = field(default_factory=Counter)
    oldest_event_us: int | None = None
    newest_event_us: int | None = None


class Step(Protocol[State]):
    """A pure, synchronous core: no I/O, clock, randomness or logging.

    Guarantee: `step` is a function of (records, state). The same records after the same state
    give byte-identical results in any process, however the state came there (kept in memory or
    restored from a snapshot), so that a replay repeats what was put out before a crash.
    """

    def restore(self, states: Sequence[bytes], shard: Shard) -> State:
        """The state to begin a shard with.

        Args:
            states: None for an empty state; one to go on; the final states of all parents after
                a reshard, whose union is meant (where the input stream is slotted, only the
                slots of `shard` are kept).
            shard: The shard about to be read.

        Raises:
            DecodeError: A snapshot is damaged or of a format this version cannot read.
        """

    def snapshot(self, state: State) -> bytes:
        """The state as bytes; `restore([snapshot(s)], shard)` continues exactly like `s`."""

    def step(self, chunk: Chunk, state: State) -> StepResult:
        """Take consecutive records of one shard. Changes `state` in place.

        Never raises for what a record holds: bad input is in `rejected`.
        """
