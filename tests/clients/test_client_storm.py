"""Random traffic on the bus in memory: whatever happens, everything ends once, definitely, and nothing is left."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

import busclient.testing
from busclient import (
    BusError,
    Call,
    CallTimeout,
    Cancelled,
    ErrorReply,
    Gap,
    NoResponders,
    NotConnected,
    Overloaded,
    Reply,
    UnknownOutcome,
)
from busclient.testing import MemoryBus, settle
from busd.core.quotas import Quotas

OUTCOMES = (CallTimeout, Cancelled, ErrorReply, NoResponders, NotConnected, Overloaded, UnknownOutcome)


CALLS = 25


class Storm:
    """Endpoints that call, serve and publish at random on one node."""

    def __init__(self, bus: MemoryBus, seed: int) -> None:
        self.bus = bus
        self.random = random.Random(seed)
        self.outcomes: Counter[str] = Counter()
        self.received: list[tuple[str, int]] = []
        self.lost = 0

    async def handle(self, call: Call) -> Any:
        """One of everything that a handler can do."""
        match self.random.randrange(7):
            case 0:
                raise BusError(10001, text="no")
            case 1:
                await asyncio.sleep(0)
                return Reply(call.payload, headers={"n": 1})
            case 2:
                await asyncio.Event().wait()
            case 3:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    return "too late"
            case 4:
                return await call_once(self.bus, "storm.plain", 0.5)
        return call.payload

    async def parts(self, call: Call) -> AsyncIterator[int]:
        for n in range(self.random.randrange(20)):
            yield n
            if not self.random.randrange(8):
                await asyncio.sleep(0)
            if not self.random.randrange(40):
                raise BusError(10002, text="half way")

    async def caller(self, bus: MemoryBus) -> None:
        for _ in range(CALLS):
            subject = self.random.choice(("storm.plain", "storm.parts", "storm.nobody"))
            calling = asyncio.create_task(call_once(bus, subject, self.random.uniform(0.1, 2.0)))
            if not self.random.randrange(5):
                for _ in range(self.random.randrange(8)):
                    await asyncio.sleep(0)
                calling.cancel()
            try:
                self.outcomes[await calling] += 1
            except asyncio.CancelledError:
                self.outcomes["we cancelled it"] += 1

    async def publisher(self, bus: MemoryBus, name: str) -> None:
        for n in range(200):
            try:
                await bus.publish(f"storm.data.{name}", n)
            except NotConnected:
                await bus.connected()
            if not self.random.randrange(10):
                await asyncio.sleep(0)

    async def subscriber(self, bus: MemoryBus, ready: asyncio.Event) -> None:
        async with bus.subscribe("storm.data.*", gaps="yield", max_pending=50) as sub:
            ready.set()
            async for item in sub:
                if isinstance(item, Gap):
                    self.lost += item.count or 0
                else:
                    self.received.append((item.subject, item.payload))
                if not self.random.randrange(30):
                    for _ in range(self.random.randrange(40)):
                        await asyncio.sleep(0)

    async def weather(self, buses: list[MemoryBus], *, breaks: bool) -> None:
        """Time passes; connections break."""
        while True:
            await self.bus.clock.advance(self.random.uniform(0.1, 0.8))
            if breaks and self.random.randrange(2):
                self.random.choice(buses).disconnect()


async def call_once(bus: MemoryBus, subject: str, timeout: float) -> str:
    """How one call or stream ended."""
    try:
        if subject == "storm.parts":
            got = [part.payload async for part in bus.stream(subject, timeout=timeout)]
            assert got == list(range(len(got)))
            return "stream"
        await bus.call(subject, 5, timeout=timeout)
    except OUTCOMES as error:
        return type(error).__name__
    return "reply"


@pytest.mark.parametrize("breaks", [False, True], ids=["steady", "breaking"])
@pytest.mark.parametrize("seed", range(2))
def test_everything_ends_and_nothing_is_left(seed: int, breaks: bool) -> None:
    async def main() -> None:
        async with busclient.testing.bus(quotas=Quotas(calls=30, held_calls=20)) as bus:
            storm = Storm(bus, seed)
            buses = [await bus.connect(component=f"c{n}") for n in range(4)]
            server = buses[0]
            async with (
                server.serve("storm.plain", storm.handle, concurrency=8),
                server.serve("storm.parts", storm.parts),
                buses[1].serve("storm.plain", storm.handle, concurrency=2),
            ):
                weather = asyncio.create_task(storm.weather(buses, breaks=breaks))
                await asyncio.gather(*[storm.caller(bus) for bus in (*buses, bus) for _ in range(2)])
                weather.cancel()
                await asyncio.wait([weather])
                await bus.clock.advance(3)
                for each in (*buses, bus):
                    assert each.state == "connected"
                    assert not each._session.calls
                    assert not each._session.requests
                    assert not each._session.held
                assert bus.node.core.statistics().held_calls == 0
                assert bus.node.core.statistics().calls_in_flight == 0
            assert storm.outcomes.total() == 10 * CALLS
            assert {"reply", "stream", "NoResponders", "CallTimeout", "ErrorReply"} <= set(storm.outcomes)
            assert breaks or "UnknownOutcome" not in storm.outcomes

    asyncio.run(asyncio.wait_for(main(), 60))


@pytest.mark.parametrize("breaks", [False, True], ids=["steady", "breaking"])
@pytest.mark.parametrize("seed", range(2))
def test_messages_stay_in_order_and_are_counted(seed: int, breaks: bool) -> None:
    async def main() -> None:
        async with busclient.testing.bus(quotas=Quotas(outbox_messages=60)) as bus:
            storm = Storm(bus, seed)
            buses = [await bus.connect(component=f"c{n}") for n in range(4)]
            ready = asyncio.Event()
            subscriber = asyncio.create_task(storm.subscriber(buses[0], ready))
            await ready.wait()
            weather = asyncio.create_task(storm.weather(buses, breaks=breaks))
            await asyncio.gather(*[storm.publisher(each, f"p{n}") for n, each in enumerate(buses[1:])])
            weather.cancel()
            await asyncio.wait([weather])
            await bus.clock.advance(1)
            for each in buses[1:]:
                await each.connected()
                await each.publish("storm.data.last", 0)  # a gap is told before the next message at the latest
            for _ in range(20):
                await settle()
            subscriber.cancel()
            await asyncio.wait([subscriber])
            for name in ("p0", "p1", "p2"):
                numbers = [n for subject, n in storm.received if subject == f"storm.data.{name}"]
                assert numbers == sorted(set(numbers))
            if not breaks:
                assert len(storm.received) + storm.lost == 603

    asyncio.run(asyncio.wait_for(main(), 60))
