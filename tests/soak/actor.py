"""What every actor of the soak is: something that is done again and again, with a tally of what came of it."""

import asyncio
import random
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import busclient
from tests.fault.guests import attach
from tests.soak.house import House
from tests.soak.verdict import LATE

SECONDS = 30.0
"""For one thing to happen, on a machine that is busy: with floods, and perhaps with other work."""

PROBLEMS = 20
"""Of one actor, told in full; the rest is counted."""


class AttachError(Exception):
    """The node closed a connection in its handshake."""


def is_late(error: Exception) -> bool:
    """Whether it says that a handshake was not done in time; the node or the client may be the first to give up."""
    return isinstance(error, AttachError) or "greeting, READY and hello were not complete" in str(error)


@dataclass
class Tally:
    """What came of an actor's acts, over all its lives."""

    done: Counter[str] = field(default_factory=Counter)
    """How often something was done, or happened."""
    problems: list[str] = field(default_factory=list)
    """What must not be: each fails the soak."""

    def problem(self, text: str) -> None:
        self.done["problems"] += 1
        if len(self.problems) < PROBLEMS:
            self.problems.append(text)


class Actor:
    """Acts, rests, acts again, until it is over. A subclass says how, and has ``act`` raise what must not happen.

    Attributes:
        pause: seconds of rest between two acts, at most; half of it at least.
    """

    pause: ClassVar[float] = 0.1

    def __init__(self, house: House, tally: Tally, chance: random.Random, over: asyncio.Event) -> None:
        self.house = house
        self.tally = tally
        self.chance = chance
        self.over = over

    @asynccontextmanager
    async def there(self) -> AsyncIterator[None]:
        """What stands from before the first act until after the last one."""
        yield

    async def act(self) -> None:
        """Do it once."""
        raise NotImplementedError

    async def run(self) -> None:
        """Act until it is over; an act that is under way is finished, so that nothing is left undecided."""
        while not self.over.is_set():
            try:
                async with self.there():
                    while not self.over.is_set():
                        await self.act()
                        await self.rest(self.chance.uniform(self.pause / 2, self.pause))
            except (busclient.BusError, AttachError) as error:
                if is_late(error):
                    self.tally.done[LATE] += 1
                else:
                    self.tally.problem(f"{type(error).__name__}: {error}")
                await self.rest(1.0)
            except Exception as error:
                self.tally.problem(f"{type(error).__name__}: {error}")
                await self.rest(1.0)

    async def rest(self, seconds: float) -> None:
        """Wait, but not longer than the soak lasts."""
        try:
            async with asyncio.timeout(seconds):
                await self.over.wait()
        except TimeoutError:
            pass

    def attach(self, path: str) -> socket.socket:
        """A bare connection to ``path`` that is an endpoint; for a thread. Raises AttachError."""
        peer = attach(path)
        if peer is None:
            raise AttachError(path)
        return peer

    def connect(self, url: str | None = None, purpose: str = "") -> busclient.Bus:
        """A connection that does not come back by itself: if it is lost, that is to be seen."""
        name = type(self).__name__.lower()
        return busclient.connect(
            url or self.house.url, component=f"soak-{name}", owner="soak", purpose=purpose or name, reconnect=False
        )

    async def call(self, bus: busclient.Bus, subject: str, payload: Any = None, seconds: float = SECONDS) -> Any:
        """The payload of the reply. An outcome that does not come within the deadline and `SECONDS` more is lost."""
        try:
            async with asyncio.timeout(seconds + SECONDS):
                return (await bus.call(subject, payload, timeout=seconds)).payload
        except TimeoutError:
            raise AssertionError(f"a call of {subject} ended in no outcome") from None
