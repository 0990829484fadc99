"""Faults of whole calls over real sockets: what the SDK sees, what the emulator holds."""

import contextlib
import gzip
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from botocore import exceptions

from telemill import aws as aws_clients
from telemill import errors
from telemill.testing import emulator, faults, processes
from telemill.testing.faults import Plan, Proxy
from telemill.testing.faults import __main__ as command
from telemill.testing.faults import lab as labs
from telemill.testing.faults.lab import Lab

SEED = 7
GENEROUS_SECONDS = 60.0
LOST_ANSWER = (exceptions.ConnectionClosedError, exceptions.EndpointConnectionError)


@pytest.fixture(scope="module")
def proxy(aws: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy in front of the emulator; it has nothing to complain about in the end."""
    log_path = tmp_path_factory.mktemp("proxy") / "faults.ndjson"
    with faults.running(aws, seed=SEED, log_path=log_path) as proxy:
        yield proxy
        assert len(proxy.process.log_path.read_text().splitlines()) == 1


@pytest.fixture
def lab(aws: str, proxy: Proxy) -> Iterator[Lab]:
    """A stream, a bucket and a table behind it."""
    with labs.opened(proxy, aws) as lab:
        yield lab


def test_a_healthy_proxy_changes_nothing(lab: Lab) -> None:
    """Streams, objects and items pass both ways as they are, large ones too."""
    large = bytes(range(256)) * 4 * 1024
    kinesis, s3, dynamodb = (lab.through(each) for each in ("kinesis", "s3", "dynamodb"))
    answer = kinesis.put_records(StreamName=lab.stream, Records=labs.many(500))
    assert answer["FailedRecordCount"] == 0
    kinesis.put_record(StreamName=lab.stream, Data=large[:-64], PartitionKey="a")
    assert len(lab.held()) == 501
    for key, data in (("a/b c=ü?&+", large * 3), ("empty", b"")):
        s3.put_object(Bucket=lab.bucket, Key=key, Body=data)
        assert s3.head_object(Bucket=lab.bucket, Key=key)["ContentLength"] == len(data)
        assert s3.get_object(Bucket=lab.bucket, Key=key)["Body"].read() == data
    assert lab.keys() == ["a/b c=ü?&+", "empty"]
    lab.set_number(dynamodb, 2, after=1)
    assert lab.number() == 2
    with pytest.raises(dynamodb.exceptions.ConditionalCheckFailedException):
        lab.set_number(dynamodb, 3, after=1)
    with pytest.raises(exceptions.ClientError) as missing:
        s3.get_object(Bucket=lab.bucket, Key="none")
    assert labs.code_of(missing.value) == ("NoSuchKey", 404)


async def test_the_products_own_clients_reach_it_by_endpoint_url(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AWS_ENDPOINT_URL is all a service needs, and it sees faults as its own errors."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", lab.proxy.url)
    async with aws_clients.client("kinesis") as kinesis:
        await kinesis.put_records(StreamName=lab.stream, Records=labs.many(2))
        for plan, error in (
            (Plan(throttle=1.0), errors.ThroughputExceededError),
            (Plan(server_error=1.0), errors.ServiceUnavailableError),
            (Plan(drop_before=1.0), errors.ServiceUnavailableError),
        ):
            lab.proxy.set_plan(plan)
            with pytest.raises(error), aws_clients.map_exceptions("kinesis:PutRecords"):
                await kinesis.put_records(StreamName=lab.stream, Records=labs.many(2))


def test_objects_pass_in_every_way_of_sending(lab: Lab) -> None:
    """Multipart, aws-chunked, HTTP-chunked and virtual-host style all arrive."""
    s3 = lab.through("s3")
    upload = s3.create_multipart_upload(Bucket=lab.bucket, Key="parts")["UploadId"]
    part = {"Bucket": lab.bucket, "Key": "parts", "UploadId": upload, "PartNumber": 1}
    etag = s3.upload_part(**part, Body=b"p" * 6_000_000)["ETag"]
    s3.complete_multipart_upload(
        Bucket=lab.bucket,
        Key="parts",
        UploadId=upload,
        MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": etag}]},
    )
    signed = labs.signed("s3")
    chunked = {
        "Content-Encoding": "aws-chunked",
        "x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        "x-amz-decoded-content-length": "5",
    }
    frames = b"5\r\nhello\r\n0\r\n\r\n"
    assert lab.raw("PUT", f"/{lab.bucket}/sized", frames, signed | chunked)[0] == 200
    pieces = iter([frames[:4], frames[4:]])
    assert lab.raw("PUT", f"/{lab.bucket}/pieces", pieces, signed | chunked)[0] == 200
    host = {"Host": f"{lab.bucket}.localhost:4566"}
    assert lab.raw("PUT", "/hosted", b"hello", signed | host)[0] == 200
    past = lab.past("s3")
    sizes = {
        each["Key"]: each["Size"] for each in past.list_objects_v2(Bucket=lab.bucket)["Contents"]
    }
    assert sizes == {"parts": 6_000_000, "sized": 5, "pieces": 5, "hosted": 5}


def test_what_is_compressed_stays_so(lab: Lab) -> None:
    """Bodies pass as the bytes they are, whatever their Content-Encoding says."""
    data = gzip.compress(b"x" * 10_000)
    s3 = lab.through("s3")
    s3.put_object(Bucket=lab.bucket, Key="x", Body=data, ContentEncoding="gzip")
    stored = lab.past("s3").get_object(Bucket=lab.bucket, Key="x")
    assert (stored["Body"].read(), stored["ContentEncoding"]) == (data, "gzip")
    got = s3.get_object(Bucket=lab.bucket, Key="x")
    assert (got["ContentLength"], got["ContentEncoding"]) == (len(data), "gzip")
    signed = labs.signed("s3")
    assert lab.raw("GET", f"/{lab.bucket}/x", None, signed)[2] == data


CALLS: dict[str, Callable[[Any, Lab], Any]] = {
    "kinesis": lambda client, lab: client.put_records(
        StreamName=lab.stream, Records=[labs.in_slot(0, b"x")]
    ),
    "dynamodb": lambda client, lab: lab.set_number(client, 2),
    "s3": lambda client, lab: client.put_object(Bucket=lab.bucket, Key="x", Body=b"x" * 300_000),
    "glue": lambda client, lab: client.get_databases(),
    "sns": lambda client, lab: client.list_topics(),
    "athena": lambda client, lab: client.list_work_groups(),
}
THROTTLES = {
    "kinesis": ("ProvisionedThroughputExceededException", 400),
    "dynamodb": ("ProvisionedThroughputExceededException", 400),
    "s3": ("SlowDown", 503),
    "glue": ("ThrottlingException", 400),
    "sns": ("Throttling", 400),
    "athena": ("ThrottlingException", 400),
}


def is_done(lab: Lab) -> list[bool]:
    """Of the writes of `CALLS` to Kinesis, DynamoDB and S3, which the emulator has done."""
    return [
        lab.held() == [b"x"],
        lab.number() == 2,
        lab.keys() == ["x"],
    ]


@pytest.mark.parametrize("service", CALLS)
def test_every_service_throttles_fails_and_goes(lab: Lab, service: str) -> None:
    """Throttling, internal errors and outages are what the SDK expects, and nothing is done."""
    client = lab.through(service)

    def call() -> None:
        CALLS[service](client, lab)

    for plan, expected in (
        (Plan(throttle=1.0), THROTTLES[service]),
        (Plan(server_error=1.0), (None, 500)),
        (Plan(outages={service: 600.0}, outage_answer="503"), ("ServiceUnavailable", 503)),
    ):
        lab.proxy.set_plan(plan)
        with pytest.raises(exceptions.ClientError) as refused:
            call()
        code, status = labs.code_of(refused.value)
        assert (expected[0] or code, expected[1]) == (code, status)
    for plan in (Plan(outages={service: 600.0}), Plan(drop_before=1.0)):
        lab.proxy.set_plan(plan)
        with pytest.raises(LOST_ANSWER):
            call()
    assert not any(is_done(lab))
    lab.proxy.heal()
    call()
    assert sum(is_done(lab)) == (service in {"kinesis", "dynamodb", "s3"})


def test_a_write_may_be_done_though_its_answer_is_lost(lab: Lab) -> None:
    """Commit then drop: the caller sees a broken connection, the emulator has the data."""
    lab.proxy.set_plan(Plan(commit_then_drop=1.0))
    for service in ("kinesis", "dynamodb", "s3"):
        with pytest.raises(LOST_ANSWER):
            CALLS[service](lab.through(service), lab)
    assert is_done(lab) == [True, True, True]
    assert lab.through("s3").list_objects_v2(Bucket=lab.bucket)["KeyCount"] == 1


def test_a_stalled_answer_comes_too_late_for_work_that_is_done(lab: Lab) -> None:
    """The caller times out, and the emulator has the data."""
    lab.proxy.set_plan(Plan(stall=1.0, stall_seconds=600.0))
    for service in ("kinesis", "dynamodb", "s3"):
        client = lab.through(service, read_timeout=1)
        with pytest.raises(exceptions.ReadTimeoutError):
            CALLS[service](client, lab)
    assert is_done(lab) == [True, True, True]


def test_a_short_stall_is_only_slow(lab: Lab) -> None:
    """A caller that waits longer gets its answer."""
    lab.proxy.set_plan(Plan(stall=1.0, stall_seconds=0.3))
    dynamodb = lab.through("dynamodb")
    begun = time.monotonic()
    assert dynamodb.get_item(TableName=lab.table, Key=lab.key)["Item"]["n"] == {"N": "1"}
    assert time.monotonic() - begun >= 0.3


def test_only_the_named_operations_fail(lab: Lab) -> None:
    """Random faults leave out what the plan does not name."""
    lab.proxy.set_plan(Plan(throttle=1.0, only=["s3:PutObject", "GetRecords"]))
    lab.through("kinesis").put_records(StreamName=lab.stream, Records=labs.many(2))
    assert lab.through("s3").list_objects_v2(Bucket=lab.bucket)["KeyCount"] == 0
    with pytest.raises(exceptions.ClientError, match="SlowDown"):
        lab.through("s3").put_object(Bucket=lab.bucket, Key="x", Body=b"x")


def test_an_outage_ends_by_itself(lab: Lab) -> None:
    """After so many seconds the service is back."""
    dynamodb = lab.through("dynamodb")
    lab.proxy.set_plan(Plan(outages={"dynamodb": 1.5}))
    with pytest.raises(LOST_ANSWER):
        lab.set_number(dynamodb, 2)

    def is_back() -> bool:
        try:
            lab.set_number(dynamodb, 3)
        except LOST_ANSWER:
            return False
        return True

    assert processes.wait_until(is_back, GENEROUS_SECONDS)
    assert lab.number() == 3


def test_a_condition_fails_though_it_holds(lab: Lab) -> None:
    """Conditional writes are refused and not done; those without a condition pass."""
    lab.proxy.set_plan(Plan(conditional_failure=1.0))
    dynamodb = lab.through("dynamodb")
    with pytest.raises(dynamodb.exceptions.ConditionalCheckFailedException):
        lab.set_number(dynamodb, 2, after=1)
    assert lab.number() == 1
    lab.set_number(dynamodb, 2)
    assert lab.number() == 2
    assert lab.faults()[-1]["key"] == lab.key


def test_an_upload_is_cut_in_the_middle(lab: Lab) -> None:
    """A connection dropped mid-PUT leaves no object, whatever its size."""
    lab.proxy.set_plan(Plan(drop_before=1.0))
    for size in (1, 20_000_000):
        with pytest.raises((*LOST_ANSWER, exceptions.HTTPClientError)):
            lab.through("s3").put_object(Bucket=lab.bucket, Key="x", Body=bytes(size))
    assert lab.keys() == []


def test_a_bad_plan_is_refused_and_the_old_one_stays(lab: Lab) -> None:
    """The answer is 422 with problem details that name the field."""
    lab.proxy.set_plan(Plan(throttle=0.5))
    status, headers, body = lab.raw("PUT", "/_faults", b'{"throttle": 2}')
    problem = msgspec.json.decode(body)
    assert (status, headers["content-type"]) == (422, "application/problem+json")
    assert (problem["status"], "$.throttle" in problem["detail"]) == (422, True)
    assert lab.proxy.plan() == Plan(throttle=0.5)
    assert lab.raw("POST", "/_faults")[0] == 405


def test_the_proxy_says_what_it_did(lab: Lab) -> None:
    """GET shows plan, seed, calls and counts; DELETE heals and keeps the counts."""
    before = lab.proxy.counts()
    assert set(before) == set(faults.plan.FAULTS)
    lab.proxy.set_plan(Plan(throttle=1.0, outages={"s3": 600.0}))
    with pytest.raises(exceptions.ClientError):
        lab.set_number(lab.through("dynamodb"), 2)
    shown = msgspec.json.decode(lab.raw("GET", "/_faults")[2])
    assert shown["seed"] == SEED
    assert 0 < shown["outages_left_seconds"]["s3"] <= 600.0
    assert shown["by_operation"]["dynamodb:UpdateItem"]["throttle"] >= 1
    assert lab.proxy.calls()["dynamodb:UpdateItem"] == shown["calls"]["dynamodb:UpdateItem"]
    lab.proxy.heal()
    assert lab.proxy.plan() == Plan()
    assert lab.proxy.counts() == before | {"throttle": before["throttle"] + 1}


REPLAYED = Plan(
    partial_failure=0.2, throttle=0.1, server_error=0.1, drop_before=0.1, commit_then_drop=0.1
)


def injected(url: str, directory: Path, *, seed: int, order: list[str]) -> list[tuple[Any, ...]]:
    """The faults of a run: 40 PutRecords and 40 UpdateItem, interleaved as told."""
    with (
        faults.running(url, seed=seed, log_path=directory / "faults.ndjson") as proxy,
        labs.opened(proxy, url) as lab,
    ):
        kinesis, dynamodb = lab.through("kinesis"), lab.through("dynamodb")
        proxy.set_plan(REPLAYED)
        for name in order:
            with contextlib.suppress(exceptions.ClientError, *LOST_ANSWER):
                if name == "put":
                    kinesis.put_records(StreamName=lab.stream, Records=labs.many(20))
                else:
                    lab.set_number(dynamodb, 1)
        return sorted(
            (each["operation"], each["call"], each["fault"], each.get("records"))
            for each in lab.faults()
        )


def test_the_same_seed_replays_a_run(aws: str, tmp_path: Path) -> None:
    """Same seed and calls: the same faults, however operations interleave; another seed: others."""
    turns = list(itertools.chain.from_iterable([("put", "update")] * 40))
    blocks = ["update"] * 40 + ["put"] * 40
    first = injected(aws, tmp_path / "1", seed=11, order=turns)
    second = injected(aws, tmp_path / "2", seed=11, order=blocks)
    third = injected(aws, tmp_path / "3", seed=12, order=turns)
    assert first == second
    assert first != third
    assert {entry[2] for entry in first} >= {"partial_failure", "throttle", "drop_before"}


def test_an_emulator_that_is_gone_is_a_closed_connection(aws: str, tmp_path: Path) -> None:
    """Kinesis may be elsewhere, and gone; the proxy and the other services live on."""
    nowhere = f"http://127.0.0.1:{emulator.free_port()}"
    log_path = tmp_path / "faults.ndjson"
    with (
        faults.running(aws, seed=1, log_path=log_path, kinesis_upstream=nowhere) as proxy,
        labs.opened(proxy, aws) as lab,
    ):
        with pytest.raises(LOST_ANSWER):
            lab.through("kinesis").list_streams()
        assert "Buckets" in lab.through("s3").list_buckets()
    assert proxy.process.exit_status == 0
    assert b'"upstream_failed"' in log_path.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--upstream", "localhost:4566", "--log", "x"], "--upstream"),
        (["--upstream", "http://127.0.0.1:1", "--log", "{taken}/x"], "--log"),
        (["--upstream", "http://127.0.0.1:1", "--log", "{log}", "--port", "{port}"], "--port"),
        (["--log", "x"], "--upstream"),
    ],
)
def test_a_wrong_argument_ends_it_with_one_line(
    lab: Lab, arguments: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 2, and the text names the argument."""
    taken = tmp_path / "file"
    taken.touch()
    port = urlsplit(lab.proxy.url).port
    given = [each.format(taken=taken, log=tmp_path / "l", port=port) for each in arguments]
    try:
        status: Any = command.main(given)
    except SystemExit as ended:
        status = ended.code
    assert status == 2
    assert named in capsys.readouterr().err.splitlines()[-1]


def test_a_proxy_that_cannot_start_says_why(tmp_path: Path) -> None:
    """`running` fails with the process's last words."""
    with (
        pytest.raises(processes.EndedEarlyError, match="no URL"),
        faults.running("nowhere", seed=1, log_path=tmp_path / "faults.ndjson"),
    ):
        pass
