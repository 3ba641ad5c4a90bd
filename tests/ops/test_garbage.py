"""Garbage is looked for among what is new at any time, among all there is when nobody waits, and at last anyway."""

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable
from itertools import count

import pytest

from busd.ops import garbage
from busd.ops.garbage import Garbage


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "PERIOD_SECONDS", 0.01)


class Knot:
    """Something that only a collection can free."""

    def __init__(self) -> None:
        self.itself = self


def knot_of_the_oldest() -> "weakref.ref[Knot]":
    knot = Knot()
    gc.collect(0)
    gc.collect(1)
    return weakref.ref(knot)


async def frozen_knot() -> "weakref.ref[Knot]":
    """One that was in use for long, and is not any more."""
    knot = Knot()
    async with asyncio.timeout(10):
        while any(each is knot for each in gc.get_objects()):
            await asyncio.sleep(0.005)
    return weakref.ref(knot)


async def freed(knot: "weakref.ref[Knot]", seconds: float) -> bool:
    end = asyncio.get_running_loop().time() + seconds
    while knot() is not None and asyncio.get_running_loop().time() < end:
        await asyncio.sleep(0.005)
    return knot() is None


def while_collecting(activity: Callable[[], int], work: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        collector = Garbage(activity)
        collector.start()
        try:
            await work()
        finally:
            await collector.stop()

    asyncio.run(main())


def test_cycles_that_are_not_old_are_freed_while_messages_pass() -> None:
    passing = count()

    async def work() -> None:
        assert await freed(knot_of_the_oldest(), 5.0)

    while_collecting(lambda: next(passing), work)


def test_a_collection_looks_at_what_is_new_only() -> None:
    passing = count()

    async def work() -> None:
        crowd = [[number] for number in range(100_000)]
        async with asyncio.timeout(10):
            while len(gc.get_objects()) > 10_000:
                await asyncio.sleep(0.005)
        assert len(crowd) == 100_000

    while_collecting(lambda: next(passing), work)


def test_old_cycles_are_freed_when_the_bus_is_quiet_and_not_while_messages_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(garbage, "THOROUGH_SECONDS", 0.05)
    passing = count()
    busy = True

    async def work() -> None:
        nonlocal busy
        knot = await frozen_knot()
        assert not await freed(knot, 0.2)
        busy = False
        assert await freed(knot, 5.0)

    while_collecting(lambda: next(passing) if busy else 0, work)


def test_old_cycles_are_freed_at_last_on_a_bus_that_is_never_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "LONGEST_SECONDS", 0.2)
    passing = count()

    async def work() -> None:
        assert await freed(await frozen_knot(), 5.0)

    while_collecting(lambda: next(passing), work)


def test_python_has_its_own_way_again_afterwards() -> None:
    before = gc.get_threshold()

    async def work() -> None:
        assert gc.get_threshold()[:2] == before[:2]
        assert gc.get_threshold()[2] > before[2]
        assert gc.get_freeze_count() > 0

    while_collecting(lambda: 0, work)
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0
