"""The lake: write-once objects on S3."""

from typing import Any, Protocol

from botocore import exceptions

from telemill import aws, errors

EXISTS_CODE = "PreconditionFailed"
CONFLICT_CODE = "ConditionalRequestConflict"
"""Two conditional writes of one key met: try again (S3 user guide, conditional writes)."""

CONTENT_TYPE = "application/vnd.apache.parquet"


class Lake(Protocol):
    """Objects that are created whole or not at all, and never change."""

    async def create(self, key: str, body: bytes) -> bool:
        """Create an object unless its key is taken.

        When this raises or is cancelled the object may exist or appear later; creating it again
        is harmless.

        Returns:
            False when the key was taken: the object there is left as it is.

        Raises:
            TransientError: Try again.
            ResourceError: The bucket or the permission is missing; may heal.
        """


class S3Lake:
    """A Lake on an S3 bucket.

    Args:
        client: An aiobotocore S3 client.
        bucket: Its name.
    """

    def __init__(self, client: Any, bucket: str) -> None:
        self._client = client
        self._bucket = bucket

    async def create(self, key: str, body: bytes) -> bool:
        """See Lake."""
        try:
            with aws.map_exceptions("s3:PutObject", bucket=self._bucket):
                await self._client.put_object(
                    Bucket=self._bucket,
                    Key=key,
                    Body=body,
                    ContentType=CONTENT_TYPE,
                    IfNoneMatch="*",
                )
        except exceptions.ClientError as error:
            code = error.response["Error"]["Code"]
            if code == EXISTS_CODE:
                return False
            if code == CONFLICT_CODE:
                raise errors.ServiceUnavailableError(f"s3:PutObject on {key}: {code}") from error
            raise
        return True
