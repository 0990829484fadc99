"""How a consumer reads a record of `readings` or `scores`. Pure."""

from collections.abc import Callable

import pyarrow as pa

from telemill import errors
from telemill.codec import wire
from telemill.kinesis.records import Record, Shard
from telemill.stages.step import Rejected


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


def rejected(record: Record, shard: Shard, error: errors.RecordError) -> Rejected:
    """A record that cannot be read, whole, for the quarantine."""
    return Rejected(
        reason=error.reason,
        error=str(error),
        data=record.data,
        device_id=None,
        shard_id=shard.shard_id,
        sequence_number=record.sequence_number,
        sub_sequence_number=0,
        arrival_us=record.arrival_us,
    )
