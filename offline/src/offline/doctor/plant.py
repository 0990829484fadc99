"""What a deployment consists of, by the settings of its services: what is to be looked at."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

from anomaly.settings import AnomalySettings
from ingest.settings import IngestSettings
from offline.doctor.finding import Finding, fail, ok
from sink.settings import SinkSettings
from telemill import contract, settings
from telemill.contract import Contract
from telemill.cost.load import Fleet
from telemill.reader_settings import ReaderSettings
from transform.settings import TransformSettings

TABLES = ("readings", "scores")


@dataclass(frozen=True, slots=True)
class Reader:
    """An application that reads a stream, and its settings."""

    application: str
    stream: str
    settings: ReaderSettings


@dataclass(frozen=True, slots=True)
class Plant:
    """One deployment.

    Attributes:
        sinks: One for each table.
        fleet: What is offered; None when it is not known.
    """

    contract: Contract
    ingest: IngestSettings
    transform: TransformSettings
    sinks: tuple[SinkSettings, ...]
    anomaly: AnomalySettings
    fleet: Fleet | None

    @property
    def readers(self) -> list[Reader]:
        """Every application with positions."""
        stages = (self.transform, self.anomaly)
        return [
            *(Reader(each.app_id, each.input_stream, each) for each in stages),
            *(Reader(each.application, each.stream, each) for each in self.sinks),
        ]

    @property
    def streams(self) -> dict[str, int]:
        """Each stream, and the number of its slots as its writer has it."""
        return {
            self.ingest.raw_stream: self.ingest.slot_count,
            self.transform.output_stream: self.transform.slot_count,
            self.anomaly.output_stream: self.anomaly.slot_count,
        }

    @property
    def services(self) -> tuple[settings.ServiceSettings, ...]:
        """The settings of all of them."""
        return (self.ingest, self.transform, *self.sinks, self.anomaly)


def read(devices: int | None = None, interval_seconds: float | None = None) -> Plant:
    """The deployment that the environment describes.

    Args:
        devices: Of the fleet; by default those ingest polls.
        interval_seconds: Between two readings of a device; by default ingest's poll interval.

    Raises:
        ConfigurationError: A setting is wrong, or the contract cannot be read.
    """
    ingest = settings.read(IngestSettings)
    reading = contract.load(ingest.contract)
    polled = len(ingest.device_keys(reading))
    count = polled if devices is None else devices
    interval = interval_seconds or ingest.poll_interval_seconds
    # Two deployments of one service have the same variables: without SINK_TABLE both are meant.
    tables = [os.environ["SINK_TABLE"]] if "SINK_TABLE" in os.environ else TABLES
    return Plant(
        contract=reading,
        ingest=ingest,
        transform=settings.read(TransformSettings),
        sinks=tuple(settings.read(SinkSettings, {"table": each}) for each in tables),
        anomaly=settings.read(AnomalySettings),
        fleet=Fleet(count, interval, slots=ingest.slot_count) if count else None,
    )


def check_agreement(plant: Plant) -> list[Finding]:
    """Whether what one service writes is what the next one reads."""
    problems = [*_streams_apart(plant), *_places_apart(plant)]
    if not problems:
        return [ok("settings", "services", "names, slots and contract agree")]
    return [fail("settings", "services", each, "give both the same value") for each in problems]


def _streams_apart(plant: Plant) -> Iterator[str]:
    ingest, transform, anomaly = plant.ingest, plant.transform, plant.anomaly
    read_by = {each.table: each.stream for each in plant.sinks}
    pairs = [
        ("INGEST_RAW_STREAM", ingest.raw_stream, "TRANSFORM_INPUT_STREAM", transform.input_stream),
        (
            "TRANSFORM_OUTPUT_STREAM",
            transform.output_stream,
            "ANOMALY_INPUT_STREAM",
            anomaly.input_stream,
        ),
    ]
    if "readings" in read_by:
        sink = ("the stream of the sink for readings", read_by["readings"])
        pairs.append(("TRANSFORM_OUTPUT_STREAM", transform.output_stream, *sink))
    if "scores" in read_by:
        sink = ("the stream of the sink for scores", read_by["scores"])
        pairs.append(("ANOMALY_OUTPUT_STREAM", anomaly.output_stream, *sink))
    for one, value, other, other_value in pairs:
        if value != other_value:
            yield f"{one} is {value}, but {other} is {other_value}"


def _places_apart(plant: Plant) -> Iterator[str]:
    for name in ("slot_count", "progress_table", "state_bucket", "lake_bucket", "contract"):
        values = {
            f"{each.model_config['env_prefix']}{name.upper()}": str(getattr(each, name))
            for each in plant.services
            if hasattr(each, name)
        }
        if len(set(values.values())) > 1:
            yield ", ".join(f"{variable} is {value}" for variable, value in values.items())
