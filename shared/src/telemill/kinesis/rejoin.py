"""Undo what the KCL does to KPL aggregates. Pure.

The KCL takes an aggregate apart before it hands records on: its user records share one sequence
number and differ in a sub-sequence number. Positions and lineage are by sequence number, with the
user record's index below it (docs/delivery.md), so they are put together again: what a stage sees
is the same under every coordinator.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby

from telemill.codec import kpl
from telemill.kinesis.multilang import ProtocolError, WireRecord
from telemill.kinesis.records import Record, Shard


def rejoin(records: Sequence[WireRecord], shard: Shard, position: str | None) -> list[Record]:
    """One record for each sequence number.

    Args:
        records: As the daemon delivered them, whole aggregates.
        shard: Where they come from. The KCL has dropped what hashes outside of it, and does not
            tell hash keys: each user record gets the shard's first.
        position: Records at or below it are left out: of the one at the KCL's own checkpoint, only
            a part comes.

    Raises:
        ProtocolError: Of a record above `position`, user records are missing.
    """
    reached = -1 if position is None else int(position)
    return [
        _whole(number, users, shard)
        for number, users in _by_number(records)
        if int(number) > reached
    ]


def _by_number(records: Sequence[WireRecord]) -> Iterator[tuple[str, list[WireRecord]]]:
    for number, users in groupby(records, key=lambda record: record.sequence_number):
        yield number, list(users)


def _whole(number: str, users: list[WireRecord], shard: Shard) -> Record:
    indices = [user.sub_sequence_number or 0 for user in users]
    if indices != list(range(len(users))):
        raise ProtocolError(f"{shard.shard_id}: user records {indices} alone of {number}")
    first = users[0].to_record()
    if len(users) == 1:
        return first
    joined = kpl.aggregate(
        [
            kpl.UserRecord(user.partition_key, shard.first_hash_key, user.data or b"")
            for user in users
        ]
    )
    return first._replace(data=joined)
