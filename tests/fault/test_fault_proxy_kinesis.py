"""Faults of Kinesis over real sockets: single records, iterators, shards, clocks, CBOR."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from telemill.testing import faults, processes
from telemill.testing.faults import Plan, Proxy, cbor, documents
from telemill.testing.faults import lab as labs
from telemill.testing.faults.lab import Lab

SEED = 7
GENEROUS_SECONDS = 60.0


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


def test_records_are_read_through_the_proxy(lab: Lab) -> None:
    """GetRecords passes pages of several megabytes, and iterators that go on."""
    data = b"x" * 900_000
    records = [labs.in_slot(0, data) for _ in range(5)]
    lab.past("kinesis").put_records(StreamName=lab.stream, Records=records)
    kinesis = lab.through("kinesis")
    shard_id = lab.shard_ids()[0]
    answer = kinesis.get_records(ShardIterator=lab.iterator_of(kinesis, shard_id))
    assert [record["Data"] for record in answer["Records"]] == [data] * 5
    assert kinesis.get_records(ShardIterator=answer["NextShardIterator"])["Records"] == []


def test_partial_failures_are_not_put_and_the_others_are(lab: Lab) -> None:
    """What a PutRecords answers for each record is what the stream holds."""
    lab.proxy.set_plan(Plan(partial_failure=0.3))
    records = labs.many(200)
    answer = lab.through("kinesis").put_records(StreamName=lab.stream, Records=records)
    failed = [bool(result.get("ErrorCode")) for result in answer["Records"]]
    assert 0 < sum(failed) == answer["FailedRecordCount"] < 200
    codes = {result.get("ErrorCode") for result in answer["Records"]}
    assert codes == {None, "ProvisionedThroughputExceededException"}
    put = [
        record["Data"] for record, has_failed in zip(records, failed, strict=True) if not has_failed
    ]
    assert lab.held() == sorted(put)
    entry = lab.faults()[-1]
    assert (entry["fault"], entry["stream"]) == ("partial_failure", lab.stream)
    assert entry["records"] == [index for index, has_failed in enumerate(failed) if has_failed]


def test_a_request_may_fail_as_a_whole_record_by_record(lab: Lab) -> None:
    """When every record fails the answer is still 200, and nothing was put."""
    lab.proxy.set_plan(Plan(partial_failure=1.0))
    answer = lab.through("kinesis").put_records(StreamName=lab.stream, Records=labs.many(3))
    assert answer["FailedRecordCount"] == 3
    assert lab.held() == []


def test_a_failing_slot_always_fails_and_others_never(lab: Lab) -> None:
    """Only records with the slot's explicit hash key are refused, again and again."""
    lab.proxy.set_plan(Plan(failing_slots=[5]))
    kinesis = lab.through("kinesis")
    for _ in range(3):
        answer = kinesis.put_records(StreamName=lab.stream, Records=labs.many(64))
        failed = [at for at, result in enumerate(answer["Records"]) if result.get("ErrorCode")]
        assert failed == [5]
    with pytest.raises(kinesis.exceptions.ProvisionedThroughputExceededException):
        kinesis.put_record(StreamName=lab.stream, **labs.in_slot(5, b"x"))
    assert b"5" not in lab.held()


def test_an_iterator_expires_and_a_new_one_works(lab: Lab) -> None:
    """GetRecords fails with ExpiredIteratorException, GetShardIterator does not."""
    kinesis = lab.through("kinesis")
    kinesis.put_records(StreamName=lab.stream, Records=[labs.in_slot(0, b"x")])
    shard_id = lab.shard_ids()[0]
    lab.proxy.set_plan(Plan(expire_iterators=1.0))
    with pytest.raises(kinesis.exceptions.ExpiredIteratorException):
        kinesis.get_records(ShardIterator=lab.iterator_of(kinesis, shard_id))
    entry = lab.faults()[-1]
    assert (entry["fault"], entry["stream"], entry["shard"]) == (
        "expire_iterators",
        lab.stream,
        shard_id,
    )
    lab.proxy.heal()
    answer = kinesis.get_records(ShardIterator=lab.iterator_of(kinesis, shard_id))
    assert [record["Data"] for record in answer["Records"]] == [b"x"]


def test_a_shard_takes_no_more_than_its_limit(lab: Lab) -> None:
    """Of a PutRecords above a shard's megabyte the excess fails; another shard's records pass."""
    lab.proxy.set_plan(Plan(shard_limits=True))
    large = [labs.in_slot(0, b"%d" % index + bytes(700_000)) for index in range(4)]
    answer = lab.through("kinesis").put_records(
        StreamName=lab.stream, Records=[*large, labs.in_slot(63, b"other")]
    )
    codes = [result.get("ErrorCode") for result in answer["Records"]]
    assert codes == [None, *["ProvisionedThroughputExceededException"] * 3, None]
    assert lab.held() == sorted([large[0]["Data"], b"other"])
    entry = lab.faults()[-1]
    assert (entry["fault"], entry["records"]) == ("shard_limits", [1, 2, 3])
    assert entry["shard"] == answer["Records"][0]["ShardId"] != answer["Records"][4]["ShardId"]


def test_a_shard_gives_no_more_than_its_limit(lab: Lab) -> None:
    """After a page of several megabytes the shard answers no GetRecords for a while."""
    past, kinesis = lab.past("kinesis"), lab.through("kinesis")
    for _ in range(9):
        past.put_records(StreamName=lab.stream, Records=[labs.in_slot(0, bytes(1_000_000))])
    first, second = lab.shard_ids()
    iterator = lab.iterator_of(kinesis, first)
    other = lab.iterator_of(kinesis, second)
    lab.proxy.set_plan(Plan(shard_limits=True))
    answer = kinesis.get_records(ShardIterator=iterator)
    assert len(answer["Records"]) == 9
    with pytest.raises(kinesis.exceptions.ProvisionedThroughputExceededException, match=first):
        kinesis.get_records(ShardIterator=answer["NextShardIterator"])
    kinesis.get_records(ShardIterator=other)

    def is_answered() -> bool:
        try:
            kinesis.get_records(ShardIterator=answer["NextShardIterator"])
        except kinesis.exceptions.ProvisionedThroughputExceededException:
            return False
        return True

    assert processes.wait_until(is_answered, GENEROUS_SECONDS)


def test_a_services_clock_may_be_ahead(lab: Lab) -> None:
    """Date and arrival times move together, and AT_TIMESTAMP means the service's clock."""
    kinesis = lab.through("kinesis")
    kinesis.put_records(StreamName=lab.stream, Records=[labs.in_slot(0, b"x")])
    shard_id = lab.shard_ids()[0]
    true = kinesis.get_records(ShardIterator=lab.iterator_of(kinesis, shard_id))
    lab.proxy.set_plan(Plan(clock_skew_seconds=3600.0))
    answer = kinesis.get_records(ShardIterator=lab.iterator_of(kinesis, shard_id))
    arrived = answer["Records"][0]["ApproximateArrivalTimestamp"]
    moved = arrived - true["Records"][0]["ApproximateArrivalTimestamp"]
    assert moved.total_seconds() == 3600.0
    date = answer["ResponseMetadata"]["HTTPHeaders"]["date"]
    assert time.mktime(time.strptime(date, "%a, %d %b %Y %H:%M:%S GMT")) - time.mktime(
        time.gmtime()
    ) == pytest.approx(3600.0, abs=GENEROUS_SECONDS)
    for timestamp, found in ((arrived, 1), (arrived.timestamp() + 1, 0)):
        iterator = kinesis.get_shard_iterator(
            StreamName=lab.stream,
            ShardId=shard_id,
            ShardIteratorType="AT_TIMESTAMP",
            Timestamp=timestamp,
        )
        page = kinesis.get_records(ShardIterator=iterator["ShardIterator"])
        assert len(page["Records"]) == found


def test_cbor_meets_the_same_faults(lab: Lab) -> None:
    """The Java SDK's encoding passes untouched, and is answered in kind when faults apply."""
    headers = {
        "Content-Type": documents.CBOR_TYPE,
        "X-Amz-Target": "Kinesis_20131202.PutRecords",
    }
    records = [labs.in_slot(slot, b"%d" % slot) for slot in (4, 5, 6)]
    body = cbor.encode({"StreamName": lab.stream, "Records": records})

    def put() -> tuple[int, dict[str, Any]]:
        status, answered, content = lab.raw("POST", "/", body, headers | labs.signed("kinesis"))
        assert "cbor" in answered["content-type"]
        return status, cbor.decode(content)

    lab.proxy.set_plan(Plan(throttle=1.0))
    status, refused = put()
    assert (status, refused["__type"]) == (400, "ProvisionedThroughputExceededException")
    lab.proxy.set_plan(Plan(failing_slots=[5]))
    status, answer = put()
    assert (status, answer["FailedRecordCount"]) == (200, 1)
    assert ["ErrorCode" in result for result in answer["Records"]] == [False, True, False]
    assert len(lab.held()) == 2
    lab.proxy.heal()
    assert put()[1]["FailedRecordCount"] == 0
    assert len(lab.held()) == 5
