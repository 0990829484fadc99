"""A stream, a bucket and a table behind a fault proxy, seen through it and past it."""

import http.client
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

import boto3
import msgspec
from botocore.config import Config
from botocore.exceptions import ClientError

from telemill import slots
from telemill.testing.faults.process import Proxy

RAW_TIMEOUT_SECONDS = 60.0

Answered = tuple[int, dict[str, str], bytes]


class Lab:
    """What a test of faults needs. Streams, buckets and tables are made when first named.

    Its clients try once: botocore's own retries would hide the faults.

    Attributes:
        proxy: In front of the emulator.
        key: Of the table's only item.
    """

    key = {"id": {"S": "a"}}  # noqa: RUF012 - DynamoDB's form of a constant

    def __init__(self, proxy: Proxy, emulator_url: str, stack: ExitStack) -> None:
        self.proxy = proxy
        self._emulator_url = emulator_url
        self._stack = stack

    def through(self, service: str, **settings: Any) -> Any:
        """A client which meets faults; `settings` are botocore's."""
        return self._client(service, self.proxy.url, settings)

    def past(self, service: str) -> Any:
        """A client which sees what the emulator holds."""
        return self._client(service, self._emulator_url, {})

    @cached_property
    def stream(self) -> str:
        """A stream of two shards, empty."""
        kinesis, name = self.past("kinesis"), _fresh_name()
        kinesis.create_stream(StreamName=name, ShardCount=2)
        kinesis.get_waiter("stream_exists").wait(StreamName=name)
        return name

    @cached_property
    def bucket(self) -> str:
        """A bucket, empty."""
        name = _fresh_name()
        self.past("s3").create_bucket(Bucket=name)
        return name

    @cached_property
    def table(self) -> str:
        """A table with one item, whose n is 1."""
        dynamodb, name = self.past("dynamodb"), _fresh_name()
        dynamodb.create_table(
            TableName=name,
            BillingMode="PAY_PER_REQUEST",
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        )
        dynamodb.get_waiter("table_exists").wait(TableName=name)
        dynamodb.put_item(TableName=name, Item=self.key | {"n": {"N": "1"}})
        return name

    def held(self) -> list[bytes]:
        """The data that the stream really holds, sorted."""
        kinesis = self.past("kinesis")
        found: list[bytes] = []
        for shard_id in self.shard_ids():
            answer = kinesis.get_records(ShardIterator=self.iterator_of(kinesis, shard_id))
            found += [record["Data"] for record in answer["Records"]]
        return sorted(found)

    def shard_ids(self) -> list[str]:
        """The stream's shards."""
        listed = self.past("kinesis").list_shards(StreamName=self.stream)["Shards"]
        return [shard["ShardId"] for shard in listed]

    def iterator_of(self, kinesis: Any, shard_id: str) -> str:
        """An iterator from the beginning of a shard, from a client."""
        answer = kinesis.get_shard_iterator(
            StreamName=self.stream, ShardId=shard_id, ShardIteratorType="TRIM_HORIZON"
        )
        return str(answer["ShardIterator"])

    def keys(self) -> list[str]:
        """The keys that the bucket really holds."""
        answer = self.past("s3").list_objects_v2(Bucket=self.bucket)
        return [each["Key"] for each in answer.get("Contents", [])]

    def number(self) -> int:
        """The n that the table's item really has."""
        answer = self.past("dynamodb").get_item(
            TableName=self.table, Key=self.key, ConsistentRead=True
        )
        return int(answer["Item"]["n"]["N"])

    def set_number(self, dynamodb: Any, number: int, after: int | None = None) -> None:
        """Set n by a client; if `after` is given, on condition that it is this now."""
        values = {":n": {"N": str(number)}}
        condition = {}
        if after is not None:
            values[":after"] = {"N": str(after)}
            condition = {"ConditionExpression": "n = :after"}
        dynamodb.update_item(
            TableName=self.table,
            Key=self.key,
            UpdateExpression="SET n = :n",
            ExpressionAttributeValues=values,
            **condition,
        )

    def raw(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Answered:
        """One HTTP request to the proxy, as it is written: status, headers, body."""
        place = urlsplit(self.proxy.url).netloc
        connection = http.client.HTTPConnection(place, timeout=RAW_TIMEOUT_SECONDS)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            named = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, named, answer.read()
        finally:
            connection.close()

    def faults(self) -> list[dict[str, Any]]:
        """The faults that the proxy has logged."""
        lines = self.proxy.log_path.read_bytes().splitlines()
        entries = [msgspec.json.decode(line) for line in lines]
        return [entry for entry in entries if "fault" in entry]

    def _client(self, service: str, url: str, settings: dict[str, Any]) -> Any:
        config = Config(retries={"total_max_attempts": 1, "mode": "standard"}, **settings)
        client = boto3.client(service, endpoint_url=url, config=config)
        self._stack.callback(client.close)
        return client


@contextmanager
def opened(proxy: Proxy, emulator_url: str) -> Iterator[Lab]:
    """A lab whose proxy is healthy before and after, and whose clients are closed at the end."""
    proxy.heal()
    with ExitStack() as stack:
        yield Lab(proxy, emulator_url, stack)
    proxy.heal()


def in_slot(slot: int, data: bytes) -> dict[str, Any]:
    """A record of a slot, as the product's writer puts it."""
    return {"Data": data, "PartitionKey": "k", "ExplicitHashKey": str(slots.hash_key_of(slot))}


def many(count: int) -> list[dict[str, Any]]:
    """Records all over the slots, each with its own data."""
    return [in_slot(index % slots.DEFAULT_SLOT_COUNT, b"%d" % index) for index in range(count)]


def signed(service: str) -> dict[str, str]:
    """The header by which a request says which service it is for."""
    scope = f"Credential=local/20260101/us-east-1/{service}/aws4_request"
    return {"Authorization": f"AWS4-HMAC-SHA256 {scope}"}


def code_of(error: ClientError) -> tuple[str, int]:
    """Error code and HTTP status of an SDK's exception."""
    response = error.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


def _fresh_name() -> str:
    return f"faults-{uuid.uuid4().hex}"
