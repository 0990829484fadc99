"""The MultiLangDaemon's protocol: what it said, and what we may say when."""

import base64
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from telemill.kinesis import multilang
from telemill.kinesis.multilang import (
    Checkpointed,
    Conversation,
    Event,
    Initialize,
    ProcessRecords,
    ProtocolError,
    State,
)

VECTORS = Path(__file__).parents[1] / "kcl" / "transcripts"
TRANSCRIPTS = sorted(path.stem for path in VECTORS.glob("*.ndjson"))
LOW, HIGH = "49590338271490256608559692538361571095921575989136588898", "9" * 56
INITIALIZE = b'{"action":"initialize","shardId":"shardId-0","sequenceNumber":"TRIM_HORIZON"}'


def lines_of(name: str) -> list[dict[str, Any]]:
    """A transcript."""
    text = (VECTORS / f"{name}.ndjson").read_bytes()
    return [msgspec.json.decode(line) for line in text.splitlines()]


def records_line(*numbers: str) -> bytes:
    """A `processRecords` with records of these sequence numbers."""
    record = {
        "data": "YQ==",
        "partitionKey": "k",
        "approximateArrivalTimestamp": 1,
        "subSequenceNumber": 0,
    }
    records = [{**record, "sequenceNumber": number} for number in numbers]
    return msgspec.json.encode(
        {"action": "processRecords", "records": records, "millisBehindLatest": 0}
    )


def opened(checkpoint: str = "TRIM_HORIZON") -> Conversation:
    """A conversation past `initialize`."""
    conversation = Conversation()
    line = {"action": "initialize", "shardId": "shardId-0", "sequenceNumber": checkpoint}
    conversation.receive(msgspec.json.encode(line))
    conversation.answer()
    return conversation


def answered(error: str | None, number: str | None = LOW) -> bytes:
    """The daemon's answer to a checkpoint request."""
    return msgspec.json.encode({"action": "checkpoint", "sequenceNumber": number, "error": error})


def _played(transcript: list[dict[str, Any]]) -> Iterator[Conversation]:
    """A conversation before each probe, and at the end: it says byte for byte what was recorded."""
    conversation = Conversation()
    probed = False
    for each in transcript:
        line, said = msgspec.json.encode(each["line"]), each["from"]
        if said == "probe":
            probed = True
            yield conversation
        elif said == "daemon" and probed:
            probed = False
            assert isinstance(multilang.decode(line), Checkpointed)
        elif said == "daemon":
            conversation.receive(line)
        elif each["line"]["action"] == "status":
            assert conversation.answer() == line + b"\n"
        else:
            wanted = each["line"]["sequenceNumber"]
            if wanted is None:
                conversation.want_end()
            else:
                conversation.want_checkpoint(wanted)
            assert conversation.request() == line + b"\n"
    yield conversation


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_a_recorded_conversation_plays_again(name: str) -> None:
    """What the daemons of both KCL versions said is understood, and answered as it was then."""
    *_, conversation = _played(lines_of(name))
    assert conversation.state is State.OVER


def test_both_versions_are_recorded() -> None:
    """Of each pinned KCL there are the conversations of a parent and of its two children."""
    assert [name.partition("-")[0] for name in TRANSCRIPTS] == ["kcl2"] * 3 + ["kcl3"] * 3


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_what_the_daemon_refused_is_never_asked(name: str) -> None:
    """Where a checkpoint was refused, `request` gives none, or one the daemon takes."""
    for conversation in _played(lines_of(name)):
        before = conversation.delivered
        conversation.want_checkpoint(HIGH)
        if conversation.state is not State.PROCESSING:
            assert conversation.request() is None
        else:
            # Parked is the last one delivered, not one beyond.
            assert before is not None
            assert conversation._wanted is not None
            assert conversation._wanted.sequence_number == before


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_every_probe_was_refused(name: str) -> None:
    """The transcripts show the errors: no checkpoint in initialize and leaseLost, none beyond."""
    transcript = lines_of(name)
    errors_ = {
        following["line"]["error"]
        for each, following in itertools.pairwise(transcript)
        if each["from"] == "probe"
    }
    assert errors_ <= {"InvalidStateException", "IllegalArgumentException"}
    assert "InvalidStateException" in errors_


@pytest.mark.parametrize("version", ["kcl2", "kcl3"])
def test_an_aggregate_comes_apart(version: str) -> None:
    """The KCL delivers user records of an aggregate under one number, counted from 0."""
    transcript = lines_of(f"{version}-shardId-000000000000")
    records = [
        record
        for each in transcript
        if isinstance(each["line"], dict) and each["from"] == "daemon"
        for record in each["line"].get("records", [])
    ]
    keys = [record["partitionKey"] for record in records]
    numbers = [record["sequenceNumber"] for record in records]
    assert keys == ["device-0", "device-0", "device-1", "device-2", 'ä€😀 "quoted"']
    assert [record["subSequenceNumber"] for record in records] == [0, 0, 1, 2, 0]
    assert numbers[1] == numbers[2] == numbers[3] != numbers[4]
    assert base64.b64decode(records[4]["data"]) == "ä€😀\x00".encode()


def test_records_are_read_whole() -> None:
    """Bytes, arrival in microseconds, key and numbers are as the daemon wrote them."""
    line = (
        b'{"action":"processRecords","records":[{"action":"record","data":"AP8=","partitionKey":"k",'
        b'"sequenceNumber":"7","subSequenceNumber":3,"approximateArrivalTimestamp":1476889707123}],'
        b'"millisBehindLatest":12,"new":[1]}'
    )
    action = multilang.decode(line)
    assert isinstance(action, ProcessRecords)
    assert action.millis_behind_latest == 12
    assert action.records[0].sub_sequence_number == 3
    assert action.records[0].to_record() == ("7", 1_476_889_707_123_000, b"\x00\xff", "k")


def test_large_lines_are_read() -> None:
    """A line of more than 13 MB, as a full page makes one, is read whole."""
    data = base64.b64encode(bytes(1_048_576)).decode()
    record = {"data": data, "partitionKey": "k", "sequenceNumber": LOW}
    line = msgspec.json.encode({"action": "processRecords", "records": [record] * 10})
    action = multilang.decode(line)
    assert len(line) > 13_000_000
    assert isinstance(action, ProcessRecords)
    assert sum(len(each.data or b"") for each in action.records) == 10 * 1_048_576


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"WARNING: something printed",
        b'{"action":"shutdown","reason":"TERMINATE"}',
        b'{"action":"initialize"}',
        b'{"action":"processRecords","records":[{"sequenceNumber":"1","partitionKey":"k","data":"%"}]}',
    ],
)
def test_what_is_no_line_of_the_protocol_is_refused(line: bytes) -> None:
    """Anything else than the daemon's own actions is a ProtocolError, not a guess."""
    with pytest.raises(ProtocolError):
        Conversation().receive(line)


def test_a_checkpoint_waits_for_a_window() -> None:
    """Wanted while nobody listens, it is asked for in the next window, once."""
    conversation = opened()
    conversation.receive(records_line(LOW))
    conversation.answer()
    conversation.want_checkpoint(LOW)
    assert conversation.request() is None
    conversation.receive(records_line())
    request = conversation.request()
    assert request is not None
    assert msgspec.json.decode(request)["sequenceNumber"] == LOW
    assert conversation.request() is None


def test_one_request_at_a_time() -> None:
    """While a checkpoint is not answered, neither another nor the status may be sent."""
    conversation = opened()
    conversation.receive(records_line(LOW, HIGH))
    conversation.want_checkpoint(LOW)
    conversation.request()
    conversation.want_checkpoint(HIGH)
    assert conversation.request() is None
    with pytest.raises(ProtocolError):
        conversation.answer()
    conversation.receive(answered(None))
    assert conversation.request() is not None


def test_the_highest_position_wins() -> None:
    """Of several wanted before a window, only the last is asked for; a stored one never again."""
    conversation = opened()
    conversation.receive(records_line(LOW, HIGH))
    conversation.want_checkpoint(LOW)
    conversation.want_checkpoint(HIGH)
    request = conversation.request()
    assert request is not None
    assert msgspec.json.decode(request)["sequenceNumber"] == HIGH
    conversation.receive(answered(None, HIGH))
    conversation.want_checkpoint(LOW)
    conversation.want_checkpoint(HIGH)
    assert conversation.request() is None


def test_nothing_below_the_stored_checkpoint_is_asked() -> None:
    """A shard resumed at its checkpoint is not checkpointed below it: the KCL refuses that."""
    conversation = opened(checkpoint=HIGH)
    conversation.receive(records_line(LOW))
    conversation.want_checkpoint(LOW)
    assert conversation.request() is None


@pytest.mark.parametrize("error", sorted(multilang.RETRIABLE))
def test_a_checkpoint_that_failed_for_now_is_asked_again(error: str) -> None:
    """Throttling and a missing DynamoDB are retried in a later window."""
    conversation = opened()
    conversation.receive(records_line(LOW))
    conversation.want_checkpoint(LOW)
    conversation.request()
    action = conversation.receive(answered(error))
    assert isinstance(action, Checkpointed)
    assert action.retriable
    conversation.answer()
    conversation.receive(records_line())
    assert conversation.request() is not None


@pytest.mark.parametrize("error", ["InvalidStateException", "IllegalArgumentException"])
def test_a_checkpoint_refused_for_good_is_not_repeated(error: str) -> None:
    """It is a hint: the next position is asked for, not the refused one over and over."""
    conversation = opened()
    conversation.receive(records_line(LOW))
    conversation.want_checkpoint(LOW)
    conversation.request()
    conversation.receive(answered(error))
    assert conversation.request() is None


def test_after_a_lost_lease_nothing_is_asked() -> None:
    """A ShutdownException means the lease is gone: no checkpoint is wanted any more."""
    conversation = opened()
    conversation.receive(records_line(LOW, HIGH))
    conversation.want_checkpoint(LOW)
    conversation.request()
    conversation.receive(answered("ShutdownException"))
    conversation.want_checkpoint(HIGH)
    assert conversation.request() is None


def test_the_end_is_wanted_only_at_the_end() -> None:
    """Before `shardEnded`, a checkpoint without a number would jump over unprocessed records."""
    conversation = opened()
    conversation.receive(records_line(LOW))
    with pytest.raises(ProtocolError):
        conversation.want_end()


def test_every_other_move_is_refused() -> None:
    """The table is all there is: what it does not hold raises, and changes nothing."""
    said = {
        Event.INITIALIZE: INITIALIZE,
        Event.PROCESS_RECORDS: records_line(),
        Event.LEASE_LOST: b'{"action":"leaseLost"}',
        Event.SHARD_ENDED: b'{"action":"shardEnded"}',
        Event.SHUTDOWN_REQUESTED: b'{"action":"shutdownRequested"}',
        Event.CHECKPOINTED: answered(None),
    }
    for state in State:
        for event, line in said.items():
            conversation = Conversation()
            conversation.state = state
            following = multilang.TRANSITIONS.get((state, event))
            if following is None:
                with pytest.raises(ProtocolError):
                    conversation.receive(line)
                assert conversation.state is state
            else:
                conversation.receive(line)
                assert conversation.state is following


def test_initialize_tells_the_checkpoint() -> None:
    """The KCL's own checkpoint is known from the first line on."""
    conversation = Conversation()
    action = conversation.receive(INITIALIZE)
    assert isinstance(action, Initialize)
    assert (action.shard_id, action.sequence_number) == ("shardId-0", "TRIM_HORIZON")
    assert conversation.checkpointed is None
    assert opened(checkpoint=LOW).checkpointed == LOW
