"""A time range of one raw shard: which records are the warm-up, which are meant, where it ends."""

from dataclasses import dataclass, field

from telemill.kinesis.records import Record
from telemill.progress import rules


@dataclass(frozen=True, slots=True)
class TimeRange:
    """What is re-read, by arrival.

    Attributes:
        from_us: First arrival meant.
        to_us: Arrival before which.
        warm_up_us: So much earlier records are read, for the history alone.
    """

    from_us: int
    to_us: int
    warm_up_us: int

    @property
    def start_us(self) -> int:
        """Arrival of the first record read."""
        return max(0, self.from_us - self.warm_up_us)


@dataclass(slots=True)
class Part:
    """What a page gave.

    Attributes:
        warm_up: Records before the range.
        meant: Records of the range.
    """

    warm_up: list[Record] = field(default_factory=list)
    meant: list[Record] = field(default_factory=list)


class ShardRange:
    """The range on one shard.

    Arrival times are approximate and need not ascend: the first record of the range begins it and
    the first one beyond it ends it.

    Args:
        time_range: The range.
        bound: The live path's position: nothing above it is touched.
        inside: Whether the range has begun (a run that goes on).

    Attributes:
        ended: Nothing of the shard is left to read.
        cut_short: It ended at the bound though records of the range follow.
    """

    def __init__(self, time_range: TimeRange, bound: str | None, *, inside: bool) -> None:
        self.ended = bound is None
        self.cut_short = False
        self._range = time_range
        self._bound = rules.order(bound)
        self._inside = inside

    def take(self, records: list[Record], *, at_tip: bool) -> Part:
        """Sort the next records; sets `ended`.

        Args:
            records: Consecutive.
            at_tip: Nothing follows them now, or ever. The range lies in the past.
        """
        part = Part()
        for record in records:
            if record.arrival_us >= self._range.to_us:
                self.ended = True
                return part
            if rules.order(record.sequence_number) > self._bound:
                self.ended = self.cut_short = True
                return part
            self._inside = self._inside or record.arrival_us >= self._range.from_us
            (part.meant if self._inside else part.warm_up).append(record)
        self.ended = self.ended or at_tip
        return part
