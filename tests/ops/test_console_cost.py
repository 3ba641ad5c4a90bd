"""The console with 10,000 endpoints: however much there is to collect, nobody waits for the loop.

A stall is measured in processor time of this thread, so that what other programs do on this machine does not count. The
garbage collector's is part of it: what the console keeps makes it run.
"""

import asyncio
import json
import time
from typing import Any

import pytest

from busd.core.principal import Principal
from busd.core.units import Unit
from busd.ops.console.census import Search
from busd.ops.console.collector import Console
from busd.ops.console.state import FLOWS, GROUPS
from busd.ops.garbage import Garbage
from busproto import envelope
from tests.core.peer import Peer, World
from tests.ops.console_support import FakeServices, LookedAt

ENDPOINTS = 10_000
UNITS = 400
STALL_SECONDS = 0.005

pytestmark = pytest.mark.alone


def crowd() -> tuple[World, list[Peer]]:
    """10,000 endpoints of 400 units; each publishes to two, and one of each tenant to all others of it."""
    world = World(endpoints=2 * ENDPOINTS)
    world.now = time.monotonic()
    peers: list[Peer] = []
    for number in range(ENDPOINTS):
        unit, tenant = f"vm-{number % UNITS}", f"tenant-{number % UNITS % 40}"
        if number < UNITS:
            world.bus.add_unit(Unit(unit, tenant, 1))
        manifest: dict[str, Any] = {
            "component": f"agent-{number // UNITS % 4}",
            "owner": "house",
            "purpose": "is one of many",
        }
        peers.append(world.peer(principal=Principal("guest", tenant, unit, 1), **manifest))
    for number, peer in enumerate(peers):
        peer.subscribe(f"own.{number // 40 // 2}")
        peer.subscribe("all")
    return world, peers


async def traffic(world: World, peers: list[Peer]) -> None:
    """Everybody sends, again and again; in turns, as the pump has them."""
    while True:
        for number, peer in enumerate(peers):
            world.now = time.monotonic()
            subjects = [f"own.{number // 40 // 2}"] + (["all"] if number < 40 else [])
            peer.send(b"".join(envelope.publish(subject, None, b"\xc0") for subject in subjects))
            if number % 8 == 0 or number < 40:
                for session in world.bus.ready():
                    while world.bus.take(session):
                        pass
                    await asyncio.sleep(0)
            if number % 200 == 0:
                await asyncio.sleep(0.001)
        await asyncio.sleep(0.2)


class Watch:
    """Notes the longest time that one turn of the loop took."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def run(self) -> None:
        since = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            self.longest = max(self.longest, now - since)
            since = now


async def read(console: Console, documents: int) -> list[dict[str, Any]]:
    viewer = console.join()
    assert viewer is not None
    found: list[dict[str, Any]] = []
    try:
        while len(found) < documents:
            document = await viewer.next()
            assert document is not None
            found.append({"size": len(document), "document": document})
    finally:
        console.leave(viewer)
    return found


def test_with_ten_thousand_endpoints_no_turn_of_the_loop_takes_five_milliseconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> tuple[Watch, list[dict[str, Any]], dict[str, Any], float]:
        world, peers = crowd()
        monkeypatch.setattr(
            "busd.ops.garbage.PERIOD_SECONDS", 0.5
        )  # it is ten times as often that garbage is collected
        console = Console(LookedAt(world), FakeServices, interval=0.3)
        garbage = Garbage(lambda: world.bus.received_messages)
        garbage.start()
        sending = asyncio.create_task(traffic(world, peers))
        await asyncio.sleep(1.0)  # all have sent once: what is found out for the first time is found out now
        watch = Watch()
        watching = asyncio.create_task(watch.run())
        try:
            begin = time.monotonic()
            found = await read(console, 4)
            took = (time.monotonic() - begin) / 4
            watched = console.join()
            await console.endpoint(peers[5].name)
            census = await console.census(
                Search(text="AGENT-3", sort="received_messages", descending=True, offset=100, limit=200)
            )
            assert watched is not None
            console.leave(watched)
            await console.close()
        finally:
            for task in (watching, sending):
                task.cancel()
            await asyncio.gather(watching, sending, return_exceptions=True)
            await garbage.stop()
        return watch, found, census, took

    watch, found, census, took = asyncio.run(main())
    state = json.loads(found[-1]["document"])
    size = found[-1]["size"] / 1024
    print(f"longest turn {watch.longest * 1000:.2f} ms; a document each {took:.2f} s, {size:.0f} KiB")
    assert state["totals"]["endpoints"] == ENDPOINTS
    assert len(state["groups"]) == GROUPS
    assert len(state["flows"]) == FLOWS
    assert state["left_out"]["groups"] == 4 * UNITS - GROUPS
    assert all(group["sends_per_second"] > 0 for group in state["groups"])
    assert (census["matching"], len(census["rows"])) == (6 * UNITS, 200)
    assert watch.longest < STALL_SECONDS
