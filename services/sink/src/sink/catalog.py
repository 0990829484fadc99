"""The Glue data catalogue: database, table and partitions, made from the contract.

Sinks of several versions share a table while they are rolled out, so it only ever grows: a column
of the contract that the table lacks is added, one the contract does not know is left alone.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import structlog
from botocore import exceptions

from sink.core import Form
from sink.parquet import Partition
from telemill import aws, errors

PARTITION_KEYS = (
    {"Name": "dt", "Type": "string", "Comment": "Day of event_time, UTC"},
    {"Name": "hour", "Type": "string", "Comment": "Hour of event_time, UTC"},
)
PARTITIONS_PER_CALL = 100
"""Limit of BatchCreatePartition (Glue API reference)."""

MAX_KNOWN_PARTITIONS = 100_000
"""Forgotten beyond: creating a partition again is harmless."""

EXISTS = "AlreadyExistsException"
MISSING = "EntityNotFoundException"
CONFLICTS = frozenset({"ConcurrentModificationException", "VersionMismatchException"})

INPUT_FORMAT = "org.apache.hadoop.hive.ql.io.parquet.MapredParquetInputFormat"
OUTPUT_FORMAT = "org.apache.hadoop.hive.ql.io.parquet.MapredParquetOutputFormat"
SERDE = "org.apache.hadoop.hive.ql.io.parquet.serde.ParquetHiveSerDe"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class TableDefinition:
    """A table as the contract wants it.

    Attributes:
        database: Glue database.
        name: Table.
        location: s3:// prefix of its objects, with a slash at the end.
        columns: As `Contract.glue_columns` gives them.
        parameters: Table parameters.
    """

    database: str
    name: str
    location: str
    columns: Sequence[Mapping[str, str]]
    parameters: Mapping[str, str] = field(default_factory=dict)

    def storage(self, location: str, columns: Sequence[Mapping[str, str]]) -> dict[str, Any]:
        """The StorageDescriptor of the table, or of a partition at a location of its own."""
        return {
            "Columns": [dict(column) for column in columns],
            "Location": location,
            "InputFormat": INPUT_FORMAT,
            "OutputFormat": OUTPUT_FORMAT,
            "SerdeInfo": {
                "SerializationLibrary": SERDE,
                "Parameters": {"serialization.format": "1"},
            },
        }

    def table_input(self, columns: Sequence[Mapping[str, str]]) -> dict[str, Any]:
        """The TableInput of CreateTable and UpdateTable."""
        return {
            "Name": self.name,
            "Description": f"Telemill {self.name}: one row each, exactly once",
            "TableType": "EXTERNAL_TABLE",
            "Parameters": {"EXTERNAL": "TRUE", "classification": "parquet", **self.parameters},
            "PartitionKeys": [dict(key) for key in PARTITION_KEYS],
            "StorageDescriptor": self.storage(self.location, columns),
        }

    def partition_input(self, partition: Partition) -> dict[str, Any]:
        """The PartitionInput of BatchCreatePartition."""
        return {
            "Values": [partition.dt, partition.hour],
            "StorageDescriptor": self.storage(f"{self.location}{partition.path}/", self.columns),
        }


def define(form: Form, database: str, bucket: str) -> TableDefinition:
    """The table of a contract in a lake."""
    return TableDefinition(
        database=database,
        name=form.table,
        location=f"s3://{bucket}/{form.table}/",
        columns=form.contract.glue_columns(form.table),
        parameters={
            "telemill.contract": form.contract.name,
            "telemill.version": str(form.contract.version),
        },
    )


def merge(definition: TableDefinition, found: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a table that exists has to become.

    Args:
        definition: What the contract wants.
        found: `Table` of GetTable.

    Returns:
        The TableInput of an update; None when nothing has to change.

    Raises:
        ConfigurationError: The table cannot hold rows of the contract.
    """
    there = list(found.get("StorageDescriptor", {}).get("Columns", []))
    _refuse_incompatible(definition, found, there)
    wanted = [dict(column) for column in definition.columns]
    names, names_there = _names(wanted), _names(there)
    # 1. The contract gained a column. 2. A newer version of the service was here and knows more:
    # its rows have those columns, they stay. 3. Only comments or the order may differ.
    if not names <= names_there:
        extra = [dict(column) for column in there if column["Name"] not in names]
        return definition.table_input([*wanted, *extra])
    if names_there != names or _plain(there) == _plain(wanted):
        return None
    return definition.table_input(wanted)


def _names(columns: Iterable[Mapping[str, str]]) -> set[str]:
    return {column["Name"] for column in columns}


def _plain(columns: Iterable[Mapping[str, str]]) -> list[tuple[str, str, str]]:
    return [(each["Name"], each["Type"], each.get("Comment", "")) for each in columns]


def _refuse_incompatible(
    definition: TableDefinition, found: Mapping[str, Any], there: Sequence[Mapping[str, str]]
) -> None:
    types = {column["Name"]: column["Type"] for column in definition.columns}
    problems = [
        f"column {each['Name']} is {each['Type']}, not {types[each['Name']]}"
        for each in there
        if each["Name"] in types and each["Type"] != types[each["Name"]]
    ]
    keys = [key["Name"] for key in found.get("PartitionKeys", [])]
    if keys != [key["Name"] for key in PARTITION_KEYS]:
        problems.append(f"it is partitioned by {', '.join(keys) or 'nothing'}, not dt, hour")
    location = str(found.get("StorageDescriptor", {}).get("Location", "")).rstrip("/")
    if location != definition.location.rstrip("/"):
        problems.append(f"its location is {location}, not {definition.location}")
    if problems:
        raise errors.ConfigurationError(
            f"Glue table {definition.database}.{definition.name} does not fit the contract: "
            f"{'; '.join(problems)}. Give the contract another name of table or database, "
            "or drop the table (its objects stay)"
        )


class GlueCatalog:
    """The catalogue on AWS Glue.

    Args:
        client: An aiobotocore Glue client.
        definition: The table.
    """

    def __init__(self, client: Any, definition: TableDefinition) -> None:
        self._client = client
        self._definition = definition
        self._known: set[Partition] = set()

    async def ensure_table(self) -> None:
        """Create the database and the table, or let the table grow to the contract.

        Raises:
            TransientError: Try again.
            ResourceError: A permission is missing; may heal.
            ConfigurationError: The table does not fit the contract.
        """
        found = await self._find_table()
        if found is None:
            await self._create_table()
            return
        update = merge(self._definition, found)
        if update is not None:
            await self._update_table(update, found)

    async def ensure_partitions(self, partitions: Iterable[Partition]) -> None:
        """See `sink.cutting.Catalog`."""
        missing = [each for each in dict.fromkeys(partitions) if each not in self._known]
        for start in range(0, len(missing), PARTITIONS_PER_CALL):
            await self._create_partitions(missing[start : start + PARTITIONS_PER_CALL])

    async def _create_partitions(self, partitions: Sequence[Partition]) -> None:
        try:
            await self._batch_create(partitions)
        except aws.ResourceError:
            # The table may have been dropped while we ran; when it is there, this tells why not.
            await self.ensure_table()
            await self._batch_create(partitions)
        if len(self._known) > MAX_KNOWN_PARTITIONS:
            self._known.clear()
        self._known.update(partitions)

    async def _batch_create(self, partitions: Sequence[Partition]) -> None:
        with aws.map_exceptions("glue:BatchCreatePartition", table=self._table_name):
            answer = await self._client.batch_create_partition(
                DatabaseName=self._definition.database,
                TableName=self._definition.name,
                PartitionInputList=[self._definition.partition_input(each) for each in partitions],
            )
        refused = [
            each["ErrorDetail"]
            for each in answer.get("Errors", [])
            if each["ErrorDetail"].get("ErrorCode") != EXISTS
        ]
        if refused:
            raise errors.ServiceUnavailableError(
                f"glue:BatchCreatePartition on {self._table_name}: {len(refused)} refused,"
                f" the first with {refused[0].get('ErrorCode')}: {refused[0].get('ErrorMessage')}"
            )

    @property
    def _table_name(self) -> str:
        return f"{self._definition.database}.{self._definition.name}"

    async def _find_table(self) -> Mapping[str, Any] | None:
        try:
            with aws.map_exceptions("glue:GetTable"):
                answer = await self._client.get_table(
                    DatabaseName=self._definition.database, Name=self._definition.name
                )
        except aws.ResourceError as error:
            if _code(error.__cause__) == MISSING:
                return None
            raise
        table: Mapping[str, Any] = answer["Table"]
        return table

    async def _create_table(self) -> None:
        database = self._definition.database
        with aws.map_exceptions("glue:CreateDatabase", database=database), _unless(EXISTS):
            await self._client.create_database(DatabaseInput={"Name": database})
        with aws.map_exceptions("glue:CreateTable", table=self._table_name), _unless(EXISTS):
            await self._client.create_table(
                DatabaseName=database,
                TableInput=self._definition.table_input(self._definition.columns),
            )
        log.info("sink.table_created", table=self._table_name)

    async def _update_table(self, update: dict[str, Any], found: Mapping[str, Any]) -> None:
        version = {"VersionId": found["VersionId"]} if found.get("VersionId") else {}
        try:
            with aws.map_exceptions("glue:UpdateTable", table=self._table_name):
                await self._client.update_table(
                    DatabaseName=self._definition.database, TableInput=update, **version
                )
        except exceptions.ClientError as error:
            if _code(error) not in CONFLICTS:
                raise
            raise errors.ServiceUnavailableError(
                f"glue:UpdateTable on {self._table_name}: changed by somebody else meanwhile"
            ) from error
        log.info("sink.table_updated", table=self._table_name)


def _code(error: BaseException | None) -> str:
    if not isinstance(error, exceptions.ClientError):
        return ""
    return str(error.response.get("Error", {}).get("Code", ""))


@contextmanager
def _unless(code: str) -> Iterator[None]:
    """Take an answer with this error code for a success."""
    try:
        yield
    except exceptions.ClientError as error:
        if _code(error) != code:
            raise
