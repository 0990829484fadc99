"""ARNs of our own resources. Their names are fixed, so no stack has to import them of another."""

from aws_cdk import Aws


def arn(service: str, rest: str) -> str:
    """An ARN in this account and region."""
    return f"arn:{Aws.PARTITION}:{service}:{Aws.REGION}:{Aws.ACCOUNT_ID}:{rest}"


def bucket_name(name: str) -> str:
    """Names of buckets are global: ours end in account and region."""
    return f"{name}-{Aws.ACCOUNT_ID}-{Aws.REGION}"


def bucket_arn(name: str, rest: str = "") -> str:
    """A bucket, or objects of it: `bucket_arn(names.LAKE_BUCKET, "/readings/*")`."""
    return f"arn:{Aws.PARTITION}:s3:::{bucket_name(name)}{rest}"
