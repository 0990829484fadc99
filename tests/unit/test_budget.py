"""The bound on bytes in memory."""

import asyncio

import pytest

from telemill.kinesis.budget import ByteBudget


async def test_waiters_are_let_in_in_order() -> None:
    """A small request does not overtake a large one that came before it."""
    budget = ByteBudget(100)
    await budget.acquire(60)
    order: list[str] = []

    async def take(name: str, size_bytes: int) -> None:
        await budget.acquire(size_bytes)
        order.append(name)

    takers = [asyncio.ensure_future(take("large", 90)), asyncio.ensure_future(take("small", 10))]
    await asyncio.sleep(0)
    assert not budget.try_acquire(10)
    budget.release(60)
    await asyncio.gather(*takers)
    assert order == ["large", "small"]
    assert budget.held_bytes == 100


async def test_what_is_larger_than_the_limit_gets_in_alone() -> None:
    """One holding above the limit waits for the others to leave, not for ever."""
    budget = ByteBudget(10)
    await budget.acquire(5)
    oversized = asyncio.ensure_future(budget.acquire(50))
    await asyncio.sleep(0)
    assert not oversized.done()
    budget.release(5)
    await oversized
    assert not budget.try_acquire(1)


async def test_cancelled_in_the_turn_it_was_granted_gives_the_room_back() -> None:
    """Room granted to a waiter that is cancelled before it runs goes to the next one."""
    budget = ByteBudget(10)
    await budget.acquire(10)
    cancelled = asyncio.ensure_future(budget.acquire(10))
    following = asyncio.ensure_future(budget.acquire(10))
    await asyncio.sleep(0)
    budget.release(10)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    await following
    assert budget.held_bytes == 10


async def test_a_cancelled_waiter_no_longer_blocks_the_others() -> None:
    """Whoever waits behind a cancelled large request is let in at once."""
    budget = ByteBudget(10)
    await budget.acquire(5)
    large = asyncio.ensure_future(budget.acquire(10))
    small = asyncio.ensure_future(budget.acquire(5))
    await asyncio.sleep(0)
    large.cancel()
    await small
    assert budget.held_bytes == 10
