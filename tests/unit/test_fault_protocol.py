"""What the fault proxy knows of AWS's protocols, held against botocore's own parsers."""

from typing import Any

import pytest
from botocore import parsers
from botocore import session as botocore_session
from multidict import CIMultiDict

from telemill import slots
from telemill.testing.faults import answers, cbor, documents, records, services, shards

SIGNED = "AWS4-HMAC-SHA256 Credential=local/20260101/us-east-1/{}/aws4_request, SignedHeaders=host"
HALF = 2**127
ANSWER = {
    "Records": [{"SequenceNumber": "1", "ShardId": "shardId-0"}, {"ErrorCode": "InternalFailure"}],
    "FailedRecordCount": 1,
    "EncryptionType": "NONE",
}


def recognised(method: str, path: str, scope: str = "s3", **headers: str) -> services.Target:
    """The target of a request signed for a service."""
    sent = {"Host": "127.0.0.1:4566", "Authorization": SIGNED.format(scope)}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return services.recognise(method, path, CIMultiDict(sent | named))


# Recognising


@pytest.mark.parametrize(
    ("target", "service", "operation"),
    [
        ("Kinesis_20131202.PutRecords", "kinesis", "PutRecords"),
        ("DynamoDB_20120810.UpdateItem", "dynamodb", "UpdateItem"),
        ("AWSGlue.BatchCreatePartition", "glue", "BatchCreatePartition"),
        ("AmazonAthena.StartQueryExecution", "athena", "StartQueryExecution"),
    ],
)
def test_json_services_name_themselves(target: str, service: str, operation: str) -> None:
    """The X-Amz-Target header says it all."""
    found = services.recognise("POST", "/", CIMultiDict({"x-amz-target": target}))
    assert found == (service, operation, "", "")


@pytest.mark.parametrize(
    ("method", "path", "operation", "key"),
    [
        ("PUT", "/lake/a/b%20c", "PutObject", "a/b c"),
        ("PUT", "/lake/a?partNumber=2&uploadId=x", "UploadPart", "a"),
        ("POST", "/lake/a?uploads", "CreateMultipartUpload", "a"),
        ("POST", "/lake/a?uploadId=x", "CompleteMultipartUpload", "a"),
        ("GET", "/lake/a?versionId=7", "GetObject", "a"),
        ("HEAD", "/lake/a", "HeadObject", "a"),
        ("DELETE", "/lake/a", "DeleteObject", "a"),
        ("GET", "/lake?list-type=2&prefix=x", "ListObjectsV2", ""),
        ("GET", "/lake/?list-type=2", "ListObjectsV2", ""),
        ("POST", "/lake?delete", "DeleteObjects", ""),
        ("HEAD", "/lake", "HeadBucket", ""),
        ("PUT", "/lake", "CreateBucket", ""),
    ],
)
def test_s3_is_known_by_method_and_path(method: str, path: str, operation: str, key: str) -> None:
    """Each S3 operation the product uses has its own name, as in botocore."""
    assert recognised(method, path) == ("s3", operation, "lake", key)
    assert services.is_known(f"s3:{operation}")


def test_a_copy_is_no_put() -> None:
    """The same method and path, but a source."""
    assert recognised("PUT", "/lake/a", x_amz_copy_source="lake/b")[1] == "CopyObject"


@pytest.mark.parametrize("host", ["lake.s3.amazonaws.com", "lake.localhost:4566", "lake.s3.local"])
def test_a_bucket_may_be_in_the_host(host: str) -> None:
    """Virtual-host style: the path is the key alone."""
    assert recognised("PUT", "/a/b", Host=host) == ("s3", "PutObject", "lake", "a/b")


def test_query_services_name_the_operation_in_the_body() -> None:
    """SNS is known by its signature, its operation by the body."""
    assert recognised("POST", "/", "sns")[:2] == ("sns", "")
    assert services.query_operation(b"Action=Publish&Version=2010-03-31&Message=a%26b") == "Publish"


def test_a_presigned_url_is_recognised() -> None:
    """The signature may be in the query."""
    path = "/lake/a?X-Amz-Credential=k%2F20260101%2Fus-east-1%2Fs3%2Faws4_request"
    headers = CIMultiDict({"Host": "localhost:4566"})
    assert services.recognise("GET", path, headers) == ("s3", "GetObject", "lake", "a")


def test_others_are_left_alone() -> None:
    """Services without faults, and requests nobody signed, are passed on."""
    assert recognised("POST", "/", "sts")[0] == services.UNKNOWN
    assert services.recognise("GET", "/_ministack/health", CIMultiDict())[0] == services.UNKNOWN


# Refusing


def parsed(service: str, operation: str, answer: answers.Answer) -> dict[str, Any]:
    """What botocore makes of an answer."""
    model = botocore_session.get_session().get_service_model(service)
    parser = parsers.create_parser(model.resolved_protocol)
    headers = {name.lower(): value for name, value in answer.headers.items()}
    given = {"status_code": answer.status, "headers": headers, "body": answer.body}
    result: dict[str, Any] = parser.parse(given, model.operation_model(operation).output_shape)
    return result


def asked(service: str, operation: str, content_type: str = "") -> answers.Asked:
    """A request that is to be refused."""
    return answers.Asked(service, operation, content_type, "POST", "fault-proxy-7")


@pytest.mark.parametrize(
    ("service", "operation", "status", "code"),
    [
        ("kinesis", "PutRecords", 400, "ProvisionedThroughputExceededException"),
        ("kinesis", "ListShards", 400, "LimitExceededException"),
        ("dynamodb", "UpdateItem", 400, "ProvisionedThroughputExceededException"),
        ("dynamodb", "DescribeTable", 400, "ThrottlingException"),
        ("s3", "PutObject", 503, "SlowDown"),
        ("glue", "BatchCreatePartition", 400, "ThrottlingException"),
        ("sns", "Publish", 400, "Throttling"),
        ("athena", "StartQueryExecution", 400, "ThrottlingException"),
    ],
)
def test_throttling_is_each_services_own(
    service: str, operation: str, status: int, code: str
) -> None:
    """The SDK reads the code and the status that the service would have given."""
    refusal = answers.throttled(service, operation)
    found = parsed(service, operation, answers.answer(asked(service, operation), refusal))
    assert (found["Error"]["Code"], found["ResponseMetadata"]["HTTPStatusCode"]) == (code, status)
    assert found["Error"]["Message"]
    assert found["ResponseMetadata"]["RequestId"] == "fault-proxy-7"


@pytest.mark.parametrize("service", services.SERVICES)
def test_every_service_can_fail(service: str) -> None:
    """Internal errors are 500, outages 503, with a code, in each service's protocol."""
    operation = {"s3": "PutObject", "sns": "Publish"}.get(service, "TagResource")
    for table, status in ((answers.INTERNAL, 500), (answers.UNAVAILABLE, 503)):
        answer = answers.answer(asked(service, operation), table[service])
        assert answer.status == status
        code = parsed(service, operation, answer)["Error"]["Code"]
        assert code == table[service].code.rpartition("#")[2]


def test_a_condition_fails_as_in_dynamodb() -> None:
    """The exception that the progress store tells from all others."""
    answer = answers.answer(asked("dynamodb", "UpdateItem"), answers.CONDITION_FAILED)
    code = parsed("dynamodb", "UpdateItem", answer)["Error"]["Code"]
    assert (answer.status, code) == (400, "ConditionalCheckFailedException")


def test_a_refusal_of_cbor_is_cbor() -> None:
    """The Java SDK is answered in the encoding it asked in."""
    request = asked("kinesis", "GetRecords", documents.CBOR_TYPE)
    answer = answers.answer(request, answers.EXPIRED_ITERATOR)
    assert answer.headers["Content-Type"] == documents.CBOR_TYPE
    assert cbor.decode(answer.body)["__type"] == "ExpiredIteratorException"


# CBOR


@pytest.mark.parametrize(
    ("data", "value"),
    [
        ("00", 0),
        ("1818", 24),
        ("1a000f4240", 1_000_000),
        ("1bffffffffffffffff", 2**64 - 1),
        ("3903e7", -1000),
        ("fb3ff199999999999a", 1.1),
        ("f4", False),
        ("f6", None),
        ("4401020304", b"\x01\x02\x03\x04"),
        ("62c3bc", "ü"),
        ("83010203", [1, 2, 3]),
        ("a26161016162820203", {"a": 1, "b": [2, 3]}),
        ("c11a514b67b0", cbor.Tagged(1, 1363896240)),
    ],
)
def test_cbor_is_that_of_the_rfc(data: str, value: object) -> None:
    """Examples of RFC 8949, appendix A, read and written."""
    assert cbor.decode(bytes.fromhex(data)) == value
    assert cbor.encode(value) == bytes.fromhex(data)


@pytest.mark.parametrize(
    ("data", "value"),
    [
        ("5f42010243030405ff", b"\x01\x02\x03\x04\x05"),
        ("7f657374726561646d696e67ff", "streaming"),
        ("9f018202039f0405ffff", [1, [2, 3], [4, 5]]),
        ("bf61610161629f0203ffff", {"a": 1, "b": [2, 3]}),
        ("f93c00", 1.0),
        ("fa47c35000", 100000.0),
    ],
)
def test_cbor_without_lengths_is_read(data: str, value: object) -> None:
    """Items of indefinite length (RFC 8949, appendix A), as the Java SDK writes them."""
    assert cbor.decode(bytes.fromhex(data)) == value


@pytest.mark.parametrize(
    "data", ["", "61", "42ff", "9f01", "1c", "ff00", "81" * 40 + "00", "e0", "61ff", "bf01ff"]
)
def test_broken_cbor_is_an_error(data: str) -> None:
    """What is cut off, nested without end or unknown is refused, not guessed."""
    with pytest.raises(ValueError, match="no CBOR"):
        documents.decode("cbor", bytes.fromhex(data))


# Records


def test_a_hash_key_is_explicit_or_md5() -> None:
    """The shard of a record is found as Kinesis finds it."""
    assert records.hash_key_of({"PartitionKey": "a", "ExplicitHashKey": "17"}) == 17
    assert records.hash_key_of({"PartitionKey": "a"}) == 0x0CC175B9C0F1B6A831C399E269772661


def test_records_of_a_slot_are_found() -> None:
    """Slots are known by their explicit hash keys; a record without one is in none."""
    sent = [{"ExplicitHashKey": str(slots.hash_key_of(slot))} for slot in (0, 5, 63, 5)]
    assert records.in_slots([*sent, {"PartitionKey": "a"}], [5, 63], 64) == [1, 2, 3]


def test_an_answer_is_put_together_in_order() -> None:
    """Refused records are answered at their places, and the service's own failures count too."""
    merged = records.merged(ANSWER, {0: "rate", 3: "rate"}, 4)
    codes = [each.get("ErrorCode") for each in merged["Records"]]
    assert codes == [records.THROTTLE_CODE, None, "InternalFailure", records.THROTTLE_CODE]
    assert (merged["FailedRecordCount"], merged["EncryptionType"]) == (3, "NONE")


def test_refused_records_are_not_sent() -> None:
    """The others go in their order, and the rest of the request as it was."""
    document = {"StreamName": "a", "Records": [{"PartitionKey": key} for key in "abc"]}
    left = records.without(document, {1: "rate"})
    assert left == {"StreamName": "a", "Records": [{"PartitionKey": "a"}, {"PartitionKey": "c"}]}


@pytest.mark.parametrize("data", [b"", b"a", b"ab", b"abc", b"abcd"])
def test_size_is_that_of_the_data(data: bytes) -> None:
    """Base64 is larger than what it holds; CBOR holds it as it is; the key counts."""
    encoded = documents.encode("json", {"d": data}).decode().split('"')[3]
    for blob in (data, encoded):
        assert records.size_bytes_of({"Data": blob, "PartitionKey": "ü"}) == len(data) + 2


@pytest.mark.parametrize(
    ("moment", "later"),
    [
        (1_751_876_489.25, 1_751_876_549.25),
        (1_751_876_489_250, 1_751_876_549_250),
        (cbor.Tagged(1, 1_751_876_489_250), cbor.Tagged(1, 1_751_876_549_250)),
    ],
)
def test_times_move_in_their_own_unit(moment: object, later: object) -> None:
    """Seconds in JSON, milliseconds in CBOR."""
    assert records.shifted(moment, 60.0) == later


# Shards


def listed(shard_id: str, first: int, last: int, end: str | None = None) -> dict[str, Any]:
    """A shard as ListShards gives it."""
    numbers = {"StartingSequenceNumber": "1"} | ({"EndingSequenceNumber": end} if end else {})
    keys = {"StartingHashKey": str(first), "EndingHashKey": str(last)}
    return {"ShardId": shard_id, "HashKeyRange": keys, "SequenceNumberRange": numbers}


def test_a_hash_key_falls_into_an_open_shard() -> None:
    """After a split the children take the keys, the closed parent none."""
    known = shards.ShardMap()
    parent = listed("parent", 0, 2**128 - 1, end="9")
    known.learn("a", [parent, listed("high", HALF, 2**128 - 1), listed("low", 0, HALF - 1)], 0.0)
    ids = [known.place("a", key) for key in (0, HALF - 1, HALF, 2**128 - 1)]
    assert [place and place.shard_id for place in ids] == ["low", "low", "high", "high"]
    assert known.place("b", 0) is None
    assert known.knows("a", "low")
    assert not known.knows("a", "parent")


def test_a_shard_map_grows_old() -> None:
    """It is listed again now and then, and when it was forgotten."""
    known = shards.ShardMap()
    known.learn("a", [listed("only", 0, 2**128 - 1)], now=10.0)
    assert not known.is_stale("a", now=11.0)
    assert known.is_stale("a", now=10.0 + shards.REFRESH_SECONDS)
    known.forget("a")
    assert known.is_stale("a", now=10.0)


def test_only_the_latest_iterators_are_remembered() -> None:
    """Memory is bounded: the oldest go first."""
    iterators = shards.Iterators(most=2)
    for name in ("i", "j", "i", "k"):
        iterators.remember(name, shards.Place("a", name))
    assert iterators.place("j") is None
    assert iterators.place("i") == ("a", "i")


@pytest.mark.parametrize("form", ["json", "cbor"])
def test_the_next_iterator_is_found_in_the_bytes(form: documents.Form) -> None:
    """Also when a partition key looks like it, and none when the shard has ended."""
    fake = '"NextShardIterator":"no"'
    answer = {"NextShardIterator": "AAA=", "Records": [{"PartitionKey": fake}]}
    assert shards.next_iterator(documents.encode(form, answer), form) == "AAA="
    ended = {"Records": [{"PartitionKey": fake}], "MillisBehindLatest": 0}
    assert shards.next_iterator(documents.encode(form, ended), form) is None
    ended["NextShardIterator"] = None
    assert shards.next_iterator(documents.encode(form, ended), form) is None
