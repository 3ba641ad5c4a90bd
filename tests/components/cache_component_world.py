"""What tests of the cache component share: the component on a bus in memory with two tenants' guests, and damage."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import busclient.testing
from busclient import Bus
from busclient.testing import MemoryBus
from busd.components.cache.component import EncryptedCache
from busd.components.cache.entry import ABSENT, Entry
from busd.components.model import Context, attach, compile_operations, configure, offer
from busd.components.model.lifecycle import running
from tests.components.runner_support import attached_as
from tests.core.peer import OPEN

SECONDS = 20.0
"""Nothing in these tests takes longer than this unless it is broken."""

EXPORTED = OPEN + "export service cache.> from node to acme,globex\nexport service broker.> from node to acme\n"


def config(**changes: Any) -> dict[str, Any]:
    """A configuration that needs nothing and leaves nothing."""
    return {"key": {"generate": True}, "state": "off", **changes}


@asynccontextmanager
async def alive(settings: dict[str, Any], bus: Bus | None = None, **context: Any) -> AsyncIterator[EncryptedCache]:
    """The component itself, as a runner has it."""
    instance = configure(EncryptedCache, settings)
    instance.context = Context(EncryptedCache, bus, **context)
    async with running(instance):
        yield instance


class World:
    """A bus with the component, two tenants' guests and the node itself, each with a handle."""

    def __init__(
        self, bus: MemoryBus, component: EncryptedCache, buses: dict[str, Bus], handles: dict[str, Any]
    ) -> None:
        self.bus = bus
        self.component = component
        self.buses = buses
        self.acme: EncryptedCache = handles["acme"]
        self.globex: EncryptedCache = handles["globex"]
        self.node: EncryptedCache = handles["node"]


@asynccontextmanager
async def world(*, policy: str = EXPORTED, **changes: Any) -> AsyncIterator[World]:
    """The component with ``changes`` to `config`."""
    async with (
        asyncio.timeout(SECONDS),
        busclient.testing.bus(policy=policy, component="cache") as bus,
        alive(config(**changes), bus, clock=bus.clock) as component,
        offer(bus, component, compile_operations(EncryptedCache).values()),
    ):
        buses = {
            "acme": await attached_as(bus, "guest", "acme", "vm-1"),
            "globex": await attached_as(bus, "guest", "globex", "vm-2"),
            "node": await bus.connect(component="operator"),
        }
        async with (
            attach(EncryptedCache, bus=buses["acme"], where="bus") as acme,
            attach(EncryptedCache, bus=buses["globex"], where="bus") as globex,
            attach(EncryptedCache, bus=buses["node"], where="bus") as node,
        ):
            yield World(bus, component, buses, {"acme": acme, "globex": globex, "node": node})
        await buses["acme"].close()
        await buses["globex"].close()


def entry_of(component: EncryptedCache, tenant: str, name: bytes) -> tuple[bytes, Entry]:
    """The blinded name and the entry of a value."""
    values = component._opened().tenant(tenant)
    key = values._keys.blind(name)
    return key, values._store.find(key, ABSENT)


def put_back(component: EncryptedCache, tenant: str, name: bytes, record: bytes) -> str:
    """Write ``record`` into the memory of the component in the place of a value's; its blinded name in hex."""
    values = component._opened().tenant(tenant)
    key, old = entry_of(component, tenant, name)
    assert values._store.replace(key, old, Entry(record, old.generation, old.flags, old.expiry, old.epoch))
    return key.hex()


def damage(component: EncryptedCache, tenant: str, name: bytes) -> str:
    """Flip a bit of a value's record; its blinded name in hex."""
    record = bytearray(entry_of(component, tenant, name)[1].record)
    record[-1] ^= 1
    return put_back(component, tenant, name, bytes(record))


def lines(folder: Path, tenant: str) -> list[dict[str, Any]]:
    """The audit of ``tenant`` in the state folder."""
    path = folder / f"{tenant}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
