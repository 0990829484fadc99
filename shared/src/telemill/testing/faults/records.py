"""PutRecords and GetRecords documents: which record goes where, and taking records out. Pure."""

from collections.abc import Mapping, Sequence
from hashlib import md5
from typing import Any

from telemill import slots
from telemill.testing.faults import cbor, documents

THROTTLE_CODE = "ProvisionedThroughputExceededException"
LEAST_MILLISECONDS = 1e11
"""Larger times since the epoch are in milliseconds: in seconds it would be the year 5138."""

Document = dict[str, Any]


def stream_of(document: Mapping[str, Any]) -> str:
    """The stream a request names, by its name or ARN; "" if it names none."""
    name: str = document.get("StreamName") or ""
    return name or str(document.get("StreamARN") or "").rpartition("/")[2]


def hash_key_of(record: Mapping[str, Any]) -> int:
    """Where in the hash-key range a record goes, as Kinesis says."""
    explicit = record.get("ExplicitHashKey")
    if explicit:
        return int(explicit)
    digest = md5(str(record["PartitionKey"]).encode(), usedforsecurity=False).digest()
    return int.from_bytes(digest, "big")


def size_bytes_of(record: Mapping[str, Any]) -> int:
    """What counts against a shard's limit: data and partition key."""
    return documents.blob_bytes(record["Data"]) + len(str(record["PartitionKey"]).encode())


def in_slots(records: Sequence[Mapping[str, Any]], failing: Sequence[int], count: int) -> list[int]:
    """Indexes of the records put to one of some slots by explicit hash key."""
    keys = {str(slots.hash_key_of(slot, count)) for slot in failing}
    return [index for index, record in enumerate(records) if record.get("ExplicitHashKey") in keys]


def without(document: Document, refused: Mapping[int, str]) -> Document:
    """A PutRecords that puts only the records that are not refused."""
    kept = [each for index, each in enumerate(document["Records"]) if index not in refused]
    return document | {"Records": kept}


def merged(answer: Document, refused: Mapping[int, str], count: int) -> Document:
    """The answer to all `count` records, from the one to those that were not refused.

    Args:
        answer: Of the service; its records may have failed too.
        refused: Why, by index.
        count: How many records the caller sent.
    """
    results = iter(answer.get("Records", []))
    records = [
        {"ErrorCode": THROTTLE_CODE, "ErrorMessage": refused[index]}
        if index in refused
        else next(results)
        for index in range(count)
    ]
    failed = sum(1 for record in records if record.get("ErrorCode"))
    return answer | {"FailedRecordCount": failed, "Records": records}


def data_bytes(answer: Document) -> int:
    """What of a GetRecords answer counts against a shard's limit."""
    return sum(documents.blob_bytes(record["Data"]) for record in answer.get("Records", []))


def skewed_answer(answer: Document, seconds: float) -> Document:
    """A GetRecords answer whose records arrived by another clock."""
    name = "ApproximateArrivalTimestamp"
    moved = [
        record | {name: shifted(record[name], seconds)} if record.get(name) is not None else record
        for record in answer.get("Records", [])
    ]
    return answer | {"Records": moved}


def skewed_request(document: Document, seconds: float) -> Document:
    """A GetShardIterator as the service's true clock would have to be asked."""
    if document.get("Timestamp") is None:
        return document
    return document | {"Timestamp": shifted(document["Timestamp"], -seconds)}


def shifted(moment: Any, seconds: float) -> Any:
    """A time since the epoch, in seconds or milliseconds, tagged or not, moved."""
    if isinstance(moment, cbor.Tagged):
        return cbor.Tagged(moment.tag, shifted(moment.value, seconds))
    if moment > LEAST_MILLISECONDS:
        return moment + round(seconds * 1000)
    return round(moment + seconds, 3)
