"""Who we are for AWS, where, and what time it is there."""

import time
from collections.abc import Callable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

from botocore.exceptions import ClientError

from offline.doctor.finding import Finding, fail, ok, warn
from telemill import aws

REFUSED_SKEW_SECONDS = 300.0
"""A signature that is older is refused (AWS: Signature Version 4, five minutes)."""

WORTH_A_LOOK_SECONDS = 2.0
"""Lag and lateness are off by so much; FMS events may be in the future by 60 s before a flag."""

LOGIN = "set AWS_PROFILE or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or log in again"


class Account(NamedTuple):
    """What was found, and how many seconds our clock is ahead of AWS's."""

    findings: list[Finding]
    ahead_seconds: float = 0.0


async def check(sts: Any, wall: Callable[[], float] = time.time) -> Account:
    """Credentials, region and clock.

    Args:
        sts: A client of AWS's Security Token Service.
        wall: Our clock, epoch seconds.
    """
    before = wall()
    try:
        # Errors too have a date: a wrong clock is why credentials may be refused.
        answer = await sts.get_caller_identity()
        who = ok("credentials", answer["Account"], f"{answer['Arn']}")
    except ClientError as error:
        answer = error.response
        code = answer.get("Error", {}).get("Code", "")
        who = fail("credentials", "AWS", f"refused: {code}: {_message(answer)}", LOGIN)
    except aws.NO_CREDENTIALS as error:
        return Account([fail("credentials", "AWS", str(error), LOGIN)])
    except aws.UNREACHABLE as error:
        advice = "look at the network, proxies and AWS_ENDPOINT_URL"
        return Account([fail("credentials", "AWS", f"no answer: {error}", advice)])
    region = ok("region", sts.meta.region_name, f"endpoint {sts.meta.endpoint_url}")
    ahead = seconds_ahead(answer, (before + wall()) / 2)
    return Account([who, region, judge(ahead)], ahead or 0.0)


def seconds_ahead(answer: Mapping[str, Any], now: float) -> float | None:
    """How far our clock is ahead of the one of an answer; None when it does not say.

    Args:
        answer: With the header `Date`, which has whole seconds: up to one of them is no skew.
        now: Our clock when it was made, epoch seconds.
    """
    date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    if date is None:
        return None
    ahead = now - parsedate_to_datetime(date).astimezone(UTC).timestamp()
    return max(0.0, ahead - 1.0) if ahead > 0 else ahead


def judge(ahead: float | None) -> Finding:
    """What a skew means."""
    if ahead is None:
        return warn("clock", "this machine", "the answer has no Date to compare", "use NTP")
    off = abs(ahead)
    says = f"{ahead:+.0f} s from AWS's"
    if off >= REFUSED_SKEW_SECONDS:
        return fail("clock", "this machine", f"{says}: AWS refuses requests", "set it by NTP")
    if off >= WORTH_A_LOOK_SECONDS:
        return warn("clock", "this machine", says, "set it by NTP: lag metrics are off by as much")
    return ok("clock", "this machine", f"within {max(1.0, off):.0f} s of AWS's")


def _message(answer: Mapping[str, Any]) -> str:
    return str(answer.get("Error", {}).get("Message", "")).rstrip(".")
