"""How records get into a lane: a turn at a time, and after crashes with care."""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from sink.core import Taken
from sink.lane import Lane
from telemill import errors
from telemill.kinesis.records import Record
from telemill.progress.claims import Claim
from telemill.stages import internal, spans
from telemill.stages.caution import Caution, Insist, Part, Treatment
from telemill.stages.guard import Guard
from telemill.stages.step import CountKey
from telemill.tracing import Tracer

RECORDS_PER_TURN = 64
"""Records gathered before other tasks get their turn, and the room is looked at."""

BYTES_PER_TURN = 1024 * 1024
"""The same in Arrow bytes: records may be large, and decompress to much more."""


class Intake:
    """Takes the records of one chunk that belong to one cut.

    Args:
        lane: Where to.
        claim: On the shard.
        caution: What to beware of.
        guard: The process's.
        since: When the first record began to wait.
        turn: Lets other tasks run and waits for room.
        insist: Repeats a note until it is written.
        tracer: None when tracing is off.

    Attributes:
        counts: What happened.
    """

    def __init__(
        self,
        lane: Lane,
        claim: Claim,
        caution: Caution,
        *,
        guard: Guard,
        since: float,
        turn: Callable[[], Awaitable[None]],
        insist: Insist,
        tracer: Tracer | None = None,
    ) -> None:
        self._lane = lane
        self._claim = claim
        self._caution = caution
        self._guard = guard
        self._since = since
        self._turn = turn
        self._insist = insist
        self._tracer = tracer
        self.counts: Counter[CountKey] = Counter()

    async def take(self, records: Sequence[Record]) -> None:
        """Take them; the cut may end between any two."""
        try:
            for part in self._caution.parts(records):
                await self._take_part(part)
        except errors.ConfigurationError:
            # The records are sound and wait for a newer version: nothing to suspect them of.
            with suppress(errors.TransientError):
                await self._claim.release()
            raise

    async def _take_part(self, part: Part) -> None:
        match part.treatment:
            case Treatment.TOGETHER:
                await self._take_together(part)
            case Treatment.GROUPED:
                await self._take_group(part)
            case Treatment.ALONE:
                await self._try_each(part)
            case Treatment.ASIDE:
                self._put_aside(part)

    async def _take_together(self, part: Part) -> None:
        # Whatever is not saved may still break when it is encoded.
        await self._caution.note(self._claim.position, part, self._insist)
        records = part.records
        while records:
            await self._turn()
            async with self._guard.together(f"{self._lane.shard.shard_id}: {part}"):
                records = records[self._gather_turn(records) :]

    async def _take_group(self, part: Part) -> None:
        await self._turn()
        # What was gathered before came through its rehearsal.
        done = self._lane.gathering.last or self._claim.position
        await self._caution.note(done, part, self._insist)
        async with self._guard.together(f"{self._lane.shard.shard_id}: {part}"):
            self._lane.rehearse([self._gather(record) for record in part.records])

    async def _try_each(self, part: Part) -> None:
        await self._turn()
        await self._caution.try_each(
            part, lambda record: self._lane.rehearse([self._gather(record)]), self._insist
        )

    def _put_aside(self, part: Part) -> None:
        for record in part.records:
            self._lane.put_aside(record, internal.poison_error(), self._since, self.counts)

    def _gather(self, record: Record) -> Taken | None:
        taken = self._lane.gather(record, self._since, self.counts)
        if self._tracer is not None and taken is not None and (context := taken.trace):
            span = spans.process(self._tracer, self._lane.shard, record, context)
            self._lane.spans.append(span)
        return taken

    def _gather_turn(self, records: Sequence[Record]) -> int:
        """Gather what one turn takes of some records; how many that was."""
        full_bytes = self._lane.size_bytes + BYTES_PER_TURN
        for index, record in enumerate(records[:RECORDS_PER_TURN], 1):
            self._gather(record)
            if self._lane.size_bytes >= full_bytes:
                return index
        return min(len(records), RECORDS_PER_TURN)
