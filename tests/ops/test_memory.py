"""Memory is given back after a flood, and only when that is worth it."""

import asyncio
import sys
from collections.abc import Callable

import pytest

from busd.ops import memory
from busd.ops.memory import WORTH_BYTES, Memory
from tests.ops.processes import python

MIB = 1 << 20


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "PERIOD_SECONDS", 0.005)


class Process:
    """One with ``needed`` bytes in use and ``free`` ones that it has kept."""

    def __init__(self, needed: int) -> None:
        self.needed = needed
        self.free = 0
        self.given_back: list[int] = []

    def resident(self) -> int:
        return self.needed + self.free

    def give_back(self) -> None:
        self.given_back.append(self.free)
        self.free = 0


async def looks() -> None:
    """Some periods pass."""
    await asyncio.sleep(0.1)


async def until(condition: Callable[[], object]) -> None:
    """Wait for it, at most a few seconds."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


def test_it_is_given_back_when_it_has_become_much_more() -> None:
    async def main() -> None:
        process = Process(60 * MIB)
        here = Memory(process.resident, process.give_back)
        here.start()
        try:
            process.free = WORTH_BYTES - 1
            await looks()
            assert process.given_back == []
            for size in (500 * MIB, 40 * MIB):
                process.free = size
                await until(lambda: process.free == 0)
            await looks()
            assert process.given_back == [500 * MIB, 40 * MIB]
            process.needed = 20 * MIB
            await looks()
            process.needed = 60 * MIB
            await until(lambda: len(process.given_back) == 3)  # what it needs least is what counts
        finally:
            await here.stop()

    asyncio.run(main())


def test_what_was_needed_in_a_flood_is_given_back_after_it() -> None:
    """Asked in the middle of one, there was nothing to let go of, and 340 MiB were kept for ever (seen in a soak)."""

    async def main() -> None:
        process = Process(60 * MIB)
        here = Memory(process.resident, process.give_back)
        here.start()
        try:
            process.needed = 340 * MIB
            await until(lambda: process.given_back)
            process.needed, process.free = 60 * MIB, 280 * MIB
            await until(lambda: process.free == 0)
        finally:
            await here.stop()

    asyncio.run(main())


def test_a_process_that_has_really_grown_is_asked_more_and_more_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    ended = asyncio.Event()

    async def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 12:
            ended.set()
            await asyncio.Event().wait()

    async def main() -> None:
        process = Process(60 * MIB)
        here = Memory(process.resident, process.give_back)
        monkeypatch.setattr(memory, "PERIOD_SECONDS", 60.0)
        monkeypatch.setattr(asyncio, "sleep", sleep)
        here.start()
        process.needed = 400 * MIB
        await asyncio.wait_for(ended.wait(), 10)
        await here.stop()

    asyncio.run(main())
    assert waited == [60, 120, 240, 480, *[600] * 8]


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc, and /proc")
def test_a_process_is_as_small_as_before_a_flood() -> None:
    ended = python(
        "from busd.ops.memory import give_back, resident\n"
        "before = resident()\n"
        "held = [bytes(1000) for _ in range(100_000)]\n"
        "kept = held[::100]\n"
        "del held\n"
        "large = resident()\n"
        "give_back()\n"
        "print(before, large, resident())"
    )
    before, large, after = map(int, ended.stdout.split())
    assert large > before + 80 * MIB
    assert after < before + 20 * MIB
