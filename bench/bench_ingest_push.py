"""The push path of ingest: readings a CPU second of the service. `python -m bench ingest-push`.

The service is a process of its own, so are the emulator and (this one) the client: NDJSON bodies of
500 readings of 1,000 devices over 16 kept-alive connections, each answered 202 after Kinesis
acknowledged it. Readings a CPU second is what one core takes when nothing else is in its way.
"""

import time
from dataclasses import replace
from datetime import UTC, datetime

from bench import deployment, load
from bench.deployment import Service
from bench.fleet import Fleet
from bench.measurement import MEGABYTE, Measurement
from bench.settings import BenchSettings

READINGS_PER_BODY = 500
INTERVAL_SECONDS = 10.0
START = datetime(2025, 7, 7, 8, 0, tzinfo=UTC)
FORMATS = ("ndjson", "kpl")
LEAST_READINGS_PER_SECOND = 100_000.0
"""The issue's target, for the default format."""

INGEST = Service(
    "ingest",
    "ingest",
    "INGEST_",
    {
        "DEVICES": "",
        "API_KEY_HASHES": load.KEY_HASH,
        "PUSH_READINGS_PER_SECOND": 1e9,
        "PUSH_BURST_READINGS": 1e9,
    },
)


def measure() -> list[Measurement]:
    """Both formats of the raw stream."""
    return [
        *_measured(FORMATS[0], LEAST_READINGS_PER_SECOND),
        *_measured(FORMATS[1]),
    ]


def _measured(raw_format: str, least: float | None = None) -> list[Measurement]:
    settings = BenchSettings()
    source = Fleet(settings.devices, INTERVAL_SECONDS, START)
    made = load.bodies(source, settings.readings // 2, READINGS_PER_BODY)
    readings = settings.readings // 2 // settings.devices * settings.devices
    service = replace(INGEST, settings={**INGEST.settings, "RAW_FORMAT": raw_format})
    with deployment.deployed(settings, f"ingest-push-{raw_format}") as where:
        start_up = where.start_up([service])[service.name]
        with where.running([service], profile=settings.profile) as running:
            process = running[service.name]
            began = time.monotonic()
            load.push(process.spec.url, made)
            seconds = time.monotonic() - began
            records = deployment.total(process, "records_out_total")
            used = deployment.stop(process)
    cpu = used.cpu_seconds - start_up
    name = f"push, {raw_format}"
    return [
        Measurement(name, readings / cpu, "readings/CPU-s", cpu, at_least=least),
        Measurement(f"{name}: with client and emulator", readings / seconds, "readings/s"),
        Measurement(f"{name}: batch", readings / records, "readings/record"),
        Measurement(f"{name}: peak RSS", used.peak_rss_bytes / MEGABYTE, "MB"),
    ]
