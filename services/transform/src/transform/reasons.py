"""Why something cannot be a reading: a bounded set (metric label and quarantine partition)."""

DECODE = "decode"
"""Compression or aggregation is broken (`telemill.errors.DecodeError.reason`)."""
TOO_LARGE = "too_large"
"""Too many bytes after decompression, or too many items (`RecordTooLargeError.reason`)."""
NOT_JSON = "not_json"
NOT_OBJECT = "not_object"
DUPLICATE_KEY = "duplicate_key"
MISSING_DEVICE = "missing_device"
BAD_DEVICE = "bad_device"
MISSING_TIME = "missing_time"
BAD_TIME = "bad_time"
FUTURE = "future"
"""Further ahead of its arrival than the contract tolerates."""
CONFLICT = "conflict"
"""Other values than a reading taken before of the same device and time."""

ALL = (
    DECODE,
    TOO_LARGE,
    NOT_JSON,
    NOT_OBJECT,
    DUPLICATE_KEY,
    MISSING_DEVICE,
    BAD_DEVICE,
    MISSING_TIME,
    BAD_TIME,
    FUTURE,
    CONFLICT,
)
