"""A host listener on either event loop, and peers that speak ZMTP and envelopes to it over its socket, by hand."""

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

from busd.core.account import UNBOUNDED, Rates
from busd.core.bus import Bus
from busd.core.principal import Principal
from busd.core.quotas import Quotas
from busd.edge.acceptor import BACKLOG, Acceptor
from busd.edge.admission import Admission
from busd.edge.identity import host_principal
from busd.edge.pump import Pump, clock
from busd.ops.config import resolve
from busproto import envelope
from busproto.envelope import Decoder, Kind
from busproto.zmtp import ZmtpConnection, frame_header
from tests.core.peer import OPEN, made

SECONDS = 10.0
"""Nothing in these tests takes longer than this unless it is broken."""


def loops() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The event loops that the edge must work on."""
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.SelectorEventLoop}
    if sys.platform != "win32":
        import uvloop

        factories["uvloop"] = uvloop.new_event_loop
    return factories


def run(main: Coroutine[Any, Any, None], loop: str, seconds: float = SECONDS) -> None:
    """Run ``main`` on the event loop named ``loop``, within ``seconds``; close its peers."""

    async def bounded() -> None:
        try:
            await asyncio.wait_for(main, seconds)
        finally:
            for peer in RawPeer.made:
                peer.writer.transport.abort()
            RawPeer.made.clear()
            # The transports close their sockets in the next turns of the loop.
            await asyncio.sleep(0.01)

    with asyncio.Runner(loop_factory=loops()[loop]) as runner:
        runner.run(bounded())


class Listener:
    """A bus, and the acceptor of its host boundary."""

    def __init__(
        self,
        path: Path,
        connections_per_uid: int = 1000,
        rates: Rates = UNBOUNDED,
        **quotas: Any,
    ) -> None:
        self.path = path
        self.principal: Principal | None = None
        """Whoever connects is this; None: what the kernel says."""
        self.reports: list[tuple[str, dict[str, Any]]] = []
        self.bus = Bus(
            node="test",
            software="busd/test",
            policy=made(OPEN),
            now=clock(),
            quotas=Quotas(**quotas),
            guest_rates=rates,
        )
        self.pump = Pump(self.bus, asyncio.get_running_loop(), busy_poll=resolve([]).busy_poll_us / 1e6)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen(BACKLOG)
        listener.setblocking(False)
        self.admission = Admission(
            self.pump,
            lambda peer: self.principal or host_principal(peer),
            boundary="host",
            connections_per_uid=connections_per_uid,
            report=lambda name, /, **fields: self.reports.append((name, fields)),
        )
        self.acceptor = Acceptor(listener, self.admission)

    async def peer(self, *, hello: bool = True) -> "RawPeer":
        """A connection to it, an endpoint unless ``hello`` is False."""
        reader, writer = await asyncio.open_unix_connection(str(self.path), limit=1 << 20)
        peer = RawPeer(reader, writer)
        if hello:
            peer.send(envelope.hello({}))
            await peer.expect(Kind.WELCOME)
        return peer


@asynccontextmanager
async def listening(path: Path, **options: Any) -> AsyncIterator[Listener]:
    """A listener at ``path`` that is gone afterwards, connections and all."""
    listener = Listener(path, **options)
    listener.acceptor.start()
    try:
        yield listener
    finally:
        listener.acceptor.stop()
        await listener.admission.close(0)
        listener.pump.stop()


class RawPeer:
    """A DEALER made by hand."""

    made: ClassVar[list["RawPeer"]] = []

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        RawPeer.made.append(self)
        self.zmtp = ZmtpConnection("client", socket_type="DEALER", peers=frozenset({"ROUTER"}))
        self._waiting: list[bytes] = []
        self._got: list[list[Any]] = []
        self._decoder = Decoder()
        writer.write(self.zmtp.data_to_send())

    def send(self, *envelopes: bytes) -> None:
        """Send ``envelopes`` in one frame, as soon as the handshake lets it."""
        body = b"".join(envelopes)
        frame = frame_header(len(body)) + body
        if self.zmtp.ready:
            self.writer.write(frame)
        else:
            self._waiting.append(frame)

    async def receive(self) -> list[Any]:
        """The next envelope that is not an origin. Raises EOFError when the broker has closed the connection."""
        while not self._got:
            data = await self.reader.read(1 << 20)
            if not data:
                raise EOFError
            for frame in self.zmtp.receive(data):
                self._got += [m for m in self._decoder.decode(frame).envelopes if m[0] != Kind.ORIGIN]
            if reply := self.zmtp.data_to_send():
                self.writer.write(reply)
            if self.zmtp.ready and self._waiting:
                self.writer.write(b"".join(self._waiting))
                self._waiting.clear()
        return self._got.pop(0)

    async def expect(self, kind: int) -> list[Any]:
        """The next envelope, which must be of ``kind``."""
        message = await self.receive()
        assert message[0] == kind, message
        return message

    async def ended(self) -> dict[str, Any]:
        """The error body of the bye that must come next, followed by the end of the connection."""
        body: dict[str, Any] = (await self.expect(Kind.BYE))[1]
        try:
            message = await self.receive()
        except (EOFError, ConnectionResetError):
            return body
        raise AssertionError(message)

    def close(self) -> None:
        self.writer.close()


def descriptors() -> int:
    """Open descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))
