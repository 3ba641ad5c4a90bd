"""Caches that are reached over a socket: busd's component on a node, and Redis, each as its documentation has it."""

import asyncio
import importlib
from abc import ABC, abstractmethod
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Protocol

from tests.bench.peers.busd import BusdPeer
from tests.bench.peers.peer import Peer
from tests.bench.peers.redis import RedisPeer

CONFIGURATION = """\
[config]
mode = "{mode}"
{key}
state = "{state}"
usual = {{ quota = 268435456 }}
"""


class CacheLink(Protocol):
    """One client's way to a cache."""

    async def get(self, name: str) -> bytes | None: ...

    async def set(self, name: str, value: bytes) -> object: ...

    async def get_many(self, names: list[str]) -> list[bytes | None]: ...

    async def close(self) -> None: ...


class BusdCache:
    """The client of the cache over the bus: requests of one turn of the loop travel together."""

    def __init__(self, stack: AsyncExitStack, handle: Any) -> None:
        from busd.components.cache.client import BusCache

        self._stack = stack
        self._cache = BusCache(handle)

    async def get(self, name: str) -> bytes | None:
        return await self._cache.get(name)

    async def set(self, name: str, value: bytes) -> object:
        return await self._cache.set(name, value)

    async def get_many(self, names: list[str]) -> list[bytes | None]:
        found = await self._cache.get_many(names)
        return [found.get(name) for name in names]

    async def close(self) -> None:
        await self._stack.aclose()


class HandleCache:
    """A handle of the component: a call for each request."""

    def __init__(self, stack: AsyncExitStack, handle: Any) -> None:
        self._stack = stack
        self._handle = handle

    async def get(self, name: str) -> bytes | None:
        found = await self._handle.get(text=name)
        return found.value if found.found else None

    async def set(self, name: str, value: bytes) -> object:
        return await self._handle.set(text=name, value=value)

    async def get_many(self, names: list[str]) -> list[bytes | None]:
        found = (await self._handle.get_many(texts=names)).values
        return [each.value if each.found else None for each in found]

    async def close(self) -> None:
        await self._stack.aclose()


class BlindCache:
    """A blind client at the component: it seals and opens in its own process."""

    def __init__(self, stack: AsyncExitStack, client: Any) -> None:
        self._stack = stack
        self._client = client

    async def get(self, name: str) -> bytes | None:
        value: bytes | None = await self._client.get(name)
        return value

    async def set(self, name: str, value: bytes) -> object:
        return await self._client.set(name, value)

    async def get_many(self, names: list[str]) -> list[bytes | None]:
        found = await self._client.get_many(names)
        return [found.get(name) for name in names]

    async def close(self) -> None:
        await self._stack.aclose()


class RedisCache:
    """One redis-py client. It opens a connection for each command that is under way, and keeps them."""

    def __init__(self, path: str) -> None:
        self._client: Any = importlib.import_module("redis.asyncio").Redis(unix_socket_path=path)

    async def get(self, name: str) -> bytes | None:
        value: bytes | None = await self._client.get(name)
        return value

    async def set(self, name: str, value: bytes) -> object:
        return await self._client.set(name, value)

    async def get_many(self, names: list[str]) -> list[bytes | None]:
        values: list[bytes | None] = await self._client.mget(names)
        return values

    async def close(self) -> None:
        await self._client.aclose()


class CachePeer(ABC):
    """One cache with its server."""

    name: str
    server: Peer

    @abstractmethod
    async def connect(self, url: str) -> CacheLink:
        """A client of the server at ``url``; it answers when this returns."""


class _Node(BusdPeer):
    """A node that runs the cache component, in a process of its own, as nodes do."""

    def __init__(self, mode: str) -> None:
        self._mode = mode

    def command(self, directory: Path) -> list[str]:
        folder = directory / "components.d"
        folder.mkdir()
        key = "" if self._mode == "blind" else "key = { generate = true }"
        text = CONFIGURATION.format(mode=self._mode, key=key, state=directory / "state")
        (folder / "cache.toml").write_text(text)
        options = ["--components", "cache", "--component-dir", str(folder), "--http-listen", "127.0.0.1:0"]
        return [*super().command(directory), *options]


class BusdCachePeer(CachePeer):
    """busd: a node in its defaults with its component, which seals; or which clients have seal, in blind mode.

    ``handle``: called by the component's handle, a call for each request.
    """

    def __init__(self, *, blind: bool = False, handle: bool = False) -> None:
        self.name = "busd blind" if blind else "busd handle" if handle else "busd"
        self.server = _Node("blind" if blind else "sealed")
        self._blind = blind
        self._handle = handle

    async def connect(self, url: str) -> CacheLink:
        import busclient
        from busd.components.cache.blind import BlindBusClient
        from busd.components.cache.component import EncryptedCache
        from busd.components.model import attach

        stack = AsyncExitStack()
        bus = await stack.enter_async_context(
            busclient.connect(url, component="bench", owner="bench", purpose="measures the cache")
        )
        handle = await stack.enter_async_context(attach(EncryptedCache, bus=bus))
        async with asyncio.timeout(15.0):
            while True:  # the node starts its components when it is there itself
                try:
                    await handle.stats()
                    break
                except busclient.NoResponders:
                    await asyncio.sleep(0.02)
        if not self._blind:
            return HandleCache(stack, handle) if self._handle else BusdCache(stack, handle)
        client = BlindBusClient(bytes(range(32)), handle, tenant="bench")
        await stack.enter_async_context(client)
        return BlindCache(stack, client)


class RedisCachePeer(CachePeer):
    """Redis in its defaults on a unix socket, with redis-py's asyncio client and hiredis."""

    name = "redis"
    server = RedisPeer()

    async def connect(self, url: str) -> CacheLink:
        return RedisCache(url)


PEERS: dict[str, CachePeer] = {
    peer.name: peer
    for peer in (BusdCachePeer(), BusdCachePeer(handle=True), BusdCachePeer(blind=True), RedisCachePeer())
}
