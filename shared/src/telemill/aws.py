"""AWS clients with our time-outs, and their errors as ours. The one place both are decided."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from importlib import metadata
from typing import Any

import aiohttp
import structlog
from aiobotocore import session as aiobotocore_session
from botocore import exceptions
from botocore.config import Config

from telemill.errors import (
    ConfigurationError,
    ServiceUnavailableError,
    TelemillError,
    ThroughputExceededError,
)
from telemill.health import Health

log = structlog.get_logger()

USER_AGENT = f"telemill/{metadata.version('telemill')}"
CONNECT_TIMEOUT_SECONDS = 3.0
READ_TIMEOUT_SECONDS = {"kinesis": 15.0, "dynamodb": 5.0, "sns": 5.0}
DEFAULT_READ_TIMEOUT_SECONDS = 30.0
STANDARD_ATTEMPTS = 3
SERVER_ERROR_STATUS = 500
RETRY_MISSING_SECONDS = 5.0

THROTTLED = frozenset(
    {
        "ProvisionedThroughputExceededException",
        "LimitExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "SlowDown",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
        "KMSThrottlingException",
    }
)
UNAVAILABLE = frozenset(
    {
        # Heal by themselves though their status is not 5xx.
        "ConditionalRequestConflict",
        "OperationAborted",
        "RequestTimeout",
        "TransactionConflictException",
        "TransactionInProgressException",
    }
)
MISSING = frozenset(
    {
        "ResourceNotFoundException",
        "NoSuchBucket",
        "EntityNotFoundException",
        "NotFound",
        "NotFoundException",
        "KMSNotFoundException",
    }
)
FORBIDDEN = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "AllAccessDisabled",
        "AuthorizationError",
        "AuthorizationErrorException",
        "UnauthorizedOperation",
        "KMSAccessDeniedException",
        "KMSDisabledException",
    }
)
CREDENTIALS = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
NO_CREDENTIALS = (
    exceptions.NoCredentialsError,
    exceptions.PartialCredentialsError,
    exceptions.CredentialRetrievalError,
    exceptions.TokenRetrievalError,
    exceptions.ProfileNotFound,
)
UNREACHABLE = (
    exceptions.HTTPClientError,
    exceptions.ConnectionError,
    exceptions.IncompleteReadError,
    aiohttp.ClientError,
    OSError,  # TimeoutError, ConnectionResetError, gaierror
)


class ResourceError(ConfigurationError):
    """A stream, bucket, table or topic is missing, or we may not use it.

    Not retriable as the call it came from, but somebody may put it right while we wait: see
    `wait_for`.
    """


class MissingError(ResourceError):
    """A stream, bucket, table or topic that does not exist."""


@asynccontextmanager
async def client(
    service: str,
    *,
    read_timeout_seconds: float | None = None,
    max_connections: int = 32,
) -> AsyncIterator[Any]:
    """A client of one AWS service, closed at the end.

    botocore's own retries are off for kinesis: it would send a PutRecords again behind the back
    of who keeps the order. Others keep botocore's standard mode.

    Args:
        service: "kinesis", "s3", "dynamodb", "glue", "sns", ...
        read_timeout_seconds: Longest silence of one response.
        max_connections: Connections kept in the pool.

    Raises:
        ConfigurationError: No region.
    """
    attempts = 1 if service == "kinesis" else STANDARD_ATTEMPTS
    default = READ_TIMEOUT_SECONDS.get(service, DEFAULT_READ_TIMEOUT_SECONDS)
    config = Config(
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        read_timeout=read_timeout_seconds or default,
        max_pool_connections=max_connections,
        # Given, it is not put together anew for every request (seen in BENCH_PROFILE=true).
        user_agent=USER_AGENT,
        retries={"mode": "standard", "total_max_attempts": attempts},
    )
    try:
        async with _session().create_client(service, config=config) as opened:
            yield opened
    except exceptions.NoRegionError as error:
        raise ConfigurationError(
            "AWS_DEFAULT_REGION: not set; takes an AWS region, such as eu-central-1"
        ) from error


@cache
def _session() -> Any:
    """One session a process: it holds the parsed service models and the credentials."""
    return aiobotocore_session.get_session()


@contextmanager
def map_exceptions(operation: str, **resource: str) -> Iterator[None]:
    """Raise AWS's and the network's errors as ours.

    What is left as it is: answers which are a result to the caller (ConditionalCheckFailed,
    PreconditionFailed, NoSuchKey, ExpiredIterator, AlreadyExists, ...) and bugs.

    Args:
        operation: As in an IAM policy: "kinesis:PutRecords".
        **resource: What it is called on, kind and name: `stream="readings"`.

    Raises:
        ThroughputExceededError: Throttled.
        ServiceUnavailableError: 5xx, no answer in time, or no connection.
        MissingError: Not there; the text names it.
        ResourceError: Not permitted; the text names it.
        ConfigurationError: No usable credentials.
    """
    try:
        yield
    except exceptions.ClientError as error:
        mapped = _map_answer(error, operation, resource)
        if mapped is None:
            raise
        raise mapped from error
    except NO_CREDENTIALS as error:
        raise ConfigurationError(f"AWS credentials: {error} ({operation})") from error
    except UNREACHABLE as error:
        why = str(error) or type(error).__name__
        raise ServiceUnavailableError(f"{operation}{_on(resource)}: {why}") from error


def _map_answer(
    error: exceptions.ClientError, operation: str, resource: dict[str, str]
) -> TelemillError | None:
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    text = str(error.response.get("Error", {}).get("Message", "")).rstrip(".")
    where = f"{operation}{_on(resource)}"
    if code in THROTTLED:
        return ThroughputExceededError(f"{where}: {code}: {text}")
    if code in CREDENTIALS:
        return ConfigurationError(f"AWS credentials: {code}: {text} ({where})")
    # HEAD has no body: S3 answers HeadBucket with a bare status as its code.
    if code in MISSING or (code == "404" and "bucket" in resource and "key" not in resource):
        named = _named(resource) or f"what {operation} names"
        return MissingError(f"{named} does not exist ({operation}: {code}: {text})")
    if code in FORBIDDEN or code == "403":
        return ResourceError(f"permission {operation} is missing{_on(resource)} ({code}: {text})")
    if status >= SERVER_ERROR_STATUS or code in UNAVAILABLE:
        return ServiceUnavailableError(f"{where}: {code} ({status}): {text}")
    return None


def _named(resource: dict[str, str]) -> str:
    return ", ".join(f"{kind} {name}" for kind, name in resource.items())


def _on(resource: dict[str, str]) -> str:
    return f" on {_named(resource)}" if resource else ""


async def wait_for(
    health: Health,
    name: str,
    probe: Callable[[], Awaitable[Any]],
    *,
    sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
) -> None:
    """Wait until a probe finds its resource; /readyz says meanwhile what is missing.

    Args:
        health: Where `name` is set while it is missing, and cleared after.
        name: What is waited for: "stream readings".
        probe: Returns when all is well, raises as `map_exceptions` does.
        sleep: Waits some seconds.
    """
    why = ""
    while True:
        try:
            await probe()
        except (ResourceError, ServiceUnavailableError, ThroughputExceededError) as error:
            if str(error) != why:
                why = str(error)
                log.warning("aws.waiting", resource=name, why=why)
            health.set(name, why)
            await sleep(RETRY_MISSING_SECONDS)
        else:
            health.clear(name)
            return


async def probe_stream(kinesis: Any, stream: str) -> None:
    """Return when the stream exists and we may describe it."""
    with map_exceptions("kinesis:DescribeStreamSummary", stream=stream):
        await kinesis.describe_stream_summary(StreamName=stream)


async def probe_bucket(s3: Any, bucket: str) -> None:
    """Return when the bucket exists and we may list it."""
    with map_exceptions("s3:ListBucket", bucket=bucket):
        await s3.head_bucket(Bucket=bucket)


async def probe_table(dynamodb: Any, table: str) -> None:
    """Return when the table exists and we may describe it."""
    with map_exceptions("dynamodb:DescribeTable", table=table):
        await dynamodb.describe_table(TableName=table)
