"""The queue between readers and the agent."""

import asyncio

from telemill.kinesis.prefetch import Prefetch
from telemill.kinesis.records import Chunk, Record, Shard


def chunk(shard_id: str, name: str) -> Chunk:
    """A chunk of one record."""
    return Chunk(Shard("readings", 1, shard_id), [Record("1", 0, name.encode(), "k")])


def names(chunks: list[Chunk]) -> list[bytes]:
    """What the chunks hold."""
    return [record.data for one in chunks for record in one.records]


async def test_shards_take_turns_and_keep_their_order() -> None:
    """A shard far behind does not hold up the others; inside a shard nothing is overtaken."""
    prefetch = Prefetch()
    prefetch.put([chunk("a", name) for name in ("a1", "a2", "a3")])
    prefetch.put([chunk("b", name) for name in ("b1", "b2")])
    assert names(await prefetch.take(1, 3)) == [b"a1", b"b1", b"a2"]
    assert names(await prefetch.take(1, 9)) == [b"b2", b"a3"]


async def test_taking_waits_for_the_first_chunk() -> None:
    """An empty queue is waited for; when nothing comes the answer is empty."""
    prefetch = Prefetch()
    assert await prefetch.take(0.001, 1) == []
    taking = asyncio.ensure_future(prefetch.take(60, 1))
    await asyncio.sleep(0)
    prefetch.put([chunk("a", "a1")])
    assert names(await taking) == [b"a1"]


async def test_a_discarded_shard_frees_its_room() -> None:
    """What is queued of a dropped shard is gone, and so are its bytes; others stay."""
    prefetch = Prefetch()
    prefetch.put([chunk("a", "a1"), chunk("a", "a2")])
    prefetch.put([chunk("b", "b1")])
    prefetch.discard("a")
    (left,) = await prefetch.take(1, 9)
    assert names([left]) == [b"b1"]
    prefetch.done(left)
    assert prefetch.budget.held_bytes == 0


async def test_a_cancelled_take_loses_nothing() -> None:
    """Chunks that come after a cancelled take are there for the next one."""
    prefetch = Prefetch()
    taking = asyncio.ensure_future(prefetch.take(60, 1))
    await asyncio.sleep(0)
    prefetch.put([chunk("a", "a1")])
    taking.cancel()
    await asyncio.gather(taking, return_exceptions=True)
    assert names(await prefetch.take(1, 1)) == [b"a1"]
