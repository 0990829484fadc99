"""Muting and acknowledging by HTTP: who may, what is refused how, and that it holds elsewhere."""

import hashlib
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import boto3
import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from anomaly import api, forecast, mutes
from anomaly.detection.interface import Batch
from anomaly.limits import Limits
from telemill import api_keys, contract
from telemill import aws as telemill_aws
from telemill.progress import store

FMS = contract.load("contracts/fms.yaml")
KEY = "a long random string"
KEYS = api_keys.parse_keys(f"shift-a:{hashlib.sha256(KEY.encode()).hexdigest()}", "X")
NOW = 1_800_000_000.0
TOMORROW = "2027-01-16T08:00:00Z"
ALERT_ID = "c2a48c6e-e087-5546-a0ac-ae4abaf5f319"
BEARER = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture
def table(aws: str) -> str:
    """A progress table of one test."""
    name = f"progress-{uuid4().hex[:8]}"
    boto3.client("dynamodb").create_table(
        TableName=name, BillingMode="PAY_PER_REQUEST", **store.TABLE_DEFINITION
    )
    return name


@pytest.fixture
async def dynamodb(table: str) -> AsyncIterator[Any]:
    """An open client."""
    async with telemill_aws.client("dynamodb") as client:
        yield client


def silences(dynamodb: Any, table: str, now: float = NOW) -> mutes.Silences:
    """What one worker knows."""
    return mutes.Silences(mutes.SilenceTable(dynamodb, table, "anomaly"), lambda: now)


@pytest.fixture
async def client(dynamodb: Any, table: str) -> AsyncIterator[TestClient]:
    """The API of one worker, open."""
    served = api.Api(KEYS, FMS, lambda: NOW)
    served.open(silences(dynamodb, table))
    async with _serving(served) as made:
        yield made


def _serving(served: api.Api) -> TestClient:
    root = web.Application()
    root.add_subapp(api.PREFIX, served.app())
    return TestClient(TestServer(root))


async def _mute(client: TestClient, device: str = "17", **members: Any) -> Any:
    body = {"until": TOMORROW, "reason": "bearing change"} | members
    return await client.put(f"/v1/devices/{device}/mute", json=body, headers=BEARER)


async def test_a_mute_holds_for_every_worker(client: TestClient, dynamodb: Any, table: str) -> None:
    """What one worker was asked, another knows after its next look; so does a restarted one."""
    answer = await _mute(client)
    assert answer.status == 200
    assert await answer.json() == {
        "device_id": "17",
        "until": TOMORROW,
        "reason": "bearing change",
        "by": "shift-a",
        "at": "2027-01-15T08:00:00Z",
    }
    other = silences(dynamodb, table)
    assert other.muted() == set()
    await other.refresh()
    assert other.muted() == {"17"}
    later = silences(dynamodb, table, NOW + 86_401)
    await later.refresh()
    assert later.muted() == set()
    listed = await (await client.get("/v1/mutes", headers=BEARER)).json()
    assert [each["device_id"] for each in listed["mutes"]] == ["17"]


async def test_a_mute_can_be_ended(client: TestClient, dynamodb: Any, table: str) -> None:
    """Deleting it is not an error when there is none."""
    await _mute(client)
    for _ in range(2):
        answer = await client.delete("/v1/devices/17/mute", headers=BEARER)
        assert answer.status == 204
    other = silences(dynamodb, table)
    await other.refresh()
    assert other.muted() == set()
    listed = await (await client.get("/v1/mutes", headers=BEARER)).json()
    assert listed == {"mutes": []}


async def test_an_alert_is_acknowledged(client: TestClient, dynamodb: Any, table: str) -> None:
    """With or without a reason, by its id, which is answered in its usual form."""
    answer = await client.post(f"/v1/alerts/{ALERT_ID.upper()}/ack", headers=BEARER)
    assert (answer.status, (await answer.json())["alert_id"]) == (200, ALERT_ID)
    other = silences(dynamodb, table)
    await other.refresh()
    assert other.acknowledged() == {ALERT_ID}
    listed = await (await client.get("/v1/acks", headers=BEARER)).json()
    assert [each["alert_id"] for each in listed["acks"]] == [ALERT_ID]
    await client.delete(f"/v1/alerts/{ALERT_ID}/ack", headers=BEARER)
    await other.refresh()
    assert other.acknowledged() == set()


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "name"),
    [
        ("PUT", "/v1/devices/17/mute", "", 400, "malformed-body"),
        ("PUT", "/v1/devices/17/mute", "{", 400, "malformed-body"),
        ("PUT", "/v1/devices/17/mute", '{"until": "2027-01-16T08:00:00"}', 400, "malformed-body"),
        ("PUT", "/v1/devices/17/mute", '{"until": "2027-01-14T08:00:00Z"}', 400, "malformed-body"),
        ("PUT", "/v1/devices/17/mute", '{"until": "2029-01-14T08:00:00Z"}', 400, "malformed-body"),
        (
            "PUT",
            "/v1/devices/17/mute",
            '{"until": "2027-01-16T08:00:00Z", "for": 5}',
            400,
            "malformed-body",
        ),
        (
            "PUT",
            "/v1/devices/17/mute",
            '{"until": "2027-01-16T08:00:00Z", "reason": "' + "x" * 501 + '"}',
            400,
            "malformed-body",
        ),
        ("PUT", "/v1/devices/17/mute", "x" * 20_000, 413, "too-large"),
        ("PUT", "/v1/devices/seventeen/mute", "{}", 400, "bad-path"),
        ("POST", "/v1/alerts/17/ack", "", 400, "bad-path"),
        ("POST", f"/v1/alerts/{ALERT_ID}/ack", "[]", 400, "malformed-body"),
        ("GET", f"/v1/alerts/{ALERT_ID}/ack", "", 405, "method-not-allowed"),
        ("GET", "/v1/nothing", "", 404, "not-found"),
    ],
)
async def test_bad_requests_get_problem_details(
    client: TestClient, method: str, path: str, body: str, status: int, name: str
) -> None:
    """Each refusal is RFC 9457's document and says what is taken; nothing is noted."""
    answer = await client.request(method, path, data=body, headers=BEARER)
    assert answer.status == status
    assert answer.content_type == "application/problem+json"
    document = await answer.json()
    assert document["type"] == f"urn:telemill:problem:{name}"
    assert document["detail"]
    listed = await (await client.get("/v1/mutes", headers=BEARER)).json()
    assert listed == {"mutes": []}


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer other"}])
async def test_strangers_are_refused(client: TestClient, headers: dict[str, str]) -> None:
    """Without a known key nothing is told and nothing noted, lists included."""
    for method, path in (("GET", "/v1/mutes"), ("PUT", "/v1/devices/17/mute")):
        answer = await client.request(method, path, headers=headers)
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")


async def test_without_keys_nobody_is_let_in(dynamodb: Any, table: str) -> None:
    """No key is configured by default: the API refuses everybody."""
    served = api.Api((), FMS)
    served.open(silences(dynamodb, table))
    async with _serving(served) as client:
        assert (await client.get("/v1/mutes", headers=BEARER)).status == 401


async def test_a_service_that_starts_says_so() -> None:
    """Before it is wired, requests are answered 503, not lost."""
    async with _serving(api.Api(KEYS, FMS)) as client:
        answer = await _mute(client)
        assert answer.status == 503
        assert (await answer.json())["type"] == "urn:telemill:problem:unavailable"


async def test_a_table_that_is_away_is_answered_503(dynamodb: Any) -> None:
    """Nothing is claimed that is not kept."""
    served = api.Api(KEYS, FMS, lambda: NOW)
    served.open(silences(dynamodb, "no-such-table"))
    async with _serving(served) as client:
        assert (await _mute(client)).status == 503
        assert await (await client.get("/v1/mutes", headers=BEARER)).json() == {"mutes": []}


async def test_a_forecast_is_asked_for_by_device(client: TestClient) -> None:
    """Who has a key learns where a device of this worker goes; another's is not found."""
    answer = await client.get("/v1/devices/17/forecast", headers=BEARER)
    assert answer.status == 404
    assert "another worker" in (await answer.json())["detail"]


async def test_a_forecast_is_answered_as_it_was_made() -> None:
    """The answer is the outlook's document."""
    model = forecast.Forecast()
    state = model.begin(1, len(FMS.measures))
    steps = np.arange(600)
    batch = Batch(np.full((600, len(FMS.measures)), 5.0), steps * 0, steps * 10_000_000)
    learned = SimpleNamespace(forecast=model.learn(batch, state))
    outlook = Limits(FMS.measures, model, 3600.0).outlook(0, learned)
    served = api.Api(KEYS, FMS)
    served.foresee({"17": outlook}.get)
    async with _serving(served) as made:
        answer = await made.get("/v1/devices/17/forecast", headers=BEARER)
        assert answer.status == 200
        document = await answer.json()
    assert document["device_id"] == "17"
    assert document["fields"]["sensor1"]["forecast"][0]["median"] == 5.0
    assert document["fields"]["sensor1"]["unit"] == "°C"
