"""Settings of the simulator."""

from pathlib import Path

from telemill import settings

PUBLISHED_PORT = 9872


class SimulatorSettings(settings.HttpSettings):
    """See `telemill-simulator --help`."""

    model_config = settings.config("SIMULATOR_")

    http_port: int = settings.setting(
        PUBLISHED_PORT,
        unit="port",
        description="Port of the API; 0 takes a free one.",
        ge=0,
        le=65535,
    )
    device_count: int = settings.setting(
        100, unit="devices", description="The fleet has the ids 1 to this.", ge=1
    )
    seed: int = settings.setting(1, unit="", description="Another seed is another fleet.")
    interval_seconds: float = settings.setting(
        10.0,
        unit="seconds",
        description="A tick: a device's reading and its time change this often.",
        ge=1,
    )
    random_per_get: bool = settings.setting(
        False,
        unit="",
        description="A new reading on every GET, its time the clock's, as the published server.",
    )
    noise: float = settings.setting(
        1.0,
        unit="factor",
        description="Times the published shares of sentinels and outliers; 0 is a clean signal.",
        ge=0,
    )
    chaos: float = settings.setting(
        0.0,
        unit="share of devices",
        description="Gives this share of the devices random scenarios, changing over time.",
        ge=0,
        le=1,
    )
    chaos_episode_ticks: int = settings.setting(
        30, unit="ticks", description="How long a scenario of the chaos lasts.", ge=1
    )
    log: Path | None = settings.setting(
        None, unit="file", description="Append every answer to this file, as NDJSON."
    )
