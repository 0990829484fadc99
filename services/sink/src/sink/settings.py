"""Settings of the sink: environment variables SINK_*."""

from sink.core import TableName
from sink.stage import Limits
from telemill import names, service, settings
from telemill.reader_settings import ReaderSettings

_LIMITS = Limits()
_MEBIBYTE = 1024 * 1024


class SinkSettings(ReaderSettings):
    """What the sink reads and where it writes. One deployment fills one table."""

    model_config = settings.config("SINK_")

    table: TableName = settings.setting(
        "readings", unit="", description="Which table of the contract to fill."
    )
    app_id: str = settings.setting(
        "",
        unit="name",
        description="Names the application in claims and objects; empty: sink-readings or"
        " sink-scores.",
        pattern=r"^[A-Za-z0-9_.-]*$",
    )
    input_stream: str = settings.setting(
        "", unit="stream", description="What to read; empty: the stream called as the table."
    )
    lake_bucket: str = settings.setting(
        names.LAKE_BUCKET,
        unit="S3 bucket",
        description="Holds the tables and the quarantine.",
        min_length=3,
    )
    glue_database: str = settings.setting(
        names.GLUE_DATABASE,
        unit="name",
        description="Glue database; created if missing.",
        pattern=r"^[a-z0-9_]{1,255}$",
    )
    flush_interval_seconds: float = settings.setting(
        _LIMITS.flush_interval_seconds,
        unit="seconds",
        description="Age of the oldest reading at which objects are written.",
        gt=0,
    )
    max_cut_bytes: int = settings.setting(
        _LIMITS.max_cut_bytes,
        unit="bytes",
        description="Rows held in memory at most, over all shards; half of it ends a cut.",
        ge=_MEBIBYTE,
    )
    raw_retention_hours: float = settings.setting(
        _LIMITS.raw_retention_hours,
        unit="hours",
        description="Retention of the raw stream: how far back a producer's replay can reach.",
        gt=0,
    )
    step_timeout_seconds: float = service.step_timeout_setting()

    @property
    def application(self) -> str:
        """The application id."""
        return self.app_id or f"sink-{self.table}"

    @property
    def stream(self) -> str:
        """The input stream."""
        return self.input_stream or _STREAMS[self.table]

    @property
    def limits(self) -> Limits:
        """Age and size of cuts."""
        return Limits(
            flush_interval_seconds=self.flush_interval_seconds,
            max_cut_bytes=self.max_cut_bytes,
            raw_retention_hours=self.raw_retention_hours,
            slot_count=self.slot_count,
        )


_STREAMS = {"readings": names.READINGS_STREAM, "scores": names.SCORES_STREAM}
