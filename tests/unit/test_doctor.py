"""The doctor's checks: each finds the problem that is planted, and only that."""

import json
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from prometheus_client import CollectorRegistry

from ingest.core import Router
from offline.doctor import account, finding, hot, kcl, lag, plant, quarantined, streams
from offline.doctor.finding import Finding, Status
from offline.doctor.plant import Plant
from telemill import aws, errors
from telemill.cli import __main__ as cli
from telemill.codec import compression
from telemill.health import Health
from telemill.kinesis.calls import StreamCalls
from telemill.kinesis.records import SHARD_END
from telemill.metrics import Metrics
from telemill.progress import rules, suspicion
from telemill.testing.kinesis import FakeKinesis
from telemill.testing.progress import MemoryProgressTable

NOW = 1_751_876_490.0
RAW = "readings-raw"


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the tests run under, no service is configured."""
    monkeypatch.setenv("INGEST_DEVICES", "1-100")


class World:
    """A fake stream with its progress table, and the time."""

    def __init__(self) -> None:
        self.now = NOW
        self.kinesis = FakeKinesis(lambda: self.now)
        self.table = MemoryProgressTable()

    async def create(self, shards: int = 2, name: str = RAW) -> None:
        """A stream."""
        await self.kinesis.create_stream(StreamName=name, ShardCount=shards)

    async def put(self, *data: bytes, key: str = "7", hash_key: int = 1) -> None:
        """Records, now."""
        for start in range(0, len(data), 500):
            await self.kinesis.put_records(
                StreamName=RAW,
                Records=[
                    {"Data": each, "PartitionKey": key, "ExplicitHashKey": str(hash_key)}
                    for each in data[start : start + 500]
                ],
            )

    async def described(self, name: str = RAW) -> streams.Stream:
        """As the doctor sees it."""
        calls = StreamCalls(
            self.kinesis, name, metrics=Metrics(CollectorRegistry()), health=Health()
        )
        return await streams.describe(self.kinesis, name, calls)

    async def streams(self, of: Plant, expected: int | None = None) -> list[Finding]:
        """What the doctor says about the raw stream."""
        return await streams.check(await self.described(), of, self.table, expected)

    async def lag(self, of: Plant | None = None) -> list[Finding]:
        """What the doctor says about the transform."""
        (reader,) = [each for each in (of or plant.read()).readers if each.stream == RAW]
        reads = lag.Reads(self.kinesis, self._wait)
        return await lag.check(reads, await self.described(), self.table, reader, self.now)

    async def claim(self, position: str | None, shard: int = 0, **more: Any) -> None:
        """Let the transform have saved a position."""
        found = await self.described()
        key = rules.shard_key(found.shards[shard])
        item = rules.Progress("transform", key, epoch=1, owner="w", position=position)
        self.table.items["transform", key] = replace(item, **more)

    async def _wait(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def world() -> World:
    """Nothing in it."""
    return World()


def bad(found: list[Finding]) -> list[tuple[str, Status]]:
    """What is not well."""
    return [(each.check, each.status) for each in found if each.status is not Status.OK]


# --- settings ------------------------------------------------------------------------------------


def test_defaults_agree() -> None:
    """Services without settings write what the next one reads."""
    assert not bad(plant.check_agreement(plant.read()))


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("INGEST_RAW_STREAM", "raw-2", "INGEST_RAW_STREAM is raw-2, but TRANSFORM_INPUT_STREAM"),
        ("ANOMALY_INPUT_STREAM", "old", "TRANSFORM_OUTPUT_STREAM is readings, but ANOMALY_INPUT"),
        ("ANOMALY_OUTPUT_STREAM", "s", "ANOMALY_OUTPUT_STREAM is s, but the stream of the sink"),
        ("SINK_SLOT_COUNT", "32", "SINK_SLOT_COUNT is 32"),
        ("TRANSFORM_PROGRESS_TABLE", "mine", "TRANSFORM_PROGRESS_TABLE is mine"),
        ("SINK_LAKE_BUCKET", "other-lake", "SINK_LAKE_BUCKET is other-lake"),
    ],
)
def test_settings_that_do_not_fit_together(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, says: str
) -> None:
    """A name that only one side of a hand-over has is found."""
    monkeypatch.setenv(variable, value)
    found = plant.check_agreement(plant.read())
    assert any(says in each.says and each.status is Status.FAIL for each in found)


@pytest.mark.parametrize(
    ("variable", "value"), [("INGEST_SLOT_COUNT", "none"), ("SINK_TABLE", "alerts")]
)
def test_a_wrong_setting_is_bad_use(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str, value: str
) -> None:
    """Exit 2 and the setting's name, before AWS is asked for anything."""
    monkeypatch.setenv(variable, value)
    assert cli.main(["doctor"]) == 2
    assert variable in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--raw-shards", "0"], ["--interval", "x"], ["--what"]])
def test_wrong_arguments_are_bad_use(arguments: list[str]) -> None:
    """Exit 2."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["doctor", *arguments])
    assert ended.value.code == 2


# --- account -------------------------------------------------------------------------------------


class Sts:
    """Says who we are, or refuses, at its own time."""

    class meta:  # noqa: N801  # as botocore's
        """Where it is."""

        region_name = "eu-central-1"
        endpoint_url = "https://sts.example"

    def __init__(self, at: float | None, refuses: str = "") -> None:
        date = {} if at is None else {"date": format_datetime(datetime.fromtimestamp(at, UTC))}
        self.metadata = {"HTTPHeaders": date}
        self.refuses = refuses

    async def get_caller_identity(self) -> dict[str, Any]:
        """As AWS."""
        if self.refuses:
            error = {"Code": self.refuses, "Message": "no"}
            raise ClientError({"Error": error, "ResponseMetadata": self.metadata}, "x")  # type: ignore[typeddict-item]
        return {"Account": "1", "Arn": "arn:aws:iam::1:user/me", "ResponseMetadata": self.metadata}


@pytest.mark.parametrize(
    ("ahead", "status"),
    [
        (0, Status.OK),
        (0.9, Status.OK),
        (-1.5, Status.OK),
        (10, Status.WARN),
        (-10, Status.WARN),
        (301.5, Status.FAIL),
        (-400, Status.FAIL),
    ],
)
async def test_the_clock_is_compared_with_aws(ahead: float, status: Status) -> None:
    """Seconds are worth a look, five minutes are refused by AWS."""
    who = await account.check(Sts(NOW - ahead), lambda: NOW)
    (clock,) = [each for each in who.findings if each.check == "clock"]
    assert clock.status is status


async def test_refused_credentials_may_be_the_clock() -> None:
    """AWS's refusal and a clock an hour off are both said."""
    who = await account.check(Sts(NOW - 3600, "SignatureDoesNotMatch"), lambda: NOW)
    assert bad(who.findings) == [("credentials", Status.FAIL), ("clock", Status.FAIL)]
    assert who.ahead_seconds == pytest.approx(3599)


async def test_no_date_is_said() -> None:
    """Something between us and AWS may take the header away."""
    who = await account.check(Sts(None), lambda: NOW)
    assert bad(who.findings) == [("clock", Status.WARN)]


# --- streams -------------------------------------------------------------------------------------


async def test_a_sound_stream(world: World) -> None:
    """Nothing to say but good."""
    await world.create(2)
    assert not bad(await world.streams(plant.read(), expected=2))


async def test_fewer_shards_than_deployed(world: World) -> None:
    """The parameter is the promise: fewer fail, and the advice is the command."""
    await world.create(2)
    found = await world.streams(plant.read(), expected=4)
    (short,) = [each for each in found if each.status is Status.FAIL]
    assert (short.check, short.says) == ("shards", "2 open, 4 expected")
    assert "--target-shard-count 4" in short.advice


async def test_fewer_shards_than_the_fleet_needs(world: World) -> None:
    """A fleet that would fill them is worth a look."""
    await world.create(1)
    assert not bad(await world.streams(plant.read(devices=100, interval_seconds=10.0)))
    found = await world.streams(plant.read(devices=100_000, interval_seconds=1.0))
    assert bad(found) == [("load", Status.WARN)]


async def test_another_number_of_slots(world: World) -> None:
    """What was fixed on first use holds."""
    await world.create(2)
    described = await world.described()
    world.table.facts[f"slots/{RAW}/{described.incarnation}"] = "32"
    found = await world.streams(plant.read())
    assert bad(found) == [("slots", Status.FAIL)]
    assert any("_SLOT_COUNT=32" in each.advice for each in found)


async def test_shards_without_slots_and_uneven_ones(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More shards than slots cost for nothing; a merged shard is the first to be full."""
    monkeypatch.setenv("INGEST_SLOT_COUNT", "1")
    await world.create(3)
    (few,) = [each for each in await world.streams(plant.read()) if each.check == "slots"]
    assert (few.status, few.says[:1]) == (Status.WARN, "2")
    monkeypatch.setenv("INGEST_SLOT_COUNT", "64")
    await world.kinesis.delete_stream(StreamName=RAW)
    await world.create(4)
    assert not bad(await world.streams(plant.read()))
    shards = [each.shard_id for each in (await world.described()).shards]
    await world.kinesis.merge_shards(
        StreamName=RAW, ShardToMerge=shards[0], AdjacentShardToMerge=shards[1]
    )
    (uneven,) = [each for each in await world.streams(plant.read()) if each.check == "slots"]
    assert (uneven.status, "32 of 64" in uneven.says) == (Status.WARN, True)


async def test_watermarks_that_do_not_outlive_the_stream(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A retention the services do not know of could let a replay through."""
    await world.create()
    monkeypatch.setenv("SINK_RAW_RETENTION_HOURS", "12")
    assert bad(await world.streams(plant.read())) == [("retention", Status.FAIL)]


async def test_a_stream_that_is_not_there_or_not_ours(world: World) -> None:
    """Missing and forbidden are told apart, and each says what to do."""
    missing = await finding.looked("stream", RAW, _describing(world))
    await world.create()
    world.kinesis.fail("ListShards", "AccessDeniedException")
    forbidden = await finding.looked("stream", RAW, _describing(world))
    assert "telemill provision" in missing[0].advice
    assert "permission kinesis:ListShards is missing" in forbidden[0].says
    assert "role" in forbidden[0].advice


def _describing(world: World) -> Callable[[], Awaitable[list[Finding]]]:
    async def look() -> list[Finding]:
        await world.described()
        return []

    return look


async def test_no_answer_is_a_finding() -> None:
    """A service that does not answer is said, and the doctor goes on."""

    async def look() -> list[Finding]:
        raise errors.ServiceUnavailableError("s3:ListBucket: timed out")

    assert bad(await finding.looked("bucket", "lake", look)) == [("bucket", Status.FAIL)]


# --- lag -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "status"),
    [(0, Status.OK), (59, Status.OK), (61, Status.WARN), (301, Status.FAIL)],
)
async def test_lag_is_the_age_of_the_first_record_not_done(
    world: World, seconds: float, status: Status
) -> None:
    """What is behind the saved position counts, what is before it does not."""
    await world.create(1)
    await world.put(b"done")
    done = await _last(world)
    world.now += 10_000
    await world.put(b"waits")
    await world.claim(done)
    world.now += seconds
    (found,) = await world.lag()
    assert found.status is status
    assert f"{seconds:,.0f} s behind" in found.says


async def _last(world: World) -> str:
    reads = lag.Reads(world.kinesis)
    shard = (await world.described()).shards[0]
    iterator = await reads.iterator(shard, ShardIteratorType="TRIM_HORIZON")
    return (await reads.page(shard, iterator, 100)).records[-1].sequence_number


async def test_nothing_waits(world: World) -> None:
    """An application at the tip is well, however old its last record is."""
    await world.create(1)
    await world.put(b"done")
    await world.claim(await _last(world))
    world.now += 100_000
    assert not bad(await world.lag())


async def test_records_about_to_be_gone(world: World) -> None:
    """Beyond half of the retention the advice is to raise it first."""
    await world.create(1)
    await world.put(b"waits")
    world.now += 13 * 3600
    (found,) = await world.lag()
    assert found.status is Status.FAIL
    assert "nobody has ever claimed it" in found.says
    assert "raise the retention" in found.advice


async def test_who_begins_late_is_not_behind(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """LATEST, and a start that was fixed, leave out what was there before."""
    await world.create(1)
    await world.put(b"old")
    world.now += 10_000
    monkeypatch.setenv("KINESIS_START_POSITION", "LATEST")
    assert not bad(await world.lag())
    incarnation = (await world.described()).incarnation
    world.table.facts[f"start/transform/{RAW}/{incarnation}"] = str(int(world.now * 1_000_000))
    await world.claim(None)
    assert not bad(await world.lag())
    world.table.facts[f"start/transform/{RAW}/{incarnation}"] = "TRIM_HORIZON"
    assert bad(await world.lag()) == [("lag", Status.FAIL)]


async def test_shards_that_are_done(world: World) -> None:
    """A shard read to its end is no matter any more."""
    await world.create(1)
    await world.put(b"done")
    await world.claim(SHARD_END)
    world.now += 10_000
    assert not bad(await world.lag())


@pytest.mark.parametrize(
    ("crashes", "status"),
    [(1, Status.WARN), (suspicion.CAUTIOUS_AFTER_CRASHES, Status.FAIL)],
)
async def test_workers_that_died(world: World, crashes: int, status: Status) -> None:
    """A position where workers die one after the other is named."""
    await world.create(1)
    await world.claim(None, crashes=crashes)
    assert ("crashes", status) in bad(await world.lag())


async def test_throttled_reads_are_waited_for(world: World) -> None:
    """Consumers take most of a shard's reads; the doctor waits and tells the same."""
    await world.create(1)
    await world.put(b"waits")
    world.kinesis.fail("GetRecords", "ProvisionedThroughputExceededException", times=3)
    before = world.now
    (found,) = await world.lag()
    assert (found.status, world.now > before) == (Status.OK, True)


# --- hot -----------------------------------------------------------------------------------------


async def hottest(world: World) -> list[Finding]:
    """What the doctor says about the last minute."""
    of = plant.read()
    reads = lag.Reads(world.kinesis)
    return await hot.check(reads, await world.described(), world.now, of.contract, 64)


def readings(device: int, count: int) -> bytes:
    """A raw record."""
    lines = [
        json.dumps({"time": f"2025-07-07T08:{n // 60:02}:{n % 60:02}Z", "DeviceId": device})
        for n in range(count)
    ]
    return compression.zstd_compress("\n".join(lines).encode())


async def test_a_full_shard_is_named(world: World) -> None:
    """Only the shard that is full, and only by what came in the last minute."""
    await world.create(2)
    for _ in range(60):
        await world.put(b"x" * 700_000)
        world.now += 1
    (found,) = [each for each in await hottest(world) if each.check == "hot shard"]
    assert found.status is Status.WARN
    assert found.subject.endswith("shardId-000000000000")
    world.now += 61
    assert not bad(await hottest(world))


async def test_more_records_than_the_sample_holds(world: World) -> None:
    """Where the sample ends early the rate is that of the time it reaches."""
    samples = [
        hot.Sample((await _one(world)), seconds=5.0, records=4900, size_bytes=4900),
        hot.Sample((await _one(world)), seconds=60.0, records=4900, size_bytes=4900),
    ]
    assert [each.status for each in hot.check_shards(RAW, samples)] == [Status.FAIL]


async def _one(world: World) -> Any:
    if not world.kinesis.called("CreateStream"):
        await world.create(1)
    return (await world.described()).shards[0]


async def test_a_hot_device_is_named(world: World) -> None:
    """The device that sends ten times what others do, with its slot."""
    await world.create(1)
    await world.put(*[readings(device, 6) for device in range(1, 10)])
    assert not bad(await hottest(world))
    await world.put(readings(7, 600))
    (found,) = [each for each in await hottest(world) if each.status is Status.WARN]
    assert found.subject == f"{RAW} device 7"
    assert f"slot {Router(plant.read().contract, 64).slot_of('7')}" in found.says


async def test_what_cannot_be_read_is_not_counted(world: World) -> None:
    """Broken records belong to the quarantine; the sample goes on."""
    await world.create(1)
    await world.put(b"\x28\xb5\x2f\xfdbroken", b"{}", readings(3, 2))
    (found,) = [each for each in await hottest(world) if each.check == "hot device"]
    assert found.says.startswith("1 devices")


# --- quarantine, KCL -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recent_kib", "hourly_kib", "status"),
    [
        (0, 0, Status.OK),
        (50, 1, Status.OK),
        (100, 80, Status.OK),
        (1000, 80, Status.WARN),
        (100, 0, Status.WARN),
    ],
)
def test_a_quarantine_that_grows(recent_kib: int, hourly_kib: int, status: Status) -> None:
    """The last hour against the hours before; a few bad readings are no growth."""
    recent = Counter({"bad_time": recent_kib * 1024})
    found = quarantined.judge("lake", recent, hourly_kib * 1024.0, 10)
    assert found.status is status
    assert ("bad_time" in found.says) is (status is Status.WARN)


class NoTable:
    """A DynamoDB without tables."""

    async def describe_table(self, **_: Any) -> None:
        """As AWS."""
        raise aws.MissingError("no table")


async def test_the_kcl_needs_its_jars(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Asked for and not there is a failure; not asked for is no matter."""
    assert not await kcl.check(NoTable(), plant.read())
    monkeypatch.setenv("KINESIS_COORDINATOR", "kcl")
    monkeypatch.setenv("KINESIS_KCL_JARS", str(tmp_path))
    (found,) = await kcl.check(NoTable(), plant.read())
    assert found.status is Status.FAIL
