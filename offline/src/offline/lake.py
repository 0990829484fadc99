"""The objects of a table on S3: listed, read in part, and created once."""

import io
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from botocore.exceptions import ClientError

from sink.lake import CONFLICT_CODE, CONTENT_TYPE, EXISTS_CODE
from telemill import aws, errors
from telemill.progress.retrying import Retry

TAIL_BYTES = 64 * 1024
"""Read at the end of an object: its footer, and all of a small object."""

GONE_CODES = frozenset({"NoSuchKey", "404"})
WRITER_KEY = "telemill-writer"


class Lake(Protocol):
    """Objects that are created whole or not at all, and never change.

    Every method may raise TransientError after its own retries, and ResourceError.
    """

    async def keys(self, prefix: str) -> list[str]:
        """Every object under a prefix, never stale: what was created before is in it."""

    async def fetch(self, key: str, first: int | None, length: int) -> tuple[bytes, int] | None:
        """Part of an object, and the object's size; None when the object is gone.

        Args:
            key: Which one.
            first: First byte; None for the last `length` bytes.
            length: At most so many.
        """

    async def create(self, key: str, body: bytes, metadata: Mapping[str, str]) -> bool:
        """Create an object unless its key is taken.

        When this raises or is cancelled the object may exist or appear later.

        Args:
            key: Its name.
            body: All of it.
            metadata: Kept with it, for people.

        Returns:
            False when the key was taken by somebody else.
        """


class S3Lake:
    """A Lake on an S3 bucket.

    Args:
        client: An aiobotocore S3 client.
        bucket: Its name.
        retry: How to repeat what may heal.
    """

    def __init__(self, client: Any, bucket: str, retry: Retry | None = None) -> None:
        self._client = client
        self._bucket = bucket
        self._retry = retry or Retry()

    async def keys(self, prefix: str) -> list[str]:
        """See Lake."""
        return [key async for key in self.iterate(prefix)]

    async def iterate(self, prefix: str) -> AsyncIterator[str]:
        """The same, page by page."""
        token: dict[str, str] = {}
        while True:
            answer = await self._retry(lambda token=token: self._list(prefix, token))  # type: ignore[misc]
            for each in answer.get("Contents", ()):
                yield each["Key"]
            if not answer.get("IsTruncated"):
                return
            token = {"ContinuationToken": answer["NextContinuationToken"]}

    async def fetch(self, key: str, first: int | None, length: int) -> tuple[bytes, int] | None:
        """See Lake."""
        return await self._retry(lambda: self._fetch(key, first, length))

    async def read(self, key: str) -> bytes | None:
        """A whole object; None when it is gone."""
        return await self._retry(lambda: self._read(key))

    async def create(self, key: str, body: bytes, metadata: Mapping[str, str]) -> bool:
        """See Lake."""
        # When the first try of a call took effect and its answer was lost, the second is refused:
        # the name tells that the object is that of this very call.
        writer = uuid.uuid4().hex
        marked = {**metadata, WRITER_KEY: writer}
        if await self._retry(lambda: self._create(key, body, marked)):
            return True
        return await self._retry(lambda: self._writer(key)) == writer

    async def _list(self, prefix: str, token: Mapping[str, str]) -> Mapping[str, Any]:
        with aws.map_exceptions("s3:ListBucket", bucket=self._bucket):
            answer: Mapping[str, Any] = await self._client.list_objects_v2(
                Bucket=self._bucket, Prefix=prefix, **token
            )
        return answer

    async def _fetch(self, key: str, first: int | None, length: int) -> tuple[bytes, int] | None:
        span = f"bytes=-{length}" if first is None else f"bytes={first}-{first + length - 1}"
        answer = await self._get(key, Range=span)
        if answer is None:
            return None
        body, size = answer
        return body, size

    async def _read(self, key: str) -> bytes | None:
        answer = await self._get(key)
        return None if answer is None else answer[0]

    async def _get(self, key: str, **more: str) -> tuple[bytes, int] | None:
        try:
            with aws.map_exceptions("s3:GetObject", bucket=self._bucket, key=key):
                answer = await self._client.get_object(Bucket=self._bucket, Key=key, **more)
                async with answer["Body"] as stream:
                    body: bytes = await stream.read()
        except ClientError as error:
            if error.response["Error"]["Code"] in GONE_CODES:
                return None
            raise
        # A store that ignores ranges answers with everything, and without this header.
        size = str(answer.get("ContentRange", "")).rpartition("/")[2]
        return body, int(size) if size.isdecimal() else len(body)

    async def _create(self, key: str, body: bytes, metadata: Mapping[str, str]) -> bool:
        try:
            with aws.map_exceptions("s3:PutObject", bucket=self._bucket):
                await self._client.put_object(
                    Bucket=self._bucket,
                    Key=key,
                    Body=body,
                    ContentType=CONTENT_TYPE,
                    Metadata=dict(metadata),
                    IfNoneMatch="*",
                )
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code == EXISTS_CODE:
                return False
            if code == CONFLICT_CODE:
                raise errors.ServiceUnavailableError(f"s3:PutObject on {key}: {code}") from error
            raise
        return True

    async def _writer(self, key: str) -> str | None:
        try:
            with aws.map_exceptions("s3:GetObject", bucket=self._bucket, key=key):
                answer = await self._client.head_object(Bucket=self._bucket, Key=key)
        except ClientError as error:
            if error.response["Error"]["Code"] in GONE_CODES:
                return None
            raise
        found: str | None = answer.get("Metadata", {}).get(WRITER_KEY)
        return found


@dataclass(slots=True)
class _Span:
    first: int
    body: bytes

    @property
    def end(self) -> int:
        return self.first + len(self.body)


class _Spans(io.RawIOBase):
    """A file of which only some parts are here; Arrow asks for no others."""

    def __init__(self, size: int, spans: Sequence[_Span]) -> None:
        super().__init__()
        self._size = size
        self._spans = spans
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        first = self._position
        end = self._size if size < 0 else min(first + size, self._size)
        for span in self._spans:
            if span.first <= first and end <= span.end:
                self._position = end
                return span.body[first - span.first : end - span.first]
        raise OSError(f"bytes {first} to {end} of the object were not fetched")


class StoredObject:
    """One Parquet object of a table: its footer, and columns as they are asked for."""

    def __init__(self, lake: Lake, key: str, size: int, tail: _Span) -> None:
        self._lake = lake
        self._size = size
        self._spans = [tail]
        self.key = key
        self.footer = pq.read_metadata(self._file())

    @property
    def columns(self) -> list[str]:
        """What it was written with."""
        return list(self.footer.schema.to_arrow_schema().names)

    def event_span(self) -> tuple[Any, Any] | None:
        """Smallest and largest event time; None when its statistics do not say."""
        found = []
        for group in range(self.footer.num_row_groups):
            statistics = self._chunk(group, "event_time").statistics
            if statistics is None or not statistics.has_min_max:
                return None
            found += [statistics.min, statistics.max]
        return (min(found), max(found)) if found else None

    async def read(self, columns: Sequence[str]) -> pa.Table | None:
        """Some columns of all rows; None when the object is gone."""
        for group in range(self.footer.num_row_groups):
            for name in columns:
                if not await self._fetch(*_extent(self._chunk(group, name))):
                    return None
        # Without pre_buffer Arrow reads column chunks as they are, and never what is between them.
        file = pq.ParquetFile(self._file(), metadata=self.footer, pre_buffer=False)
        return file.read(columns=list(columns))

    def _chunk(self, group: int, name: str) -> Any:
        return self.footer.row_group(group).column(self.columns.index(name))

    def _file(self) -> Any:
        return pa.PythonFile(_Spans(self._size, self._spans), mode="r")

    async def _fetch(self, first: int, length: int) -> bool:
        if any(each.first <= first and first + length <= each.end for each in self._spans):
            return True
        answer = await self._lake.fetch(self.key, first, length)
        if answer is None:
            return False
        body, _ = answer
        # All of it, where the store ignores ranges.
        self._spans.append(_Span(0 if len(body) == self._size else first, body))
        return True


def _extent(chunk: Any) -> tuple[int, int]:
    first = chunk.data_page_offset
    if chunk.dictionary_page_offset is not None:
        first = min(first, chunk.dictionary_page_offset)
    return int(first), int(chunk.total_compressed_size)


async def open_object(lake: Lake, key: str) -> StoredObject | None:
    """An object with its footer read; None when it is gone.

    Raises:
        ConfigurationError: It is no Parquet object: nothing can be said about its partition.
    """
    answer = await lake.fetch(key, None, TAIL_BYTES)
    if answer is None:
        return None
    tail, size = answer
    try:
        footer_bytes = int.from_bytes(tail[-8:-4], "little") + 8
        if footer_bytes > len(tail) and footer_bytes <= size:
            answer = await lake.fetch(key, None, footer_bytes)
            if answer is None:
                return None
            tail = answer[0]
        return StoredObject(lake, key, size, _Span(size - len(tail), tail))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise errors.ConfigurationError(f"{key}: not a Parquet object: {error}") from error
