"""Every error the product raises, by what its catcher has to do about it."""

from typing import ClassVar


class TelemillError(Exception):
    """The root. `retriable` says whether the same call may succeed later."""

    retriable: ClassVar[bool] = False


class ConfigurationError(TelemillError):
    """A setting or file is wrong: found before any I/O on data, ends the process with status 2.

    The text names the setting, what it got and what it takes.
    """


class RecordError(TelemillError):
    """One record is bad: quarantine it whole, count it, go on.

    Attributes:
        reason: A short bounded label (metric label and quarantine partition).
    """

    reason: ClassVar[str] = "record"


class DecodeError(RecordError):
    """The bytes are not what their format says."""

    reason: ClassVar[str] = "decode"


class SchemaError(RecordError):
    """The document is readable but is not a reading of the contract."""

    reason: ClassVar[str] = "schema"


class RecordTooLargeError(RecordError):
    """A record, or what it decompresses to, is larger than we take."""

    reason: ClassVar[str] = "too_large"


class PoisonError(RecordError):
    """The record ended every worker that tried it; none touches it any more."""

    reason: ClassVar[str] = "poison"


class TransientError(TelemillError):
    """May heal: the adapter backs off with jitter and tries again."""

    retriable: ClassVar[bool] = True


class ThroughputExceededError(TransientError):
    """The service throttled us."""


class ServiceUnavailableError(TransientError):
    """The service answered 5xx, timed out or could not be reached."""


class PartialPutError(TransientError):
    """Some records of one PutRecords were not taken."""


class ClaimHeldError(TransientError):
    """Another live worker owns the shard; ask again later."""


class PositionError(TelemillError):
    """Our claim on a shard is void: drop the shard, commit nothing."""


class LeaseLostError(PositionError):
    """The coordinator gave the shard to another worker."""


class FencedError(PositionError):
    """Another worker has taken a newer epoch of the progress item."""
