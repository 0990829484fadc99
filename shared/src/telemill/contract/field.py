"""One field of a reading: where it is in the document, what it means, which values are valid."""

from dataclasses import dataclass

from telemill.contract.hints import NO_HINTS, Hints

QUALITY_LATE = 1
"""The reading arrived more than `late_after_seconds` after its event time."""
QUALITY_IMPUTED = 2
"""At least one value was filled in by a `carry` or `default` policy."""

FIRST_FIELD_BIT = 4
BITS_PER_FIELD = 3
MAX_VALUE_FIELDS = (63 - FIRST_FIELD_BIT) // BITS_PER_FIELD
"""Three bits a field from bit 4 on must stay below the sign bit of an int64."""

DEVICE_COLUMN = "device_id"
TIME_COLUMN = "event_time"

TYPES_BY_ROLE = {
    "device": ("int64", "string"),
    "time": ("timestamp",),
    "measure": ("float64",),
    "flag": ("bool", "int64", "string"),
}
"""A measure is what detectors score; a flag (a state, a code, a counter) is carried along."""
FIXED_COLUMNS = {"device": DEVICE_COLUMN, "time": TIME_COLUMN}
MISSING_POLICIES = ("null", "carry", "default")
NUMBER_TYPES = ("int64", "float64")


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a contract.

    Attributes:
        name: Its key in the JSON document.
        column: Its column in every table, and its attribute in the decoded struct.
        type: "int64", "float64", "bool", "string" or "timestamp".
        unit: As people write it ("°C"); "" if none.
        description: One line.
        role: "device", "time", "measure" or "flag".
        low: Lowest valid value, inclusive; None if there is no bound.
        high: Highest valid value, inclusive; None if there is no bound.
        sentinels: Values by which the equipment says "no reading".
        required: Without it the whole record is rejected.
        missing: What a missing value becomes: "null", "carry" (the device's previous one)
            or "default".
        default: The value of the "default" policy.
        hints: For the detectors; rows and schemas do not depend on them.
    """

    name: str
    column: str
    type: str
    unit: str = ""
    description: str = ""
    role: str = "measure"
    low: float | None = None
    high: float | None = None
    sentinels: tuple[float, ...] = ()
    required: bool = False
    missing: str = "null"
    default: bool | float | str | None = None
    hints: Hints = NO_HINTS

    @property
    def range_text(self) -> str:
        """The valid range for people: "0..200", "0..", "..200" or "" if unbounded."""
        if self.low is None and self.high is None:
            return ""
        return f"{_bound_text(self.low)}..{_bound_text(self.high)}"


def _bound_text(bound: float | None) -> str:
    return "" if bound is None else number_text(bound)


def number_text(number: float) -> str:
    """A number without a needless ".0"."""
    return str(int(number)) if number == int(number) else repr(number)


def missing_bit(index: int) -> int:
    """The quality bit of value field `index`: absent, null or not of the field's type."""
    return 1 << (FIRST_FIELD_BIT + BITS_PER_FIELD * index)


def sentinel_bit(index: int) -> int:
    """The quality bit of value field `index`: the equipment said "no reading"."""
    return missing_bit(index) << 1


def range_bit(index: int) -> int:
    """The quality bit of value field `index`: outside the valid range."""
    return missing_bit(index) << 2
