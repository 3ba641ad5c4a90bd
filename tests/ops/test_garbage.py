"""Garbage is looked for when nobody waits, and never for ever put off."""

import asyncio
import gc
import weakref
from itertools import count

import pytest

from busd.ops import garbage
from busd.ops.garbage import Garbage


class Knot:
    """Something that only a full collection can free, once it is old."""

    def __init__(self) -> None:
        self.itself = self


def old_knot() -> "weakref.ref[Knot]":
    knot = Knot()
    gc.collect(1)
    gc.collect(1)
    return weakref.ref(knot)


async def freed(knot: "weakref.ref[Knot]", seconds: float) -> bool:
    end = asyncio.get_running_loop().time() + seconds
    while knot() is not None and asyncio.get_running_loop().time() < end:
        await asyncio.sleep(0.005)
    return knot() is None


def test_cycles_are_freed_when_the_bus_is_quiet_and_not_while_messages_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "PERIOD_SECONDS", 0.01)

    async def main() -> None:
        passing = count()
        busy = True
        collector = Garbage(lambda: next(passing) if busy else 0)
        collector.start()
        try:
            knot = old_knot()
            assert not await freed(knot, 0.1)
            busy = False
            assert await freed(knot, 5.0)
        finally:
            await collector.stop()

    asyncio.run(main())


def test_cycles_are_freed_at_last_on_a_bus_that_is_never_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "PERIOD_SECONDS", 0.01)
    monkeypatch.setattr(garbage, "LONGEST_SECONDS", 0.05)

    async def main() -> None:
        passing = count()
        collector = Garbage(lambda: next(passing))
        collector.start()
        try:
            assert await freed(old_knot(), 5.0)
        finally:
            await collector.stop()

    asyncio.run(main())


def test_python_has_its_own_way_again_afterwards() -> None:
    async def main() -> None:
        before = gc.get_threshold()
        collector = Garbage(lambda: 0)
        collector.start()
        assert gc.get_threshold()[:2] == before[:2]
        assert gc.get_threshold()[2] > before[2]
        await collector.stop()
        assert gc.get_threshold() == before
        assert gc.get_freeze_count() == 0

    asyncio.run(main())
