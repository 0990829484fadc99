"""Settings of the benches: environment variables BENCH_*."""

from pathlib import Path

from telemill import settings


class BenchSettings(settings.Settings):
    """How much, how long."""

    model_config = settings.config("BENCH_")

    readings: int = settings.setting(
        1_000_000, unit="readings", description="Sent through the full path.", ge=1000
    )
    runs: int = settings.setting(
        3, unit="runs", description="Of the full path; the one with least CPU seconds counts.", ge=1
    )
    single_readings: int = settings.setting(
        100_000, unit="readings", description="The same with one JSON a record.", ge=1000
    )
    devices: int = settings.setting(1000, unit="devices", description="That send them.", ge=1)
    shards: int = settings.setting(4, unit="shards", description="Of each stream.", ge=1)
    paced_seconds: float = settings.setting(
        60.0, unit="seconds", description="How long the paced load lasts.", gt=0
    )
    paced_readings_per_second: int = settings.setting(
        10_000, unit="readings/s", description="Of the paced load.", ge=100
    )
    profile: bool = settings.setting(
        False, unit="", description="Sample where the full path's CPU time goes."
    )
    directory: Path = settings.setting(
        Path("build/bench"), unit="folder", description="Logs and profiles."
    )
