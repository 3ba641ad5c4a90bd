"""NATS: nats-server on loopback TCP (it has no unix sockets) and nats-py."""

import importlib.metadata
import importlib.util
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.bench.peers.peer import Handshake, Link, Peer, Seen


class NatsLink(Link):
    """One nats-py connection."""

    def __init__(self) -> None:
        super().__init__()
        self.client: Any = None

    async def open(self, url: str) -> None:
        import nats

        async def failed(error: Exception) -> None:
            self.fail(error)

        self.client = await nats.connect(url, error_cb=failed)

    async def publish(self, subject: str, payload: bytes, count: int) -> None:
        publish = self.client.publish
        for _ in range(count):
            await publish(subject, payload)

    async def subscribe(self, subject: str, seen: Seen) -> None:
        async def arrived(message: Any) -> None:
            seen(message.data)

        await self.client.subscribe(subject, cb=arrived)
        await self.client.flush()

    def post(self, subject: str, payload: bytes) -> None:
        self.spawn(self.client.publish(subject, payload))

    async def serve_echo(self, subject: str) -> None:
        async def answer(message: Any) -> None:
            await message.respond(message.data)

        await self.client.subscribe(subject, cb=answer)
        await self.client.flush()

    async def call(self, subject: str, payload: bytes) -> bytes:
        reply = await self.client.request(subject, payload, timeout=5.0)
        data: bytes = reply.data
        return data

    async def close(self) -> None:
        await super().close()
        await self.client.close()


class NatsHandshake(Handshake):
    """CONNECT and PING; the server has attached the client when its PONG is back."""

    def opening(self) -> bytes:
        return b'CONNECT {"verbose":false,"pedantic":false,"lang":"python3","version":"2","protocol":1}\r\nPING\r\n'

    def attached(self, received: bytearray) -> bool:
        if b"-ERR" in received:
            raise ConnectionError(received.decode(errors="replace"))
        return b"PONG\r\n" in received


class NatsPeer(Peer):
    """nats-server as Debian ships it; defaults except for the loopback address and a free port."""

    name = "nats"
    required = True

    def missing(self) -> str | None:
        if shutil.which("nats-server") is None:
            return "nats-server is not installed (Debian: apt install nats-server)"
        if importlib.util.find_spec("nats") is None:
            return "nats-py is not installed (pip install nats-py)"
        return None

    def version(self) -> str:
        server = subprocess.run(["nats-server", "--version"], capture_output=True, text=True, timeout=10, check=True)
        return f"{server.stdout.strip()}, nats-py {importlib.metadata.version('nats-py')}"

    def command(self, directory: Path) -> list[str]:
        return ["nats-server", "-a", "127.0.0.1", "-p", "-1", "--ports_file_dir", str(directory)]

    def address(self, directory: Path) -> str | None:
        for path in directory.glob("nats-server_*.ports"):
            try:
                urls = json.loads(path.read_text())["nats"]
            except ValueError:
                return None  # half written
            return str(urls[0])
        return None

    async def connect(self, url: str) -> NatsLink:
        link = NatsLink()
        await link.open(url)
        return link

    def handshake(self) -> NatsHandshake:
        return NatsHandshake()
