"""One round of one work against one broker: which client processes it takes, and what their results mean."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.peers.peer import Peer
from tests.bench.processes import BenchError, Broker, Children, Client
from tests.bench.works import Work

GRACE_SECONDS = 60.0
"""What a round may take beyond its seconds of work before it counts as hung (a message was lost)."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How long and how much."""

    rounds: int = 5
    warmup: float = 0.3
    """Seconds, in each round, before the clock starts."""
    seconds: float = 1.5
    """Seconds that one round is timed for."""
    payload: int = 100
    """Bytes of every message and call."""
    endpoints: int = 10_000
    """How many are attached."""


async def measure(work: Work, peer: Peer, broker: Broker, settings: Settings) -> dict[str, float]:
    """The work's figures of one round; raises BenchError when it did not come about."""
    measure_kind = {"latency": calls, "calls": calls, "attach": attach}.get(work.name, deliveries)
    try:
        async with asyncio.timeout(GRACE_SECONDS + settings.warmup + settings.seconds), Children() as children:
            return await measure_kind(children, work, peer, broker, settings)
    except TimeoutError:
        broker.check()
        raise BenchError(f"{work.name} with {peer.name} hung: a message was lost or a process stands") from None
    except BenchError:
        broker.check()
        raise


def spec(role: str, peer: Peer, broker: Broker, settings: Settings, **options: Any) -> dict[str, Any]:
    """The command line of one client process."""
    common = {"role": role, "peer": peer.name, "url": broker.url}
    return {**common, "payload": settings.payload, "warmup": settings.warmup, "seconds": settings.seconds, **options}


async def calls(children: Children, work: Work, peer: Peer, broker: Broker, settings: Settings) -> dict[str, float]:
    """One process serves, one calls."""
    server = await Client.start(children, spec("server", peer, broker, settings))
    caller = await Client.start(children, spec("caller", peer, broker, settings, in_flight=work.in_flight))
    broker_before = broker.cpu_seconds()
    caller.go()
    result = await caller.result()
    cpu = broker.cpu_seconds() - broker_before + result["cpu"]
    server.go()
    cpu += (await server.result())["cpu"]
    each = cpu / (result["calls"] + result["warmed"])
    return {**result, "rate": result["calls"] / result["seconds"], "cpu": each * 1e6}


async def deliveries(
    children: Children, work: Work, peer: Peer, broker: Broker, settings: Settings
) -> dict[str, float]:
    """One process publishes, the others hold the subscribers; what is sent must have arrived."""
    window = {"window": work.window, "processes": work.processes}
    links = work.subscribers // work.processes
    subscribers = [
        await Client.start(children, spec("subscriber", peer, broker, settings, index=index, links=links, **window))
        for index in range(work.processes)
    ]
    publisher = await Client.start(children, spec("publisher", peer, broker, settings, chunk=work.chunk, **window))
    broker_before = broker.cpu_seconds()
    publisher.go()
    result = await publisher.result()
    cpu = broker.cpu_seconds() - broker_before + result["cpu"]
    received = 0.0
    for subscriber in subscribers:
        subscriber.go()
        outcome = await subscriber.result()
        received += outcome["received"]
        cpu += outcome["cpu"]
    if received != result["sent"] * work.subscribers:
        raise BenchError(
            f"{peer.name}: {result['sent']:.0f} messages to {work.subscribers} arrived {received:.0f} times"
        )
    rate = result["messages"] * work.subscribers / result["seconds"]
    return {**result, "rate": rate, "cpu": cpu / received * 1e6}


async def attach(children: Children, work: Work, peer: Peer, broker: Broker, settings: Settings) -> dict[str, float]:
    """One process attaches bare endpoints; the broker's memory is read before and while they are attached."""
    attacher = await Client.start(children, spec("attacher", peer, broker, settings, count=settings.endpoints))
    before = broker.resident_bytes()
    attacher.go()
    await attacher.ready()
    grown = broker.resident_bytes() - before
    attacher.go()
    result = await attacher.result()
    return {**result, "rss": grown / settings.endpoints / 1024}


async def fresh(work: Work, peer: Peer, settings: Settings, directory: Path) -> dict[str, float]:
    """As ``measure``, against a broker of its own: one that no other work has made larger."""
    async with Children() as children:
        return await measure(work, peer, await Broker.start(children, peer, directory), settings)
