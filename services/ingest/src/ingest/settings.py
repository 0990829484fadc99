"""Settings of ingest: INGEST_* in the environment."""

from typing import Literal, Self

from pydantic import field_validator, model_validator
from yarl import URL

from ingest import auth, devices, leases
from telemill import contract, names, settings
from telemill.contract import Contract


class IngestSettings(settings.ServiceSettings):
    """Polling, push and the raw stream."""

    model_config = settings.config("INGEST_")

    raw_stream: str = settings.setting(
        names.RAW_STREAM, unit="stream", description="Where readings go.", min_length=1
    )
    raw_format: Literal["ndjson", "kpl"] = settings.setting(
        "ndjson", unit="", description="zstd NDJSON, or KPL aggregates of JSON."
    )
    max_buffered_bytes: int = settings.setting(
        64 * 2**20, unit="bytes", description="Raw records waiting for Kinesis.", ge=2**21
    )

    base_url: str = settings.setting(
        "http://127.0.0.1:9872", unit="URL", description="The FMS API: base_url/{device}/."
    )
    devices: str = settings.setting(
        "1-100",
        unit="ids",
        description="Devices to poll: a list of ids, also ranges when ids are integers; empty polls"
        " none. The default is for integers: text ids have to be listed.",
    )
    poll_interval_seconds: float = settings.setting(
        10.0, unit="seconds", description="Between two polls of a device.", gt=0
    )
    poll_timeout_seconds: float = settings.setting(
        5.0, unit="seconds", description="For one request.", gt=0
    )
    poll_attempts: int = settings.setting(
        3, unit="requests", description="In one interval at the most, when the host fails.", ge=1
    )
    poll_backoff_seconds: float = settings.setting(
        0.5, unit="seconds", description="Longest wait before the first retry; then doubled.", ge=0
    )
    poll_concurrency: int = settings.setting(100, unit="requests", description="At one time.", ge=1)
    poll_linger_seconds: float = settings.setting(
        0.25, unit="seconds", description="A polled reading waits for others of its slot.", ge=0
    )
    breaker_failures: int = settings.setting(
        10, unit="requests", description="Failed in a row: the host's breaker opens.", ge=1
    )
    breaker_open_seconds: float = settings.setting(
        1.0, unit="seconds", description="Until its first probe; doubled up to a minute.", gt=0
    )
    device_leases: bool = settings.setting(
        True, unit="", description="Share the devices with other replicas of the same base_url."
    )
    lease_heartbeat_seconds: float = settings.setting(
        3.0, unit="seconds", description="Between two writes of the replicas' agreement.", gt=0
    )
    lease_expiry_seconds: float = settings.setting(
        15.0, unit="seconds", description="A replica silent for so long loses its devices.", gt=0
    )

    api_key_hashes: str = settings.setting(
        "",
        unit="name:sha256",
        description="Keys that may push, separated by commas; `key` makes one. Empty: nobody.",
    )
    push_linger_seconds: float = settings.setting(
        0.05, unit="seconds", description="A pushed reading waits for others of its slot.", ge=0
    )
    push_timeout_seconds: float = settings.setting(
        10.0, unit="seconds", description="For a body to arrive, and for Kinesis to ack it.", gt=0
    )
    push_max_body_bytes: int = settings.setting(
        4 * 2**20, unit="bytes", description="Of one body, also decompressed.", ge=1024
    )
    push_max_items: int = settings.setting(
        20_000, unit="readings", description="In one body.", ge=1
    )
    push_max_held_bytes: int = settings.setting(
        32 * 2**20, unit="bytes", description="Of all bodies in work; more are answered 503.", ge=1
    )
    push_readings_per_second: float = settings.setting(
        20_000.0, unit="readings/s", description="Each key's rate, in this replica.", gt=0
    )
    push_burst_readings: float = settings.setting(
        40_000.0, unit="readings", description="What a key may save up.", ge=1
    )

    trace_ratio: float = settings.setting(
        0.01,
        unit="share",
        description="Of polls and pushes traced all the way, when INGEST_TRACE_ENDPOINT is set.",
        ge=0,
        le=1,
    )

    @field_validator("base_url")
    @classmethod
    def _known_scheme(cls, value: str) -> str:
        url = URL(value)
        if url.scheme not in {"http", "https"} or not url.host or url.query_string:
            raise ValueError("takes http://host:port or https://host:port, with or without a path")
        return value

    @model_validator(mode="after")
    def _leases_outlast_requests(self) -> Self:
        usable = self.lease_expiry_seconds - self.poll_timeout_seconds - leases.MARGIN_SECONDS
        if self.device_leases and usable < 2 * self.lease_heartbeat_seconds:
            raise ValueError(
                f"INGEST_LEASE_EXPIRY_SECONDS: got {self.lease_expiry_seconds:g}; takes at least"
                f" INGEST_POLL_TIMEOUT_SECONDS + {leases.MARGIN_SECONDS:g}"
                " + 2 INGEST_LEASE_HEARTBEAT_SECONDS"
            )
        return self

    @property
    def host_label(self) -> str:
        """The API host, as metrics, logs and the replicas' agreement name it."""
        url = URL(self.base_url)
        return f"{url.host}:{url.port}"

    def device_keys(self, of: Contract) -> tuple[str, ...]:
        """The devices to poll; none when they are text and nobody listed them.

        Raises:
            ConfigurationError: As `devices.parse`.
        """
        if "devices" not in self.model_fields_set and of.device.type != "int64":
            return ()
        return devices.parse(self.devices, of)

    def check(self) -> str:
        """Also read the device list and the keys."""
        checked = super().check()
        found = self.device_keys(contract.load(self.contract))
        keys = auth.parse_keys(self.api_key_hashes)
        return f"{checked}, {len(found)} devices, {len(keys)} API keys"
