"""busd itself: ``python -m busd run`` in its defaults on a unix socket, and busclient."""

import sys
from pathlib import Path
from typing import Any

from busproto import envelope
from busproto.envelope import Decoder, Kind
from busproto.zmtp import ZmtpConnection, frame_header
from tests.bench.peers.peer import Handshake, Link, Peer, Seen, unix_listening


class BusdLink(Link):
    """One busclient connection."""

    def __init__(self, bus: Any) -> None:
        super().__init__()
        self._bus = bus

    async def publish(self, subject: str, payload: bytes, count: int) -> None:
        publish = self._bus.publish
        for _ in range(count):
            await publish(subject, payload)

    async def subscribe(self, subject: str, seen: Seen) -> None:
        subscription = await self._bus.subscribe(subject).open()

        async def pump() -> None:
            async for message in subscription:
                seen(message.data)
            self.fail(ConnectionError("the subscription ended"))

        self.spawn(pump())

    def post(self, subject: str, payload: bytes) -> None:
        self._bus.publish_nowait(subject, data=payload)

    async def serve_echo(self, subject: str) -> None:
        async def answer(call: Any) -> Any:
            return call.payload

        await self._bus.serve(subject, answer).open()

    async def call(self, subject: str, payload: bytes) -> bytes:
        reply = await self._bus.call(subject, payload, timeout=5.0)
        data: bytes = reply.payload
        return data

    async def close(self) -> None:
        await super().close()
        await self._bus.close()


class BusdHandshake(Handshake):
    """Greeting, READY and hello in one piece: ZMTP lets a client of the NULL mechanism send all three at once."""

    def __init__(self) -> None:
        client = self._client()
        server = ZmtpConnection("server", socket_type="ROUTER", peers=frozenset({"DEALER"}))
        greeting = client.data_to_send()
        client.receive(server.data_to_send())
        hello = envelope.hello({"component": "bench-attach", "owner": "bench", "purpose": "one of very many"})
        self._opening = greeting + client.data_to_send() + frame_header(len(hello)) + hello
        self._decoder = Decoder()

    def _client(self) -> ZmtpConnection:
        return ZmtpConnection("client", socket_type="DEALER", peers=frozenset({"ROUTER"}))

    def opening(self) -> bytes:
        return self._opening

    def attached(self, received: bytearray) -> bool:
        for frame in self._client().receive(received):
            for kind, *fields in self._decoder.decode(frame).envelopes:
                if kind == Kind.BYE:
                    raise ConnectionError(f"the broker said bye: {fields[0]}")
                if kind == Kind.WELCOME:
                    return True
        return False


class BusdPeer(Peer):
    """This checkout's busd."""

    name = "busd"
    required = True

    def missing(self) -> str | None:
        return None

    def version(self) -> str:
        import busd

        return f"busd {busd.__version__}"

    def command(self, directory: Path) -> list[str]:
        return [sys.executable, "-P", "-m", "busd", "run", "--run-dir", str(directory)]

    def address(self, directory: Path) -> str | None:
        path = directory / "host.sock"
        return f"unix://{path}" if unix_listening(path) else None

    async def connect(self, url: str) -> BusdLink:
        import busclient

        bus = busclient.connect(url, component="bench", owner="bench", purpose="measures this bus")
        return BusdLink(await bus.open())

    def handshake(self) -> BusdHandshake:
        return BusdHandshake()
