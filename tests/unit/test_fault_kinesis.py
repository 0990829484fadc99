"""Shard limits over a stream that is resharded, by a clock that stands still."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from telemill.testing.faults import Plan, records
from telemill.testing.faults.answers import Answer, Asked
from telemill.testing.faults.exchange import Exchange
from telemill.testing.faults.injector import Injector
from telemill.testing.faults.journal import Journal
from telemill.testing.faults.kinesis import Kinesis
from telemill.testing.faults.services import Target
from telemill.testing.faults.shards import REFRESH_SECONDS
from telemill.testing.virtual_time import VirtualTime

HALF = 2**127
ONE_SHARD = {"only": (0, 2 * HALF - 1)}
TWO_SHARDS = {"low": (0, HALF - 1), "high": (HALF, 2 * HALF - 1)}


class Stream:
    """An emulator with one stream: takes everything, and lists one shard a page."""

    def __init__(self, shards: dict[str, tuple[int, int]]) -> None:
        self.shards = shards
        self.is_missing = False
        self.lists = 0

    async def send(self, body: bytes, headers: Mapping[str, str] | None) -> Answer:
        """Answer ListShards where the proxy asks for itself, else what is asked."""
        document = msgspec.json.decode(body)
        if self.is_missing:
            return Answer(400, {}, b'{"__type":"ResourceNotFoundException"}')
        if headers is not None:
            assert headers["X-Amz-Target"].endswith("ListShards")
            return self._answer(self._page(int(document.get("NextToken", 0))))
        if "ShardIterator" in document:
            return self._answer({"Records": [], "NextShardIterator": document["ShardIterator"]})
        if "ShardIteratorType" in document:
            return self._answer({"ShardIterator": document["ShardId"]})
        taken = [{"ShardId": self._shard_of(record)} for record in document["Records"]]
        return self._answer({"FailedRecordCount": 0, "Records": taken})

    def _page(self, at: int) -> dict[str, Any]:
        self.lists += at == 0
        shard_id, (first, last) = list(self.shards.items())[at]
        shard = {
            "ShardId": shard_id,
            "HashKeyRange": {"StartingHashKey": str(first), "EndingHashKey": str(last)},
            "SequenceNumberRange": {"StartingSequenceNumber": "1"},
        }
        more = {"NextToken": str(at + 1)} if at + 1 < len(self.shards) else {}
        return {"Shards": [shard]} | more

    def _shard_of(self, record: dict[str, Any]) -> str:
        key = records.hash_key_of(record)
        return next(name for name, (first, last) in self.shards.items() if first <= key <= last)

    def _answer(self, document: dict[str, Any]) -> Answer:
        return Answer(200, {}, msgspec.json.encode(document))


class Caller:
    """Calls through the proxy's Kinesis part."""

    def __init__(self, injector: Injector, stream: Stream, time: VirtualTime) -> None:
        self.injector = injector
        self.stream = stream
        self._kinesis = Kinesis(injector, time.clock)

    async def call(self, operation: str, document: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Status and document of an answer."""
        target = Target("kinesis", operation)
        body = msgspec.json.encode(document)
        call = self.injector.arrived(target, body)
        asked = Asked("kinesis", operation, "application/x-amz-json-1.1", "POST", "1")
        headers = {"Authorization": "signed"}
        exchange = Exchange(call, target, asked, headers, body, self.stream.send)
        answer = await self._kinesis.carry(exchange)
        return answer.status, msgspec.json.decode(answer.body)

    async def put(self, *hash_keys: int) -> int:
        """How many of some records are taken."""
        sent = [
            {"Data": "eA==", "PartitionKey": "k", "ExplicitHashKey": str(key)} for key in hash_keys
        ]
        _, answer = await self.call("PutRecords", {"StreamName": "a", "Records": sent})
        assert len(answer["Records"]) == len(sent)
        return len(sent) - int(answer["FailedRecordCount"])

    async def get(self, iterator: str) -> int:
        """The status of a GetRecords."""
        return (await self.call("GetRecords", {"ShardIterator": iterator}))[0]


@pytest.fixture
def time() -> VirtualTime:
    """A clock that stands still."""
    return VirtualTime()


@pytest.fixture
def caller(tmp_path: Path, time: VirtualTime) -> Iterator[Caller]:
    """Calls on a stream of one shard, which has limits."""
    journal = Journal(tmp_path / "faults.ndjson")
    injector = Injector(1, journal, time.clock)
    injector.set_plan(Plan(shard_limits=True))
    yield Caller(injector, Stream(ONE_SHARD), time)
    journal.close()


async def test_a_shard_takes_a_thousand_records_over_several_calls(
    caller: Caller, time: VirtualTime
) -> None:
    """All callers of a shard share its limit, and time restores it."""
    assert [await caller.put(*[7] * 400) for _ in range(4)] == [400, 400, 200, 0]
    time.now_seconds += 0.25
    assert await caller.put(*[7] * 400) == 250
    assert caller.injector.journal.counts["shard_limits"] == 600 + 150


async def test_a_split_doubles_what_a_stream_takes(caller: Caller, time: VirtualTime) -> None:
    """Children have limits of their own, once the shards were listed again."""
    assert await caller.put(*[0, HALF] * 500) == 1000
    caller.stream.shards = TWO_SHARDS
    time.now_seconds += REFRESH_SECONDS
    assert await caller.put(*[0, HALF] * 1000) == 2000
    assert caller.stream.lists == 2


async def test_an_answer_from_an_unknown_shard_is_noticed(caller: Caller) -> None:
    """Where records went shows that the stream was resharded, before the map is old."""
    assert await caller.put(*[0] * 600) == 600
    caller.stream.shards = TWO_SHARDS
    assert await caller.put(*[0, HALF] * 300) == 400
    assert await caller.put(*[0, HALF] * 500) == 1000
    assert caller.stream.lists == 2


async def test_a_reshard_through_the_proxy_is_noticed_at_once(caller: Caller) -> None:
    """After SplitShard the shards are listed anew."""
    assert await caller.put(*[0, HALF] * 500) == 1000
    await caller.call("SplitShard", {"StreamName": "a", "Records": []})
    caller.stream.shards = TWO_SHARDS
    assert await caller.put(*[0, HALF] * 500) == 1000


async def test_a_stream_that_cannot_be_listed_has_no_limits(caller: Caller) -> None:
    """The emulator's own answer is passed on."""
    caller.stream.is_missing = True
    status, answer = await caller.call(
        "PutRecords", {"StreamName": "a", "Records": [{"Data": "eA==", "PartitionKey": "k"}]}
    )
    assert (status, answer["__type"]) == (400, "ResourceNotFoundException")


@pytest.mark.parametrize(
    "sent",
    [
        [],
        [{"PartitionKey": "k"}],
        [{"Data": "eA=="}],
        [{"Data": "eA==", "PartitionKey": "k", "ExplicitHashKey": "x"}],
        "none",
    ],
)
async def test_what_is_no_put_records_is_the_emulators_to_refuse(
    caller: Caller, sent: object
) -> None:
    """Requests the service would not take are passed on as they are."""
    caller.stream.is_missing = True
    assert (await caller.call("PutRecords", {"StreamName": "a", "Records": sent}))[0] == 400


async def test_readers_of_a_shard_share_five_calls_a_second(
    caller: Caller, time: VirtualTime
) -> None:
    """An iterator is of the shard it was given for, and so are those that follow it."""
    for shard_id in ("only", "other"):
        asked = {"StreamName": "a", "ShardId": shard_id, "ShardIteratorType": "LATEST"}
        await caller.call("GetShardIterator", asked)
    assert [await caller.get("only") for _ in range(7)] == [200] * 5 + [400] * 2
    assert await caller.get("other") == 200
    time.now_seconds += 0.2
    assert [await caller.get("only") for _ in range(2)] == [200, 400]


async def test_an_iterator_from_before_is_let_pass(caller: Caller) -> None:
    """Nobody knows its shard: it is not limited, and does not fail."""
    assert [await caller.get("never seen") for _ in range(9)] == [200] * 9
