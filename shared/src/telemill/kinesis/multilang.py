"""The protocol of Amazon's MultiLangDaemon, one conversation a shard. Pure: lines in, lines out.

The daemon writes an action as one JSON line and waits for its status; while it waits it also reads
checkpoint requests and answers each. Outside such a window nobody listens, and in `initialize` and
`leaseLost` a checkpoint is refused: a request made then is parked until the next window opens.

`TRANSITIONS` is the whole state machine; `Conversation` applies it.

Source:
    amazon-kinesis-client, multilang/MultiLangProtocol.java and its `messages` package;
    tests/kcl/transcripts holds what the daemons of both KCL versions really said.
"""

import enum
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import msgspec

from telemill import errors
from telemill.kinesis.records import Record

MICROS_PER_MILLI = 1000
RETRIABLE = frozenset({"ThrottlingException", "KinesisClientLibDependencyException"})
"""Checkpoint errors that may heal: the KCL's KinesisClientLibRetryableException and below it."""


class ProtocolError(errors.TelemillError):
    """A line that the protocol does not allow: the daemon is not the one we know, or is broken."""


class _Action(msgspec.Struct, tag_field="action", gc=False):
    """One line of the daemon; unknown fields are ignored."""


class Initialize(_Action, tag="initialize", rename="camel"):
    """The lease of a shard is ours.

    Attributes:
        shard_id: Which.
        sequence_number: The KCL's checkpoint: digits, or "TRIM_HORIZON", "LATEST", "AT_TIMESTAMP".
        sub_sequence_number: Of a user record inside an aggregate.
    """

    shard_id: str
    sequence_number: str | None = None
    sub_sequence_number: int | None = None


class WireRecord(msgspec.Struct, rename="camel", gc=False):
    """A record as the daemon writes it: the KCL has taken KPL aggregates apart already.

    Attributes:
        sub_sequence_number: Index in its aggregate; 0 for a record put alone.
    """

    sequence_number: str
    partition_key: str
    approximate_arrival_timestamp: int | None = None
    sub_sequence_number: int | None = None
    data: bytes | None = None

    def to_record(self) -> Record:
        """As every coordinator hands it on."""
        arrival_millis = self.approximate_arrival_timestamp or 0
        return Record(
            self.sequence_number,
            arrival_millis * MICROS_PER_MILLI,
            self.data or b"",
            self.partition_key,
        )


class ProcessRecords(_Action, tag="processRecords", rename="camel"):
    """The next records, maybe none."""

    records: Sequence[WireRecord] = ()
    millis_behind_latest: int | None = None


class LeaseLost(_Action, tag="leaseLost"):
    """The shard is another worker's."""


class ShardEnded(_Action, tag="shardEnded"):
    """All records were delivered; children begin once the end is checkpointed."""


class ShutdownRequested(_Action, tag="shutdownRequested"):
    """The daemon stops or hands this lease over: the last chance to checkpoint."""


class Checkpointed(_Action, tag="checkpoint", rename="camel"):
    """The answer to a checkpoint request.

    Attributes:
        error: Simple class name of the exception; None when it was stored.
    """

    sequence_number: str | None = None
    sub_sequence_number: int | None = None
    error: str | None = None

    @property
    def retriable(self) -> bool:
        """Whether the same request may succeed later."""
        return self.error in RETRIABLE


Action: TypeAlias = (
    Initialize | ProcessRecords | LeaseLost | ShardEnded | ShutdownRequested | Checkpointed
)


class State(enum.Enum):
    """Where a conversation stands."""

    CONNECTED = "connected"  # nothing was said yet
    INITIALIZING = "initialize"
    IDLE = "idle"  # nothing is owed and nobody listens
    PROCESSING = "processRecords"
    PROCESSING_ASKED = "processRecords, checkpoint asked"
    STOPPING = "shutdownRequested"
    STOPPING_ASKED = "shutdownRequested, checkpoint asked"
    ENDING = "shardEnded"
    ENDING_ASKED = "shardEnded, checkpoint asked"
    LOSING = "leaseLost"
    OVER = "over"  # the daemon closes the connection next


class Event(enum.Enum):
    """What is said: by the daemon (its actions' own names), or by us."""

    INITIALIZE = "initialize"
    PROCESS_RECORDS = "processRecords"
    LEASE_LOST = "leaseLost"
    SHARD_ENDED = "shardEnded"
    SHUTDOWN_REQUESTED = "shutdownRequested"
    CHECKPOINTED = "checkpoint"
    ASK = "checkpoint request"
    ANSWER = "status"


TRANSITIONS: Mapping[tuple[State, Event], State] = {
    (State.CONNECTED, Event.INITIALIZE): State.INITIALIZING,
    (State.INITIALIZING, Event.ANSWER): State.IDLE,
    (State.IDLE, Event.PROCESS_RECORDS): State.PROCESSING,
    (State.IDLE, Event.LEASE_LOST): State.LOSING,
    (State.IDLE, Event.SHARD_ENDED): State.ENDING,
    (State.IDLE, Event.SHUTDOWN_REQUESTED): State.STOPPING,
    (State.PROCESSING, Event.ASK): State.PROCESSING_ASKED,
    (State.PROCESSING, Event.ANSWER): State.IDLE,
    (State.PROCESSING_ASKED, Event.CHECKPOINTED): State.PROCESSING,
    (State.STOPPING, Event.ASK): State.STOPPING_ASKED,
    (State.STOPPING, Event.ANSWER): State.IDLE,
    (State.STOPPING_ASKED, Event.CHECKPOINTED): State.STOPPING,
    (State.ENDING, Event.ASK): State.ENDING_ASKED,
    (State.ENDING, Event.ANSWER): State.OVER,
    (State.ENDING_ASKED, Event.CHECKPOINTED): State.ENDING,
    (State.LOSING, Event.ANSWER): State.OVER,
}
"""Every move there is; any other is a fault, ours or the daemon's."""

_RESPONSE_FOR: Mapping[State, str] = {
    state: state.value
    for state in (
        State.INITIALIZING,
        State.PROCESSING,
        State.STOPPING,
        State.ENDING,
        State.LOSING,
    )
}
_decoder = msgspec.json.Decoder(Action)
_encoder = msgspec.json.Encoder()


def decode(line: bytes) -> Action:
    """Read a line of the daemon.

    Raises:
        ProtocolError: It is none.
    """
    try:
        action: Action = _decoder.decode(line)
    except msgspec.DecodeError as error:
        raise ProtocolError(f"not a line of the MultiLangDaemon: {error}") from error
    return action


class _Wanted(NamedTuple):
    """A checkpoint not asked for yet; without a sequence number: the end of what was delivered."""

    sequence_number: str | None


class Conversation:
    """One shard's conversation with the daemon.

    Attributes:
        state: Where it stands.
        shard_id: Once initialized.
        delivered: Highest sequence number among the records received.
        checkpointed: Last sequence number the KCL stored, for us or an earlier owner.
    """

    def __init__(self) -> None:
        self.state = State.CONNECTED
        self.shard_id: str | None = None
        self.delivered: str | None = None
        self.checkpointed: str | None = None
        self._wanted: _Wanted | None = None
        self._closed = False

    def receive(self, line: bytes) -> Action:
        """Take a line of the daemon.

        Raises:
            ProtocolError: It is none, or comes out of turn.
        """
        action = decode(line)
        self._move(Event(action.__struct_config__.tag))
        if isinstance(action, Initialize):
            self.shard_id = action.shard_id
            number = action.sequence_number or ""
            self.checkpointed = number if number.isdigit() else None
        elif isinstance(action, ProcessRecords) and action.records:
            self.delivered = action.records[-1].sequence_number
        elif isinstance(action, Checkpointed):
            self._note(action)
        return action

    def want_checkpoint(self, position: str) -> None:
        """Checkpoint `position` in the next window; a higher one replaces it.

        Nothing happens for one that is stored already. One above all that was delivered here (ours
        was ahead of the KCL's when the shard was opened) becomes the last delivered one: the
        daemon refuses others.
        """
        if self.delivered is None or self._closed:
            return
        reachable = min(position, self.delivered, key=int)
        if self.checkpointed is None or int(reachable) > int(self.checkpointed):
            self._wanted = _Wanted(reachable)

    def want_end(self) -> None:
        """Checkpoint the end of the shard; only once `shardEnded` has come.

        Raises:
            ProtocolError: It has not: the daemon would take it for the last record delivered.
        """
        if self.state is not State.ENDING:
            raise ProtocolError(f"end of a shard wanted in {self.state.value}")
        self._wanted = _Wanted(None)

    def request(self) -> bytes | None:
        """The checkpoint request to send now; None when there is none, or nobody listens."""
        if self._wanted is None or (self.state, Event.ASK) not in TRANSITIONS:
            return None
        wanted, self._wanted = self._wanted, None
        self._move(Event.ASK)
        return _line(
            {
                "action": "checkpoint",
                "sequenceNumber": wanted.sequence_number,
                "subSequenceNumber": None,
            }
        )

    def answer(self) -> bytes:
        """The status of the action in hand: it is done.

        Raises:
            ProtocolError: None is in hand, or a checkpoint is not answered yet.
        """
        response_for = _RESPONSE_FOR.get(self.state)
        self._move(Event.ANSWER)
        return _line({"action": "status", "responseFor": response_for})

    def _note(self, answered: Checkpointed) -> None:
        """A checkpoint that failed for now is wanted again, unless a higher one already is."""
        if answered.error is None:
            self.checkpointed = answered.sequence_number or self.checkpointed
        elif answered.error == "ShutdownException":
            # The lease is lost; leaseLost follows.
            self._closed = True
            self._wanted = None
        elif answered.retriable and self._wanted is None:
            self._wanted = _Wanted(answered.sequence_number)

    def _move(self, event: Event) -> None:
        following = TRANSITIONS.get((self.state, event))
        if following is None:
            raise ProtocolError(f"{event.value} cannot come in {self.state.value}")
        self.state = following


def _line(message: Mapping[str, str | None]) -> bytes:
    return _encoder.encode(message) + b"\n"
