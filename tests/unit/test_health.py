"""Alive, ready, metrics."""

from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from telemill import health, metrics
from telemill.errors import ConfigurationError


@pytest.fixture
async def runner(state: health.Health, registry: CollectorRegistry) -> AsyncIterator[web.AppRunner]:
    """The operations floor, listening on a free port."""
    served = await health.serve(health.ops_app(state, registry), "127.0.0.1", 0)
    yield served
    await served.cleanup()


@pytest.fixture
def registry() -> CollectorRegistry:
    """A registry of its own."""
    return CollectorRegistry()


@pytest.fixture
def state(registry: CollectorRegistry) -> health.Health:
    """Health that begins not ready, shown as a metric."""
    return health.Health(metrics.Metrics(registry).ready, starting="no shard opened yet")


async def get(runner: web.AppRunner, path: str) -> tuple[int, str]:
    """Status and body."""
    host, port = runner.addresses[0]
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://{host}:{port}{path}") as answer,
    ):
        return answer.status, await answer.text()


async def test_ready_says_why_not(runner: web.AppRunner, state: health.Health) -> None:
    """/readyz is 503 with every reason until the last one is cleared, then 200."""
    state.set("stream readings", "stream readings does not exist")
    state.clear("never set")
    status, body = await get(runner, "/readyz")
    assert status == 503
    assert body == (
        '{"ready": false, "reasons": {"starting": "no shard opened yet",'
        ' "stream readings": "stream readings does not exist"}}'
    )
    state.clear("starting")
    assert not state.is_ready
    state.clear("stream readings")
    assert await get(runner, "/readyz") == (200, '{"ready": true}')


async def test_alive_though_not_ready(runner: web.AppRunner, state: health.Health) -> None:
    """/healthz answers 200 while the service is not ready: a restart would not help."""
    assert not state.is_ready
    assert (await get(runner, "/healthz"))[0] == 200


async def test_metrics_show_readiness(
    runner: web.AppRunner, state: health.Health, registry: CollectorRegistry
) -> None:
    """/metrics shows the injected registry, in which readiness is a metric."""
    assert "telemill_ready 0.0" in (await get(runner, "/metrics"))[1]
    state.clear("starting")
    status, body = await get(runner, "/metrics")
    assert status == 200
    assert "telemill_ready 1.0" in body
    assert registry.get_sample_value("telemill_ready") == 1


async def test_a_taken_port_is_a_configuration_error(runner: web.AppRunner) -> None:
    """A port somebody else has is named, not a stack trace."""
    host, port = runner.addresses[0]
    with pytest.raises(ConfigurationError, match=rf"cannot listen on {host}:{port} \(EADDRINUSE"):
        await health.serve(web.Application(), host, port)
