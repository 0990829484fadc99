"""What is found out before the KCL's daemon is started."""

from typing import Any

import pytest
from botocore.exceptions import ClientError

from telemill import aws, coordination, service


class Answering:
    """A DynamoDB that answers DescribeTable with an error."""

    def __init__(self, code: str, status: int = 400) -> None:
        self._answer: Any = {
            "Error": {"Code": code, "Message": "not today"},
            "ResponseMetadata": {"HTTPStatusCode": status},
        }

    async def describe_table(self, **_named: Any) -> None:
        """Always fails."""
        raise ClientError(self._answer, "DescribeTable")


async def ask(code: str, status: int = 400) -> None:
    """Ask for the lease table of such a DynamoDB."""
    opened = service.Clients(dynamodb=Answering(code, status))
    await coordination.require_permission(opened, "telemill-leases-transform")


async def test_no_permission_on_the_lease_table_is_a_wrong_setting() -> None:
    """One line which names the setting, the table and the missing permission."""
    with pytest.raises(aws.ResourceError) as raised:
        await ask("AccessDeniedException")
    assert str(raised.value) == (
        "KINESIS_LEASE_TABLE: got telemill-leases-transform; permission dynamodb:DescribeTable is"
        " missing on table telemill-leases-transform (AccessDeniedException: not today)"
    )


@pytest.mark.parametrize(("code", "status"), [("ResourceNotFoundException", 400), ("Oops", 500)])
async def test_a_table_that_is_not_there_yet_is_the_daemons_business(
    code: str, status: int
) -> None:
    """The daemon makes it; and a DynamoDB that is away may be back by then."""
    await ask(code, status)
