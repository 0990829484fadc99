"""Who may push, and how much: API keys and a token bucket for each."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from telemill import errors

_HASH = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A configured key. Only its SHA-256 is known here.

    Attributes:
        name: For logs; not secret.
        digest: SHA-256 of the key.
    """

    name: str
    digest: bytes


def parse_keys(text: str) -> tuple[ApiKey, ...]:
    """Read "line-a:<sha256>,line-b:<sha256>"; the names are optional.

    A key is a long random string, so one plain hash protects it; it is no password.

    Raises:
        ConfigurationError: An entry is not a SHA-256 in hex, or a name occurs twice. The text
            never repeats the entry: it might be a key put there by mistake.
    """
    keys: dict[str, ApiKey] = {}
    entries = [entry.strip() for entry in text.split(",")]
    for place, entry in enumerate(filter(None, entries), start=1):
        name, _, digest = entry.rpartition(":")
        if not _HASH.fullmatch(digest.lower()) or (name and not _NAME.fullmatch(name)):
            raise errors.ConfigurationError(
                f"INGEST_API_KEY_HASHES: entry {place} is wrong;"
                " takes name:sha256 with 64 hex digits"
            )
        key = ApiKey(name or digest[:8].lower(), bytes.fromhex(digest))
        if key.name in keys:
            raise errors.ConfigurationError(
                f"INGEST_API_KEY_HASHES: two keys are named {key.name!r}"
            )
        keys[key.name] = key
    return tuple(keys.values())


def new_key() -> tuple[str, str]:
    """A fresh key for a client, and its hash for the settings."""
    key = secrets.token_urlsafe(KEY_BYTES)
    return key, hashlib.sha256(key.encode()).hexdigest()


def authenticate(header: str | None, keys: Iterable[ApiKey]) -> ApiKey | None:
    """The key of an Authorization header, or None.

    Every configured key is compared, in constant time: how long it takes says nothing about
    which key is nearly right.
    """
    scheme, _, token = (header or "").partition(" ")
    if scheme.lower() != "bearer":
        return None
    digest = hashlib.sha256(token.strip().encode("utf-8", "surrogateescape")).digest()
    found = None
    for key in keys:
        if hmac.compare_digest(digest, key.digest):
            found = key
    return found


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
