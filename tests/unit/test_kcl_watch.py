"""What the daemon tells nobody is noticed: it hangs, skips, may not, or has lost its table."""

import asyncio

import pytest

from telemill import aws, errors
from telemill.kcl.daemon_log import DaemonLog, Line
from telemill.kcl.symptoms import Symptom, symptom
from telemill.kinesis.coordinators.watch import QUIET_SECONDS, DaemonEndedError
from telemill.testing.kcl import FIRST, NUMBERS, KclBench

RUNNING = Line("info", "Scheduler", "Initialization complete. Starting worker loop.")
SILENCE_SECONDS = 120.0


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        (RUNNING.text, Symptom.RUNNING),
        (f"{FIRST}: Caught exception from handleInput | java.lang.X", Symptom.SKIPPED),
        ("The incoming data has been skipped | java.lang.X", Symptom.SKIPPED),
        ("User: arn is not authorized to perform: dynamodb:PutItem", Symptom.DENIED),
        ("Terminating due to java.lang.OutOfMemoryError: Java heap space", Symptom.MEMORY),
        ("Sleeping ...", None),
    ],
)
def test_lines_that_mean_something_are_known(text: str, meaning: Symptom | None) -> None:
    """What the KCL writes into its log, and what that is to us."""
    assert symptom(Line("warning", "Any", text)) is meaning


def test_an_exception_while_processing_is_a_page_left_out() -> None:
    """The task that hands a page on logs its exception and goes on with the next page."""
    text = f"ShardId {FIRST}: Caught exception:  | java.lang.NoSuchMethodError"
    assert symptom(Line("error", "ProcessTask", text)) is Symptom.SKIPPED
    assert symptom(Line("error", "LeaseRenewer", text)) is None


async def test_readiness_waits_for_the_daemon() -> None:
    """Not ready until its worker loop has begun."""
    bench = KclBench()
    async with bench.running():
        assert "starting" in str(bench.health.ready())
        bench.engine.heard(RUNNING)
        assert bench.health.is_ready


async def test_nothing_behind_a_page_left_out_is_processed() -> None:
    """The log says it before the next page comes: that page is not taken, and the process ends."""
    bench = KclBench()
    async with bench.running():
        channel = bench.engine.connect()
        await channel.initialize()
        await channel.process(*NUMBERS[:2])
        await bench.until(lambda: bench.processed() == NUMBERS[:2])
        # The two pipes are read by two tasks: the log's has its line, and may come second.
        channel.deliver(*NUMBERS[4:6])
        skipped = Line("error", "ProcessTask", "Caught exception: x")
        asyncio.get_running_loop().call_soon(bench.engine.heard, skipped)
        await channel.status()
        await bench.until(lambda: bool(bench.failures))
    assert bench.processed() == NUMBERS[:2]
    assert isinstance(bench.failures[0], DaemonEndedError)
    assert "left records out" in str(bench.failures[0])


async def test_a_denied_daemon_is_a_wrong_setting() -> None:
    """Exit 2 with one line that has what AWS said."""
    bench = KclBench()
    async with bench.running():
        bench.engine.heard(Line("error", "LeaseRefresher", "AccessDeniedException: not you"))
        await bench.until(lambda: bool(bench.failures))
    [error] = bench.failures
    assert isinstance(error, errors.ConfigurationError)
    assert str(error).startswith("KINESIS_COORDINATOR: kcl, but AWS denied it")
    assert "not you" in str(error)


async def test_a_silent_daemon_ends_the_process() -> None:
    """Neither protocol nor log for so long, though the stream answers: it hangs."""
    bench = KclBench()
    async with bench.running():
        bench.now = SILENCE_SECONDS - 1
        await asyncio.sleep(0.02)
        assert bench.failures == []
        bench.now = SILENCE_SECONDS
        await bench.until(lambda: bool(bench.failures))
    assert "hangs" in str(bench.failures[0])


async def test_a_shard_nobody_speaks_of_ends_the_process() -> None:
    """One shard is stuck while the daemon logs on: its readings would wait for ever."""
    bench = KclBench()
    async with bench.running():
        await bench.engine.connect().initialize()
        for _ in range(2 * int(SILENCE_SECONDS / QUIET_SECONDS)):
            bench.now += QUIET_SECONDS
            bench.engine.heard(Line("info", "Scheduler", "Sleeping ..."))
            await asyncio.sleep(0.005)
            if bench.failures:
                break
    assert "hangs" in str(bench.failures[0])
    assert bench.now >= SILENCE_SECONDS


async def test_a_withheld_status_is_not_the_daemons_silence() -> None:
    """While we work and the daemon waits for us, it has nothing to say."""
    bench = KclBench(prefetch_bytes=100_000)
    async with bench.running():
        channel = bench.engine.connect()
        await channel.initialize()
        bench.gate.clear()
        channel.deliver(*NUMBERS[:2], data=bytes(40_000))
        waiting = asyncio.create_task(channel.status())
        await bench.until(lambda: bench.coordinator.prefetch.budget.held_bytes > 80_000)
        for _ in range(2 * int(SILENCE_SECONDS / QUIET_SECONDS)):
            bench.now += QUIET_SECONDS
            bench.engine.heard(Line("info", "Scheduler", "Sleeping ..."))
            await asyncio.sleep(0.005)
        assert bench.failures == []
        bench.gate.set()
        await waiting


async def test_a_stream_that_is_away_is_not_a_daemon_that_hangs() -> None:
    """Readiness says so, the process stays, and the daemon has its time again afterwards."""
    bench = KclBench()
    async with bench.running():
        bench.engine.heard(RUNNING)
        await bench.engine.connect().initialize()
        bench.kinesis.fail("DescribeStreamSummary", "InternalFailure", times=10_000)
        bench.now = 2 * SILENCE_SECONDS
        await bench.until(lambda: not bench.health.is_ready)
        assert bench.failures == []
        bench.kinesis.heal()
        bench.now += SILENCE_SECONDS - 1
        await bench.until(lambda: bench.health.is_ready)
        assert bench.failures == []
        bench.now += 2
        await bench.until(lambda: bool(bench.failures))


async def test_a_lease_table_deleted_under_it_ends_the_process() -> None:
    """The daemon does not make it again: its leases would run out, and nobody would read."""
    bench = KclBench()
    async with bench.running():
        # Before it runs, it has not made the table yet.
        bench.lease_table_error = aws.MissingError("table leases does not exist")
        await asyncio.sleep(0.02)
        assert bench.failures == []
        bench.engine.heard(RUNNING)
        await bench.until(lambda: bool(bench.failures))
    assert isinstance(bench.failures[0], DaemonEndedError)
    assert "table leases does not exist" in str(bench.failures[0])


async def test_a_lease_table_that_is_away_is_waited_for() -> None:
    """Readiness says so; the daemon tries again by itself."""
    bench = KclBench()
    async with bench.running():
        bench.engine.heard(RUNNING)
        bench.lease_table_error = errors.ServiceUnavailableError("no answer")
        await bench.until(lambda: "no answer" in str(bench.health.ready()))
        bench.lease_table_error = None
        await bench.until(lambda: bench.health.is_ready)
    assert bench.failures == []


def test_the_log_gives_whole_lines_to_look_at() -> None:
    """A mark split over two reads is found."""
    log = DaemonLog()
    lines = [*log.feed(b"ERROR ProcessTask Caught exc"), *log.feed(b"eption: x\n")]
    assert [symptom(line) for line in lines] == [Symptom.SKIPPED]
