"""What every stage does alike with a record: read one of ours, put one aside whole. Pure."""

from collections.abc import Callable

import pyarrow as pa

from telemill import errors
from telemill.codec import wire
from telemill.kinesis.records import Record, Shard
from telemill.progress import suspicion
from telemill.stages.step import Rejected, StepResult


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


def poison_error() -> errors.PoisonError:
    """Why a record is put aside untouched. The same text for every owner that does so."""
    return errors.PoisonError(
        f"{suspicion.POISON_TRIES} workers in a row died or hung while they tried this record"
        f" alone, after {suspicion.CAUTIOUS_AFTER_CRASHES} that died near it"
    )


def put_aside(record: Record, shard: Shard) -> StepResult:
    """What comes of a record that is poison: it goes to the quarantine untouched."""
    result = StepResult(rejected=[rejected(record, shard, poison_error())])
    result.counts["records_in",] += 1
    result.counts["rejected", errors.PoisonError.reason] += 1
    return result
