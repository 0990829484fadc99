"""Raw bytes to columns and refusals."""

import gzip
import json

import pyarrow as pa
import pytest

from telemill.codec import kpl, raw
from transform import decode, items, reasons, testing, times
from transform.items import Item, Refusal
from transform.portion import Portion

PLANT = testing.plant()


def decoded(*data: bytes) -> tuple[Portion, decode.Decoded]:
    """What the decoder makes of records with these bytes."""
    decoder, portion = decode.Decoder(PLANT), Portion()
    for record in testing.chunk(*data).records:
        decoder.add(portion, record, testing.SHARD)
    return portion, decoder.finish(portion)


def lineage(found: decode.Decoded) -> list[tuple[int, int]]:
    """(place, row) of each row."""
    return list(zip(found.places.tolist(), found.rows.tolist(), strict=True))


DOCUMENTS = [testing.reading(device) for device in (1, 2, 3)]
PLAIN = testing.ndjson(DOCUMENTS)


@pytest.mark.parametrize(
    "data",
    [
        PLAIN,
        PLAIN + b"\n",
        PLAIN.replace(b"\n", b"\r\n") + b"\r\n\n",
        PLAIN.replace(b"\n", b"\n\n"),
        json.dumps(DOCUMENTS).encode(),
        json.dumps(DOCUMENTS, indent=2).encode(),
        gzip.compress(PLAIN),
        raw.encode_ndjson(PLAIN.split(b"\n")),
    ],
    ids=["lines", "newline", "crlf", "blank", "array", "indented", "gzip", "zstd"],
)
def test_every_spelling_of_three_readings(data: bytes) -> None:
    """NDJSON, arrays and both compressions give the same rows, numbered by their place."""
    portion, found = decoded(data)
    assert found.device.to_pylist() == [1, 2, 3]
    assert found.time.to_pylist() == [testing.TIME] * 3
    assert lineage(found) == [(0, 0), (0, 1), (0, 2)]
    assert portion.refused == []


def test_small_records_are_joined_and_told_apart() -> None:
    """Rows of joined documents keep their own record and number."""
    two = testing.ndjson([testing.reading(7), testing.reading(8)])
    _, found = decoded(testing.ndjson([testing.reading(5)]), two, testing.ndjson(DOCUMENTS[:1]))
    assert found.device.to_pylist() == [5, 7, 8, 1]
    assert lineage(found) == [(0, 0), (1, 0), (1, 1), (2, 0)]


def test_pretty_printed_object_is_one_item() -> None:
    """One object over many lines is one reading."""
    _, found = decoded(json.dumps(testing.reading(4), indent=2).encode())
    assert found.device.to_pylist() == [4]


def test_aggregate_numbers_its_user_records() -> None:
    """Rows of a KPL aggregate have the index of their user record."""
    users = [kpl.UserRecord("a", 5, PLAIN), kpl.UserRecord("b", 5, PLAIN)]
    portion, found = decoded(kpl.aggregate(users))
    assert [portion.sub_sequence_number(*each) for each in lineage(found)] == [
        *(0, 1, 2),
        *(2**20, 2**20 + 1, 2**20 + 2),
    ]


def test_one_bad_line_costs_only_itself() -> None:
    """The neighbours of a damaged line are decoded, and keep their numbers."""
    lines = PLAIN.split(b"\n")
    lines[1] = lines[1][:20]
    portion, found = decoded(b"\n".join(lines))
    assert lineage(found) == [(0, 0), (0, 2)]
    (refused,) = portion.refused
    assert (refused.place, refused.row, refused.data) == (0, 1, lines[1])
    assert refused.refusal.reason == reasons.NOT_JSON


def test_order_of_refused_and_joined_documents() -> None:
    """A record that cannot be decompressed between good ones leaves their lineage alone."""
    broken = b"\x28\xb5\x2f\xfd" + b"x" * 40
    portion, found = decoded(PLAIN, broken, PLAIN, b"[]", PLAIN)
    assert sorted({place for place, _ in lineage(found)}) == [0, 2, 4]
    assert [(each.place, each.refusal.reason) for each in portion.refused] == [
        (1, reasons.DECODE),
        (3, reasons.NOT_OBJECT),
    ]
    assert portion.refused[0].data == broken


def test_rows_are_never_taken_for_other_lines() -> None:
    """Two objects on a line and one over two lines are as many rows as lines, yet refused."""
    objects = PLAIN.split(b"\n")
    over_two_lines = objects[2].replace(b", ", b",\n", 1)
    portion, found = decoded(objects[0] + objects[1] + b"\n" + over_two_lines)
    assert found.device.to_pylist() == []
    assert [each.refusal.reason for each in portion.refused] == [reasons.NOT_JSON]


def test_unknown_fields_are_ignored_and_counted() -> None:
    """A key the contract does not have changes nothing but a counter."""
    portion, found = decoded(testing.ndjson([testing.reading(1, extra={"a": [1]}, more="x")]))
    assert found.device.to_pylist() == [1]
    assert portion.unknown_fields == 2


def test_missing_key_and_unknown_key_do_not_cancel() -> None:
    """A row that lacks a key does not hide another row's unknown one."""
    lacking = testing.reading(1)
    del lacking["count"]
    portion, _ = decoded(testing.ndjson([lacking, testing.reading(2, other=1)]))
    assert portion.unknown_fields == 1


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (b'{"time":"x","time":"y","DeviceId":1}', reasons.DUPLICATE_KEY),
        (b'{"DeviceId":1,"heat":NaN}', reasons.NOT_JSON),
        (b'{"DeviceId":1,"heat":-Infinity}', reasons.NOT_JSON),
        (b'{"DeviceId":1,"mode":"\xff"}', reasons.NOT_JSON),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", reasons.NOT_JSON),
        (b'{"DeviceId":' + b"1" * 5000 + b"}", reasons.NOT_JSON),
        (b"", reasons.NOT_JSON),
        (b" \n ", reasons.NOT_JSON),
        (b"null", reasons.NOT_OBJECT),
        (b"[]", reasons.NOT_OBJECT),
        (b'"text"', reasons.NOT_OBJECT),
        (b"{}", reasons.MISSING_DEVICE),
        (b'{"DeviceId":null}', reasons.MISSING_DEVICE),
        (b'{"DeviceId":5.5}', reasons.BAD_DEVICE),
        (b'{"DeviceId":true}', reasons.BAD_DEVICE),
        (b'{"DeviceId":[1]}', reasons.BAD_DEVICE),
        (b'{"DeviceId":99999999999999999999}', reasons.BAD_DEVICE),
        (b'{"DeviceId":1}', reasons.MISSING_TIME),
        (b'{"DeviceId":1,"time":""}', reasons.MISSING_TIME),
        (b'{"DeviceId":1,"time":1751876489}', reasons.BAD_TIME),
    ],
)
def test_refusals_of_items(item: bytes, reason: str) -> None:
    """Everything that cannot be a reading has its reason."""
    found = items.ItemReader(PLANT).read(item)
    assert isinstance(found, Refusal)
    assert found.reason == reason
    assert found.error.isprintable()
    assert len(found.error) < 200


@pytest.mark.parametrize(
    ("name", "sent", "kept"),
    [
        ("heat", "85.2", 85.2),
        ("heat", 85, 85.0),
        ("heat", "1e3", 1000.0),
        ("heat", " 85.2", None),
        ("heat", "1e999", None),
        ("heat", True, None),
        ("heat", [85], None),
        ("count", 5.0, 5),
        ("count", "5", 5),
        ("count", "05", None),
        ("count", 5.5, None),
        ("count", 2**63, None),
        ("count", 1e300, None),
        ("mode", 5, "5"),
        ("mode", 5.5, None),
        ("mode", "\ud800", None),
        ("isFail", 1, True),
        ("isFail", 0, False),
        ("isFail", "true", True),
        ("isFail", "False", False),
        ("isFail", "yes", None),
        ("isFail", 2, None),
    ],
)
def test_lossless_conversions(name: str, sent: object, kept: object) -> None:
    """A value of another type is converted when nothing is lost, else left out and reported."""
    item = json.dumps(testing.reading(1, **{name: sent})).encode()
    found = items.ItemReader(PLANT).read(item)
    assert isinstance(found, Item)
    index, value = next((i, v) for i, v in enumerate(PLANT.values) if v.name == name)
    assert getattr(found.row, value.column) == kept
    assert found.wrong_types == (() if kept is not None else (index,))


def test_numeric_text_out_of_double_range() -> None:
    """1e400 is a JSON number no double holds: the value is left out, the reading is kept."""
    found = items.ItemReader(PLANT).read(b'{"DeviceId":1,"time":"x","heat":1e400}')
    assert isinstance(found, Item)
    assert found.wrong_types == (0,)


def test_device_of_another_type() -> None:
    """A text "5" and a 5.0 are device 5."""
    _, found = decoded(testing.ndjson([testing.reading("5"), testing.reading(5.0)]))
    assert found.device.to_pylist() == [5, 5]


def test_too_many_items_refuse_the_document_as_it_came() -> None:
    """More items than can be numbered: the record is kept whole, compressed as it was."""
    data = raw.encode_ndjson([b"{}"] * (raw.MAX_ROWS + 2))
    portion, found = decoded(data)
    assert len(found.rows) == 0
    (refused,) = portion.refused
    assert (refused.refusal.reason, refused.data) == (reasons.TOO_LARGE, data)


def test_huge_document_of_one_item_is_kept_as_it_came() -> None:
    """What cannot be split is not blown up in the quarantine."""
    data = raw.encode_ndjson([b"x" * (decode.MAX_KEPT_BYTES + 1)])
    portion, _ = decoded(data)
    (refused,) = portion.refused
    assert refused.data == data


@pytest.mark.parametrize(
    ("text", "microseconds"),
    [
        ("2025-07-07T08:21:29Z", 1_751_876_489_000_000),
        ("2025-07-07 08:21:29", 1_751_876_489_000_000),
        ("2025-07-07t08:21:29z", 1_751_876_489_000_000),
        ("2025-07-07T08:21:29.5Z", 1_751_876_489_500_000),
        ("2025-07-07T08:21:29.123456789Z", 1_751_876_489_123_456),
        ("2025-07-07T10:21:29+02:00", 1_751_876_489_000_000),
        ("2025-07-07T10:21:29+0200", 1_751_876_489_000_000),
        ("2025-07-07T02:51:29-05:30", 1_751_876_489_000_000),
        ("1970-01-01T00:00:00Z", 0),
        ("1969-12-31T23:59:59Z", times.BAD),
        ("2025-02-30T00:00:00Z", times.BAD),
        ("2025-07-07T24:00:00Z", times.BAD),
        ("2025-07-07T08:21:60Z", times.BAD),
        ("2025-07-07T08:21:29+24:00", times.BAD),
        ("2025-07-07", times.BAD),
        ("2025-07-07T08:21Z", times.BAD),
        ("", times.BAD),
        ("٢٠٢٥-07-07T08:21:29Z", times.BAD),
    ],
)
def test_event_times(text: str, microseconds: int) -> None:
    """RFC 3339 and its common neighbours are read alike, alone and among others."""
    assert times.parse_one(text) == microseconds
    assert times.parse(pa.array([text, text])).tolist() == [microseconds] * 2
    mixed = times.parse(pa.array(["2025-07-07T08:21:29Z", text, None]))
    assert mixed.tolist() == [1_751_876_489_000_000, microseconds, times.BAD]
