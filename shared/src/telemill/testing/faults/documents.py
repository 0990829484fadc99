"""Bodies of the JSON services, also Kinesis's CBOR, as the same Python values."""

from typing import Any, Literal

import msgspec

from telemill.testing.faults import cbor

CBOR_TYPE = "application/x-amz-cbor-1.1"
Form = Literal["json", "cbor"]


class DocumentError(ValueError):
    """A body is not what its content type says."""


def form_of(content_type: str) -> Form:
    """How a body of this content type is encoded."""
    return "cbor" if "cbor" in content_type else "json"


def decode(form: Form, body: bytes) -> dict[str, Any]:
    """The body's document. Blobs are base64 text in JSON and bytes in CBOR.

    Raises:
        DocumentError: It is none.
    """
    try:
        document = cbor.decode(body) if form == "cbor" else msgspec.json.decode(body)
    except (cbor.CborError, msgspec.DecodeError) as error:
        raise DocumentError(str(error)) from error
    if not isinstance(document, dict):
        raise DocumentError("not an object")
    return document


def encode(form: Form, document: dict[str, Any]) -> bytes:
    """A document as a body."""
    return cbor.encode(document) if form == "cbor" else msgspec.json.encode(document)


def blob_bytes(blob: str | bytes) -> int:
    """How many bytes a blob holds."""
    if isinstance(blob, bytes):
        return len(blob)
    return len(blob) * 3 // 4 - blob[-2:].count("=")
