"""telemill.codec.kpl against the format's text and an independent implementation."""

import base64
import hashlib

import pytest
from aws_kinesis_agg import aggregator, deaggregator

from telemill import errors
from telemill.codec import kpl
from telemill.kinesis.records import MAX_HASH_KEY

RECORDS = [
    kpl.UserRecord("1", 12345, b"first"),
    kpl.UserRecord("2", MAX_HASH_KEY, b""),
    kpl.UserRecord("1", 12345, b"x" * 300),
    kpl.UserRecord("Gerät", 0, b"\x00\xff"),
]


def sealed(message: bytes) -> bytes:
    """An aggregate around any message, with the right digest."""
    return kpl.MAGIC + message + hashlib.md5(message, usedforsecurity=False).digest()


def by_aws_kinesis_agg(records: list[kpl.UserRecord]) -> bytes:
    """The records as the independent writer aggregates them."""
    made = aggregator.RecordAggregator()
    for record in records:
        explicit = None if record.explicit_hash_key is None else str(record.explicit_hash_key)
        made.add_user_record(record.partition_key, record.data, explicit)
    _, _, data = made.clear_and_get().get_contents()
    return bytes(data)


def read_by_aws_kinesis_agg(data: bytes) -> list[kpl.UserRecord]:
    """The records as the independent reader finds them."""
    event = {
        "kinesis": {
            "kinesisSchemaVersion": "1.0",
            "sequenceNumber": "1",
            "approximateArrivalTimestamp": 0.0,
            "partitionKey": "any",
            "data": base64.b64encode(data),
        }
    }
    return [
        kpl.UserRecord(
            each["kinesis"]["partitionKey"],
            int(each["kinesis"]["explicitHashKey"]),
            base64.b64decode(each["kinesis"]["data"]),
        )
        for each in deaggregator.iter_deaggregate_records([event])
    ]


def test_deaggregate_inverts_aggregate() -> None:
    """User records come back in order, with and without explicit hash keys."""
    records = [*RECORDS, kpl.UserRecord("only a partition key", None, b"y")]
    assert kpl.deaggregate(kpl.aggregate(records)) == records


def test_an_independent_reader_reads_ours() -> None:
    """What we aggregate, aws_kinesis_agg de-aggregates to the same user records."""
    assert read_by_aws_kinesis_agg(kpl.aggregate(RECORDS)) == RECORDS


def test_we_read_an_independent_writer() -> None:
    """What aws_kinesis_agg aggregates, we de-aggregate to the same user records."""
    assert kpl.deaggregate(by_aws_kinesis_agg(RECORDS)) == RECORDS


def test_bytes_are_those_of_the_independent_writer() -> None:
    """Both writers build the same tables in the same order."""
    assert kpl.aggregate(RECORDS) == by_aws_kinesis_agg(RECORDS)


def test_tables_hold_each_key_once() -> None:
    """A thousand records of one key cost the key once."""
    data = kpl.aggregate([kpl.UserRecord("a long partition key", 7, b"x")] * 1000)
    assert data.count(b"a long partition key") == 1


def test_an_empty_aggregate_cannot_be_made() -> None:
    """No user record, no record."""
    with pytest.raises(ValueError, match="at least one"):
        kpl.aggregate([])


@pytest.mark.parametrize("data", [b"", b"{}", kpl.MAGIC, kpl.MAGIC + bytes(16)])
def test_is_aggregated_needs_magic_and_room(data: bytes) -> None:
    """Magic alone does not make an aggregate, as in the KCL."""
    assert not kpl.is_aggregated(data)
    with pytest.raises(errors.DecodeError):
        kpl.deaggregate(data)


def test_hash_key_is_the_explicit_one_or_md5() -> None:
    """An explicit hash key wins over MD5 of the partition key in UTF-8."""
    assert kpl.hash_key(kpl.UserRecord("k", 5, b"")) == 5
    assert kpl.hash_key(kpl.UserRecord("k", None, b"")) == int(hashlib.md5(b"k").hexdigest(), 16)  # noqa: S324


def test_a_wrong_digest_is_a_decode_error() -> None:
    """A flipped bit anywhere after the magic is found."""
    data = bytearray(kpl.aggregate(RECORDS))
    for position in range(len(kpl.MAGIC), len(data)):
        data[position] ^= 1
        with pytest.raises(errors.DecodeError, match="MD5"):
            kpl.deaggregate(bytes(data))
        data[position] ^= 1


def test_unknown_fields_are_skipped() -> None:
    """Tags and fields of a later version do not matter, nor does the order of fields."""
    record = b"\x22\x02\x0a\x00" + b"\x1a\x01d" + b"\x08\x00" + b"\x35four"
    message = b"\x1a" + bytes([len(record)]) + record + b"\x29eight by" + b"\x0a\x01k" + b"\x30\x07"
    assert kpl.deaggregate(sealed(message)) == [kpl.UserRecord("k", None, b"d")]


def test_the_last_of_a_repeated_scalar_counts() -> None:
    """As every protobuf parser does."""
    record = b"\x08\x00\x1a\x01a\x1a\x01b\x08\x01"
    message = b"\x0a\x01k\x0a\x01l\x1a" + bytes([len(record)]) + record
    assert kpl.deaggregate(sealed(message)) == [kpl.UserRecord("l", None, b"b")]


MALFORMED = {
    "truncated tag": b"\x80",
    "truncated varint": b"\x28\xff",
    "varint of 11 bytes": b"\x28" + b"\xff" * 10 + b"\x01",
    "varint above 64 bits": b"\x28" + b"\xff" * 9 + b"\x02",
    "length past the end": b"\x0a\x05k",
    "huge length": b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    "fixed64 past the end": b"\x29seven..",
    "fixed32 past the end": b"\x2dtwo",
    "field number 0": b"\x00\x00",
    "group": b"\x0b\x0c",
    "wire type 7": b"\x0f",
    "partition key not UTF-8": b"\x0a\x01\xff\x1a\x05\x08\x00\x1a\x01d",
    "partition key index outside": b"\x0a\x01k\x1a\x05\x08\x01\x1a\x01d",
    "hash key index outside": b"\x0a\x01k\x1a\x07\x08\x00\x10\x00\x1a\x01d",
    "no partition key": b"\x0a\x01k\x1a\x03\x1a\x01d",
    "no data": b"\x0a\x01k\x1a\x02\x08\x00",
    "hash key not a number": b"\x0a\x01k\x12\x01x\x1a\x07\x08\x00\x10\x00\x1a\x01d",
    "hash key not ASCII": b"\x0a\x01k\x12\x02\xc2\xb2\x1a\x07\x08\x00\x10\x00\x1a\x01d",
    "hash key empty": b"\x0a\x01k\x12\x00\x1a\x07\x08\x00\x10\x00\x1a\x01d",
    "hash key above 128 bits": (
        b"\x0a\x01k\x12\x27" + str(MAX_HASH_KEY + 1).encode() + b"\x1a\x07\x08\x00\x10\x00\x1a\x01d"
    ),
    "hash key of 5000 digits": b"\x0a\x01k\x12\x88\x27"
    + b"1" * 5000
    + b"\x1a\x07\x08\x00\x10\x00\x1a\x01d",
    "user record cut": b"\x0a\x01k\x1a\x04\x08\x00\x1a\x05",
}


@pytest.mark.parametrize("message", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_is_a_decode_error(message: bytes) -> None:
    """A message with a right digest and wrong content is refused, whatever is wrong."""
    with pytest.raises(errors.DecodeError):
        kpl.deaggregate(sealed(message))
