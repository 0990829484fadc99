"""The floor under every service: resources are waited for by name, slots are fixed for life."""

import asyncio
from typing import Any
from uuid import uuid4

import aiohttp
import boto3
import pytest

from telemill import errors, provision, service
from telemill.settings import ServiceSettings
from telemill.testing import emulator


def settings(**changes: Any) -> ServiceSettings:
    """As a service would load them."""
    return ServiceSettings(http_port=emulator.free_port(), **changes)


async def readiness(chosen: ServiceSettings) -> dict[str, Any]:
    """What /readyz says."""
    url = f"http://127.0.0.1:{chosen.http_port}/readyz"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return {"status": answer.status, **await answer.json()}


async def test_provision_is_idempotent_and_complete(aws: str) -> None:
    """Provisioning twice leaves one of each, ready to use, with the expiries the docs ask for."""
    lines: list[str] = []
    for _ in range(2):
        provision.provision(provision.Resources(shard_count=3), lines.append)
    assert len(lines) == 2 * len(set(lines))
    shards = boto3.client("kinesis").list_shards(StreamName="readings-raw")["Shards"]
    assert len(shards) == 3
    dynamodb = boto3.client("dynamodb")
    expiry = dynamodb.describe_time_to_live(TableName="telemill-progress")
    assert expiry["TimeToLiveDescription"]["AttributeName"] == "expires_at"
    rules = boto3.client("s3").get_bucket_lifecycle_configuration(Bucket="telemill-state")["Rules"]
    assert [rule["Filter"]["Prefix"] for rule in rules] == ["state/ended/"]


async def test_a_missing_stream_is_named_until_it_is_there_or_we_stop(aws: str) -> None:
    """/readyz says which stream is missing; SIGTERM ends the waiting."""
    provision.provision(provision.Resources(), lambda _: None)
    chosen, stop = settings(), asyncio.Event()
    floor = service.floor("transform", chosen)
    async with service.serving(floor), service.clients("kinesis", "s3", "dynamodb") as opened:
        waiting = asyncio.create_task(
            service.wait_for_resources(floor, opened, streams=["nowhere"], stop=stop)
        )
        while "stream nowhere" not in str(floor.health.ready()):  # noqa: ASYNC110  # as a probe
            await asyncio.sleep(0)
        answer = await readiness(chosen)
        assert answer["status"] == 503
        assert "stream nowhere does not exist" in answer["reasons"]["stream nowhere"]
        stop.set()
        assert await waiting is False


async def test_another_slot_count_is_refused(aws: str) -> None:
    """A stream keeps the number of slots it was first used with."""
    # Its own: other tests use the default streams with the default number.
    stream = f"slots-{uuid4().hex[:8]}"
    provision.provision(provision.Resources(streams=(stream,)), lambda _: None)
    async with service.clients("kinesis", "dynamodb") as opened:
        few, many = (service.floor("transform", settings(slot_count=count)) for count in (32, 64))
        stop = asyncio.Event()
        assert await service.fix_slot_count(few, opened, stream, stop=stop)
        assert await service.fix_slot_count(few, opened, stream, stop=stop)
        with pytest.raises(errors.ConfigurationError, match=r"SLOT_COUNT: got 64.*has 32 slots"):
            await service.fix_slot_count(many, opened, stream, stop=stop)


async def test_what_runs_beside_the_app_can_end_the_process(aws: str) -> None:
    """A background task that fails stops the app and surfaces its error."""
    chosen = settings()
    floor = service.floor("ingest", chosen)

    async def fail() -> None:
        raise errors.FencedError("lost")

    app = service.transport.create_app("nothing")
    with pytest.raises(errors.FencedError, match="lost"):
        await service.run(floor, app, asyncio.Event(), fail())
