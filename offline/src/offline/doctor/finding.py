"""What a check says: one line, and what to do."""

import enum
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from botocore.exceptions import BotoCoreError, ClientError

from telemill import aws, errors

DEPLOY = "deploy the template that owns it (docs/deploy-ecs.md), or run `telemill provision`"


class Status(enum.StrEnum):
    """How bad it is, in this order."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line.

    Attributes:
        check: Which kind of thing was looked at: "stream", "lag", ...
        subject: Which one of them.
        status: How bad.
        says: What was found.
        advice: What to do; empty when all is well.
    """

    check: str
    subject: str
    status: Status
    says: str
    advice: str = ""


def ok(check: str, subject: str, says: str) -> Finding:
    """All is well."""
    return Finding(check, subject, Status.OK, says)


def warn(check: str, subject: str, says: str, advice: str) -> Finding:
    """Works, but look at it."""
    return Finding(check, subject, Status.WARN, says, advice)


def fail(check: str, subject: str, says: str, advice: str) -> Finding:
    """Does not work, or will lose readings."""
    return Finding(check, subject, Status.FAIL, says, advice)


def worst(found: Iterable[Finding]) -> Status:
    """The worst status."""
    order = list(Status)
    return max((each.status for each in found), key=order.index, default=Status.OK)


async def looked(
    check: str, subject: str, look: Callable[[], Awaitable[list[Finding]]]
) -> list[Finding]:
    """A check's findings; what AWS refuses is one, too."""
    try:
        return await look()
    except aws.MissingError as error:
        return [fail(check, subject, str(error), DEPLOY)]
    except aws.ResourceError as error:
        advice = "give the role this permission (docs/doctor.md), or name another resource"
        return [fail(check, subject, str(error), advice)]
    except errors.ConfigurationError as error:
        return [fail(check, subject, str(error), "put the setting right")]
    except (errors.TransientError, BotoCoreError) as error:
        advice = "try again; then look at the network, AWS_ENDPOINT_URL and AWS's status page"
        return [fail(check, subject, f"no answer: {error}", advice)]
    except ClientError as error:
        return [fail(check, subject, str(error), "look at what AWS says")]
