"""Bodies to raw records."""

from pathlib import Path

import pytest

from ingest import core
from telemill import contract, errors, slots
from telemill.codec import kpl, raw
from telemill.kinesis.records import Record, Shard

FMS = contract.load(Path("contracts/fms.yaml"))
SLOTS = 64
SHARD = Shard("readings-raw", 1, "shardId-000000000000")


def reading(device: object = 7, **more: object) -> bytes:
    """One reading as JSON."""
    text = "".join(f',"{name}":{value}' for name, value in more.items())
    return f'{{"time":"2025-07-07T08:21:29Z","DeviceId":{device}{text}}}'.encode()


def router() -> core.Router:
    """A fresh router."""
    return core.Router(FMS, SLOTS)


def decoded(data: bytes) -> list[bytes]:
    """The items of a raw record, as transform finds them."""
    documents, dropped = raw.documents(Record("1", 0, data, "k"), SHARD)
    assert dropped == 0
    return [item for document in documents for item in raw.lines(document.data)]


@pytest.mark.parametrize(
    ("body", "count"),
    [
        (reading(), 1),
        (b" " + reading() + b"\n", 1),
        (reading() + b"\n\r\n" + reading(8) + b"\r\n", 2),
        (b"[" + reading() + b"," + reading(8) + b"]", 2),
        (b"[]", 0),
        (b'{\n "DeviceId": 7,\n "time": "x"\n}', 1),
        (b"[\n{\n}\n,\n{}\n]", 2),
    ],
)
def test_splits_an_object_an_array_and_ndjson(body: bytes, count: int) -> None:
    """One object, an array or NDJSON, compact or pretty-printed, give their items."""
    assert len(core.split(body, 100)) == count


def test_items_keep_their_bytes() -> None:
    """Number lexemes, order of keys and blanks inside an item stay as they were sent."""
    item = b'{"DeviceId": 7.0, "time":"x", "sensor1":1.50e1}'
    assert core.split(b"[ " + item + b" ]", 10) == [item]
    assert core.split(item + b"\n" + item, 10) == [item, item]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" \n ",
        b'{"DeviceId":7,"time":"\xff"}',
        b"[" + b"[" * 100_000,
        b"[NaN]",
        b'[{"DeviceId":7},]',
        b"\x00\x01\xff\xfe",
    ],
)
def test_what_is_no_body_is_refused_whole(body: bytes) -> None:
    """Blank, not UTF-8, and arrays that are not JSON are one DecodeError, never a crash."""
    with pytest.raises(errors.DecodeError):
        core.split(body, 100)


@pytest.mark.parametrize(
    "body",
    [
        b"[" + b"1," * 5000 + b"1]",
        b"\n".join([reading()] * 11),
        b"[" + b",".join([reading()] * 11) + b"]",
        reading() + b"\n" * 100 + reading(),
    ],
)
def test_too_many_items_are_refused(body: bytes) -> None:
    """The number of items is bounded, for arrays before they are decoded."""
    with pytest.raises(errors.RecordTooLargeError):
        core.split(body, 10)


def test_routes_each_item_to_its_devices_slot() -> None:
    """5, "5" and 5.0 are one device and so one slot; order inside a slot is that of the body."""
    items = [reading(5), reading('"5"'), reading("5.0", sensor1=1), reading(6)]
    routed = router().route(items)
    group = routed.groups[slots.slot_of("5", SLOTS)]
    assert group.items == items[:3]
    assert group.keys == ["5"] * 3
    assert not routed.refused


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (b"5", "schema"),
        (b"[]", "schema"),
        (b'{"time":"x"}', "schema"),
        (b'{"DeviceId":7}', "schema"),
        (b'{"DeviceId":7,"time":""}', "schema"),
        (b'{"DeviceId":7,"time":5}', "schema"),
        (b'{"DeviceId":7,"time":null}', "schema"),
        (b'{"DeviceId":true,"time":"x"}', "schema"),
        (b'{"DeviceId":7.5,"time":"x"}', "schema"),
        (b'{"DeviceId":"pump","time":"x"}', "schema"),
        (b'{"DeviceId":99999999999999999999,"time":"x"}', "schema"),
        (b'{"DeviceId":7,"time":"x"', "decode"),
        (b'{"DeviceId":7,"time":"x","sensor1":NaN}', "decode"),
        (b'{"DeviceId":7,"time":"x","y":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "decode"),
        (b'{"DeviceId":7,"time":"' + b"x" * core.MAX_ITEM_BYTES + b'"}', "too_large"),
    ],
)
def test_refuses_what_cannot_be_a_reading(item: bytes, reason: str) -> None:
    """Each such item is named by its index with a bounded reason; the others are routed."""
    routed = router().route([reading(), item, reading()])
    [refused] = routed.refused
    assert (refused.index, refused.error.reason) == (1, reason)
    assert len(routed.groups[slots.slot_of("7", SLOTS)].items) == 2


def test_a_bad_value_is_no_reason_to_refuse() -> None:
    """Measures of the wrong type, extra and duplicate keys are for transform to judge."""
    item = b'{"DeviceId":7,"time":"x","sensor1":"hot","more":{},"more":1}'
    assert not router().route([item]).refused


def test_a_remembered_device_does_not_hide_a_float() -> None:
    """1.0 and 1 are one dict key, but 7.5 after 7 is still no device of the contract."""
    routed = router().route([reading(7), reading(7.0), reading(7.5)])
    assert [each.index for each in routed.refused] == [2]


@pytest.mark.parametrize(
    "body",
    [
        reading(3),
        reading(3) + b"\n",
        b"\xff\xfe\x00",
        b'{"time":"2025',
        b'{"time":\n"2025',
        b'{\n"DeviceId": 3\n}\n',
        b"",
        b"[" * 100_000,
        b"\n\n",
        b"[1]",
    ],
)
def test_a_polled_body_reaches_the_stream_as_it_came(body: bytes) -> None:
    """Good or bad, packed with others or not, a body is found again byte for byte."""
    packer = core.Packer("ndjson")
    others = [router().route_polled("3", reading(3, sensor1=n)) for n in range(2)]
    packer.add(others[0])
    packer.add(router().route_polled("3", body))
    packer.add(others[1])
    stored = [
        document.data
        for batch in packer.take()
        for document in raw.documents(
            Record("1", 0, core.encode(batch, "ndjson", SLOTS), "k"), SHARD
        )[0]
    ]
    assert body in stored or body.removesuffix(b"\n") in b"".join(stored).split(b"\n")


def test_a_bad_body_does_not_hide_among_good_ones() -> None:
    """Two broken bodies of one slot are two items downstream, not one."""
    packer = core.Packer("ndjson")
    for body in (b'{"time":"20', b'{"time":"21'):
        packer.add(router().route_polled("3", body))
    items = [decoded(core.encode(batch, "ndjson", SLOTS)) for batch in packer.take()]
    assert items == [[b'{"time":"20'], [b'{"time":"21']]


def test_a_polled_body_goes_where_its_device_belongs() -> None:
    """The slot is the body's device's; when it does not say, the one of the device asked."""
    assert router().route_polled("3", reading(9)).slot == slots.slot_of("9", SLOTS)
    assert router().route_polled("3", b"{}").slot == slots.slot_of("3", SLOTS)


def test_packs_a_slots_items_into_one_record() -> None:
    """Items of several bodies share a record, in order."""
    packer = core.Packer("ndjson")
    for n in range(3):
        packer.add(core.Group(1, ["7"], [reading(7, sensor1=n)]))
    [batch] = packer.take()
    assert decoded(core.encode(batch, "ndjson", SLOTS)) == [reading(7, sensor1=n) for n in range(3)]
    assert core.partition_key(batch) == "7"
    assert packer.take() == []


def test_a_full_batch_is_closed() -> None:
    """Batches stay below their limit; a group that does not fit is cut, in order."""
    item = b'"' + b"x" * 100_000 + b'"'
    packer = core.Packer("ndjson")
    used = packer.add(core.Group(1, ["7"] * 12, [item] * 12))
    assert len(used) == 3
    assert packer.take_closed() == used[:2]
    assert packer.take() == used[2:]
    assert all(batch.size_bytes <= core.MAX_BATCH_BYTES for batch in used)


def test_kpl_aggregates_carry_the_slots_hash_key() -> None:
    """Every user record has the slot's explicit hash key, its device as key, its own bytes."""
    batch = core.Batch(5, ["7", "8"], [reading(7), b"{\n}"], 0)
    users = kpl.deaggregate(core.encode(batch, "kpl", SLOTS))
    assert [user.partition_key for user in users] == ["7", "8"]
    assert {user.explicit_hash_key for user in users} == {slots.hash_key_of(5, SLOTS)}
    assert [user.data for user in users] == batch.items
    assert core.partition_key(batch) == "slot-5"


def test_kpl_packs_bad_bodies_with_good_ones() -> None:
    """In an aggregate every body is a record of its own: none needs to be alone."""
    packer = core.Packer("kpl")
    packer.add(router().route_polled("3", reading(3)))
    packer.add(router().route_polled("3", b'{"time":\n"20'))
    [batch] = packer.take()
    users = kpl.deaggregate(core.encode(batch, "kpl", SLOTS))
    assert [user.data for user in users] == [reading(3), b'{"time":\n"20']


@pytest.mark.parametrize("raw_format", ["ndjson", "kpl"])
def test_the_largest_item_fits_a_record(raw_format: core.RawFormat) -> None:
    """Also when it cannot be compressed, and with the longest key, it stays below 1 MiB."""
    noise = bytes(range(1, 256)) * (core.MAX_ITEM_BYTES // 255 + 1)
    batch = core.Batch(1, ["k" * 256], [noise[: core.MAX_ITEM_BYTES]], 0)
    assert len(core.encode(batch, raw_format, SLOTS)) + 256 <= 2**20
