"""How a stage treats records after crashes: noted, one by one, or not at all.

What is noted and what follows from it is decided by `telemill.progress.suspicion`; here chunks are
divided, and notes are written before what they say is done.
"""

import enum
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import groupby
from typing import NamedTuple, TypeVar

import structlog

from telemill.health import Health
from telemill.kinesis.records import Record, Shard
from telemill.metrics import Metrics
from telemill.progress import suspicion
from telemill.progress.claims import Opened
from telemill.progress.positions import order
from telemill.progress.suspicion import Suspects
from telemill.stages.guard import Guard

RECORDS_PER_TRIAL = 64
"""Suspects tried in a row before the process's other shards get their turn."""

RECORDS_PER_GROUP = 128
"""10,000 suspects make 80 notes, and then at most 128 of single ones."""

PROBATION_RECORDS = 20_000
"""So many records are noted by the successor of an owner that died, whatever it saves meanwhile."""

Insist = Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]
"""Calls something until it succeeds or cannot heal."""

T = TypeVar("T")
log = structlog.get_logger()


class Treatment(enum.Enum):
    """How some consecutive records are worked on."""

    TOGETHER = "as always"
    GROUPED = "some at a time, noted before; everything that will be done with them is tried now"
    ALONE = "one by one, each noted before"
    ASIDE = "poison: not at all"


class Part(NamedTuple):
    """Consecutive records that are treated alike."""

    treatment: Treatment
    records: Sequence[Record]

    def __str__(self) -> str:
        first, last = self.records[0].sequence_number, self.records[-1].sequence_number
        return f"{len(self.records)} records from {first} to {last}"


class Caution:
    """What one owner of a shard has to beware of.

    Args:
        opened: The shard as it was claimed.
        guard: The process's.
        metrics: The service's.
        health: Told while records are tried one by one.
    """

    def __init__(self, opened: Opened, *, guard: Guard, metrics: Metrics, health: Health) -> None:
        self._claim = opened.claim
        self._shard: Shard = opened.claim.shard
        self._found = opened.claim.suspects
        self._on_probation = PROBATION_RECORDS if opened.claim.crashes else 0
        self._guard = guard
        self._health = health
        if opened.named is not None:
            metrics.poison_records.inc()
            log.warning(
                "stage.poison_named",
                shard_id=self._shard.shard_id,
                sequence_number=opened.named,
            )
        elif self._is_cautious:
            log.warning(
                "stage.cautious",
                shard_id=self._shard.shard_id,
                crashes=self._claim.crashes,
                suspects=str(self._found),
            )

    def parts(self, records: Sequence[Record]) -> list[Part]:
        """Divide consecutive records by how they are to be treated.

        After crashes into small parts even where nobody is suspected: what died may have been a
        machine too slow for so many records within the time limit.
        """
        if not self._claim.poison and self._claim.crashes < suspicion.GROUPED_AFTER_CRASHES:
            return [Part(Treatment.TOGETHER, records)] if records else []
        parts: list[Part] = []
        for treatment, group in groupby(records, key=self._treatment):
            alike = list(group)
            size = RECORDS_PER_TRIAL if treatment is Treatment.ALONE else RECORDS_PER_GROUP
            parts += [Part(treatment, alike[k : k + size]) for k in range(0, len(alike), size)]
        return parts

    async def note(self, after: str | None, part: Part, insist: Insist) -> None:
        """Before records are worked on together: say so, if the last owner died.

        A position saved since does not end that: what it died of may lie a little further on.

        Args:
            after: Everything up to here can be blamed for nothing any more.
            part: The records.
            insist: Repeats a note until it is written.
        """
        if self._on_probation <= 0:
            return
        self._on_probation -= len(part.records)
        up_to = part.records[-1].sequence_number
        noted = suspicion.working_on(self._claim.suspects, after, up_to)
        await insist(partial(self._claim.suspect, noted))

    async def try_each(self, part: Part, work: Callable[[Record], T], insist: Insist) -> list[T]:
        """Work on each suspect alone, noted before.

        What comes of them is handed on only afterwards, when all are known to have come through.

        Args:
            part: The suspects.
            work: What is done with each.
            insist: Repeats a note until it is written.
        """
        name, results = f"caution {self._shard.shard_id}", []
        self._health.set(name, f"{self._claim.crashes} crashes: records are tried one by one")
        try:
            async with self._guard.alone():
                for record in part.records:
                    await self._try(record, insist)
                    with self._guard.limit(f"{self._shard.shard_id}: {record.sequence_number}"):
                        results.append(work(record))
                await self._pass(part.records[-1], insist)
        finally:
            self._health.clear(name)
        return results

    async def _try(self, record: Record, insist: Insist) -> None:
        suspects = self._claim.suspects
        if suspects is not None:
            noted = suspicion.trying(suspects, record.sequence_number, self._found)
            await insist(partial(self._claim.suspect, noted))

    async def _pass(self, last: Record, insist: Insist) -> None:
        suspects = self._claim.suspects
        if suspects is not None:
            noted = suspicion.passed(suspects, last.sequence_number)
            await insist(partial(self._claim.suspect, noted))

    @property
    def _is_cautious(self) -> bool:
        crashes, suspects = self._claim.crashes, self._claim.suspects
        return crashes >= suspicion.CAUTIOUS_AFTER_CRASHES and suspects is not None

    def _treatment(self, record: Record) -> Treatment:
        number, crashes = record.sequence_number, self._claim.crashes
        if number in self._claim.poison:
            return Treatment.ASIDE
        if self._is_cautious and self._is_suspect(number, self._claim.suspects):
            return Treatment.ALONE
        # As found: what this owner noted since are no suspects, it lives.
        if crashes == suspicion.GROUPED_AFTER_CRASHES and self._is_suspect(number, self._found):
            return Treatment.GROUPED
        return Treatment.TOGETHER

    def _is_suspect(self, number: str, suspects: Suspects | None) -> bool:
        """Not in a declared cut: its records came through, and what is in it stays in it."""
        intent = self._claim.intent
        declared = intent is not None and order(number) <= order(intent.up_to)
        return suspects is not None and suspects.holds(number) and not declared
