"""Who may push, and how much: API keys and a token bucket for each."""

from collections.abc import Callable

from telemill import api_keys
from telemill.api_keys import ApiKey, authenticate, new_key

SETTING = "INGEST_API_KEY_HASHES"

__all__ = ["ApiKey", "RateLimits", "TokenBucket", "authenticate", "new_key", "parse_keys"]


def parse_keys(text: str) -> tuple[ApiKey, ...]:
    """The keys that may push; raises as `api_keys.parse_keys`."""
    return api_keys.parse_keys(text, SETTING)


class TokenBucket:
    """A rate limit in readings. It may run into debt, so one large body is never impossible.

    Args:
        rate_per_second: Readings that flow in each second.
        burst: Most that gather.
        now: Monotonic seconds.
    """

    def __init__(self, rate_per_second: float, burst: float, now: float) -> None:
        self._rate = rate_per_second
        self._burst = burst
        self._tokens = burst
        self._filled_at = now

    def wait_seconds(self, now: float) -> float:
        """How long until a request may come; 0 when it may now."""
        self._fill(now)
        return 0.0 if self._tokens >= 1 else (1 - self._tokens) / self._rate

    def spend(self, readings: int, now: float) -> None:
        """Take what a request cost, below zero if need be."""
        self._fill(now)
        self._tokens -= readings

    def _fill(self, now: float) -> None:
        gained = (now - self._filled_at) * self._rate
        self._tokens = min(self._burst, self._tokens + max(gained, 0.0))
        self._filled_at = now


class RateLimits:
    """One bucket per key. Keys are configured, so their number is bounded."""

    def __init__(self, rate_per_second: float, burst: float, clock: Callable[[], float]) -> None:
        self._rate = rate_per_second
        self._burst = burst
        self._clock = clock
        self._buckets: dict[str, TokenBucket] = {}

    def wait_seconds(self, key: ApiKey) -> float:
        """How long the key has to wait; 0 when it need not. A request costs one reading."""
        now = self._clock()
        bucket = self._bucket(key, now)
        wait = bucket.wait_seconds(now)
        if not wait:
            bucket.spend(1, now)
        return wait

    def spend(self, key: ApiKey, readings: int) -> None:
        """Take what a request held beyond the one reading it already paid for."""
        now = self._clock()
        self._bucket(key, now).spend(max(readings - 1, 0), now)

    def _bucket(self, key: ApiKey, now: float) -> TokenBucket:
        if key.name not in self._buckets:
            self._buckets[key.name] = TokenBucket(self._rate, self._burst, now)
        return self._buckets[key.name]
