"""Settings of the transform service: environment variables TRANSFORM_*."""

from telemill import names, settings
from transform import core


class TransformSettings(settings.ServiceSettings):
    """What the service reads, remembers and writes to."""

    model_config = settings.config("TRANSFORM_")

    app_id: str = settings.setting(
        core.PRODUCER,
        unit="name",
        description="Names the application in claims and headers.",
        min_length=1,
        max_length=255,
    )
    input_stream: str = settings.setting(
        names.RAW_STREAM, unit="stream", description="Where raw records come from.", min_length=1
    )
    output_stream: str = settings.setting(
        names.READINGS_STREAM, unit="stream", description="Where readings go.", min_length=1
    )
    lake_bucket: str = settings.setting(
        names.LAKE_BUCKET, unit="S3 bucket", description="Holds the quarantine.", min_length=3
    )
    commit_interval_seconds: float = settings.setting(
        5.0, unit="seconds", description="Longest time between two saved positions.", gt=0
    )
    raw_retention_hours: float = settings.setting(
        168.0, unit="hours", description="Retention of the raw stream: how far replays reach.", gt=0
    )
    dedupe_window: int = settings.setting(
        core.DEFAULT_DEDUPE_WINDOW,
        unit="event times",
        description="Remembered per device to find duplicates; 16 bytes each.",
        ge=1,
        le=65_536,
    )
    max_devices: int = settings.setting(
        core.DEFAULT_MAX_DEVICES,
        unit="devices",
        description="Remembered per shard; duplicates of further ones are not found.",
        ge=1,
    )
    keep_days: int = settings.setting(
        core.DEFAULT_KEEP_DAYS,
        unit="days",
        description="A device silent for so long is forgotten.",
        ge=1,
    )
