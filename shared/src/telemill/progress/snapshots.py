"""Where large states are kept: immutable objects on S3, referred to by progress items.

A name is never used for two different states: it holds application, shard, epoch, position and a
digest. So a zombie or a repeated PUT cannot change a state that an item refers to. States of
ended shards lie under a prefix of their own: a bucket lifecycle rule may delete those by age (a
day after the retention of the stream), but never those of live shards, because an idle shard's
state is old and still needed.
"""

from hashlib import sha256
from typing import Any, Protocol

from botocore.exceptions import ClientError

from telemill import aws
from telemill.errors import PositionError
from telemill.progress import rules
from telemill.progress.retrying import Retry

LIVE_PREFIX = "state/live/"
ENDED_PREFIX = "state/ended/"
"""Final states; what the bucket's lifecycle rule covers."""


def object_key(app: str, shard: str, epoch: int, position: str, state: bytes) -> str:
    """The name of a state object."""
    prefix = ENDED_PREFIX if position == rules.SHARD_END else LIVE_PREFIX
    digest = sha256(state).hexdigest()[:16]
    return f"{prefix}{app}/{shard}/{epoch:010d}-{position}-{digest}"


class SnapshotStore(Protocol):
    """Immutable state objects. Methods raise TransientError after their own retries."""

    async def put(self, app: str, shard: str, epoch: int, position: str, state: bytes) -> str:
        """Keep a state; its key. Putting the same again is harmless."""

    async def get(self, key: str) -> bytes:
        """A state by its key.

        Raises:
            PositionError: There is none: the shard cannot be resumed from what is left.
        """

    async def delete(self, key: str) -> None:
        """Forget a state. One that is not there is no error."""


class S3SnapshotStore:
    """A SnapshotStore on an S3 bucket.

    Args:
        client: An aiobotocore S3 client.
        bucket: Its name.
        retry: How to repeat what may heal.
    """

    def __init__(self, client: Any, bucket: str, retry: Retry | None = None) -> None:
        self._client = client
        self._bucket = bucket
        self._retry = retry or Retry()

    async def put(self, app: str, shard: str, epoch: int, position: str, state: bytes) -> str:
        """See SnapshotStore."""
        key = object_key(app, shard, epoch, position, state)
        await self._retry(lambda: self._put(key, state))
        return key

    async def get(self, key: str) -> bytes:
        """See SnapshotStore."""
        return await self._retry(lambda: self._get(key))

    async def delete(self, key: str) -> None:
        """See SnapshotStore."""
        await self._retry(lambda: self._delete(key))

    async def _put(self, key: str, state: bytes) -> None:
        with aws.map_exceptions("s3:PutObject", bucket=self._bucket):
            await self._client.put_object(Bucket=self._bucket, Key=key, Body=state)

    async def _get(self, key: str) -> bytes:
        try:
            with aws.map_exceptions("s3:GetObject", bucket=self._bucket):
                answer = await self._client.get_object(Bucket=self._bucket, Key=key)
                async with answer["Body"] as body:
                    state: bytes = await body.read()
        except ClientError as error:
            if error.response["Error"]["Code"] == "NoSuchKey":
                raise PositionError(f"state object {key} is gone") from error
            raise
        return state

    async def _delete(self, key: str) -> None:
        with aws.map_exceptions("s3:DeleteObject", bucket=self._bucket):
            await self._client.delete_object(Bucket=self._bucket, Key=key)
