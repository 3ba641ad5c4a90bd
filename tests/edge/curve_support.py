"""A CURVE listener on a loop, and peers of it that are stock libzmq sockets."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, Self

import zmq
from zmq.utils.monitor import parse_monitor_message

from busd.core.bus import Bus
from busd.core.enrolment import Enrolment
from busd.core.quotas import Quotas
from busd.core.units import Unit
from busd.edge.curve import CurveListener
from busd.edge.keyring import Keyring
from busd.edge.pump import Pump, clock
from busproto import envelope
from busproto.envelope import Decoder, Kind
from busproto.z85 import decode_key
from tests.core.peer import OPEN, made

SECONDS: Final = 10.0
"""Nothing in these tests takes longer than this unless it is broken."""


class KeyPair:
    """A CURVE key pair."""

    def __init__(self) -> None:
        public, secret = zmq.curve_keypair()
        self.public = public.decode()
        self.secret = secret.decode()


async def until(condition: Callable[[], object], seconds: float = SECONDS) -> None:
    """Return as soon as ``condition()`` is true."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)


class CurveNode:
    """A bus whose only way in is a CURVE listener."""

    def __init__(
        self,
        *,
        address: str = "127.0.0.1:0",
        quotas: dict[str, Any] | None = None,
        bus: dict[str, Any] | None = None,
        broker: KeyPair | None = None,
        **options: Any,
    ) -> None:
        self.reports: list[tuple[str, dict[str, Any]]] = []
        self.broker = broker or KeyPair()
        self.keyring = Keyring()
        self.keys: dict[str, KeyPair] = {}
        self.bus = Bus(
            node="test",
            software="busd/test",
            policy=made(OPEN),
            now=clock(),
            quotas=Quotas(**(quotas or {})),
            **(bus or {}),
        )
        self.pump = Pump(self.bus, asyncio.get_running_loop())
        self.listener = CurveListener(
            self.bus,
            self.pump,
            self.keyring,
            address,
            decode_key(self.broker.secret),
            report=lambda name, /, **fields: self.reports.append((name, fields)),
            **options,
        )

    def enroll(self, name: str, tenant: str = "node", pair: KeyPair | None = None) -> KeyPair:
        """Let a new key in as ``name``."""
        pair = pair or KeyPair()
        generation = self.keyring.next_generation(name)
        self.keyring.add(Enrolment(name, tenant, generation, pair.public, 0.0, "test"))
        self.bus.add_unit(Unit(name, tenant, generation, "soc"))
        self.keys[name] = pair
        return pair

    def reported(self, name: str) -> list[dict[str, Any]]:
        """The facts of each report called ``name``."""
        return [fields for report, fields in self.reports if report == name]


@asynccontextmanager
async def curve_node(**options: Any) -> AsyncIterator[CurveNode]:
    """A node that is gone afterwards, and its peers before it."""
    node = CurveNode(**options)
    try:
        node.listener.start()
        yield node
    finally:
        for card in Card.made:
            card.close()
        Card.made.clear()
        await node.listener.close(0)
        node.pump.stop()


class Card:
    """A stock DEALER with CURVE, which is all that a card needs: nothing of ours but the envelopes."""

    made: "list[Card]" = []
    _monitors = itertools.count()

    def __init__(
        self, node: CurveNode, pair: KeyPair, *, server: str | None = None, options: dict[int, Any] | None = None
    ) -> None:
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        settings: dict[int, Any] = {
            zmq.LINGER: 0,
            zmq.CURVE_SERVERKEY: (server or node.broker.public).encode(),
            zmq.CURVE_PUBLICKEY: pair.public.encode(),
            zmq.CURVE_SECRETKEY: pair.secret.encode(),
            zmq.RECONNECT_IVL: 3_600_000,
            **(options or {}),
        }
        for option, value in settings.items():
            self.socket.setsockopt(option, value)
        address = f"inproc://card-{next(self._monitors)}"
        self.socket.monitor(address, zmq.EVENT_ALL)
        self._monitor = self._context.socket(zmq.PAIR)
        self._monitor.setsockopt(zmq.LINGER, 0)
        self._monitor.connect(address)
        self.events: list[tuple[int, int]] = []
        self._decoder = Decoder()
        self._got: list[list[Any]] = []
        self.made.append(self)
        self.socket.connect(node.listener.url)

    async def attach(self) -> Self:
        """Say hello; wait for welcome."""
        self.send(envelope.hello({}))
        await self.expect(Kind.WELCOME)
        return self

    def send(self, *envelopes: bytes) -> None:
        """Send ``envelopes`` in one frame."""
        self.socket.send(b"".join(envelopes), zmq.DONTWAIT)

    async def receive(self, seconds: float = SECONDS) -> list[Any]:
        """The next envelope that is not an origin. Raises TimeoutError."""
        async with asyncio.timeout(seconds):
            while not self._got:
                try:
                    frame = self.socket.recv(zmq.DONTWAIT)
                except zmq.Again:
                    await asyncio.sleep(0.002)
                    continue
                self._got += [m for m in self._decoder.decode(frame).envelopes if m[0] != Kind.ORIGIN]
        return self._got.pop(0)

    async def expect(self, kind: int) -> list[Any]:
        """The next envelope, which must be of ``kind``."""
        message = await self.receive()
        assert message[0] == kind, message
        return message

    def happened(self, event: int) -> bool:
        """Whether the socket's monitor has told of ``event``."""
        while self._monitor.poll(0):
            told = parse_monitor_message(self._monitor.recv_multipart())
            self.events.append((int(told["event"]), int(told["value"])))
        return any(kind == event for kind, _ in self.events)

    def close(self, linger: int = 0) -> None:
        """Close the socket; the connection ends when all is sent, after ``linger`` ms at most."""
        if not self.socket.closed:
            self.socket.disable_monitor()
            self.socket.close(linger=linger)
            self._monitor.close(linger=0)
            self._context.term()
