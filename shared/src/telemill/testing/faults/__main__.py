"""`python -m telemill.testing.faults`: the fault proxy as a process."""

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from aiohttp import web

from telemill.errors import ConfigurationError
from telemill.testing.faults.injector import Injector
from telemill.testing.faults.journal import Journal
from telemill.testing.faults.proxy import FaultProxy
from telemill.testing.faults.upstream import Upstream

HOST = "127.0.0.1"
SHUTDOWN_SECONDS = 0.5


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT.

    Returns:
        The exit status: 0, or 2 if an argument is wrong.
    """
    options = _parser().parse_args(arguments)
    try:
        asyncio.run(_serve(options))
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m telemill.testing.faults",
        description="A proxy in front of an AWS emulator that makes calls fail. Control: /_faults.",
    )
    parser.add_argument("--upstream", required=True, type=_url, help="the emulator's URL")
    parser.add_argument("--kinesis-upstream", type=_url, help="where Kinesis is, if elsewhere")
    parser.add_argument(
        "--host", default=HOST, help=f"address to listen on ({HOST}); 0.0.0.0 in a container"
    )
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--seed", type=int, default=0, help="decides which calls fail (0)")
    parser.add_argument("--log", required=True, type=Path, help="file of injected faults (NDJSON)")
    return parser


def _url(text: str) -> str:
    url = urlsplit(text)
    if url.scheme != "http" or not url.netloc or url.path not in ("", "/"):
        raise argparse.ArgumentTypeError(f"{text!r} is no URL such as http://127.0.0.1:4566")
    return text


async def _serve(options: argparse.Namespace) -> None:
    journal = _journal(options.log)
    elsewhere = {"kinesis": options.kinesis_upstream} if options.kinesis_upstream else {}
    upstream = Upstream(options.upstream, elsewhere)
    proxy = FaultProxy(Injector(options.seed, journal), upstream)
    await upstream.open()
    # What is compressed stays so: bodies pass as they are.
    server = web.Server(proxy.handle, auto_decompress=False, access_log=None)
    runner = web.ServerRunner(server, shutdown_timeout=SHUTDOWN_SECONDS)
    try:
        await runner.setup()
        port = await _listen(runner, options.host, options.port)
        journal.event("started", seed=options.seed, upstream=options.upstream, **elsewhere)
        line = msgspec.json.encode({"event": "listening", "port": port}).decode()
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
        await _asked_to_stop()
    finally:
        await runner.cleanup()
        await upstream.close()
        journal.close()


def _journal(path: Path) -> Journal:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return Journal(path)
    except OSError as error:
        raise ConfigurationError(f"--log: cannot write {path}: {error.strerror}") from error


async def _listen(runner: web.ServerRunner, host: str, port: int) -> int:
    site = web.TCPSite(runner, host, port)
    try:
        await site.start()
    except (OSError, OverflowError) as error:
        raise ConfigurationError(f"--port: cannot listen on {host}:{port}: {error}") from error
    address: tuple[str, int] = runner.addresses[0]
    return address[1]


async def _asked_to_stop() -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()


if __name__ == "__main__":
    sys.exit(main())
