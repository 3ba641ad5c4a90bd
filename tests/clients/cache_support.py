"""A cache for ``bus cache``: one that seals nothing and answers what a test told it to, and the real one on a node."""

import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from buscli import connection
from buscli.exits import Exit
from busclient.testing import FakeClock, MemoryBus, Node
from busd.components.cache.answers import Found, Share, Statistics
from busd.components.cache.statistics import CacheStatistics, StoreStatistics
from busd.components.model import Component, Manifest, Request
from busd.components.model.component import Context, configure
from busd.components.model.lifecycle import running
from busd.components.model.operation import compile_operations
from busd.components.model.serve import offer
from busd.components.shipped import SHIPPED
from tests.clients.cli_support import Cli
from tests.support import ROOT, running_node, wait_until

_STORE: dict[str, Any] = {
    "policy": "lru",
    "hits": 900,
    "misses": 100,
    "sets": 6000,
    "deletes": 7,
    "clears": 1,
    "expired": 20,
    "evicted_for_bytes": 11,
    "evicted_for_entries": 12,
    "unauthentic": 0,
    "keyless": 4,
    "refused": 5,
    "entries": 5120,
    "entries_limit": 1 << 40,
    "bytes": 3 << 20,
    "bytes_limit": 64 << 20,
    "bytes_most": 4 << 20,
}
_KEYS: dict[str, Any] = {
    "epoch": 3,
    "key_age": 3700.0,
    "key_messages": 6001,
    "resealed": 13,
    "computed": 0,
    "shared": 0,
    "in_flight": 0,
}


def statistics(tenant: str = "acme", **changed: Any) -> Statistics:
    """Figures of a tenant's values."""
    sealed = CacheStatistics(**{**_STORE, **_KEYS, **changed})
    return Statistics(tenant=tenant, hit_ratio=sealed.hit_ratio, sealed=sealed)


def blind_statistics(tenant: str = "acme", **changed: Any) -> Statistics:
    """Figures of a tenant's records that were sealed elsewhere."""
    blind = StoreStatistics(**{**_STORE, **changed})
    return Statistics(tenant=tenant, hit_ratio=blind.hit_ratio, blind=blind)


class Script:
    """What the component answers, and what it was asked.

    Attributes:
        asked: operation and arguments, in order; what was not given is left out.
        answers: by operation, what it gives; an exception is raised.
        served: whether the component is on the bus.
        purposes: what the census was told of each connection.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.answers: dict[str, Any] = {
            "get": Found(True, b"hello", 7, 59.6),
            "stats": statistics(),
        }
        self.served = True
        self.purposes: list[str] = []

    def take(self, operation: str, usual: Any, /, **given: Any) -> Any:
        """Take down a request; its answer."""
        self.asked.append((operation, {key: value for key, value in given.items() if value is not None}))
        answer = self.answers.get(operation, usual)
        if isinstance(answer, BaseException):
            raise answer
        return answer(**given) if callable(answer) else answer

    def given(self, name: str) -> dict[str, Any]:
        """What the one request ``name`` was asked with."""
        (found,) = [given for asked, given in self.asked if asked == name]
        return found


class FakeCache(Component):
    """The operations of the component that ``bus cache`` calls."""

    manifest = Manifest(
        component="cache",
        version="0",
        owner="test",
        purpose="pretends",
        operations=(
            *map(Request, ("get", "set", "add", "replace", "cas", "delete", "touch", "clear")),
            *map(Request, ("stats", "tenants", "rotate", "shred")),
        ),
    )
    script: ClassVar[Script]

    async def get(self, name: bytes) -> Found:
        """The answer."""
        return self.script.take("get", None, name=name)  # type: ignore[no-any-return]

    async def set(self, name: bytes, *, value: bytes, ttl: float | None = None) -> int:
        """A generation."""
        return self.script.take("set", 8, name=name, value=value, ttl=ttl)  # type: ignore[no-any-return]

    async def add(self, name: bytes, *, value: bytes, ttl: float | None = None) -> bool:
        """Whether it was done."""
        return self.script.take("add", True, name=name, value=value, ttl=ttl)  # type: ignore[no-any-return]

    async def replace(self, name: bytes, *, value: bytes, ttl: float | None = None) -> bool:
        """Whether it was done."""
        return self.script.take("replace", True, name=name, value=value, ttl=ttl)  # type: ignore[no-any-return]

    async def cas(self, name: bytes, *, value: bytes, generation: int, ttl: float | None = None) -> int:
        """A generation."""
        given = {"name": name, "value": value, "generation": generation, "ttl": ttl}
        return self.script.take("cas", 9, **given)  # type: ignore[no-any-return]

    async def touch(self, name: bytes, *, ttl: float | None = None) -> bool:
        """Whether it is there."""
        return self.script.take("touch", True, name=name, ttl=ttl)  # type: ignore[no-any-return]

    async def delete(self, name: bytes) -> bool:
        """Whether it was there."""
        return self.script.take("delete", True, name=name)  # type: ignore[no-any-return]

    async def clear(self) -> int:
        """How many there were."""
        return self.script.take("clear", 5120)  # type: ignore[no-any-return]

    async def stats(self, *, tenant: str | None = None) -> Statistics:
        """The figures."""
        return self.script.take("stats", None, tenant=tenant)  # type: ignore[no-any-return]

    async def tenants(self) -> list[Share]:
        """The shares."""
        return self.script.take("tenants", [])  # type: ignore[no-any-return]

    async def rotate(self, *, tenant: str | None = None) -> int:
        """The new key's number."""
        return self.script.take("rotate", 4, tenant=tenant)  # type: ignore[no-any-return]

    async def shred(self, *, tenant: str | None = None, epoch: int | None = None) -> bool:
        """Whether there was something."""
        return self.script.take("shred", True, tenant=tenant, epoch=epoch)  # type: ignore[no-any-return]


def scripted(monkeypatch: pytest.MonkeyPatch) -> Script:
    """Have ``bus cache`` find a `FakeCache`, on whatever bus it looks for."""
    script = Script()
    monkeypatch.setattr(FakeCache, "script", script, raising=False)
    monkeypatch.setitem(SHIPPED, "cache", f"{__name__}:FakeCache")

    @asynccontextmanager
    async def attached(args: Any, output: Any, about: str = "", **_: object) -> AsyncIterator[Any]:
        script.purposes.append(about)
        async with MemoryBus(Node(FakeClock()), {"component": "cache" if script.served else "host"}) as bus:
            if not script.served:
                yield bus
                return
            instance = configure(FakeCache, {})
            instance.context = Context(FakeCache, bus)
            async with running(instance), offer(bus, instance, compile_operations(FakeCache).values()):
                yield await bus.connect(component="bus-cli")

    monkeypatch.setattr(connection, "attached", attached)
    return script


@contextmanager
def node_with_cache(home: Path) -> Iterator[Cli]:
    """The command on a real node that runs the component, with a key of its own, and offers it to all tenants.

    Tenant ``small`` has a share of 64 KiB.
    """
    settings, policy = home / "components.d", home / "policy.d"
    settings.mkdir(mode=0o755)
    (settings / "cache.toml").write_text(
        "[config]\nstate = 'off'\nkey.generate = true\n[[config.tenants]]\nname = 'small'\nquota = 65536\n"
    )
    (settings / "cache.toml").chmod(0o644)
    shutil.copytree(ROOT / "busd/ops/policy.d", policy)
    (policy / "50-cache.policy").write_text("export service cache.> from node to *\n")
    for path in (policy, *policy.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)
    flags = ["--component-dir", str(settings), "--components", "cache", "--policy-dir", str(policy)]
    with running_node(home / "run", *flags) as node:
        bus = Cli(node.url)
        wait_until(lambda: bus("component", "health", "cache").returncode == Exit.OK, what="the cache is ready")
        yield bus


@contextmanager
def guest_of(bus: Cli, home: Path, tenant: str) -> Iterator[Cli]:
    """The command in a guest of ``tenant``. A relay stands for its virtual machine monitor: to the node the first
    process that connects is that, and no other one may.
    """
    (row,) = bus.records("guest", "add", f"vm-{tenant}", "--tenant", tenant, "--socket", str(home / f"v-{tenant}"))
    socket = home / f"{tenant}.sock"
    try:
        with bus.running("relay", "--listen", f"ipc://{socket}", "--to", f"unix://{row['address']}"):
            wait_until(socket.exists, what="the guest's way out")
            yield Cli(f"unix://{socket}")
    finally:
        bus.records("guest", "remove", f"vm-{tenant}")
