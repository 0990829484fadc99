"""Whether the quarantine grows faster than it did."""

from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

from offline.doctor.finding import Finding, ok, warn
from telemill import aws, quarantine

HOURS = 24
MAX_PAGES = 50
"""Fifty thousand objects of two days; more are a finding of their own."""

GROWS = 3.0
"""So many times the day's hourly mean in the last hour."""
FEW_BYTES = 64 * 1024
"""Less in an hour is a device with hiccups."""


async def check(s3: Any, bucket: str, now: float) -> list[Finding]:
    """Compare the last hour with the day before.

    Args:
        s3: The client.
        bucket: The lake.
        now: AWS's time, epoch seconds.
    """
    moment = datetime.fromtimestamp(now, UTC)
    hour_ago, day_ago = moment - timedelta(hours=1), moment - timedelta(hours=HOURS)
    recent: Counter[str] = Counter()
    before = objects = 0
    async for each in _objects(s3, bucket, (day_ago, moment)):
        objects += 1
        if each["LastModified"] >= hour_ago:
            recent[_reason(each["Key"])] += each["Size"]
        elif each["LastModified"] >= day_ago:
            before += each["Size"]
    return [judge(bucket, recent, before / (HOURS - 1), objects)]


def judge(bucket: str, recent: Counter[str], hourly_bytes: float, objects: int) -> Finding:
    """What the sizes mean.

    Args:
        bucket: The lake.
        recent: Bytes of the last hour by reason.
        hourly_bytes: Mean of the hours before.
        objects: How many were looked at.
    """
    total = sum(recent.values())
    says = f"{total / 1024:,.1f} KiB in the last hour, {hourly_bytes / 1024:,.1f} an hour before"
    if objects >= MAX_PAGES * 1000:
        says = f"more than {objects:,} objects in two days"
    elif total < FEW_BYTES or total < GROWS * hourly_bytes:
        return ok("quarantine", bucket, says)
    reasons = ", ".join(
        f"{reason} {size / 1024:,.0f} KiB" for reason, size in recent.most_common(3)
    )
    advice = "`telemill quarantine list --from 1h` says which devices; then `… show`"
    return warn("quarantine", bucket, f"{says}: {reasons}" if reasons else says, advice)


async def _objects(
    s3: Any, bucket: str, days: tuple[datetime, datetime]
) -> AsyncIterator[dict[str, Any]]:
    with aws.map_exceptions("s3:ListBucket", bucket=bucket):
        pages = 0
        for day in sorted({each.strftime("%Y-%m-%d") for each in days}, reverse=True):
            prefix = f"{quarantine.PREFIX}/dt={day}/"
            paginator = s3.get_paginator("list_objects_v2")
            async for page in paginator.paginate(Bucket=bucket, Prefix=prefix):
                for each in page.get("Contents", ()):
                    yield each
                pages += 1
                if pages >= MAX_PAGES:
                    return


def _reason(key: str) -> str:
    """Of `quarantine/dt=…/reason=R/…`."""
    return key.partition("/reason=")[2].partition("/")[0] or "unknown"
