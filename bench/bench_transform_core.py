"""The transform core on one core: readings a second. `python -m bench transform-core`.

A thousand devices of the published generator send a reading every ten seconds; 64 slots. A chunk
is what one GetRecords gives the service, at most 1 MiB of records. Timed is `TransformStep.step`:
decompress, decode JSON, validate, de-duplicate, Arrow, encode. Making the input is not.

- clean: zstd NDJSON records of 500 readings of one slot; nothing missing, nothing out of range.
- published mix: the same with the published generator's -1 sentinels and outliers, and the
  faults of the simulator: 0.5 % of readings have a wrong type, lack a field or are cut off, 1 %
  are sent twice, 0.2 % again with other values.
- one JSON a record: plain, as a producer without batching sends them.

"""

import json
import random
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from bench.measurement import Measurement
from telemill import contract, slots
from telemill.codec import raw
from telemill.kinesis.records import Chunk, Record, Shard
from transform.core import TransformStep

FMS = contract.load(Path(__file__).parents[1] / "contracts" / "fms.yaml")
SHARD = Shard("readings-raw", 1751876489123, "shardId-000000000012")
START = datetime(2025, 7, 7, 8, 0, tzinfo=UTC)
FIRST_SEQUENCE_NUMBER = 49590338271490256608559692538361571095921575989136588898
FIELDS = {
    "sensor1": (80, 5.0, 0.02, 0.05),
    "sensor2": (90, 4.0, 0.02, 0.05),
    "sensor3": (75, 6.0, 0.02, 0.05),
    "motor1": (1200, 100, 0.01, 0.03),
    "motor2": (850, 80, 0.01, 0.03),
    "motor3": (1100, 90, 0.01, 0.03),
}
"""Mean, standard deviation, chance of -1, chance of an outlier (the published generator)."""
DEVICES = 1000
CHUNK_BYTES = 1 << 20
RUNS = 5
LEAST_READINGS_PER_SECOND = 300_000.0
"""The issue's target."""


def reading(chance: random.Random, device: int, at: datetime, *, faulty: bool) -> dict[str, Any]:
    """One reading as the API answers it."""
    values = {}
    for name, (mean, deviation, sentinel, outlier) in FIELDS.items():
        drawn = chance.random() if faulty else 1.0
        width = (
            chance.uniform(3, 5) if sentinel <= drawn < sentinel + outlier else chance.gauss(0, 1)
        )
        value = max(0.0, mean + width * deviation)
        clean = value if faulty else min(value, 99.0 if name == "sensor2" else value)
        values[name] = -1 if drawn < sentinel else round(clean, 2)
    return {"time": f"{at:%Y-%m-%dT%H:%M:%SZ}", "DeviceId": device, **values, "isFail": False}


def encoded(chance: random.Random, document: dict[str, Any], *, faulty: bool) -> Iterator[bytes]:
    """Its bytes; with faults, sometimes damaged, sometimes twice."""
    text = json.dumps(document, separators=(",", ":")).encode()
    drawn = chance.random() if faulty else 1.0
    if drawn < 0.002:
        yield text.replace(b'"sensor1":', b'"sensor1":"high","x":')
    elif drawn < 0.004:
        yield json.dumps(document | {"sensor2": None, "motor1": "1200.5"}).encode()
    elif drawn < 0.005:
        yield text[: len(text) // 2]
    else:
        yield text
    if drawn > 0.99 and faulty:
        yield text
    elif 0.988 < drawn <= 0.99:
        yield text.replace(b'"isFail":false', b'"isFail":true')


def records(reading_count: int, per_record: int, *, faulty: bool) -> Iterator[Record]:
    """Records as ingest writes them: each of one slot, filled up to `per_record` readings."""
    chance = random.Random(0)  # noqa: S311
    slot_of = {device: slots.slot_of(str(device)) for device in range(1, DEVICES + 1)}
    waiting: dict[int, list[bytes]] = {slot: [] for slot in slot_of.values()}
    sequence_number = FIRST_SEQUENCE_NUMBER
    for number in range(reading_count):
        device = number % DEVICES + 1
        at = START + timedelta(seconds=number // DEVICES * 10 + device % 10)
        items = waiting[slot_of[device]]
        items += encoded(chance, reading(chance, device, at, faulty=faulty), faulty=faulty)
        if len(items) >= per_record:
            sequence_number += chance.randrange(1, 2**60)
            data = raw.encode_ndjson(items) if per_record > 1 else items[0]
            arrival_us = int(at.timestamp() * 1_000_000) + 800_000
            yield Record(str(sequence_number), arrival_us, data, str(slot_of[device]))
            items.clear()


def chunks(made: Iterator[Record]) -> list[Chunk]:
    """At most `CHUNK_BYTES` of records each."""
    found: list[Chunk] = []
    waiting: list[Record] = []
    size = 0
    for record in made:
        if waiting and size + len(record.data) > CHUNK_BYTES:
            found.append(Chunk(SHARD, waiting))
            waiting, size = [], 0
        waiting.append(record)
        size += len(record.data)
    return [*found, Chunk(SHARD, waiting)]


def measure() -> list[Measurement]:
    """Each kind of input; the target is for the clean one."""
    clean = chunks(records(200_000, 500, faulty=False))
    mixed = chunks(records(200_000, 500, faulty=True))
    single = chunks(records(50_000, 1, faulty=False))
    return [
        *_measured("clean, 500 a record", clean, LEAST_READINGS_PER_SECOND),
        *_measured("published mix, 500 a record", mixed),
        *_measured("one JSON a record", single),
    ]


def _measured(name: str, made: list[Chunk], least: float | None = None) -> list[Measurement]:
    """The fastest of some runs, each from an empty history; and the size of what comes out."""
    seconds, results = [], []
    for _ in range(RUNS):
        step = TransformStep(FMS)
        state = step.restore([], SHARD)
        start = time.process_time()
        results = [step.step(chunk, state) for chunk in made]
        seconds.append(time.process_time() - start)
    rows_in = sum(result.counts["readings_in",] for result in results)
    outputs = [output for result in results for output in result.outputs]
    size = sum(len(output.data) for output in outputs) / sum(output.rows for output in outputs)
    best = min(seconds)
    return [
        Measurement(name, rows_in / best, "readings/s", best, at_least=least),
        Measurement(f"{name}: clean stream", size, "bytes/reading"),
    ]
