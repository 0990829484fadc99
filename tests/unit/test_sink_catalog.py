"""The Glue table: made from the contract, growing with it, refusing what does not fit."""

from typing import Any

import pytest
from botocore.exceptions import ClientError

from sink import catalog, core
from sink.parquet import Partition
from telemill import aws, contract, errors


@pytest.fixture(scope="module")
def definition() -> catalog.TableDefinition:
    """The readings table of the default contract."""
    form = core.form_of(contract.load("contracts/fms.yaml"), "readings")
    return catalog.define(form, "telemill", "lake")


class FakeGlue:
    """The part of the Glue client that the catalogue calls, in memory.

    Attributes:
        fail: Error codes by operation; raised once each.
    """

    def __init__(self) -> None:
        self.databases: set[str] = set()
        self.tables: dict[str, dict[str, Any]] = {}
        self.partitions: list[tuple[str, ...]] = []
        self.calls: list[str] = []
        self.fail: dict[str, tuple[str, int]] = {}
        self.refuse: dict[str, str] | None = None

    def _called(self, operation: str) -> None:
        self.calls.append(operation)
        if operation in self.fail:
            code, status = self.fail.pop(operation)
            raise _error(operation, code, status)

    async def get_table(self, DatabaseName: str, Name: str) -> dict[str, Any]:  # noqa: N803
        self._called("get_table")
        if DatabaseName not in self.databases or Name not in self.tables:
            raise _error("GetTable", "EntityNotFoundException", 400)
        return {"Table": {**self.tables[Name], "VersionId": "7"}}

    async def create_database(self, DatabaseInput: dict[str, Any]) -> None:  # noqa: N803
        self._called("create_database")
        if DatabaseInput["Name"] in self.databases:
            raise _error("CreateDatabase", "AlreadyExistsException", 400)
        self.databases.add(DatabaseInput["Name"])

    async def create_table(self, DatabaseName: str, TableInput: dict[str, Any]) -> None:  # noqa: N803
        self._called("create_table")
        if TableInput["Name"] in self.tables:
            raise _error("CreateTable", "AlreadyExistsException", 400)
        self.tables[TableInput["Name"]] = TableInput

    async def update_table(
        self,
        DatabaseName: str,  # noqa: N803
        TableInput: dict[str, Any],  # noqa: N803
        VersionId: str,  # noqa: N803
    ) -> None:
        self._called("update_table")
        assert VersionId == "7"
        self.tables[TableInput["Name"]] = TableInput

    async def batch_create_partition(
        self,
        DatabaseName: str,  # noqa: N803
        TableName: str,  # noqa: N803
        PartitionInputList: list[dict[str, Any]],  # noqa: N803
    ) -> dict[str, Any]:
        self._called("batch_create_partition")
        assert len(PartitionInputList) <= catalog.PARTITIONS_PER_CALL
        if TableName not in self.tables:
            raise _error("BatchCreatePartition", "EntityNotFoundException", 400)
        values = [tuple(each["Values"]) for each in PartitionInputList]
        known = [each for each in values if each in self.partitions]
        self.partitions += [each for each in values if each not in known]
        detail = self.refuse or {"ErrorCode": "AlreadyExistsException"}
        refused = values if self.refuse else known
        return {"Errors": [{"PartitionValues": each, "ErrorDetail": detail} for each in refused]}


def _error(operation: str, code: str, status: int) -> ClientError:
    answer = {
        "Error": {"Code": code, "Message": code},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return ClientError(answer, operation)  # type: ignore[arg-type]


@pytest.fixture
def glue() -> FakeGlue:
    """An empty account."""
    return FakeGlue()


async def test_creates_database_and_table(
    glue: FakeGlue, definition: catalog.TableDefinition
) -> None:
    """From nothing: a Parquet table with every column, its comment, and the partition keys."""
    await catalog.GlueCatalog(glue, definition).ensure_table()
    table = glue.tables["readings"]
    columns = {each["Name"]: each for each in table["StorageDescriptor"]["Columns"]}
    assert glue.databases == {"telemill"}
    assert columns["sensor1"]["Type"] == "double"
    assert "°C" in columns["sensor1"]["Comment"]
    assert [each["Name"] for each in table["PartitionKeys"]] == ["dt", "hour"]
    assert table["StorageDescriptor"]["Location"] == "s3://lake/readings/"
    assert table["Parameters"]["classification"] == "parquet"
    assert table["Parameters"]["telemill.contract"] == "fms"


async def test_leaves_a_table_that_fits(
    glue: FakeGlue, definition: catalog.TableDefinition
) -> None:
    """The second start changes nothing; two sinks that start together do no harm."""
    await catalog.GlueCatalog(glue, definition).ensure_table()
    await catalog.GlueCatalog(glue, definition).ensure_table()
    assert "update_table" not in glue.calls
    glue.databases.discard("telemill")
    await catalog.GlueCatalog(glue, definition).ensure_table()


def _found(definition: catalog.TableDefinition, columns: list[dict[str, str]]) -> dict[str, Any]:
    return definition.table_input(columns)


def _columns(definition: catalog.TableDefinition) -> list[dict[str, str]]:
    return [dict(column) for column in definition.columns]


async def test_a_column_the_contract_gained_is_added(
    glue: FakeGlue, definition: catalog.TableDefinition
) -> None:
    """A table without a column of the contract gets it, where the contract has it."""
    glue.databases.add("telemill")
    older = [each for each in _columns(definition) if each["Name"] != "motor3"]
    glue.tables["readings"] = _found(definition, older)
    await catalog.GlueCatalog(glue, definition).ensure_table()
    assert glue.tables["readings"]["StorageDescriptor"]["Columns"] == _columns(definition)


def test_a_table_that_is_ahead_is_left_alone(definition: catalog.TableDefinition) -> None:
    """An older sink in a rolling update removes nothing a newer one added."""
    ahead = [*_columns(definition), {"Name": "new", "Type": "double", "Comment": ""}]
    assert catalog.merge(definition, _found(definition, ahead)) is None
    both = catalog.merge(definition, _found(definition, ahead[1:]))
    assert both is not None
    names = [each["Name"] for each in both["StorageDescriptor"]["Columns"]]
    assert (names[0], names[-1]) == ("device_id", "new")


def test_a_new_comment_is_taken_over(definition: catalog.TableDefinition) -> None:
    """Another description in the contract reaches the catalogue."""
    columns = _columns(definition)
    columns[3]["Comment"] = "something else"
    assert catalog.merge(definition, _found(definition, columns)) is not None


@pytest.mark.parametrize("what", ["type", "keys", "location"])
def test_a_table_that_does_not_fit_is_refused(
    definition: catalog.TableDefinition, what: str
) -> None:
    """A changed type, other partition keys or another location: a clear error, no update."""
    found = _found(definition, _columns(definition))
    if what == "type":
        found["StorageDescriptor"]["Columns"][3]["Type"] = "string"
    elif what == "keys":
        found["PartitionKeys"] = []
    else:
        found["StorageDescriptor"]["Location"] = "s3://other/readings/"
    with pytest.raises(errors.ConfigurationError, match="does not fit the contract") as raised:
        catalog.merge(definition, found)
    assert not isinstance(raised.value, aws.ResourceError)


async def test_partitions_are_created_once(
    glue: FakeGlue, definition: catalog.TableDefinition
) -> None:
    """Known partitions are not asked for again; one that exists already is fine."""
    made = catalog.GlueCatalog(glue, definition)
    await made.ensure_table()
    hours = [Partition("2025-07-07", f"{hour:02d}") for hour in range(24)]
    await made.ensure_partitions(hours)
    await made.ensure_partitions(hours)
    assert glue.calls.count("batch_create_partition") == 1
    other = catalog.GlueCatalog(glue, definition)
    await other.ensure_partitions([*hours, Partition("2025-07-08", "00")])
    assert len(glue.partitions) == 25


async def test_many_partitions_go_in_pages(
    glue: FakeGlue, definition: catalog.TableDefinition
) -> None:
    """Late readings of weeks: as many calls as Glue's limit needs."""
    made = catalog.GlueCatalog(glue, definition)
    await made.ensure_table()
    days = [Partition(f"2025-{1 + day // 28:02d}-{1 + day % 28:02d}", "00") for day in range(250)]
    await made.ensure_partitions(days)
    assert (len(glue.partitions), glue.calls.count("batch_create_partition")) == (250, 3)


async def test_a_table_dropped_meanwhile_comes_back(
    glue: FakeGlue, definition: catalog.TableDefinition
) -> None:
    """Somebody drops the table while the sink runs: it is made again with the next partition."""
    made = catalog.GlueCatalog(glue, definition)
    await made.ensure_table()
    glue.tables.clear()
    await made.ensure_partitions([Partition("2025-07-07", "12")])
    assert "readings" in glue.tables
    assert glue.partitions == [("2025-07-07", "12")]


async def test_a_refused_partition_is_tried_again(
    glue: FakeGlue, definition: catalog.TableDefinition
) -> None:
    """A partition Glue refuses is no success: the cut must not go on."""
    made = catalog.GlueCatalog(glue, definition)
    await made.ensure_table()
    glue.refuse = {"ErrorCode": "InternalServiceException", "ErrorMessage": "busy"}
    with pytest.raises(errors.ServiceUnavailableError, match="busy"):
        await made.ensure_partitions([Partition("2025-07-07", "12")])
    glue.refuse = None
    await made.ensure_partitions([Partition("2025-07-07", "12")])


async def test_missing_permission_is_named(
    glue: FakeGlue, definition: catalog.TableDefinition
) -> None:
    """What Glue forbids is named, as something that can be put right."""
    glue.fail["get_table"] = ("AccessDeniedException", 400)
    with pytest.raises(aws.ResourceError, match="glue:GetTable"):
        await catalog.GlueCatalog(glue, definition).ensure_table()


async def test_a_concurrent_update_is_tried_again(
    glue: FakeGlue, definition: catalog.TableDefinition
) -> None:
    """Two sinks that add a column at once: the loser looks again."""
    glue.databases.add("telemill")
    glue.tables["readings"] = _found(definition, _columns(definition)[:-1])
    glue.fail["update_table"] = ("ConcurrentModificationException", 400)
    made = catalog.GlueCatalog(glue, definition)
    with pytest.raises(errors.ServiceUnavailableError):
        await made.ensure_table()
    await made.ensure_table()
