"""How a consumer reads a record of `readings` or `scores`. Pure."""

from collections.abc import Callable

import pyarrow as pa

from telemill import errors
from telemill.codec import wire


def decode(
    data: bytes, schema_for: Callable[[wire.Header], pa.Schema]
) -> tuple[wire.Header, pa.RecordBatch]:
    """Header and rows of a record that another of our services wrote.

    Two cases: broken bytes are the record's fault and go to the quarantine. A sound batch that
    this version cannot read (another contract or version) is not: services were updated in the
    wrong order, and good readings must wait rather than be put aside. So the process ends.

    Raises:
        DecodeError: Broken.
        RecordTooLargeError: Larger than we take.
        ConfigurationError: Sound, but not for this contract.
    """
    try:
        return wire.decode(data, schema_for)
    except errors.SchemaError as error:
        raise errors.ConfigurationError(
            f"contract: {error}; update this service before the one that writes, or read another"
            " stream"
        ) from error
