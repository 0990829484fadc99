"""Alive, ready, metrics: the HTTP floor under every service."""

import errno

from aiohttp import web
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.exposition import choose_encoder

from telemill.errors import ConfigurationError

HEALTH: web.AppKey["Health"] = web.AppKey("health")
REGISTRY: web.AppKey[CollectorRegistry] = web.AppKey("registry", CollectorRegistry)


class Health:
    """Why the service is not ready; empty means ready.

    Args:
        gauge: Shows it as a metric: `Metrics.ready`.
        reasons: What is not ready from the start: `Health(starting="no shard opened yet")`.
    """

    def __init__(self, gauge: Gauge | None = None, /, **reasons: str) -> None:
        self._reasons = dict(reasons)
        self._gauge = gauge
        self._show()

    def set(self, name: str, why: str) -> None:
        """Not ready because of `name` until it is cleared: `set("stream readings", "missing")`."""
        self._reasons[name] = why
        self._show()

    def clear(self, name: str) -> None:
        """`name` is well again; nothing happens when it was."""
        self._reasons.pop(name, None)
        self._show()

    def _show(self) -> None:
        if self._gauge is not None:
            self._gauge.set(self.is_ready)

    @property
    def is_ready(self) -> bool:
        """Whether nothing stands in the way."""
        return not self._reasons

    def ready(self) -> dict[str, object]:
        """What /readyz answers."""
        if self.is_ready:
            return {"ready": True}
        return {"ready": False, "reasons": dict(self._reasons)}


def ops_app(health: Health, registry: CollectorRegistry) -> web.Application:
    """An application with /healthz, /readyz and /metrics; a service adds its own routes."""
    app = web.Application()
    app[HEALTH] = health
    app[REGISTRY] = registry
    app.router.add_get("/healthz", _healthz)
    app.router.add_get("/readyz", _readyz)
    app.router.add_get("/metrics", _metrics)
    return app


async def serve(
    app: web.Application,
    host: str,
    port: int,
    *,
    cancel_handlers: bool = False,
    decompress: bool = True,
    shutdown_seconds: float = 5.0,
) -> web.AppRunner:
    """Listen. `await runner.cleanup()` stops; `runner.addresses` says where when port is 0.

    Args:
        app: What answers.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        cancel_handlers: Cancel a request's handler when its client hangs up.
        decompress: Decompress request bodies before the handlers see them, without a bound.
        shutdown_seconds: How long open requests may finish at the end.

    Raises:
        ConfigurationError: The address is taken, not ours or not permitted.
    """
    runner = web.AppRunner(
        app,
        access_log=None,
        handler_cancellation=cancel_handlers,
        auto_decompress=decompress,
        shutdown_timeout=shutdown_seconds,
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        await runner.cleanup()
        why = errno.errorcode.get(error.errno or 0, "") or "unknown host"
        raise ConfigurationError(
            f"http_host, http_port: cannot listen on {host}:{port} ({why});"
            " takes an address of this machine and a free port"
        ) from error
    return runner


async def _healthz(_request: web.Request) -> web.Response:
    return web.json_response({"alive": True})


async def _readyz(request: web.Request) -> web.Response:
    health = request.app[HEALTH]
    return web.json_response(health.ready(), status=200 if health.is_ready else 503)


async def _metrics(request: web.Request) -> web.Response:
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    body = encode(request.app[REGISTRY])
    return web.Response(body=body, headers={"Content-Type": content_type})
