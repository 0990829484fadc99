"""Raw records made up, and what a step put out read back."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from telemill import contract
from telemill.codec import wire
from telemill.contract import Contract
from telemill.kinesis.records import Chunk, Record, Shard
from telemill.stages.step import StepResult
from telemill.testing import batches

SHARD = Shard("readings-raw", 1_751_876_489_123, "shardId-000000000012")
NOW_US = 1_751_876_490_000_000
"""2025-07-07T08:21:30Z: when records arrive unless said otherwise."""
TIME = "2025-07-07T08:21:29Z"

FMS_YAML = """
name: plant
version: 1
interval_seconds: 10
late_after_seconds: 60
future_tolerance_seconds: 60
fields:
  - {name: time, role: time, type: timestamp, description: When}
  - {name: DeviceId, role: device, type: int64, description: Which}
  - {name: heat, role: measure, type: float64, range: [0, 200], sentinels: [-1], description: a}
  - {name: speed, role: measure, type: float64, missing: carry, range: [0, 9], description: b}
  - {name: count, role: flag, type: int64, description: c}
  - {name: mode, role: flag, type: string, description: d}
  - {name: isFail, column: is_fail, role: flag, type: bool, missing: default, default: false,
     description: e}
"""


def plant() -> Contract:
    """A contract with a value of every type and every policy."""
    return contract.loads(FMS_YAML)


def reading(device: Any = 1, time: Any = TIME, **values: Any) -> dict[str, Any]:
    """A document of `plant`."""
    usual = {"heat": 85.5, "speed": 1.5, "count": 3, "mode": "run", "isFail": False}
    return {"time": time, "DeviceId": device, **usual, **values}


def ndjson(documents: Iterable[dict[str, Any]]) -> bytes:
    """Documents as lines."""
    return b"\n".join(json.dumps(document).encode() for document in documents)


def record(index: int, data: bytes, arrival_us: int = NOW_US) -> Record:
    """The index-th record of the raw shard."""
    return Record(batches.sequence_number(index), arrival_us, data, "key")


def chunk(*data: bytes) -> Chunk:
    """Records with these bytes."""
    return Chunk(SHARD, [record(index, each) for index, each in enumerate(data)])


def rows(results: Sequence[StepResult], of: Contract) -> list[dict[str, Any]]:
    """All rows put out, in the order of their lineage."""
    found = [
        row
        for result in results
        for output in result.outputs
        for row in wire.decode(output.data, lambda _: of.stream_schema)[1].to_pylist()
    ]
    return sorted(found, key=lambda r: (int(r["sequence_number"]), r["sub_sequence_number"]))
