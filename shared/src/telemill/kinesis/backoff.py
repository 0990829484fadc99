"""How long to wait before the same call again. Pure."""

from collections.abc import Callable

BASE_SECONDS = 0.1
CAP_SECONDS = 5.0
THROTTLED_CAP_SECONDS = 1.0
"""A shard's limits are per second: after one second it takes records again, or gives some. Waiting
longer leaves its throughput unused (tests/unit/test_writer_throttled.py)."""


def full_jitter(
    attempt: int,
    random: Callable[[], float],
    *,
    base_seconds: float = BASE_SECONDS,
    cap_seconds: float = CAP_SECONDS,
) -> float:
    """Seconds to wait after the `attempt`-th failure in a row (the first is 1).

    Source:
        "Full jitter" of "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    # Beyond 2**30 the cap has long been reached; larger powers would overflow a float one day.
    return random() * min(cap_seconds, base_seconds * 2.0 ** min(attempt - 1, 30))
