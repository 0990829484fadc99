"""AWS errors become ours: one table, every kind."""

from typing import Any

import aiohttp
import pytest
from botocore import exceptions

from telemill import aws, errors
from telemill.health import Health


def answer(code: str, status: int = 400, message: str = "Said so.") -> exceptions.ClientError:
    """What botocore raises for an error answer."""
    response: Any = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return exceptions.ClientError(response, "Operation")


def raised(error: Exception, **resource: str) -> errors.TelemillError:
    """What an error becomes."""
    with (
        pytest.raises(errors.TelemillError) as caught,
        aws.map_exceptions("kinesis:PutRecords", **resource),
    ):
        raise error
    assert caught.value.__cause__ is error
    return caught.value


@pytest.mark.parametrize("code", sorted(aws.THROTTLED))
def test_throttling(code: str) -> None:
    """Every way AWS says "slower" is retriable and told from other failures."""
    assert isinstance(raised(answer(code)), errors.ThroughputExceededError)


@pytest.mark.parametrize(
    "error",
    [
        answer("InternalFailure", 500),
        answer("ServiceUnavailable", 503),
        answer("502", 502),
        answer("RequestTimeout", 400),
        answer("ConditionalRequestConflict", 409),
        exceptions.EndpointConnectionError(endpoint_url="http://nowhere"),
        exceptions.ReadTimeoutError(endpoint_url="http://nowhere"),
        exceptions.ConnectTimeoutError(endpoint_url="http://nowhere"),
        exceptions.ConnectionClosedError(endpoint_url="http://nowhere"),
        exceptions.IncompleteReadError(actual_bytes=1, expected_bytes=2),
        aiohttp.ClientPayloadError("torn"),
        TimeoutError(),
        ConnectionResetError("reset"),
    ],
)
def test_unavailable(error: Exception) -> None:
    """Server errors, time-outs and a broken network are retriable."""
    mapped = raised(error, stream="readings")
    assert isinstance(mapped, errors.ServiceUnavailableError)
    assert "kinesis:PutRecords on stream readings" in str(mapped)


@pytest.mark.parametrize("code", sorted(aws.MISSING))
def test_missing_is_named(code: str) -> None:
    """A missing resource is named, with what AWS said."""
    mapped = raised(answer(code), stream="readings")
    assert isinstance(mapped, aws.ResourceError)
    assert str(mapped) == (f"stream readings does not exist (kinesis:PutRecords: {code}: Said so)")


def test_head_bucket_names_the_bucket() -> None:
    """A HEAD's bare 404 is a missing bucket when no key was asked for."""
    assert "bucket lake does not exist" in str(raised(answer("404", 404), bucket="lake"))


@pytest.mark.parametrize("code", [*sorted(aws.FORBIDDEN), "403"])
def test_permission_is_named(code: str) -> None:
    """A missing permission is named as IAM spells it."""
    mapped = raised(answer(code, 403), table="progress")
    assert isinstance(mapped, aws.ResourceError)
    assert str(mapped).startswith("permission kinesis:PutRecords is missing on table progress")


@pytest.mark.parametrize(
    "error", [answer("ExpiredTokenException"), exceptions.NoCredentialsError()]
)
def test_credentials(error: Exception) -> None:
    """Unusable credentials are a configuration error that says so."""
    mapped = raised(error)
    assert isinstance(mapped, errors.ConfigurationError)
    assert not isinstance(mapped, aws.ResourceError)
    assert str(mapped).startswith("AWS credentials: ")


@pytest.mark.parametrize(
    "error",
    [
        answer("ConditionalCheckFailedException"),
        answer("PreconditionFailed", 412),
        answer("NoSuchKey", 404),
        answer("404", 404),
        answer("ExpiredIteratorException"),
        KeyError("a bug"),
    ],
)
def test_results_and_bugs_pass(error: Exception) -> None:
    """What is a result to the caller, or a bug, is left as it is."""
    with (
        pytest.raises(type(error)) as caught,
        aws.map_exceptions("s3:GetObject", bucket="lake", key="x"),
    ):
        raise error
    assert caught.value is error


async def test_waiting_for_a_resource() -> None:
    """While something is missing /readyz names it; when it is there the wait ends."""
    state, waits = Health(), []
    outcomes = [
        aws.ResourceError("stream readings does not exist"),
        errors.ServiceUnavailableError("no connection"),
        None,
    ]

    async def probe() -> None:
        outcome = outcomes.pop(0)
        if outcome is not None:
            raise outcome

    async def sleep(seconds: float) -> None:
        waits.append((seconds, state.ready()["reasons"]))

    await aws.wait_for(state, "stream readings", probe, sleep=sleep)
    assert state.is_ready
    assert waits == [
        (5.0, {"stream readings": "stream readings does not exist"}),
        (5.0, {"stream readings": "no connection"}),
    ]


async def test_no_region(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """A missing region is a configuration error naming the variable."""
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(errors.ConfigurationError, match="AWS_DEFAULT_REGION: not set"):
        async with aws.client("kinesis"):
            pass


@pytest.mark.parametrize(("service", "attempts"), [("kinesis", 1), ("s3", 3)])
async def test_kinesis_is_not_retried_behind_our_back(
    monkeypatch: pytest.MonkeyPatch, service: str, attempts: int
) -> None:
    """Botocore's retries are off for kinesis, where order is ours to keep, and on elsewhere."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    async with aws.client(service, read_timeout_seconds=7) as client:
        config = client.meta.config
        assert config.retries["total_max_attempts"] == attempts
        assert (config.read_timeout, config.connect_timeout) == (7, 3.0)
