"""The push path on one core: `python bench/bench_ingest_push.py [SECONDS]`.

The service is a process of its own, so are the emulator and (this one) the client: 500-reading
NDJSON bodies of 1,000 devices over 16 kept-alive connections, each answered 202 after Kinesis
acknowledged it. Reported are readings per CPU-second of the service: what one core takes when
nothing else is in its way. `kpl` as second argument measures that format, `profile` none.
"""

import asyncio
import hashlib
import platform
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import aiohttp
import ingest_process

READINGS = 500
DEVICES = 1000
BODIES = 64
CONNECTIONS = 16
WARM_UP_SECONDS = 2.0
KEY = "bench"


def body(chance: random.Random, number: int) -> bytes:
    """One NDJSON body of consecutive devices."""
    lines = [
        f'{{"time":"2025-07-07T08:{number // 60 % 60:02}:{number % 60:02}Z",'
        f'"DeviceId":{(number * READINGS + n) % DEVICES + 1},"sensor1":{chance.gauss(80, 5):.2f},'
        f'"sensor2":{chance.gauss(90, 4):.2f},"sensor3":{chance.gauss(75, 6):.2f},'
        f'"motor1":{chance.gauss(1200, 100):.2f},"motor2":{chance.gauss(850, 80):.2f},'
        f'"motor3":{chance.gauss(1100, 90):.2f},"isFail":false}}'
        for n in range(READINGS)
    ]
    return "\n".join(lines).encode()


async def push(url: str, bodies: list[bytes], seconds: float) -> Counter[int]:
    """Push over all connections for some seconds; answers by status."""
    answers: Counter[int] = Counter()
    ends = time.monotonic() + seconds
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/x-ndjson"}

    async def client(session: aiohttp.ClientSession, first: int) -> None:
        number = first
        while time.monotonic() < ends:
            sent = bodies[number % len(bodies)]
            async with session.post(f"{url}/v1/readings", data=sent, headers=headers) as answer:
                await answer.read()
                answers[answer.status] += 1
            number += CONNECTIONS

    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=CONNECTIONS), auto_decompress=False
    ) as session:
        await asyncio.gather(*(client(session, n) for n in range(CONNECTIONS)))
    return answers


def main() -> None:
    """Measure and report."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    raw_format = sys.argv[2] if len(sys.argv) > 2 else "ndjson"
    chance = random.Random(7)  # noqa: S311
    bodies = [body(chance, number) for number in range(BODIES)]
    settings = {
        "devices": "",
        "raw_format": raw_format,
        "api_key_hashes": f"bench:{hashlib.sha256(KEY.encode()).hexdigest()}",
        "push_readings_per_second": "1e9",
        "push_burst_readings": "1e9",
    }
    with (
        tempfile.TemporaryDirectory() as directory,
        ingest_process.running(Path(directory), **settings) as service,
    ):
        asyncio.run(push(service.url, bodies, WARM_UP_SECONDS))
        cpu, records = service.cpu_seconds(), service.metrics()["telemill_records_out_total"]
        started = time.monotonic()
        answers = asyncio.run(push(service.url, bodies, seconds))
        elapsed = time.monotonic() - started
        cpu = service.cpu_seconds() - cpu
        records = service.metrics()["telemill_records_out_total"] - records
        readings = answers[202] * READINGS
        ingest_process.report(
            f"ingest_push_{raw_format}",
            {
                "readings_per_cpu_second": round(readings / cpu),
                "microseconds_per_reading": round(cpu / readings * 1e6, 2),
                "readings_per_second": round(readings / elapsed),
                "service_cpu_share": round(cpu / elapsed, 3),
                "readings_per_record": round(readings / records, 1),
                "answers": dict(answers),
                "rss_mb": round(service.rss_mb()),
                "machine": f"{platform.machine()}, Python {platform.python_version()}",
            },
        )


if __name__ == "__main__":
    main()
