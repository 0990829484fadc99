"""The life of a process: signals, drain, exit status, and its log."""

import asyncio
import io
import json
import logging
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from telemill import log, runtime
from telemill.errors import ConfigurationError


@pytest.fixture
def out() -> Iterator[io.StringIO]:
    """Logs configured as a service does, into a buffer; put back after."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    log.configure("pump", "info", stream)
    yield stream
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(out: io.StringIO) -> list[dict[str, Any]]:
    """The log's lines."""
    return [json.loads(line) for line in out.getvalue().splitlines()]


def events(out: io.StringIO) -> list[str]:
    """Their names."""
    return [line["event"] for line in lines(out)]


async def received(stop: asyncio.Event, number: signal.Signals) -> None:
    """Send this process a signal and wait until the loop has taken it."""
    seen = asyncio.Event()
    os.kill(os.getpid(), number)
    # Signals arrive through the loop's own pipe: two turns later it is handled.
    asyncio.get_running_loop().call_later(0, seen.set)
    await seen.wait()
    await asyncio.wait_for(stop.wait(), 5)


def test_a_second_signal_does_not_kill_the_drain(out: io.StringIO) -> None:
    """After SIGTERM main drains to its end, whatever else arrives; the status is 0."""
    drained = []

    async def main(stop: asyncio.Event) -> None:
        await received(stop, signal.SIGTERM)
        await received(stop, signal.SIGTERM)
        await received(stop, signal.SIGINT)
        drained.append(True)

    assert runtime.run(main, service="pump") == 0
    assert drained == [True]
    assert events(out)[:2] == ["service.started", "service.stopping"]
    assert events(out)[-1] == "service.stopped"


def test_a_fatal_error_is_logged(out: io.StringIO) -> None:
    """An unexpected exception is logged with its traceback; the status is 1."""

    async def main(stop: asyncio.Event) -> None:
        raise ZeroDivisionError("one by nothing")

    assert runtime.run(main, service="pump") == 1
    failed = lines(out)[-2]
    assert failed["event"] == "service.failed"
    assert "ZeroDivisionError: one by nothing" in failed["exception"]
    assert lines(out)[-1]["status"] == 1


def test_a_configuration_error_is_one_line_a_problem(
    out: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    """A configuration error is a line on stderr for each problem; the status is 2."""

    async def main(stop: asyncio.Event) -> None:
        raise ConfigurationError("PUMP_SLOT_COUNT: got 32; takes 64, as stored\na.yaml:3: no")

    assert runtime.run(main, service="pump") == 2
    assert capsys.readouterr().err == (
        "pump: PUMP_SLOT_COUNT: got 32; takes 64, as stored\npump: a.yaml:3: no\n"
    )


def test_a_drain_is_cut_short(out: io.StringIO) -> None:
    """A drain longer than its time-out is cancelled and is a failure."""
    cancelled = []

    async def main(stop: asyncio.Event) -> None:
        await received(stop, signal.SIGTERM)
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    assert runtime.run(main, service="pump", drain_timeout_seconds=0.01) == 1
    assert cancelled == [True]
    assert "service.drain_cut_short" in events(out)


def test_the_time_out_begins_at_the_signal(out: io.StringIO) -> None:
    """Without a signal main may run as long as it likes, and its own time-outs are failures."""

    async def main(stop: asyncio.Event) -> None:
        async with asyncio.timeout(0.02):
            await asyncio.get_running_loop().create_future()

    assert runtime.run(main, service="pump", drain_timeout_seconds=0.001) == 1
    assert "service.failed" in events(out)


def test_log_lines(out: io.StringIO) -> None:
    """A line is JSON with UTC time, level, service and event first, and what is bound."""
    with structlog.contextvars.bound_contextvars(shard="shardId-1"):
        structlog.get_logger().info("sink.object_written", rows=3)
    structlog.get_logger().debug("sink.not_shown")
    (line,) = lines(out)
    assert list(line)[:4] == ["time", "level", "service", "event"]
    assert line["time"].endswith("Z")
    assert (line["service"], line["shard"], line["rows"]) == ("pump", "shardId-1", 3)


def test_libraries_log_through_ours(out: io.StringIO) -> None:
    """Libraries' warnings become JSON lines, their chatter does not appear."""
    logging.getLogger("faust.app").info("chatter")
    try:
        int("torn")
    except ValueError:
        logging.getLogger("faust.app").exception("Rebalance %s", "failed")
    (line,) = lines(out)
    assert (line["event"], line["logger"]) == ("library.logged", "faust.app")
    assert (line["message"], line["level"]) == ("Rebalance failed", "error")
    assert "ValueError: invalid literal" in line["exception"]
