"""A small component, and a runner of it on a bus in memory."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec

import busclient.testing
from busclient import Bus, Message
from busclient.testing import MemoryBus, MemoryLink, settle
from busd.components.model import Budget, Component, Event, Health, Manifest, Request, Stream
from busd.components.runner.control import Control
from busd.components.runner.limits import Usage
from busd.components.runner.runner import Runner
from busd.core.principal import Principal
from busd.core.units import Unit

INSTANCE = "0123456789ab"
CONTROL = f"component.tally.{INSTANCE}"
STATUS = f"{CONTROL}.status"


class Count(msgspec.Struct, frozen=True):
    """The state of a tally."""

    n: int
    pad: bytes = b""


ADDED = Event("added", int)


class Tally(Component):
    """Counts. What is done to it is in ``log``, and ``hooks`` runs at each moment of its life that has one."""

    manifest = Manifest(
        component="tally",
        version="1.2.3",
        owner="tests",
        purpose="counts what it is told to",
        operations=(Request("add"), Request("hold"), Stream("upto"), ADDED),
        placements=("host", "soc"),
        needs=("telemetry.cpu",),
        budget=Budget(memory_bytes=64 << 20, cpu_percent=50.0),
        state=Count,
    )
    log: list[str]
    hooks: dict[str, Callable[[], Awaitable[Any]]]

    def __init__(self, start_at: int = 0) -> None:
        self.n = start_at
        self.gate = asyncio.Event()
        made.append(self)

    async def _moment(self, name: str) -> Any:
        log.append(name)
        if name in hooks:
            return await hooks[name]()
        return None

    async def start(self) -> None:
        await self._moment("start")

    async def run(self) -> None:
        await self._moment("run")
        try:
            await asyncio.Event().wait()
        finally:
            await self._moment("run ends")

    async def stop(self) -> None:
        await self._moment("stop")

    def health(self) -> Health:
        if "health" in hooks:
            raise RuntimeError("no idea")
        return Health(self.n < 1000, f"n is {self.n}")

    async def hand_over(self) -> Any:
        other = await self._moment("hand_over")
        return Count(self.n) if other is None else other

    async def take_over(self, state: Any) -> None:
        await self._moment("take_over")
        self.n = state.n

    async def add(self, n: int = 1) -> int:
        """Add ``n``; the sum."""
        self.n += n
        return self.n

    async def hold(self, n: int = 1) -> int:
        """Add ``n`` once the gate is open; the sum."""
        await self.gate.wait()
        self.n += n
        return self.n

    async def upto(self, n: int) -> AsyncIterator[int]:
        """The numbers from 0 to before ``n``; the last waits for the gate."""
        for i in range(n):
            if i == n - 1:
                await self.gate.wait()
            yield i


class Plain(Component):
    """Has no state, no background work and one operation."""

    manifest = Manifest(
        component="plain", version="1", owner="tests", purpose="does little", operations=(Request("ping"),)
    )

    async def ping(self) -> str:
        """Always ``pong``."""
        return "pong"


made: list[Tally] = []
log: list[str] = []
hooks: dict[str, Callable[[], Awaitable[Any]]] = {}


def forget() -> None:
    """Before each test."""
    made.clear()
    log.clear()
    hooks.clear()


class Stage:
    """A runner on a bus in memory, and the endpoint of whoever tells it what to do."""

    def __init__(self, bus: MemoryBus, operator: MemoryBus, component: type[Component], **options: Any) -> None:
        config = options.pop("config", {})
        self.usage = Usage(processor=lambda: 0.25 * bus.clock.time(), memory=lambda: 123_456)
        self.bus = bus
        self.operator = operator
        self.clock = bus.clock
        self.runner = Runner(component, config, bus, INSTANCE, clock=bus.clock, usage=self.usage, **options)
        self.control = Control(self.runner, bus)
        self.statuses: list[dict[str, Any]] = []
        self.running: asyncio.Task[None]

    def state(self) -> str:
        """The runner's, which mypy would take for a constant once it has been compared."""
        return self.runner.state

    async def tell(self, do: str, *, timeout: float = 60.0, **more: Any) -> dict[str, Any]:
        """Send a control request; its reply."""
        reply = await self.operator.call(CONTROL, {"do": do, **more}, timeout=timeout)
        return dict(reply.payload)

    async def listen(self) -> None:
        async with self.operator.subscribe(STATUS) as subscription:
            message: Message
            async for message in subscription:
                self.statuses.append(message.payload)

    def states(self) -> list[str]:
        """The states that were published, each once in a row."""
        states: list[str] = []
        for status in self.statuses:
            if states[-1:] != [status["state"]]:
                states.append(status["state"])
        return states

    async def ended(self) -> None:
        """Wait for the runner's end. Raises what it failed with."""
        await settle()
        await asyncio.wait_for(asyncio.shield(self.running), 5)


@asynccontextmanager
async def stage(component: type[Component] = Tally, *, standby: bool = True, **options: Any) -> AsyncIterator[Stage]:
    """A runner that runs, and is ended at the end of the block."""
    forget()
    async with busclient.testing.bus(component="operator", policy=options.pop("policy", busclient.testing.OPEN)) as bus:
        made_bus = await bus.connect(component=component.manifest.component)
        it = Stage(made_bus, bus, component, standby=standby, **options)
        listening = asyncio.create_task(it.listen())
        await settle()
        it.running = asyncio.create_task(it.control.run())
        await settle()
        try:
            yield it
        finally:
            for tally in made:
                tally.gate.set()
            hooks.clear()
            for task in (it.running, listening):
                task.cancel()
            await asyncio.gather(it.running, listening, return_exceptions=True)
    assert len(asyncio.all_tasks()) == 1, asyncio.all_tasks()


def staged(
    component: type[Component] = Tally, **options: Any
) -> Callable[[Callable[[Stage], Awaitable[None]]], Callable[[], None]]:
    """Run an async test on a `stage`."""

    def decorate(test: Callable[[Stage], Awaitable[None]]) -> Callable[[], None]:
        async def main() -> None:
            async with stage(component, **options) as it:
                await test(it)

        def run() -> None:
            asyncio.run(main())

        run.__name__ = test.__name__
        run.__doc__ = test.__doc__
        return run

    return decorate


async def attached_as(bus: MemoryBus, boundary: Any, tenant: str, unit: str) -> Bus:
    """Another endpoint on the node of ``bus``, of which something else is proven. Whoever asks closes it."""
    node = bus.node
    node.core.add_unit(Unit(unit, tenant, 1, boundary))

    async def connector(url: str, receiver: Any) -> MemoryLink:
        session = node.core.attach(Principal(boundary, tenant, unit, 1), node.clock.time())
        link = MemoryLink(node, receiver, session)
        session.link = link
        node._links.add(link)
        node._flush_soon()
        return link

    return await Bus("memory://test", {"component": unit}, connector=connector, clock=node.clock).open()
