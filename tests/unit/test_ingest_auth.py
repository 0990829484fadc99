"""API keys and rate limits."""

import hashlib

import pytest

from ingest import auth
from telemill import errors


def digest(key: str) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(key.encode()).hexdigest()


def test_a_key_is_known_by_its_hash() -> None:
    """Both keys of a rotation work, whatever the case of the scheme; nothing else does."""
    keys = auth.parse_keys(f"old:{digest('one')}, new:{digest('two').upper()}")
    assert [auth.authenticate(f"Bearer {key}", keys) for key in ("one", "two")] == list(keys)
    assert auth.authenticate("bearer  two ", keys) == keys[1]
    for header in (None, "", "Bearer", "Bearer ", "Bearer three", "Basic one", digest("one")):
        assert auth.authenticate(header, keys) is None
    assert auth.authenticate("Bearer one", ()) is None
    assert auth.authenticate("Bearer \udcff", keys) is None


def test_a_key_needs_no_name() -> None:
    """Without a name the first digits of the hash stand for it."""
    [key] = auth.parse_keys(digest("one"))
    assert key.name == digest("one")[:8]


@pytest.mark.parametrize(
    "text", ["secret", "a:secret", "a b:" + "0" * 64, f"a:{'0' * 64},a:{'1' * 64}"]
)
def test_wrong_hashes_are_named_but_not_shown(text: str) -> None:
    """The error says which entry is wrong and never repeats it: it may be a key."""
    with pytest.raises(errors.ConfigurationError, match=r"^INGEST_API_KEY_HASHES: ") as caught:
        auth.parse_keys(text)
    assert "secret" not in str(caught.value)


def test_a_new_key_matches_its_hash() -> None:
    """What `key` prints works."""
    key, hashed = auth.new_key()
    assert auth.authenticate(f"Bearer {key}", auth.parse_keys(f"x:{hashed}"))
    assert auth.new_key()[0] != key


def test_the_bucket_fills_at_its_rate() -> None:
    """A burst passes, then the wait is exactly what refilling takes; idleness saves no more."""
    bucket = auth.TokenBucket(10.0, 20.0, now=0.0)
    assert bucket.wait_seconds(0.0) == 0
    bucket.spend(20, 0.0)
    assert bucket.wait_seconds(0.0) == pytest.approx(0.1)
    assert bucket.wait_seconds(0.1) == 0
    bucket.spend(51, 1000.0)
    assert bucket.wait_seconds(1000.0) == pytest.approx(3.2)


def test_a_body_larger_than_the_burst_is_possible() -> None:
    """It runs the key into debt, which later requests wait off; other keys are not concerned."""
    clock = [0.0]
    rates = auth.RateLimits(10.0, 5.0, lambda: clock[0])
    one, two = auth.parse_keys(f"a:{digest('1')},b:{digest('2')}")
    assert rates.wait_seconds(one) == 0
    rates.spend(one, 100)
    assert rates.wait_seconds(one) == pytest.approx(9.6)
    assert rates.wait_seconds(two) == 0
    clock[0] = 9.7
    assert rates.wait_seconds(one) == 0
