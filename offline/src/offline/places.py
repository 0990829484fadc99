"""How far a run is on each raw shard: kept as progress items, so that a second try goes on."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from telemill.errors import ClaimHeldError
from telemill.kinesis.records import SHARD_END, Shard
from telemill.progress import rules
from telemill.progress.claims import Claims
from telemill.progress.store import ProgressStore

POLL_SECONDS = 1.0
MAX_TURNS = 10_000

Save = Callable[[str, bytes], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run is on one shard.

    Attributes:
        position: Last record done; None before the first.
        finished: Nothing is left to do.
        states: To restore the history from: its own, or those of the parents.
        save: Moves the position, with the history after it.
    """

    position: str | None
    finished: bool
    states: Sequence[bytes]
    save: Save


class Places(Protocol):
    """Where a run is on its shards; parents are opened, and finished, before their children."""

    async def open(self, shard: Shard) -> Place:
        """The place on a shard; waits while another process is at it.

        Raises:
            TransientError: The store cannot be reached.
        """


class KeptPlaces:
    """Places in the progress table: one application per run.

    The claims keep two processes from doing the same work twice. That no row is added twice does
    not hang on them (`offline.additions`).

    Args:
        claims: Of this run.
        sleep: Waits some seconds.
        held: Called when another process is at a shard.
    """

    def __init__(
        self,
        claims: Claims,
        sleep: Callable[[float], Awaitable[object]],
        held: Callable[[Shard], None],
    ) -> None:
        self._claims = claims
        self._sleep = sleep
        self._held = held

    async def open(self, shard: Shard) -> Place:
        """See Places."""
        while True:
            try:
                opened = await self._claims.open(shard)
            except ClaimHeldError:
                self._held(shard)
                await self._sleep(POLL_SECONDS)
            else:
                break
        claim = opened.claim
        return Place(claim.position, opened.start.finished, opened.states, claim.save)


class ForgottenPlaces:
    """Places of a dry run: in memory, always from the start."""

    def __init__(self) -> None:
        self._states: dict[str, bytes] = {}

    async def open(self, shard: Shard) -> Place:
        """See Places."""
        states = [self._states[each] for each in shard.parents if each in self._states]

        async def save(_position: str, state: bytes) -> None:
            self._states[shard.shard_id] = state

        return Place(None, finished=False, states=states, save=save)


async def find_run(store: ProgressStore, run: str, shards: Sequence[Shard], *, anew: bool) -> str:
    """The application of a run: the one to go on with, or the next new one.

    A run that was finished is begun again, from its start: objects may have been lost since.

    Args:
        store: Progress items.
        run: Names the run by what it does.
        shards: The raw shards listed.
        anew: Go on with nothing.

    Returns:
        The run with its turn, `<run>-<turn>`.
    """
    for turn in range(MAX_TURNS):
        app = f"{run}-{turn}"
        items = [await store.read(app, rules.shard_key(shard)) for shard in shards]
        begun = [item for item in items if item is not None]
        ended = len(begun) == len(items) and all(item.position == SHARD_END for item in begun)
        if not begun or not (ended or anew):
            return app
    raise RuntimeError(f"{run} was begun {MAX_TURNS} times")
