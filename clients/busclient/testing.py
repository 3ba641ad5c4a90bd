"""A bus in memory, for tests: the broker's real core, no sockets, and a clock that the test moves.

    async with busclient.testing.bus() as bus:
        assert (await bus.call("$bus.ping")).payload["node"] == "test"

``bus`` is a `busclient.Bus` like any other. More endpoints come from ``await bus.connect(component="other")``, time
passes with ``await bus.clock.advance(30)``, and connections break with ``bus.disconnect()`` or ``bus.node.stop()``.
What it does not show are transports: use a real ``busd`` for those. Needs the package ``busd``, not only the SDK.
"""

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from math import inf
from typing import Any, Final

from busclient.bus import Bus
from busclient.link import LinkReceiver
from busd.core.bus import Bus as Core
from busd.core.policy import Policy, parse
from busd.core.principal import Principal
from busd.core.quotas import Quotas
from busd.core.rules import PolicyFile
from busd.core.session import Session

__all__ = ["FakeClock", "MemoryBus", "MemoryLink", "Node", "bus"]

SETTLE_TURNS: Final = 64
"""Turns of the event loop in which what is under way comes to rest: a call there and back takes about ten."""

URL: Final = "memory://test"


OPEN: Final = """\
allow publish,subscribe,call,serve,delegate > from host,guest,soc
allow subscribe,call $bus.> from host,guest,soc
"""
"""A policy that allows everything."""


class _Timer:
    def __init__(self, when: float, callback: Callable[[], object]) -> None:
        self.when = when
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        self.callback = None


class FakeClock:
    """A clock that stands still until the test moves it."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._timers: list[tuple[float, int, _Timer]] = []
        self._order = itertools.count()

    def time(self) -> float:
        """Seconds; starts at 1000."""
        return self._now

    def call_at(self, when: float, callback: Callable[[], object], /) -> _Timer:
        """Call ``callback`` when the clock has come to ``when``."""
        timer = _Timer(when, callback)
        heapq.heappush(self._timers, (when, next(self._order), timer))
        return timer

    async def advance(self, seconds: float) -> None:
        """Let time pass: everything due in it happens in order, each with the time it was due at."""
        end = self._now + seconds
        await settle()
        while self._timers and self._timers[0][0] <= end:
            when, _, timer = heapq.heappop(self._timers)
            self._now = max(self._now, when)
            if timer.callback is not None:
                timer.callback()
                await settle()
        self._now = end
        await settle()


async def settle() -> None:
    """Let everything that is under way come to rest."""
    for _ in range(SETTLE_TURNS):
        await asyncio.sleep(0)


class MemoryLink:
    """A connection of one endpoint to the core."""

    def __init__(self, node: "Node", receiver: LinkReceiver, session: Session) -> None:
        self.paused = False
        self.reading = True
        self.session = session
        self._node = node
        self._receiver = receiver
        self._loop = asyncio.get_running_loop()
        self._closed = asyncio.Event()

    @property
    def unsent_bytes(self) -> int:
        """Nothing stays in a link of this kind."""
        return 0

    def send(self, frames: list[list[bytes]]) -> None:
        """Hand frames to the core when this turn of the loop is over, as a socket would."""
        for pieces in frames:
            self._loop.call_soon(self._node.receive, self, b"".join(pieces))

    def close(self) -> None:
        """Close, after what was sent has arrived."""
        self._loop.call_soon(self.cut, "closed")

    async def wait_closed(self) -> None:
        """Wait until it is closed."""
        await self._closed.wait()

    def cut(self, reason: str) -> None:
        """The connection breaks: both sides learn of it."""
        if not self._closed.is_set():
            self._closed.set()
            self._node.detach(self)
            self._receiver.link_lost(self, reason)

    def flush(self) -> None:
        """Bring what the core has for this endpoint, unless it does not read."""
        frames: list[bytes] = []
        while self.reading and not self._closed.is_set() and (parts := self._node.core.take(self.session)):
            frames.append(b"".join(parts))
        if frames:
            self._receiver.frames_received(frames)
        if self.session.closing and not self.session.outbox:
            self.cut("the broker closed the connection")


def _parsed(policy: str) -> Policy:
    return parse([PolicyFile("10-test.policy", policy)], self_uid=0, source="test")


class Node:
    """One node's core with its endpoints, driven by a clock."""

    def __init__(
        self, clock: FakeClock, *, name: str = "test", quotas: Quotas | None = None, policy: str = OPEN
    ) -> None:
        """``policy`` is the text of one policy file."""
        self.clock = clock
        self._policy = _parsed(policy)
        self._name = name
        self._quotas = quotas
        self._links: set[MemoryLink] = set()
        self._flush_due = False
        self._due = inf
        self.running = False
        self.core: Core
        """The broker itself; its `statistics` and its census are there for tests to look at."""
        self.start()

    def start(self) -> None:
        """Start (again): a new core, which knows nothing of what was before."""
        if not self.running:
            self.running = True
            self.core = Core(
                node=self._name,
                software="busclient.testing",
                policy=self._policy,
                now=self.clock.time(),
                quotas=self._quotas,
            )

    def apply_policy(self, policy: str) -> None:
        """Decide by ``policy``, the text of one policy file, from now on, as after ``bus policy reload``."""
        self._policy = _parsed(policy)
        if self.running:
            self.core.apply_policy(self._policy, self.clock.time())
            self._flush_soon()

    def stop(self) -> None:
        """Be gone at once, as after ``kill -9``; nobody can connect until `start`."""
        self.running = False
        for link in list(self._links):
            link.cut("the node was stopped")

    async def connector(self, url: str, receiver: LinkReceiver) -> MemoryLink:
        """What `Bus` opens its links with."""
        if not self.running:
            raise ConnectionRefusedError
        principal = Principal("host", "node", "host", 0, uid=0, gid=0, pid=1)
        session = self.core.attach(principal, self.clock.time())
        link = MemoryLink(self, receiver, session)
        session.link = link
        self._links.add(link)
        self._flush_soon()
        return link

    def receive(self, link: MemoryLink, frame: bytes) -> None:
        """A frame has come through ``link``."""
        if link in self._links:
            self.core.receive(link.session, frame, self.clock.time())
            self._flush_soon()

    def detach(self, link: MemoryLink) -> None:
        """``link`` is closed."""
        self._links.discard(link)
        if self.running:
            self.core.detach(link.session, self.clock.time())
            self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        for session in self.core.ready():
            if isinstance(session.link, MemoryLink) and session.link in self._links:
                session.link.flush()
        deadline = self.core.next_deadline()
        if deadline is not None and deadline < self._due:
            self._due = deadline
            self.clock.call_at(deadline, self._expire)

    def _expire(self) -> None:
        self._due = inf
        if self.running:
            self.core.expire(self.clock.time())
            self._flush()


class MemoryBus(Bus):
    """A `Bus` on a node in memory."""

    def __init__(self, node: Node, manifest: dict[str, Any], *, reconnect: bool = True) -> None:
        super().__init__(URL, manifest, reconnect=reconnect, connector=node.connector, clock=node.clock)
        self.node = node
        self._others: list[MemoryBus] = []

    @property
    def clock(self) -> FakeClock:
        """The clock of the node and of all its endpoints."""
        return self.node.clock

    async def connect(self, *, reconnect: bool = True, **manifest: Any) -> "MemoryBus":
        """One more endpoint on the same node. It is closed with the first one."""
        other = await MemoryBus(self.node, manifest, reconnect=reconnect).open()
        self._others.append(other)
        return other

    def disconnect(self) -> None:
        """Break this endpoint's connection."""
        if isinstance(self._connection.link, MemoryLink):
            self._connection.link.cut("the test broke the connection")

    def pause_reading(self) -> None:
        """Take in nothing more from the broker, as a program that does not keep up."""
        if isinstance(self._connection.link, MemoryLink):
            self._connection.link.reading = False

    def resume_reading(self) -> None:
        """Take in what has come meanwhile, and all that follows."""
        if isinstance(self._connection.link, MemoryLink):
            self._connection.link.reading = True
            self._connection.link.flush()

    async def close(self) -> None:
        """Close the endpoints made by `connect`, then this one."""
        while self._others:
            await self._others.pop().close()
        await super().close()


@asynccontextmanager
async def bus(
    *, node: str = "test", quotas: Quotas | None = None, policy: str = OPEN, reconnect: bool = True, **manifest: Any
) -> AsyncIterator[MemoryBus]:
    """A node in memory with one endpoint on it, whose manifest is the other keyword arguments.

    ``policy`` is the text of one policy file; without it everything is allowed.
    """
    memory = Node(FakeClock(), name=node, quotas=quotas, policy=policy)
    async with MemoryBus(memory, manifest or {"component": "test"}, reconnect=reconnect) as endpoint:
        yield endpoint
