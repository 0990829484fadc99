"""The contract: the fields of a reading in order, and all that is derived from them."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import msgspec
import pyarrow as pa

from telemill.contract import documents, field, schemas, tables
from telemill.contract.field import Field

Table = Literal["readings", "scores", "alerts"]
"""A table of the lake."""
TABLES: tuple[Table, ...] = ("readings", "scores", "alerts")


@dataclass(frozen=True)
class Contract:
    """What a reading is. Made by `load`; equal when the files say the same.

    Attributes:
        name: Short and stable: part of the wire header.
        version: Major version; see `versions.compatible`.
        fields: Every field in the order of the file.
        interval_seconds: How often a device makes a reading.
        late_after_seconds: A reading this much older than its arrival is flagged late, and kept.
        future_tolerance_seconds: A reading further in the future of its arrival is rejected.
        description: One line about the equipment.
    """

    name: str
    version: int
    fields: tuple[Field, ...]
    interval_seconds: float
    late_after_seconds: float
    future_tolerance_seconds: float
    description: str = ""

    @cached_property
    def device(self) -> Field:
        """The field that says which device the reading is of."""
        return next(each for each in self.fields if each.role == "device")

    @cached_property
    def time(self) -> Field:
        """The field that says when the reading was taken."""
        return next(each for each in self.fields if each.role == "time")

    @cached_property
    def values(self) -> tuple[Field, ...]:
        """Everything but device and time, in order: a field's index here fixes its bits."""
        return tuple(each for each in self.fields if each.role in {"measure", "flag"})

    @cached_property
    def measures(self) -> tuple[Field, ...]:
        """The values detectors score; always float64."""
        return tuple(each for each in self.values if each.role == "measure")

    @cached_property
    def reading_struct(self) -> type[msgspec.Struct]:
        """A whole reading. Attributes are columns, all UNSET by default; null decodes to None."""
        return documents.reading_struct(self.name, self.device, self.time, self.values)

    @cached_property
    def key_struct(self) -> type[msgspec.Struct]:
        """Only the device, as whatever scalar it came: enough to route a document."""
        return documents.key_struct(self.name, self.device)

    @cached_property
    def stream_schema(self) -> pa.Schema:
        """Columns of the `readings` stream; the raw shard is in the wire header."""
        return schemas.readings(self._key, self.values, self._metadata, with_shard=False)

    @cached_property
    def table_schema(self) -> pa.Schema:
        """Columns of the `readings` table."""
        return schemas.readings(self._key, self.values, self._metadata, with_shard=True)

    @cached_property
    def score_stream_schema(self) -> pa.Schema:
        """Columns of the `scores` stream; the raw shard is in the wire header."""
        return schemas.scores(self._key, self.measures, self._metadata, with_shard=False)

    @cached_property
    def score_table_schema(self) -> pa.Schema:
        """Columns of the `scores` table."""
        return schemas.scores(self._key, self.measures, self._metadata, with_shard=True)

    @cached_property
    def alert_stream_schema(self) -> pa.Schema:
        """Columns of alerts on the `scores` stream; the raw shard is in the wire header."""
        return schemas.alerts(self._key, self.measures, self._metadata, with_shard=False)

    @cached_property
    def alert_table_schema(self) -> pa.Schema:
        """Columns of the `alerts` table."""
        return schemas.alerts(self._key, self.measures, self._metadata, with_shard=True)

    def glue_columns(self, table: Table) -> list[dict[str, str]]:
        """The table's columns as the Glue API takes them (without the partition keys)."""
        return schemas.glue_columns(self.schemas_of(table)[1])

    def schemas_of(self, table: Table) -> tuple[pa.Schema, pa.Schema]:
        """Columns of a table's rows on their stream, and in the table."""
        match table:
            case "readings":
                return self.stream_schema, self.table_schema
            case "scores":
                return self.score_stream_schema, self.score_table_schema
            case "alerts":
                return self.alert_stream_schema, self.alert_table_schema

    def missing_bit(self, value: Field) -> int:
        """Quality bit: the value was absent, null or not of the field's type."""
        return field.missing_bit(self._index[value.column])

    def sentinel_bit(self, value: Field) -> int:
        """Quality bit: the equipment said "no reading"."""
        return field.sentinel_bit(self._index[value.column])

    def range_bit(self, value: Field) -> int:
        """Quality bit: the value was outside its valid range."""
        return field.range_bit(self._index[value.column])

    def device_id(self, value: Any) -> int | str:
        """The device as the `device_id` column holds it.

        Args:
            value: As decoded from a document; None and UNSET mean it was not there.

        Raises:
            SchemaError: It is missing, cannot be converted without loss or is out of range.
        """
        return documents.device_id(self.device, value)

    def device_key(self, value: Any) -> str:
        """The canonical text of a device (5, "5" and 5.0 are "5"): partition key and slot.

        Raises:
            SchemaError: As `device_id`.
        """
        return str(documents.device_id(self.device, value))

    def markdown_table(self) -> str:
        """The fields as the table in docs/contract.md."""
        return tables.markdown(self.fields, self.values)

    @property
    def _key(self) -> tuple[Field, Field]:
        return self.device, self.time

    @cached_property
    def _index(self) -> dict[str, int]:
        return {each.column: index for index, each in enumerate(self.values)}

    @property
    def _metadata(self) -> dict[str, str]:
        return {
            "telemill.contract": self.name,
            "telemill.version": str(self.version),
            "telemill.description": self.description,
        }
