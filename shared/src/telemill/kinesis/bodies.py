"""Large request bodies, sent piece by piece.

aiobotocore hands aiohttp the whole body as bytes; above 1 MiB aiohttp warns that this may hold up
the event loop. A PutRecords is up to 14 MB as JSON: it is sent as a file object instead, in pieces
between which everybody else runs.
"""

import io
from typing import Any

EVENT = "before-send.kinesis.PutRecords"
LARGE_BODY_BYTES = 256 * 1024


def install(client: Any) -> None:
    """Let a client send large PutRecords in pieces. Twice is as good as once."""
    client.meta.events.register(EVENT, before_send, unique_id="telemill-put-records")


def before_send(request: Any, **_: Any) -> None:
    """Wrap a large body. botocore has set Content-Length and signed it before."""
    if isinstance(request.body, bytes) and len(request.body) > LARGE_BODY_BYTES:
        request.body = io.BytesIO(request.body)
