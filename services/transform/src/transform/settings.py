"""Settings of the transform service: environment variables TRANSFORM_*."""

from telemill import names, settings
from telemill.stages import service
from transform import core


class TransformSettings(service.StageSettings):
    """What the service reads, remembers and writes to."""

    model_config = settings.config("TRANSFORM_")

    app_id: str = settings.default(service.StageSettings, "app_id", core.PRODUCER)
    input_stream: str = settings.default(service.StageSettings, "input_stream", names.RAW_STREAM)
    output_stream: str = settings.default(
        service.StageSettings, "output_stream", names.READINGS_STREAM
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
