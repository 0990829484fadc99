"""What a log line says about a call: names and keys, never data."""

from typing import Any

from telemill.testing.faults import documents, records
from telemill.testing.faults.services import Target

_NAMES = {"TableName": "table", "ShardId": "shard", "DatabaseName": "database", "Key": "key"}


def of_body(target: Target, body: bytes, content_type: str) -> dict[str, Any]:
    """Facts of a request with a JSON or CBOR body; none of another."""
    if target.service == "sns":
        return {}
    try:
        document = documents.decode(documents.form_of(content_type), body)
    except documents.DocumentError:
        return {}
    found = {fact: document[name] for name, fact in _NAMES.items() if name in document}
    if target.service == "kinesis":
        found |= of_kinesis(document)
    return found


def of_kinesis(document: dict[str, Any]) -> dict[str, Any]:
    """The stream, and how many records come."""
    found: dict[str, Any] = {}
    if stream := records.stream_of(document):
        found["stream"] = stream
    if isinstance(document.get("Records"), list):
        found["of_records"] = len(document["Records"])
    return found
