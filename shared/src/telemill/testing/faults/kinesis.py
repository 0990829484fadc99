"""Kinesis calls: single records fail, shards have limits, the service's clock is off."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from telemill.testing.faults import answers, decide, documents, records
from telemill.testing.faults.answers import Answer
from telemill.testing.faults.exchange import Exchange
from telemill.testing.faults.injector import Injector
from telemill.testing.faults.records import Document
from telemill.testing.faults.shards import Iterators, Limits, Place, ShardMap, next_iterator

OK = 200
LIST_SHARDS = "Kinesis_20131202.ListShards"
RESHARDS = frozenset(
    {"CreateStream", "DeleteStream", "MergeShards", "SplitShard", "UpdateShardCount"}
)


class Kinesis:
    """Carries Kinesis calls that meet no fault as a whole.

    Args:
        injector: The plan, and where faults are noted.
        monotonic: Clock of the shards' limits.
    """

    def __init__(self, injector: Injector, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._injector = injector
        self._monotonic = monotonic
        self._shards = ShardMap()
        self._iterators = Iterators()
        self._limits = Limits()

    async def carry(self, exchange: Exchange) -> Answer:
        """The answer to a call: the emulator's, or what the faults make of it."""
        operation = exchange.call.operation
        if operation == "PutRecords" and self._concerns_records(exchange):
            return await self._put_records(exchange)
        if operation == "PutRecord" and self._concerns_records(exchange):
            return await self._put_record(exchange)
        if operation == "GetRecords":
            return await self._get_records(exchange)
        if operation == "GetShardIterator":
            return await self._get_shard_iterator(exchange)
        answer = await exchange.send(exchange.body, None)
        if operation in RESHARDS:
            self._shards.forget(records.stream_of(exchange.document()))
        return answer

    def place_of_iterator(self, exchange: Exchange) -> dict[str, Any]:
        """Facts of a GetRecords, as far as its iterator is known."""
        place = self._iterators.place(str(exchange.document().get("ShardIterator")))
        return {} if place is None else _facts(place)

    def _concerns_records(self, exchange: Exchange) -> bool:
        """Whether the body has to be read at all: it is up to 14 MB of JSON."""
        plan, call = self._injector.plan, exchange.call
        partial = plan.partial_failure and plan.applies_to(call.service, call.operation)
        return bool(partial or plan.failing_slots or plan.shard_limits)

    async def _put_records(self, exchange: Exchange) -> Answer:
        document = exchange.document()
        sent = document.get("Records") or []
        if not _are_records(sent):
            return await exchange.send(exchange.body, None)
        refused = await self._refused(exchange, document, sent)
        if not refused:
            return await exchange.send(exchange.body, None)
        if len(refused) == len(sent):
            taken: Answer | None = None
            result: Document = {}
        else:
            left = exchange.encoded(records.without(document, refused))
            taken = await exchange.send(left, None)
            if taken.status != OK:
                return taken
            result = documents.decode(exchange.form, taken.body)
            self._check_shards(records.stream_of(document), result)
        body = exchange.encoded(records.merged(result, refused, len(sent)))
        return Answer(OK, taken.headers if taken else _headers(exchange), body)

    async def _put_record(self, exchange: Exchange) -> Answer:
        document = exchange.document()
        if not _are_records([document]):
            return await exchange.send(exchange.body, None)
        refused = await self._refused(exchange, document, [document])
        if refused:
            return exchange.refused(answers.Refusal(400, records.THROTTLE_CODE, refused[0]))
        return await exchange.send(exchange.body, None)

    async def _refused(
        self, exchange: Exchange, document: Document, sent: list[Document]
    ) -> dict[int, str]:
        """Why records are not to be put, by index. Notes them."""
        plan, call = self._injector.plan, exchange.call
        stream = records.stream_of(document)
        known = {"stream": stream, "of_records": len(sent)}
        refused: dict[int, str] = {}

        def refuse(fault: str, indexes: list[int], text: str, **more: Any) -> None:
            fresh = [index for index in indexes if index not in refused]
            refused.update(dict.fromkeys(fresh, text))
            if fresh:
                self._injector.note_records(call, fault, fresh, known | more)

        text = answers.rate_exceeded(f"a shard in stream {stream}")
        refuse("failing_slots", records.in_slots(sent, plan.failing_slots, plan.slot_count), text)
        if call.operation == "PutRecords":
            failing = decide.failing_records(self._injector.seed, plan, call, len(sent))
            refuse("partial_failure", failing, text)
        if plan.shard_limits:
            candidates = [index for index in range(len(sent)) if index not in refused]
            for place, indexes in (
                await self._over_limit(exchange, stream, sent, candidates)
            ).items():
                text = answers.rate_exceeded(str(place))
                refuse("shard_limits", indexes, text, shard=place.shard_id)
        return refused

    async def _over_limit(
        self, exchange: Exchange, stream: str, sent: list[Document], candidates: list[int]
    ) -> dict[Place, list[int]]:
        """Of some records those that their shards do not take now; the others count."""
        hash_keys = {index: records.hash_key_of(sent[index]) for index in candidates}
        await self._refresh(exchange, stream, hash_keys)
        now = self._monotonic()
        over: dict[Place, list[int]] = {}
        for index, hash_key in hash_keys.items():
            place = self._shards.place(stream, hash_key)
            if place is None:
                continue
            size_bytes = records.size_bytes_of(sent[index])
            if not self._limits.of(place, now).take_record(size_bytes, now):
                over.setdefault(place, []).append(index)
        return over

    async def _refresh(self, exchange: Exchange, stream: str, hash_keys: Mapping[int, int]) -> None:
        """List the stream's shards again, now and then and when one is unknown."""
        unknown = any(self._shards.place(stream, key) is None for key in hash_keys.values())
        if not unknown and not self._shards.is_stale(stream, self._monotonic()):
            return
        listed = await self._list_shards(exchange, stream)
        if listed:
            self._shards.learn(stream, listed, self._monotonic())

    async def _list_shards(self, exchange: Exchange, stream: str) -> list[Document]:
        """As the caller would list them; none if the emulator does not say."""
        headers = {name: exchange.headers[name] for name in _SIGNED if name in exchange.headers}
        headers |= {"X-Amz-Target": LIST_SHARDS, "Content-Type": "application/x-amz-json-1.1"}
        listed: list[Document] = []
        asked: Document = {"StreamName": stream}
        while True:
            answer = await exchange.send(documents.encode("json", asked), headers)
            if answer.status != OK:
                return []
            page = documents.decode("json", answer.body)
            listed += page["Shards"]
            if not page.get("NextToken"):
                return listed
            asked = {"NextToken": page["NextToken"]}

    def _check_shards(self, stream: str, result: Document) -> None:
        """Forget a shard map that the answer proves old."""
        for record in result.get("Records", []):
            shard_id = record.get("ShardId")
            if shard_id and not self._shards.knows(stream, shard_id):
                self._shards.forget(stream)
                return

    async def _get_records(self, exchange: Exchange) -> Answer:
        plan = self._injector.plan
        place = self._iterators.place(str(exchange.document().get("ShardIterator")))
        now = self._monotonic()
        if plan.shard_limits and place and not self._limits.of(place, now).take_call(now):
            self._injector.note(exchange.call, "shard_limits", _facts(place))
            return exchange.refused(answers.throttled("kinesis", "GetRecords", str(place)))
        answer = await exchange.send(exchange.body, None)
        if answer.status != OK or not (place or plan.clock_skew_seconds):
            return answer
        if place and (iterator := next_iterator(answer.body, exchange.form)):
            self._iterators.remember(iterator, place)
        return self._looked_into(exchange, answer, place)

    def _looked_into(self, exchange: Exchange, answer: Answer, place: Place | None) -> Answer:
        """Count what the answer carries, and move its times."""
        plan = self._injector.plan
        if not (plan.shard_limits or plan.clock_skew_seconds):
            return answer
        document = documents.decode(exchange.form, answer.body)
        if plan.shard_limits and place:
            self._limits.of(place, self._monotonic()).gave(records.data_bytes(document))
        if not plan.clock_skew_seconds:
            return answer
        skewed = records.skewed_answer(document, plan.clock_skew_seconds)
        return answer._replace(body=exchange.encoded(skewed))

    async def _get_shard_iterator(self, exchange: Exchange) -> Answer:
        document, body = exchange.document(), exchange.body
        skew_seconds = self._injector.plan.clock_skew_seconds
        if skew_seconds and document:
            body = exchange.encoded(records.skewed_request(document, skew_seconds))
        answer = await exchange.send(body, None)
        if answer.status == OK:
            place = Place(records.stream_of(document), str(document.get("ShardId")))
            given = documents.decode(exchange.form, answer.body)
            self._iterators.remember(str(given.get("ShardIterator")), place)
        return answer


_SIGNED = ("Host", "Authorization", "X-Amz-Date", "X-Amz-Security-Token", "User-Agent")


def _are_records(sent: Any) -> bool:
    """Whether they are what the service takes; what is not, the emulator is to refuse."""
    return isinstance(sent, list) and len(sent) > 0 and all(map(_is_record, sent))


def _is_record(sent: Any) -> bool:
    return (
        isinstance(sent, dict)
        and isinstance(sent.get("Data"), str | bytes)
        and isinstance(sent.get("PartitionKey"), str)
        and str(sent.get("ExplicitHashKey") or 0).isdecimal()
    )


def _facts(place: Place) -> dict[str, Any]:
    return {"stream": place.stream, "shard": place.shard_id}


def _headers(exchange: Exchange) -> dict[str, str]:
    content_type = documents.CBOR_TYPE if exchange.form == "cbor" else "application/x-amz-json-1.1"
    return {"Content-Type": content_type, "x-amzn-RequestId": exchange.asked.request_id}
