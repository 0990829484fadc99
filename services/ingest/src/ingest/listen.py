"""The HTTP server of ingest. Bodies reach the handlers as they were sent, still compressed."""

import errno

from aiohttp import web

from telemill.errors import ConfigurationError


async def listen(
    app: web.Application, host: str, port: int, *, shutdown_seconds: float
) -> web.AppRunner:
    """Listen. `await runner.cleanup()` stops, after open requests had `shutdown_seconds`.

    `telemill.health.serve` would let aiohttp decompress bodies, before our bounds.

    Raises:
        ConfigurationError: The address is taken, not ours or not permitted.
    """
    runner = web.AppRunner(
        app, access_log=None, auto_decompress=False, shutdown_timeout=shutdown_seconds
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
