"""Back-off with full jitter."""

import pytest

from telemill.errors import ConfigurationError, ServiceUnavailableError
from telemill.progress.retrying import Retry


class Calls:
    """Calls that fail first, and the pauses between them."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.pauses: list[float] = []
        self.retry = Retry(
            attempts=4, first_seconds=1.0, limit_seconds=3.0, sleep=self.sleep, jitter=lambda: 0.5
        )

    async def sleep(self, seconds: float) -> None:
        """A pause."""
        self.pauses.append(seconds)

    async def call(self) -> str:
        """Fail as long as there are errors."""
        if self.errors:
            raise self.errors.pop(0)
        return "done"


async def test_pauses_double_up_to_a_limit_times_jitter() -> None:
    """The ceiling doubles and is capped; a random part of it is waited."""
    calls = Calls(*[ServiceUnavailableError("x") for _ in range(3)])
    assert await calls.retry(calls.call) == "done"
    assert calls.pauses == [0.5, 1.0, 1.5]


async def test_the_last_error_is_raised() -> None:
    """After the last attempt the caller gets to know, without another pause."""
    calls = Calls(*[ServiceUnavailableError(str(number)) for number in range(5)])
    with pytest.raises(ServiceUnavailableError, match="3"):
        await calls.retry(calls.call)
    assert len(calls.pauses) == 3


async def test_what_cannot_heal_is_not_repeated() -> None:
    """Only TransientError is tried again."""
    calls = Calls(ConfigurationError("x"))
    with pytest.raises(ConfigurationError):
        await calls.retry(calls.call)
    assert calls.pauses == []
