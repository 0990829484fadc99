"""Which AWS service and operation a request is for. Pure: looks at the head, sometimes the body."""

import re
from collections.abc import Mapping
from functools import cache
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from botocore import session as botocore_session

SERVICES = ("kinesis", "dynamodb", "s3", "glue", "sns", "athena")
UNKNOWN = "unknown"
TARGETS = {
    "Kinesis_20131202": "kinesis",
    "DynamoDB_20120810": "dynamodb",
    "AWSGlue": "glue",
    "AmazonAthena": "athena",
}
"""`X-Amz-Target` is one of these, a dot, and the operation."""

WRITES = frozenset(
    {
        ("kinesis", "PutRecord"),
        ("kinesis", "PutRecords"),
        ("dynamodb", "BatchWriteItem"),
        ("dynamodb", "DeleteItem"),
        ("dynamodb", "PutItem"),
        ("dynamodb", "TransactWriteItems"),
        ("dynamodb", "UpdateItem"),
        ("s3", "CompleteMultipartUpload"),
        ("s3", "CopyObject"),
        ("s3", "DeleteObject"),
        ("s3", "DeleteObjects"),
        ("s3", "PutObject"),
        ("s3", "UploadPart"),
        ("glue", "BatchCreatePartition"),
        ("glue", "CreatePartition"),
        ("glue", "UpdatePartition"),
        ("sns", "Publish"),
        ("sns", "PublishBatch"),
    }
)
"""Where a lost answer leaves the caller in doubt about something that matters."""

_SCOPE = re.compile(r"Credential=[^/,\s]+/[^/]+/[^/]+/([a-z0-9-]+)/aws4_request")
_PATH_STYLE_HOST = re.compile(r"^(\d+(\.\d+){3}|\[.*\]|localhost|s3[.-].*)$")

_S3_OBJECT = {
    ("PUT", "uploadId"): "UploadPart",
    ("PUT", "tagging"): "PutObjectTagging",
    ("GET", "tagging"): "GetObjectTagging",
    ("GET", "attributes"): "GetObjectAttributes",
    ("GET", "uploadId"): "ListParts",
    ("POST", "uploads"): "CreateMultipartUpload",
    ("POST", "uploadId"): "CompleteMultipartUpload",
    ("DELETE", "uploadId"): "AbortMultipartUpload",
    ("PUT", ""): "PutObject",
    ("GET", ""): "GetObject",
    ("HEAD", ""): "HeadObject",
    ("DELETE", ""): "DeleteObject",
}
_S3_BUCKET = {
    ("GET", "list-type"): "ListObjectsV2",
    ("GET", "location"): "GetBucketLocation",
    ("GET", "uploads"): "ListMultipartUploads",
    ("GET", "versions"): "ListObjectVersions",
    ("GET", "versioning"): "GetBucketVersioning",
    ("PUT", "versioning"): "PutBucketVersioning",
    ("GET", "lifecycle"): "GetBucketLifecycleConfiguration",
    ("PUT", "lifecycle"): "PutBucketLifecycleConfiguration",
    ("POST", "delete"): "DeleteObjects",
    ("PUT", ""): "CreateBucket",
    ("GET", ""): "ListObjects",
    ("HEAD", ""): "HeadBucket",
    ("DELETE", ""): "DeleteBucket",
}


class Target(NamedTuple):
    """What a request is for.

    Attributes:
        service: One of `SERVICES`, or `UNKNOWN`: then it is passed on untouched.
        operation: As botocore names it; "" while only the body can tell (SNS).
        bucket: S3 only.
        key: S3 only; "" for a bucket's own operations.
    """

    service: str
    operation: str
    bucket: str = ""
    key: str = ""

    @property
    def is_write(self) -> bool:
        """Whether it changes data."""
        return (self.service, self.operation) in WRITES


def recognise(method: str, path: str, headers: Mapping[str, str]) -> Target:
    """The target of a request.

    Args:
        method: Of HTTP.
        path: As sent, with its query.
        headers: Case-insensitive.
    """
    prefix, _, operation = headers.get("X-Amz-Target", "").partition(".")
    if prefix in TARGETS:
        return Target(TARGETS[prefix], operation)
    service = _signed_service(path, headers.get("Authorization", ""))
    if service == "s3":
        return _s3_target(method, path, headers)
    if service == "sns":
        return Target("sns", "")
    return Target(UNKNOWN, "")


def query_operation(body: bytes) -> str:
    """The operation of a request in AWS's query protocol."""
    return dict(parse_qsl(body.decode("utf-8", errors="replace"))).get("Action", "")


def is_known(name: str) -> bool:
    """Whether a name is a service of ours, an operation of one, or `service:Operation`."""
    service, colon, operation = name.rpartition(":")
    if colon:
        return service in SERVICES and operation in _operations(service)
    return name in SERVICES or any(name in _operations(each) for each in SERVICES)


@cache
def _operations(service: str) -> frozenset[str]:
    model = botocore_session.get_session().get_service_model(service)
    return frozenset(model.operation_names)


def _signed_service(path: str, authorization: str) -> str:
    scope = _SCOPE.search(authorization)
    if scope is None and "X-Amz-Credential=" in path:
        scope = _SCOPE.search(unquote(path).replace("X-Amz-Credential=", "Credential="))
    return scope.group(1) if scope else ""


def _s3_target(method: str, path: str, headers: Mapping[str, str]) -> Target:
    url = urlsplit(path)
    bucket, key = _bucket_and_key(unquote(url.path), headers.get("Host", ""))
    if not bucket:
        return Target("s3", "ListBuckets")
    query = {name for name, _ in parse_qsl(url.query, keep_blank_values=True)}
    if method == "PUT" and key and "x-amz-copy-source" in headers:
        operation = "UploadPartCopy" if "uploadId" in query else "CopyObject"
    else:
        operation = _s3_operation(method, _S3_OBJECT if key else _S3_BUCKET, query)
    return Target("s3", operation, bucket, key)


def _s3_operation(method: str, table: Mapping[tuple[str, str], str], query: set[str]) -> str:
    for (its_method, parameter), operation in table.items():
        if its_method == method and (not parameter or parameter in query):
            return operation
    return method


def _bucket_and_key(path: str, host: str) -> tuple[str, str]:
    """Of both styles: the bucket is in the path, or the first label of the host."""
    name = host.rpartition(":")[0] or host
    if not _PATH_STYLE_HOST.match(name):
        return name.partition(".")[0], path.removeprefix("/")
    bucket, _, key = path.removeprefix("/").partition("/")
    return bucket, key
