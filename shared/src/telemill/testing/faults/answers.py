"""How each service refuses a call, byte for byte as botocore and the other SDKs parse it."""

from collections.abc import Mapping
from typing import NamedTuple
from xml.sax.saxutils import escape

from telemill.testing.faults import documents

JSON_VERSION = {"kinesis": "1.1", "glue": "1.1", "athena": "1.1", "dynamodb": "1.0"}
DATA_PLANE = frozenset({"GetRecords", "GetShardIterator", "PutRecord", "PutRecords"})
"""Of Kinesis; its other operations are limited per account, under another name."""
_DYNAMODB = "com.amazonaws.dynamodb.v20120810#"
_CORAL = "com.amazon.coral.availability#"
_SNS_NAMESPACE = "http://sns.amazonaws.com/doc/2010-03-31/"


class Answer(NamedTuple):
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Refusal(NamedTuple):
    """An error of a service."""

    status: int
    code: str
    text: str


class Asked(NamedTuple):
    """What has to be known of a request to refuse it.

    Attributes:
        service: As in `services.SERVICES`.
        operation: As botocore names it.
        content_type: Of the request: Kinesis answers CBOR with CBOR.
        method: A HEAD has no body in its answer.
        request_id: Put into the answer, as the service's own.
    """

    service: str
    operation: str
    content_type: str
    method: str
    request_id: str


INTERNAL = {
    "kinesis": Refusal(500, "InternalFailure", "Internal service failure."),
    "dynamodb": Refusal(500, f"{_DYNAMODB}InternalServerError", "Internal server error"),
    "s3": Refusal(500, "InternalError", "We encountered an internal error. Please try again."),
    "glue": Refusal(500, "InternalServiceException", "Internal service failure."),
    "sns": Refusal(500, "InternalFailure", "Internal service failure."),
    "athena": Refusal(500, "InternalServerException", "Internal service failure."),
}
UNAVAILABLE = {
    "kinesis": Refusal(503, "ServiceUnavailable", "The service is unavailable."),
    "dynamodb": Refusal(503, f"{_CORAL}ServiceUnavailable", "The service is unavailable."),
    "s3": Refusal(503, "ServiceUnavailable", "Service is unable to handle request."),
    "glue": Refusal(503, "ServiceUnavailable", "The service is unavailable."),
    "sns": Refusal(503, "ServiceUnavailable", "The service is unavailable."),
    "athena": Refusal(503, "ServiceUnavailable", "The service is unavailable."),
}
EXPIRED_ITERATOR = Refusal(
    400, "ExpiredIteratorException", "Iterator expired. Iterators live for 300 seconds."
)
CONDITION_FAILED = Refusal(
    400, f"{_DYNAMODB}ConditionalCheckFailedException", "The conditional request failed"
)
_DYNAMODB_TABLE_OPERATIONS = ("Table", "Backup", "TimeToLive", "Tags", "Limits")


def throttled(service: str, operation: str, where: str = "") -> Refusal:
    """The service is called too often."""
    if service == "s3":
        return Refusal(503, "SlowDown", "Please reduce your request rate.")
    if service == "sns":
        return Refusal(400, "Throttling", "Rate exceeded")
    if service == "dynamodb":
        return _dynamodb_throttled(operation)
    if service != "kinesis":
        return Refusal(400, "ThrottlingException", "Rate exceeded")
    if operation in DATA_PLANE:
        return Refusal(400, "ProvisionedThroughputExceededException", rate_exceeded(where))
    return Refusal(400, "LimitExceededException", "Rate exceeded for this account.")


def rate_exceeded(where: str = "") -> str:
    """Kinesis's text; `where` is "shard … in stream …"."""
    return f"Rate exceeded for {where or 'shard'} under account 000000000000."


def _dynamodb_throttled(operation: str) -> Refusal:
    if operation.endswith(_DYNAMODB_TABLE_OPERATIONS):
        return Refusal(400, f"{_CORAL}ThrottlingException", "Rate of requests exceeds the limit.")
    return Refusal(
        400,
        f"{_DYNAMODB}ProvisionedThroughputExceededException",
        "The level of configured provisioned throughput for the table was exceeded. "
        "Consider increasing your provisioning level with the UpdateTable API.",
    )


def answer(asked: Asked, refusal: Refusal) -> Answer:
    """A refusal in the service's own protocol."""
    if asked.service == "s3":
        return _s3_answer(asked, refusal)
    if asked.service == "sns":
        return _sns_answer(asked, refusal)
    form = documents.form_of(asked.content_type)
    body = documents.encode(form, {"__type": refusal.code, "message": refusal.text})
    version = JSON_VERSION[asked.service]
    content_type = documents.CBOR_TYPE if form == "cbor" else f"application/x-amz-json-{version}"
    headers = {"Content-Type": content_type, "x-amzn-RequestId": asked.request_id}
    return Answer(refusal.status, headers, body)


def _s3_answer(asked: Asked, refusal: Refusal) -> Answer:
    headers = {"x-amz-request-id": asked.request_id}
    if asked.method == "HEAD":
        return Answer(refusal.status, headers, b"")
    text = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{escape(refusal.code)}</Code><Message>{escape(refusal.text)}</Message>"
        f"<RequestId>{asked.request_id}</RequestId><HostId>fault-proxy</HostId></Error>"
    )
    return Answer(refusal.status, headers | {"Content-Type": "application/xml"}, text.encode())


def _sns_answer(asked: Asked, refusal: Refusal) -> Answer:
    kind = "Receiver" if refusal.status >= 500 else "Sender"
    text = (
        f'<ErrorResponse xmlns="{_SNS_NAMESPACE}"><Error><Type>{kind}</Type>'
        f"<Code>{escape(refusal.code)}</Code><Message>{escape(refusal.text)}</Message></Error>"
        f"<RequestId>{asked.request_id}</RequestId></ErrorResponse>"
    )
    headers = {"x-amzn-RequestId": asked.request_id, "Content-Type": "text/xml"}
    return Answer(refusal.status, headers, text.encode())
