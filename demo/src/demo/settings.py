"""Settings of the demo: environment variables DEMO_*."""

from pathlib import Path

from telemill import settings


class DemoSettings(settings.Settings):
    """How long, how large, where to."""

    model_config = settings.config("DEMO_")

    seconds: float = settings.setting(
        60.0, unit="seconds", description="How long readings flow.", ge=5
    )
    keep: bool = settings.setting(
        False, unit="", description="Leave everything running at the end and print the URLs."
    )
    devices: int = settings.setting(
        100, unit="devices", description="How many the simulator has.", ge=1, le=10_000
    )
    interval_seconds: float = settings.setting(
        1.0, unit="seconds", description="Between two readings and two polls of a device.", gt=0
    )
    flush_interval_seconds: float = settings.setting(
        15.0, unit="seconds", description="Age at which the sinks write their objects.", gt=0
    )
    shards: int = settings.setting(2, unit="shards", description="Of each stream.", ge=1, le=64)
    chaos: float = settings.setting(
        0.1, unit="share", description="Of the devices that misbehave at a time.", ge=0, le=1
    )
    directory: Path = settings.setting(
        Path("build/demo"), unit="folder", description="Where the results go; it is emptied first."
    )
