"""Writes the test vectors beside this file: `python tests/vectors/make.py`.

`expected.json` says what each file means, so that a codec in any language can be tested with them.
Files in `REPRODUCIBLE` come out byte-equal anywhere; the compressed ones depend on the libraries'
versions and are compared by what they decode to.
"""

import gzip
import hashlib
import json
import struct
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import zstandard
from aws_kinesis_agg import aggregator

from telemill import contract, slots
from telemill.codec import kpl, wire

HERE = Path(__file__).parent
FMS = HERE.parents[1] / "contracts" / "fms.yaml"

ONE = (
    b'{"time":"2025-07-07T08:21:29Z","DeviceId":1,"sensor1":85.69,"sensor2":85.81,'
    b'"sensor3":82.15,"motor1":1245.16,"motor2":874.81,"motor3":1119.36,"isFail":false}'
)
TWO = ONE.replace(b'"DeviceId":1', b'"DeviceId":2').replace(b"85.69", b"-1")
NDJSON = ONE + b"\n" + TWO + b"\n"
NOT_JSON = b"\xff\xfe not JSON"

SEQUENCE_NUMBER = "49590338271490256608559692538361571095921575989136588898"
ARRIVAL = datetime(2025, 7, 7, 8, 21, 30, 250_000, tzinfo=UTC)
TRACE = bytes.fromhex("0af7651916cd43dd8448eb211c80319cb7ad6b716920333101")
HEADER = wire.Header(
    kind="readings",
    contract="fms",
    version=1,
    slot=7,
    producer="transform",
    raw_stream="readings-raw",
    raw_incarnation=1751876489123,
    raw_shard_id="shardId-000000000012",
)
WIRE_HEADERS = {
    "wire/readings-one-row.bin": HEADER,
    "wire/readings-nulls-traced.bin": wire.Header(
        **{name: getattr(HEADER, name) for name in HEADER.__slots__} | {"trace": TRACE}
    ),
    "wire/scores.bin": wire.Header(
        **{name: getattr(HEADER, name) for name in HEADER.__slots__}
        | {"kind": "scores", "producer": "anomaly"}
    ),
    "wire/alerts.bin": wire.Header(
        **{name: getattr(HEADER, name) for name in HEADER.__slots__}
        | {"kind": "alerts", "producer": "anomaly"}
    ),
}


def user_records() -> list[kpl.UserRecord]:
    """Three user records of two keys; one has no explicit hash key, one is zstd."""
    first, second = slots.hash_key_of(slots.slot_of("1")), slots.hash_key_of(slots.slot_of("2"))
    return [
        kpl.UserRecord("1", first, ONE),
        kpl.UserRecord("2", second, zstandard.compress(TWO)),
        kpl.UserRecord("1", None, NOT_JSON),
    ]


def raw_documents() -> dict[str, list[list[bytes]]]:
    """The items of each user record of each raw vector."""
    return {
        "raw/one.json": [[ONE]],
        "raw/two.ndjson": [[ONE, TWO]],
        "raw/two-array.json": [[ONE, TWO]],
        "raw/two.ndjson.gz": [[ONE, TWO]],
        "raw/two-members.ndjson.gz": [[ONE, TWO]],
        "raw/two.ndjson.zst": [[ONE, TWO]],
        "raw/two-frames.ndjson.zst": [[ONE, TWO]],
        "raw/not-json.bin": [[NOT_JSON]],
        "raw/three.kpl": [[ONE], [TWO], [NOT_JSON]],
        "raw/tags-and-unknown-fields.kpl": [[ONE]],
        "raw/by-aws-kinesis-agg.kpl": [[ONE], [TWO]],
    }


def raw_vectors() -> dict[str, bytes]:
    """What a raw record can hold."""
    lines = [ONE + b"\n", TWO + b"\n"]
    return {
        "raw/one.json": ONE,
        "raw/two.ndjson": NDJSON,
        "raw/two-array.json": b"[\n" + ONE + b",\n" + TWO + b"\n]",
        "raw/two.ndjson.gz": gzip.compress(NDJSON, mtime=0),
        "raw/two-members.ndjson.gz": b"".join(gzip.compress(line, mtime=0) for line in lines),
        "raw/two.ndjson.zst": zstandard.compress(NDJSON),
        "raw/two-frames.ndjson.zst": b"".join(map(zstandard.compress, lines)),
        "raw/not-json.bin": NOT_JSON,
        "raw/three.kpl": kpl.aggregate(user_records()),
        "raw/tags-and-unknown-fields.kpl": _decorated(),
        "raw/by-aws-kinesis-agg.kpl": _independent(),
    }


REPRODUCIBLE = frozenset(
    {
        "raw/one.json",
        "raw/two.ndjson",
        "raw/two-array.json",
        "raw/not-json.bin",
        "raw/tags-and-unknown-fields.kpl",
        "raw/by-aws-kinesis-agg.kpl",
        "slots.json",
        "expected.json",
    }
)


def _decorated() -> bytes:
    """An aggregate with tags, an unknown field of each wire type and tables after the record."""
    tag = b"\x0a\x01k\x12\x01v"
    record = b"\x08\x00" + b"\x1a" + _length(ONE) + ONE + b"\x22" + _length(tag) + tag
    unknown = b"\x28\x96\x01" + b"\x31" + b"8 bytes." + b"\x3a\x03abc" + b"\x45" + b"four"
    message = b"\x1a" + _length(record) + record + unknown + b"\x0a\x011"
    return kpl.MAGIC + message + hashlib.md5(message, usedforsecurity=False).digest()


def _length(content: bytes) -> bytes:
    size = len(content)
    return bytes([size]) if size < 0x80 else bytes([size & 0x7F | 0x80, size >> 7])


def _independent() -> bytes:
    made = aggregator.RecordAggregator()
    for key, reading in (("1", ONE), ("2", TWO)):
        made.add_user_record(key, reading, str(slots.hash_key_of(slots.slot_of(key))))
    _, _, aggregate = made.clear_and_get().get_contents()
    return bytes(aggregate)


def rows() -> dict[str, list[dict[str, Any]]]:
    """The rows of each internal vector."""
    key = {
        "device_id": 1,
        "event_time": datetime(2025, 7, 7, 8, 21, 29, tzinfo=UTC),
        "ingest_time": ARRIVAL,
    }
    lineage = {"sequence_number": SEQUENCE_NUMBER, "sub_sequence_number": 0}
    full = key | json.loads(ONE) | {"is_fail": False, "quality": 0} | lineage
    bad = full | {"sensor1": None, "motor3": None, "is_fail": None, "quality": 1 << 5 | 1 << 19}
    second = bad | {"sub_sequence_number": 2**20 + 5}
    score = key | {"score": 3.25, "is_anomaly": True, "detector": "halfspace-1"} | lineage
    score |= {f"contribution_{name}": 0.125 for name in ("sensor1", "sensor2", "motor1")}
    alert = key | lineage | {"since": key["event_time"], "score": 0.9999, "detector": "ensemble/1"}
    alert |= {"alert_id": "c2a48c6e-e087-5546-a0ac-ae4abaf5f319", "state": "open", "sequence": 0}
    alert |= {"severity": "warning", "peak_score": 0.9999, "duration_seconds": 20.0}
    alert |= {"readings": 3, "anomalous_readings": 3, "top_field": "sensor1", "seen": 95.25}
    alert |= {"expected": 80.5, "group_id": None, "muted": False, "contribution_sensor1": 0.75}
    return {
        "wire/alerts.bin": [alert],
        "wire/readings-one-row.bin": [full],
        "wire/readings-nulls-traced.bin": [full, second],
        "wire/scores.bin": [score, score | {"score": None, "is_anomaly": False}],
    }


def schema(header: wire.Header) -> pa.Schema:
    """The columns of an internal vector."""
    fms = contract.load(FMS)
    return fms.schemas_of(header.kind)[0]


def batch(name: str) -> pa.RecordBatch:
    """The rows of an internal vector as its record batch."""
    return pa.RecordBatch.from_pylist(rows()[name], schema=schema(WIRE_HEADERS[name]))


def wire_vectors() -> dict[str, bytes]:
    """Batches of the internal streams."""
    return {name: wire.encode(header, batch(name)) for name, header in WIRE_HEADERS.items()}


def slot_table() -> bytes:
    """Slot and hash key of some devices, for three slot counts."""
    table = [
        {
            "device_key": key,
            "slot_count": count,
            "slot": (slot := slots.slot_of(key, count)),
            "explicit_hash_key": str(slots.hash_key_of(slot, count)),
        }
        for count in (1, 64, 4096)
        for key in ("1", "2", "100", "-7", "pump-1", "Gerät 3")
    ]
    return _json(table)


def expected() -> bytes:
    """What every file means: header and rows, or items per user record."""
    items = {
        name: [[item.hex() for item in items] for items in documents]
        for name, documents in raw_documents().items()
    }
    batches = {
        name: {
            "header": _header(header),
            "crc32_of_columns": struct.unpack_from("<I", wire_vectors()[name], 17)[0],
            "rows": batch(name).to_pylist(),
        }
        for name, header in WIRE_HEADERS.items()
    }
    return _json({"raw": items, "wire": batches})


def _header(header: wire.Header) -> dict[str, Any]:
    return {name: getattr(header, name) for name in header.__slots__}


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False, default=_text) + "\n").encode()


def _text(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else value.isoformat()


def vectors() -> dict[str, bytes]:
    """Every vector by its name."""
    tables = {"slots.json": slot_table(), "expected.json": expected()}
    return raw_vectors() | wire_vectors() | tables


def main() -> None:
    """Write every vector."""
    for name, content in vectors().items():
        path = HERE / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)


if __name__ == "__main__":
    main()
