"""The hand-over tests' component: it tells every execution apart, and has a state that must not be lost."""

import asyncio
import os
from typing import ClassVar

import msgspec

from busd.components.model import Component, Manifest, Request


class Count(msgspec.Struct, frozen=True):
    """How many calls were executed, over all instances."""

    count: int


class Tally(Component):
    """Counts its calls. Each execution has a number of its own, and takes a while."""

    manifest: ClassVar[Manifest] = Manifest(
        component="tally",
        version="1.0.0",
        owner="tests",
        purpose="tells every execution apart",
        operations=(Request("add"), Request("where")),
        state=Count,
    )

    def __init__(self, *, fail_at: str = "") -> None:
        self._count = 0
        self._fail_at = fail_at

    def _maybe_die(self, step: str) -> None:
        if self._fail_at == step:
            os._exit(9)

    async def start(self) -> None:
        """Be ready, or die."""
        self._maybe_die("start")

    async def add(self) -> Count:
        """One more; the number of this execution."""
        self._count += 1
        count = self._count
        await asyncio.sleep(0.002 * (count % 10))
        return Count(count)

    async def where(self) -> int:
        """The process that answers."""
        return os.getpid()

    async def hand_over(self) -> Count:
        """The number to go on from."""
        self._maybe_die("hand_over")
        return Count(self._count)

    async def take_over(self, state: Count) -> None:
        """Go on from there."""
        self._maybe_die("take_over")
        self._count = state.count
