"""What tests of the console share: services that say what they are told to say, and a bus with a node around it."""

import asyncio
from dataclasses import replace
from typing import Any

from busd.core.bus import Bus
from busd.ops.console.collector import Console, Viewer
from busd.ops.console.services import Answers
from busd.ops.status import NodeStatistics
from tests.core.peer import World
from tests.ops.fakes import NODE


class FakeServices:
    """Components that answer at once with what a test set."""

    def __init__(self, answers: Answers = Answers((), (), ())) -> None:  # noqa: B008  (it is frozen)
        self.answers = answers
        self.asked = self.closed = 0

    async def ask(self) -> Answers:
        self.asked += 1
        return self.answers

    async def close(self) -> None:
        self.closed += 1


class SilentServices(FakeServices):
    """Components that never answer."""

    async def ask(self) -> Answers:
        self.asked += 1
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")


class LookedAt:
    """A node around a bus in memory, whose clock is the test's world's."""

    def __init__(self, world: World, **changes: Any) -> None:
        self.world = world
        self.changes = changes
        self.looks = 0

    @property
    def bus(self) -> Bus:
        return self.world.bus

    def statistics(self) -> NodeStatistics:
        self.looks += 1
        quiet: dict[str, Any] = {"components": {}, "audit": None, "soc": None, "lag": replace(NODE.lag, last_seconds=0)}
        policy = replace(NODE.policy, current=replace(NODE.policy.current, errors=0))
        figures = {**quiet, "policy": policy, "bus": self.bus.statistics(), **self.changes}
        return replace(NODE, **figures)


def console_of(world: World, services: FakeServices | None = None, **changes: Any) -> Console:
    """A console whose documents come as fast as they can; its clock is the world's."""
    return Console(
        LookedAt(world, **changes),
        lambda: services or FakeServices(),
        clock=lambda: world.now,
        wall=lambda: 1795216538.4,
        interval=0.0,
    )


async def newest(viewer: Viewer) -> bytes:
    """The next document; the test fails if there is none."""
    async with asyncio.timeout(10):
        document = await viewer.next()
    assert document is not None, "the stream has ended"
    return document
