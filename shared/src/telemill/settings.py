"""Settings of a process: from the environment, listed by --help, checked by --check.

A service declares one frozen class and loads it once, in `__main__`:

    class SinkSettings(settings.ServiceSettings):
        model_config = settings.config("SINK_")
        flush_interval_seconds: float = settings.setting(
            15.0, unit="seconds", description="Age at which a cut ends.", gt=0
        )

Each setting is an environment variable and, secrets apart, a flag which overrides it:
SINK_FLUSH_INTERVAL_SECONDS=5, --flush-interval-seconds 5. Lists are "a,b,c" or a JSON array.
The AWS endpoint, region and credentials are not settings: they belong to botocore.
"""

import json
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar
from urllib.parse import urlsplit

import pydantic
from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from telemill import names, settings_help
from telemill.errors import ConfigurationError
from telemill.slots import DEFAULT_SLOT_COUNT, MAX_SLOT_COUNT

S = TypeVar("S", bound="Settings")

MAX_PORT = 65535


def config(env_prefix: str) -> SettingsConfigDict:
    """The `model_config` of a settings class: `config("SINK_")`."""
    return SettingsConfigDict(
        env_prefix=env_prefix,
        frozen=True,
        extra="forbid",
        enable_decoding=False,
        populate_by_name=True,
    )


def setting(default: Any = ..., *, unit: str, description: str, **constraints: Any) -> Any:
    """One setting. Without a default it is required.

    Args:
        default: Used when the variable is not set.
        unit: "seconds", "bytes", "devices", ...; "" for what has none.
        description: One sentence, for --help.
        **constraints: As pydantic's Field: gt, ge, lt, le, min_length, default_factory, ...
    """
    if "default_factory" not in constraints:
        constraints["default"] = default
    return Field(description=description, json_schema_extra={"unit": unit}, **constraints)


def common(variable: str, default: Any, *, unit: str, description: str, **constraints: Any) -> Any:
    """A setting that has the same variable in every service, without the service's prefix.

    Args:
        variable: Like "KINESIS_COORDINATOR".
        default: As in `setting`.
        unit: As in `setting`.
        description: As in `setting`.
        **constraints: As in `setting`.
    """
    return setting(
        default, unit=unit, description=description, validation_alias=variable, **constraints
    )


def default(of: "type[Settings]", name: str, value: Any) -> Any:
    """A setting of a base class again, with a default of its own."""
    field = of.model_fields[name]
    return field.merge_field_infos(field, default=value)


class Settings(BaseSettings):
    """How settings are read; a subclass says which."""

    model_config = config("TELEMILL_")

    @field_validator("*", mode="before")
    @classmethod
    def _read_collections(cls, value: Any, info: ValidationInfo) -> Any:
        field = cls.model_fields[str(info.field_name)]
        if isinstance(value, str) and settings_help.is_collection(field):
            return _parse_collection(value)
        return value

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        for name, field in cls.model_fields.items():
            if not field.description or settings_help.unit_of(field) is None:
                raise TypeError(f"{cls.__name__}.{name} needs a description and a unit")

    def check(self) -> str:
        """Check what the settings point to, for --check; extend it in a subclass.

        Returns:
            What was found, for the one line printed.

        Raises:
            ConfigurationError: A file named by a setting is absent or broken.
        """
        return f"{len(type(self).model_fields)} settings"


class HttpSettings(Settings):
    """What every process with an HTTP interface has."""

    log_level: Literal["debug", "info", "warning", "error"] = setting(
        "info", unit="", description="Least severe of our own log events; libraries: warning."
    )
    http_host: str = setting(
        "127.0.0.1", unit="address", description="Address to listen on; 0.0.0.0 in a container."
    )
    http_port: int = setting(
        8080, unit="port", description="Port of HTTP; 0 takes a free one.", ge=0, le=MAX_PORT
    )


class ServiceSettings(HttpSettings):
    """What every one of the four services has."""

    contract: Path = setting(
        Path("contracts/fms.yaml"), unit="file", description="What a reading is."
    )
    worker_id: str = setting(
        unit="name",
        description="Names this worker in claims; keep it over a restart.",
        default_factory=socket.gethostname,
        min_length=1,
    )
    slot_count: int = setting(
        DEFAULT_SLOT_COUNT,
        unit="slots",
        description="Slots of the streams; fixed for a stream's life.",
        ge=1,
        le=MAX_SLOT_COUNT,
    )
    progress_table: str = setting(
        names.PROGRESS_TABLE,
        unit="DynamoDB table",
        description="Where claims and positions are kept.",
        min_length=3,
    )
    state_bucket: str = setting(
        names.STATE_BUCKET,
        unit="S3 bucket",
        description="Where state too large for the table is kept.",
        min_length=3,
    )
    drain_timeout_seconds: float = setting(
        10.0, unit="seconds", description="After SIGTERM: time to drain and commit.", gt=0
    )
    emf_enabled: bool = setting(
        False, unit="", description="Write CloudWatch Embedded Metric Format to stdout."
    )
    emf_interval_seconds: float = setting(
        60.0, unit="seconds", description="Time between two EMF emissions.", gt=0
    )
    emf_metrics: str = setting(
        "all",
        unit="metrics",
        description="What EMF holds: all, watched (by our alarms and dashboard), or names.",
    )
    trace_endpoint: str = setting(
        "",
        unit="URL",
        description="OpenTelemetry collector, OTLP over HTTP: http://127.0.0.1:4318; empty: none.",
    )

    @field_validator("emf_metrics")
    @classmethod
    def _are_metrics(cls, value: str) -> str:
        # Not at the top: most commands have no metrics.
        from telemill import emf  # noqa: PLC0415

        emf.selection(value)
        return value

    @field_validator("trace_endpoint")
    @classmethod
    def _is_a_collector(cls, value: str) -> str:
        try:
            url = urlsplit(value)
            # Reading the port is what checks it.
            is_sound = url.scheme in {"http", "https"} and bool(url.hostname) and url.port != 0
        except ValueError:
            is_sound = False
        if value and (not is_sound or url.query or url.fragment):
            raise ValueError("takes http://host:port or https://host:port, without /v1/traces")
        if value.rstrip("/").endswith("/v1/traces"):
            raise ValueError("takes the collector's address without /v1/traces")
        return value

    def check(self) -> str:
        """Also load the contract."""
        # Not at the top: the simulator's settings need no contract.
        from telemill import contract  # noqa: PLC0415

        loaded = contract.load(self.contract)
        return f"{super().check()}, contract {loaded.name} version {loaded.version}"


def load(
    settings_class: type[S],
    argv: Sequence[str],
    *,
    prog: str,
    description: str,
    epilog: str = "",
) -> S:
    """Read the settings, or answer --help and --check, or say what is wrong.

    Args:
        settings_class: What to read.
        argv: The arguments after the program's name.
        prog: How the program is called.
        description: First lines of --help.
        epilog: Last lines of --help.

    Raises:
        SystemExit: 0 after --help or a good --check; 2 after one line on stderr naming every
            setting that is wrong, what it got and what it takes.
    """
    try:
        flags = settings_help.parse_flags(settings_class, argv)
        if flags.help:
            text = settings_help.render(settings_class, prog, description, epilog)
            _leave(0, text)
        loaded = read(settings_class, flags.values)
        if flags.check:
            _leave(0, f"{prog}: valid: {loaded.check()}\n")
    except ConfigurationError as error:
        _leave(2, "".join(f"{prog}: {line}\n" for line in str(error).splitlines()))
    return loaded


def _leave(status: int, text: str) -> NoReturn:
    (sys.stderr if status else sys.stdout).write(text)
    raise SystemExit(status)


def read(settings_class: type[S], values: dict[str, Any] | None = None) -> S:
    """Read the settings from the environment; `values` (by field name) override it.

    Raises:
        ConfigurationError: Everything that is wrong, on one line.
    """
    problems = settings_help.unknown_variables(settings_class)
    try:
        loaded = settings_class(**(values or {}))
    except pydantic.ValidationError as error:
        problems += settings_help.explain(settings_class, error)
    if problems:
        raise ConfigurationError("; ".join(problems))
    return loaded


def _parse_collection(text: str) -> Any:
    """A list or mapping written in one variable."""
    stripped = text.strip()
    if stripped.startswith(("[", "{")):
        return json.loads(stripped)
    return [item.strip() for item in stripped.split(",") if item.strip()]
