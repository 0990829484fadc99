"""GetRecords answers, without botocore's parser.

botocore's parser takes 77 % of a consumer's time at one JSON document a record. It offers an event
before it parses; there the body is read by msgspec and replaced by an empty one.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from telemill.kinesis.records import Record

EVENT = "before-parse.kinesis.GetRecords"
OK_STATUS = 200


class Page(NamedTuple):
    """What one GetRecords answered.

    Attributes:
        records: In order; may be empty, also far behind the end.
        next_iterator: None at the end of a closed shard.
        millis_behind_latest: 0 when caught up.
    """

    records: list[Record]
    next_iterator: str | None
    millis_behind_latest: int


class _WireRecord(msgspec.Struct, gc=False):
    SequenceNumber: str
    ApproximateArrivalTimestamp: float
    Data: bytes
    PartitionKey: str


class _WireAnswer(msgspec.Struct):
    Records: list[_WireRecord]
    NextShardIterator: str | None = None
    MillisBehindLatest: int = 0


_decoder = msgspec.json.Decoder(_WireAnswer)


def install(client: Any) -> None:
    """Let a client parse GetRecords answers by `before_parse`. Twice is as good as once."""
    client.meta.events.register(EVENT, before_parse, unique_id="telemill-get-records")


def before_parse(
    response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any
) -> None:
    """Parse the body here and leave botocore an empty one; leave alone what is not ours."""
    if response_dict["status_code"] != OK_STATUS:
        return
    try:
        answer = _decoder.decode(response_dict["body"])
    except msgspec.DecodeError:
        # Not JSON as documented (CBOR, or a new field type): botocore's own parser may know it.
        return
    response_dict["body"] = b"{}"
    customized_response_dict["Records"] = [
        Record(
            record.SequenceNumber,
            # Kinesis gives milliseconds as a float of seconds.
            round(record.ApproximateArrivalTimestamp * 1_000_000),
            record.Data,
            record.PartitionKey,
        )
        for record in answer.Records
    ]
    customized_response_dict["NextShardIterator"] = answer.NextShardIterator
    customized_response_dict["MillisBehindLatest"] = answer.MillisBehindLatest


def page_of(response: Mapping[str, Any]) -> Page:
    """The answer, whoever parsed it."""
    return Page(
        _records_of(response["Records"]),
        response.get("NextShardIterator"),
        int(response.get("MillisBehindLatest") or 0),
    )


def _records_of(parsed: Sequence[Any]) -> list[Record]:
    if not parsed or isinstance(parsed[0], Record):
        return list(parsed)
    return [
        Record(
            record["SequenceNumber"],
            round(record["ApproximateArrivalTimestamp"].timestamp() * 1_000_000),
            bytes(record["Data"]),
            record["PartitionKey"],
        )
        for record in parsed
    ]
