"""How a service reads its stream: environment variables KINESIS_*, the same in every service."""

import datetime as dt
import os
from pathlib import Path
from typing import Literal, Self

from pydantic import field_validator, model_validator

from telemill import settings
from telemill.errors import ConfigurationError
from telemill.kcl import jars, java, lock, properties
from telemill.kinesis.coordinators.watch import DEFAULT_SILENCE_SECONDS
from telemill.progress.claims import LATEST, TRIM_HORIZON
from telemill.progress.rules import STALE_SECONDS

KCL = "kcl"
DEFAULT_HEAP_MEGABYTES = 256
LET_GO_SECONDS = 5.0
MICROS_PER_SECOND = 1_000_000


class ReaderSettings(settings.ServiceSettings):
    """What every service has that reads a stream."""

    kinesis_coordinator: Literal["single", "kcl"] = settings.common(
        "KINESIS_COORDINATOR",
        "single",
        unit="",
        description="Who decides which shards a worker reads: one worker all of them, or Amazon's"
        " KCL among several.",
    )
    kinesis_start_position: str = settings.common(
        "KINESIS_START_POSITION",
        TRIM_HORIZON,
        unit="TRIM_HORIZON, LATEST or ISO time",
        description="Where an application without progress begins; what is first said holds.",
    )
    kinesis_fan_out: bool = settings.common(
        "KINESIS_FAN_OUT",
        False,
        unit="",
        description="Enhanced fan-out instead of polling; takes the kcl coordinator.",
    )
    kinesis_lease_table: str = settings.common(
        "KINESIS_LEASE_TABLE",
        "",
        unit="DynamoDB table",
        description="Where the KCL keeps its leases; it makes the table. Empty: telemill-leases-"
        " and the application.",
        pattern=r"^([A-Za-z0-9_.-]{3,255})?$",
    )
    kinesis_failover_seconds: float = settings.common(
        "KINESIS_FAILOVER_SECONDS",
        properties.DEFAULT_FAILOVER_MILLIS / 1000,
        unit="seconds",
        description="A KCL lease that is not renewed for so long is anyone's.",
        ge=1,
        le=300,
    )
    kinesis_max_leases: int = settings.common(
        "KINESIS_MAX_LEASES",
        0,
        unit="shards",
        description="Most shards the KCL gives this worker; 0: no bound.",
        ge=0,
    )
    kinesis_kcl_version: Literal["2", "3"] = settings.common(
        "KINESIS_KCL_VERSION",
        jars.DEFAULT_SET.removeprefix(KCL),
        unit="",
        description="Which KCL is run; docs/scaling.md compares them.",
    )
    kinesis_kcl_jars: Path = settings.common(
        "KINESIS_KCL_JARS",
        jars.DEFAULT_DIRECTORY,
        unit="folder",
        description="Where `make kcl-jars` has put the KCL.",
    )
    kinesis_kcl_heap_megabytes: int = settings.common(
        "KINESIS_KCL_HEAP_MEGABYTES",
        DEFAULT_HEAP_MEGABYTES,
        unit="megabytes",
        description="Bound of the heap of the KCL's JVM.",
        ge=64,
    )
    kinesis_kcl_silence_seconds: float = settings.common(
        "KINESIS_KCL_SILENCE_SECONDS",
        DEFAULT_SILENCE_SECONDS,
        unit="seconds",
        description="A KCL that says nothing for so long, though the stream is there, hangs: the"
        " process exits.",
        ge=30,
    )

    @field_validator("kinesis_start_position")
    @classmethod
    def _check_start(cls, value: str) -> str:
        _start(value)
        return value

    @model_validator(mode="after")
    def _check_fan_out(self) -> Self:
        if self.kinesis_fan_out and self.kinesis_coordinator != KCL:
            raise ValueError("KINESIS_FAN_OUT: got true; takes KINESIS_COORDINATOR=kcl")
        return self

    @property
    def uses_kcl(self) -> bool:
        """Whether the KCL decides."""
        return self.kinesis_coordinator == KCL

    @property
    def initial_position(self) -> str | int:
        """As `telemill.progress.claims.Claims` takes it: a name, or epoch microseconds."""
        return _start(self.kinesis_start_position)

    @property
    def stale_seconds(self) -> float:
        """After how long without a heartbeat a claim may be taken from another worker.

        The KCL gives a lease to one worker: who has it waits only as long as the last owner may
        need to learn of its loss (a third of the fail-over time), save and let go.
        """
        return LET_GO_SECONDS if self.uses_kcl else STALE_SECONDS

    @property
    def kcl_set(self) -> str:
        """The set of jars."""
        return f"{KCL}{self.kinesis_kcl_version}"

    def lease_table(self, application: str) -> str:
        """Name of the KCL's lease table, which is its application name."""
        return self.kinesis_lease_table or f"telemill-leases-{application}"

    def class_path(self) -> list[Path]:
        """The KCL's jars, checked, once it is known that a Java is there to run them.

        Raises:
            ConfigurationError: No usable Java, or jars are missing or not those that are pinned.
        """
        java.find(os.environ)
        try:
            return jars.class_path(self.kinesis_kcl_jars, lock.load(self.kcl_set))
        except ConfigurationError as error:
            raise ConfigurationError(
                f"KINESIS_KCL_JARS: got {self.kinesis_kcl_jars}; {error}"
            ) from error

    def check(self) -> str:
        """Also look at Java and the jars."""
        found = super().check()
        if not self.uses_kcl:
            return found
        return f"{found}, KCL {lock.load(self.kcl_set).version}, {len(self.class_path())} jars"


def _start(text: str) -> str | int:
    if text in {TRIM_HORIZON, LATEST}:
        return text
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ValueError("a time like 2026-03-01T06:00:00Z")
    return round(moment.timestamp() * MICROS_PER_SECOND)
