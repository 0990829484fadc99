"""Who may use an HTTP API: keys of which the settings hold only hashes."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
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


def parse_keys(text: str, setting: str) -> tuple[ApiKey, ...]:
    """Read "line-a:<sha256>,line-b:<sha256>"; the names are optional.

    A key is a long random string, so one plain hash protects it; it is no password.

    Args:
        text: The setting's value.
        setting: Its name, for errors.

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
                f"{setting}: entry {place} is wrong; takes name:sha256 with 64 hex digits"
            )
        key = ApiKey(name or digest[:8].lower(), bytes.fromhex(digest))
        if key.name in keys:
            raise errors.ConfigurationError(f"{setting}: two keys are named {key.name!r}")
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
