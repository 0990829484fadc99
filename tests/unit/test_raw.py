"""telemill.codec.raw: user records of a raw record, and items of a document."""

import gzip
from collections.abc import Callable

import pytest
import zstandard

from telemill import errors, slots
from telemill.codec import kpl, raw
from telemill.kinesis.records import MAX_HASH_KEY, Record, Shard

SHARD = Shard("readings-raw", 1, "shardId-000000000000")
LOWER_HALF = Shard("readings-raw", 1, "shardId-000000000001", last_hash_key=MAX_HASH_KEY // 2)
A, B = b'{"DeviceId":1}', b'{"DeviceId":2}'
DEEP = 10**5


def record(data: bytes) -> Record:
    """A raw record as a shard gives it."""
    return Record("49590338271490256608559692538361571095921575989136588898", 0, data, "1")


def users(*contents: bytes, hash_key: int = 5) -> bytes:
    """An aggregate of these contents under one hash key."""
    return kpl.aggregate([kpl.UserRecord("1", hash_key, content) for content in contents])


@pytest.mark.parametrize("put", [bytes, gzip.compress, zstandard.compress])
def test_a_record_is_one_document(put: Callable[[bytes], bytes]) -> None:
    """A record that is no aggregate is its own only user record, kept as it came."""
    data = put(A)
    assert raw.documents(record(data), SHARD) == ([raw.Document(0, A, data)], 0)


def test_user_records_are_documents_each_with_its_own_compression() -> None:
    """Every user record of an aggregate is decompressed by its own magic."""
    packed = zstandard.compress(B)
    found, dropped = raw.documents(record(users(A, packed, gzip.compress(A))), SHARD)
    assert [(each.index, each.data) for each in found] == [(0, A), (1, B), (2, A)]
    assert found[1].raw == packed
    assert dropped == 0


def test_an_aggregate_from_outside_the_shard_is_dropped_whole() -> None:
    """One user record that hashes outside drops all of its aggregate, as the KCL does."""
    inside = kpl.UserRecord("1", 5, A)
    outside = kpl.UserRecord("1", MAX_HASH_KEY, B)
    data = kpl.aggregate([inside, outside, inside])
    assert raw.documents(record(data), LOWER_HALF) == ([], 3)
    assert raw.documents(record(data), SHARD)[1] == 0


def test_a_user_record_without_explicit_hash_key_counts_by_md5() -> None:
    """The partition key's hash decides when there is no explicit one."""
    keys = [str(number) for number in range(20)]
    for key in keys:
        user = kpl.UserRecord(key, None, A)
        dropped = raw.documents(record(kpl.aggregate([user])), LOWER_HALF)[1]
        assert dropped == (not LOWER_HALF.holds(kpl.hash_key(user)))


def test_a_plain_record_is_never_dropped() -> None:
    """Only aggregates are held against the shard: Kinesis routed everything else itself."""
    nowhere = Shard("readings-raw", 1, "shardId-000000000002", first_hash_key=1, last_hash_key=1)
    assert raw.documents(record(A), nowhere)[1] == 0


def test_slots_of_our_own_aggregates_are_inside_their_shard() -> None:
    """A user record carries its slot's hash key, so every shard that has the slot takes it."""
    shards = [LOWER_HALF, Shard("readings-raw", 1, "s", first_hash_key=MAX_HASH_KEY // 2 + 1)]
    for slot in range(slots.DEFAULT_SLOT_COUNT):
        data = users(A, hash_key=slots.hash_key_of(slot))
        assert sorted(raw.documents(record(data), shard)[1] for shard in shards) == [0, 1]


def test_a_broken_user_record_does_not_take_the_others_with_it() -> None:
    """Its document says why and holds the bytes as they came."""
    cut = zstandard.compress(A * 100)[:-3]
    found, _ = raw.documents(record(users(A, cut, B)), SHARD)
    assert [each.data for each in found] == [A, cut, B]
    assert isinstance(found[1].error, errors.DecodeError)
    assert found[0].error is None


@pytest.mark.parametrize(
    "data",
    [zstandard.compress(A)[:-1], gzip.compress(A)[:-1], users(A)[:-1] + b"?"],
    ids=["zstd", "gzip", "kpl"],
)
def test_a_broken_record_raises(data: bytes) -> None:
    """When nothing of a record can be read there is no document."""
    with pytest.raises(errors.DecodeError):
        raw.documents(record(data), SHARD)


def test_the_limit_holds_for_all_user_records_together() -> None:
    """Many small bombs in one aggregate are as bounded as one."""
    bomb = zstandard.compress(bytes(1000))
    found, _ = raw.documents(record(users(bomb, bomb, bomb)), SHARD, limit=2500)
    assert [type(each.error) for each in found[:2]] == [type(None)] * 2
    assert isinstance(found[2].error, errors.RecordTooLargeError)


NAN = b'{"DeviceId":1,"sensor1":NaN}'
LINES = {
    "one object": (A, [A]),
    "pretty-printed object": (b'{\n "DeviceId": 1\n}\n', [b'{\n "DeviceId": 1\n}\n']),
    "NDJSON": (A + b"\n" + B + b"\n", [A, B]),
    "NDJSON without last break": (A + b"\n" + B, [A, B]),
    "CRLF and blank lines": (b"\r\n" + A + b"\r\n\r\n  \n\t" + B + b" \r\n", [A, B]),
    "array": (b" [ " + A + b" ,\n" + B + b"]\n", [A, B]),
    "array of other things": (b'[1, "x", null, [2], {}]', [b"1", b'"x"', b"null", b"[2]", b"{}"]),
    "empty array": (b"[]", [b"[]"]),
    "empty": (b"", [b""]),
    "blank": (b" \n ", [b" \n "]),
    "scalar": (b"17", [b"17"]),
    "not JSON": (b"a\nb", [b"a\nb"]),
    "not UTF-8": (b"\xff\n\xfe", [b"\xff\n\xfe"]),
    "one bad line among good": (A + b'\n{"DeviceId":\n' + B, [A, b'{"DeviceId":', B]),
    "a line that is not UTF-8": (A + b"\n\xff\xfe\n" + B, [A, b"\xff\xfe", B]),
    "NaN": (A + b"\n" + NAN, [A, NAN]),
    "broken array": (b"[" + A + b",", [b"[" + A + b","]),
    "broken pretty-printed object": (b'{\n"DeviceId": 1,\n', [b'{\n"DeviceId": 1,\n']),
    "objects on one line": (A + B, [A + B]),
    "duplicate keys": (b'{"a":1,"a":2}', [b'{"a":1,"a":2}']),
    "deep array": (b"[" * DEEP + b"]" * DEEP, [b"[" * DEEP + b"]" * DEEP]),
    "deep object": (b'{"a":' * DEEP, [b'{"a":' * DEEP]),
    "deep line": (A + b"\n" + b'{"a":' * DEEP, [A, b'{"a":' * DEEP]),
}


@pytest.mark.parametrize(("document", "items"), LINES.values(), ids=LINES.keys())
def test_lines_splits_by_what_the_document_is(document: bytes, items: list[bytes]) -> None:
    """Every shape of document gives the items its writer meant, and nothing vanishes."""
    assert raw.lines(document) == items


@pytest.mark.parametrize(
    "document",
    [b"[" + b"1," * raw.MAX_ROWS + b"1]", A + b"\n1" * raw.MAX_ROWS],
    ids=["array", "lines"],
)
def test_more_items_than_a_sub_sequence_number_can_count_are_refused(document: bytes) -> None:
    """A document never yields more than 2**20 items."""
    with pytest.raises(errors.RecordTooLargeError):
        raw.lines(document)


def test_the_last_item_still_has_its_own_number() -> None:
    """The last row of a user record and the first of the next are neighbours."""
    assert raw.sub_sequence_number(0, 0) == 0
    assert raw.sub_sequence_number(3, 5) == 3 * 2**20 + 5
    assert raw.sub_sequence_number(0, raw.MAX_ROWS - 1) + 1 == raw.sub_sequence_number(1, 0)


def test_encode_ndjson_is_read_back() -> None:
    """Items come back in order; a pretty-printed one is one line."""
    pretty = b'{\n "DeviceId": 3\n}'
    found, _ = raw.documents(record(raw.encode_ndjson([A, pretty, B])), SHARD)
    assert raw.lines(found[0].data) == [A, b'{  "DeviceId": 3 }', B]
