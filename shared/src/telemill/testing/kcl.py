"""A MultiLangDaemon without Java, for tests of the KCL coordinator."""

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry

from telemill import errors
from telemill.health import Health
from telemill.kcl.daemon_log import DaemonLog
from telemill.kinesis.coordinators.kcl import Heard, KclCoordinator, Serve, Timing
from telemill.kinesis.coordinators.watch import Clock
from telemill.kinesis.records import Shard
from telemill.metrics import Metrics
from telemill.testing.kinesis import FakeKinesis
from telemill.testing.owner import FakeOwner

STREAM = "readings"
FIRST, SECOND = "shardId-000000000000", "shardId-000000000001"
FAILOVER_SECONDS = 10.0
LIMIT_SECONDS = 30.0
BASE = 49_590_338_271_490_256_608_559_692_538_361_571_095_921_575_989_136_588_898
STEP = 1_208_925_819_614_629_174_706_189
NUMBERS = [str(BASE + index * STEP) for index in range(20)]


class FakeChannel:
    """A shard's pipes, and the daemon at their other end."""

    def __init__(self) -> None:
        self.reader = asyncio.StreamReader()
        self.refusals: list[str] = []
        self.checkpoints: list[str | None] = []
        self._written: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    def write(self, line: bytes) -> None:
        """What the worker sends."""
        if line.count(b"\n") != 1 or not line.endswith(b"\n"):
            raise ValueError(f"not one line: {line!r}")
        self._written.put_nowait(msgspec.json.decode(line))

    def say(self, action: str, **more: object) -> None:
        """Send a line, and wait for nothing."""
        self.reader.feed_data(msgspec.json.encode({"action": action, **more}) + b"\n")

    async def status(self) -> str:
        """Answer checkpoint requests until the status comes; which action it is for."""
        async with asyncio.timeout(LIMIT_SECONDS):
            while (heard := await self._written.get())["action"] == "checkpoint":
                error = self.refusals.pop(0) if self.refusals else None
                if error is None:
                    self.checkpoints.append(heard["sequenceNumber"])
                self.say("checkpoint", sequenceNumber=heard["sequenceNumber"], error=error)
        return str(heard["responseFor"])

    async def act(self, action: str, **more: object) -> None:
        """An action and its status; raises ValueError for another's."""
        self.say(action, **more)
        response_for = await self.status()
        if response_for != action:
            raise ValueError(f"{response_for} was answered instead of {action}")

    async def initialize(self, shard_id: str = FIRST, checkpoint: str = "TRIM_HORIZON") -> None:
        """The lease of a shard is the worker's."""
        await self.act("initialize", shardId=shard_id, sequenceNumber=checkpoint)

    def deliver(self, *numbers: str, data: bytes = b"x") -> None:
        """Send records, and wait for nothing."""
        self.say(
            "processRecords",
            records=[wire(number, data) for number in numbers],
            millisBehindLatest=5,
        )

    async def process(self, *numbers: str) -> None:
        """Records, and the status."""
        await self.act("processRecords", records=[wire(each, b"x") for each in numbers])


def wire(number: str, data: bytes, sub: int = 0, key: str = "k") -> dict[str, object]:
    """A record as the daemon writes it."""
    return {
        "data": base64.b64encode(data).decode(),
        "partitionKey": key,
        "sequenceNumber": number,
        "subSequenceNumber": sub,
        "approximateArrivalTimestamp": 1_700_000_000_000,
    }


class FakeEngine:
    """A daemon without Java: the test says what it says."""

    def __init__(self, serve: Serve, heard: Heard) -> None:
        self.log = DaemonLog()
        self.heard = heard
        self.terminated = asyncio.Event()
        self.ended = False
        self.served: list[asyncio.Task[None]] = []
        self._serve: Callable[[FakeChannel], Coroutine[Any, Any, None]] = serve
        self._status: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def start(self) -> None:
        """Nothing to start."""

    async def wait(self) -> int:
        """Until `exit`."""
        return await asyncio.shield(self._status)

    def exit(self, status: int) -> None:
        """The process ends."""
        if not self._status.done():
            self._status.set_result(status)

    def terminate(self) -> None:
        """SIGTERM."""
        self.terminated.set()

    async def end(self) -> None:
        """SIGKILL."""
        self.ended = True
        self.exit(-9)

    def connect(self) -> FakeChannel:
        """A shard's child."""
        channel = FakeChannel()
        self.served.append(asyncio.create_task(self._serve(channel)))
        return channel


class KclBench:
    """A coordinator, its owner and a worker in the place of the Faust consumer."""

    def __init__(
        self, owner: FakeOwner | None = None, *, drain_seconds: float = 10.0, **more: Any
    ) -> None:
        self.owner = owner or FakeOwner()
        self.kinesis = FakeKinesis(lambda: 1_700_000_000.0)
        self.told: list[tuple[str, str]] = []
        self.failures: list[BaseException] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.owner.on_process = self._pass
        self.late = asyncio.Event()
        self.now = 0.0
        self.health = Health()
        self.metrics = Metrics(CollectorRegistry())
        self.lease_table_error: Exception | None = None
        self.engine: FakeEngine
        self.coordinator = KclCoordinator(
            self.kinesis,
            STREAM,
            self.owner,
            saved=lambda shard: self.owner.positions.get(shard.shard_id),
            make_engine=self._make,
            metrics=self.metrics,
            health=self.health,
            timing=Timing(failover_seconds=FAILOVER_SECONDS, drain_seconds=drain_seconds),
            probe_lease_table=self._probe_lease_table,
            clock=Clock(monotonic=lambda: self.now, sleep=self._sleep),
            **more,
        )

    def _make(self, serve: Serve, heard: Heard) -> FakeEngine:
        self.engine = FakeEngine(serve, heard)
        return self.engine

    async def _sleep(self, seconds: float) -> None:
        # The fail-over time is over when the test says so; everything else is soon.
        await (self.late.wait() if seconds >= FAILOVER_SECONDS else asyncio.sleep(0.001))

    async def _probe_lease_table(self) -> None:
        if self.lease_table_error is not None:
            raise self.lease_table_error

    async def _pass(self, _: object) -> None:
        await self.gate.wait()

    def assigned(self, shard: Shard) -> None:
        """A shard comes."""
        self.told.append(("assigned", shard.shard_id))

    def revoked(self, shard: Shard) -> None:
        """A shard goes."""
        self.told.append(("revoked", shard.shard_id))

    def failed(self, error: BaseException) -> None:
        """The end."""
        self.failures.append(error)

    async def work(self) -> None:
        """Process until cancelled."""
        queue = self.coordinator.prefetch
        while True:
            for chunk in await queue.take(0.001, 1):
                try:
                    await self.owner.process(chunk)
                except errors.PositionError:
                    self.coordinator.drop(chunk.shard)
                queue.done(chunk)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The stream exists, the daemon runs, the worker works."""
        await self.kinesis.create_stream(StreamName=STREAM, ShardCount=2)
        await self.coordinator.start(self)
        working = asyncio.create_task(self.work())
        try:
            yield
        finally:
            await self.coordinator.stop(drain=False)
            working.cancel()
            for task in self.engine.served:
                task.cancel()
            await asyncio.gather(working, *self.engine.served, return_exceptions=True)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for a condition."""
        async with asyncio.timeout(LIMIT_SECONDS):
            while not holds():  # noqa: ASYNC110  # of many things, without an event each
                await asyncio.sleep(0.001)

    def processed(self, shard_id: str = FIRST) -> list[str]:
        """Sequence numbers, in order."""
        return [record.sequence_number for record in self.owner.records[shard_id]]
