"""Redis: redis-server on a unix socket and redis-py with its asyncio interface, publishing in pipelines."""

import asyncio
import importlib
import importlib.metadata
import importlib.util
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.bench.peers.peer import Link, Peer, Seen, unix_listening


class RedisLink(Link):
    """One redis-py client: a connection to publish on and one for each subscription."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._client: Any = importlib.import_module("redis.asyncio").Redis(unix_socket_path=path)
        self._subscriptions: list[Any] = []

    async def publish(self, subject: str, payload: bytes, count: int) -> None:
        # One PUBLISH at a time waits for its reply each time and is several times slower.
        pipeline = self._client.pipeline(transaction=False)
        for _ in range(count):
            pipeline.publish(subject, payload)
        await pipeline.execute()

    async def subscribe(self, subject: str, seen: Seen) -> None:
        subscription = self._client.pubsub()
        await subscription.subscribe(subject)
        confirmed = asyncio.get_running_loop().create_future()

        async def pump() -> None:
            async for message in subscription.listen():
                if message["type"] == "message":
                    seen(message["data"])
                elif not confirmed.done():
                    confirmed.set_result(None)
            self.fail(ConnectionError("the Redis subscription ended"))

        self._subscriptions.append(subscription)
        self.spawn(pump())
        await confirmed

    def post(self, subject: str, payload: bytes) -> None:
        self.spawn(self._client.publish(subject, payload))

    async def close(self) -> None:
        await super().close()
        for subscription in self._subscriptions:
            await subscription.aclose()
        await self._client.aclose()


class RedisPeer(Peer):
    """redis-server in its defaults, without writing its data set to disk."""

    name = "redis"

    def missing(self) -> str | None:
        if shutil.which("redis-server") is None:
            return "redis-server is not installed (Debian: apt install redis-server)"
        if importlib.util.find_spec("redis") is None:
            return "redis-py is not installed (pip install 'redis[hiredis]')"
        return None

    def version(self) -> str:
        server = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, timeout=10, check=True)
        number = next(word for word in server.stdout.split() if word.startswith("v="))
        parser = "hiredis" if importlib.util.find_spec("hiredis") else "its Python parser"
        return f"redis-server {number}, redis-py {importlib.metadata.version('redis')} with {parser}"

    def command(self, directory: Path) -> list[str]:
        options = ["--port", "0", "--unixsocket", str(directory / "redis.sock"), "--save", "", "--dir", str(directory)]
        return ["redis-server", *options]

    def address(self, directory: Path) -> str | None:
        path = directory / "redis.sock"
        return str(path) if unix_listening(path) else None

    async def connect(self, url: str) -> RedisLink:
        return RedisLink(url)
