"""The life of a process: run until a signal, drain, say how it ended."""

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable

import structlog

from telemill.errors import ConfigurationError

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_CONFIGURATION = 2

Main = Callable[[asyncio.Event], Awaitable[None]]
log = structlog.get_logger()


def run(main: Main, *, service: str, drain_timeout_seconds: float | None = None) -> int:
    """Run `main` to its end and return the exit status. Logs are configured before.

    SIGTERM and SIGINT set the event given to `main`, which then drains and returns. A further
    signal does not hurry it: what would be cut short is the last commit.

    Args:
        main: Returns when it has nothing left to do, or after the event is set.
        service: Begins the line on stderr.
        drain_timeout_seconds: From the signal on; after it `main` is cancelled and the status
            is 1. None leaves the limit to the orchestrator.

    Returns:
        0 done; 1 an unexpected exception or a drain cut short; 2 a ConfigurationError, whose
        text is one line on stderr.
    """
    status = asyncio.run(_supervise(main, service, drain_timeout_seconds))
    log.info("service.stopped", status=status)
    return status


async def _supervise(main: Main, service: str, drain_timeout_seconds: float | None) -> int:
    stop = asyncio.Event()
    _on_signals(stop)
    log.info("service.started")
    try:
        await _run_until_drained(main, stop, drain_timeout_seconds)
    except ConfigurationError as error:
        complain(service, error)
        return EXIT_CONFIGURATION
    except Exception as error:
        cut_short = isinstance(error, TimeoutError) and stop.is_set()
        log.exception("service.drain_cut_short" if cut_short else "service.failed")
        return EXIT_FAILED
    return EXIT_OK


def complain(service: str, error: ConfigurationError) -> None:
    """A line a problem on stderr: it is for the person who starts the process."""
    sys.stderr.write("".join(f"{service}: {line}\n" for line in str(error).splitlines()))


def _on_signals(stop: asyncio.Event) -> None:
    def received(number: signal.Signals) -> None:
        event = "service.still_stopping" if stop.is_set() else "service.stopping"
        log.info(event, signal=number.name)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, received, number)


async def _run_until_drained(
    main: Main, stop: asyncio.Event, drain_timeout_seconds: float | None
) -> None:
    async with asyncio.timeout(None) as limit:
        watch = asyncio.ensure_future(_limit_after(stop, limit, drain_timeout_seconds))
        try:
            await main(stop)
        finally:
            watch.cancel()


async def _limit_after(
    stop: asyncio.Event, limit: asyncio.Timeout, drain_timeout_seconds: float | None
) -> None:
    await stop.wait()
    if drain_timeout_seconds is not None:
        limit.reschedule(asyncio.get_running_loop().time() + drain_timeout_seconds)
