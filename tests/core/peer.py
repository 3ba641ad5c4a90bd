"""A bus with a clock that stands still until it is moved, and peers that speak to it in envelopes."""

from typing import Any

from busd.core.account import UNBOUNDED, Rates
from busd.core.bus import Bus
from busd.core.policy import Policy, parse
from busd.core.principal import Principal
from busd.core.quotas import Quotas
from busd.core.reasons import Departure
from busd.core.rules import PolicyFile
from busd.core.statistics import BusStatistics
from busd.core.units import Unit
from busproto import envelope
from busproto.envelope import Decoder, Kind
from busproto.errors import BusError

OPEN = """
allow publish,subscribe,call,serve,delegate > from host,guest,soc
allow subscribe,call $bus.> from host,guest,soc
"""
"""A policy that allows everything; tenants' spaces are still their own."""


def made(text: str) -> Policy:
    """The policy of one file with ``text``, which must be valid."""
    policy = parse([PolicyFile("10-test.policy", text)], self_uid=1000)
    assert not policy.errors, policy.errors
    return policy


HOST = Principal("host", "node", "host", 0, uid=1000, gid=1000, pid=1)


class World:
    """A bus and its time, in seconds from 0."""

    def __init__(self, policy: str = OPEN, rates: Rates = UNBOUNDED, **quotas: Any) -> None:
        self.now = 0.0
        self.bus = Bus(
            node="test",
            software="busd/test",
            policy=made(policy),
            now=self.now,
            quotas=Quotas(**quotas),
            guest_rates=rates,
        )

    def guest(self, tenant: str, unit: str = "", **manifest: Any) -> "Peer":
        """An endpoint of a unit of ``tenant``, which is added if it does not stand."""
        unit = unit or f"vm-{tenant}"
        principal = Principal("guest", tenant, unit, 1)
        try:
            self.bus.units.check(principal)
        except BusError:
            self.bus.add_unit(Unit(unit, tenant, 1))
        return self.peer(principal=principal, **manifest)

    def peer(self, *, hello: bool = True, principal: Principal = HOST, **manifest: Any) -> "Peer":
        """A connection, attached as an endpoint unless ``hello`` is False."""
        peer = Peer(self, principal)
        if hello:
            peer.send(envelope.hello(manifest))
            peer.name = peer.take()[0][2]
        return peer

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass, doing what falls due on the way."""
        end = self.now + seconds
        while (deadline := self.bus.next_deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            self.bus.expire(self.now)
        self.now = end

    def statistics(self) -> BusStatistics:
        return self.bus.statistics()


class Peer:
    """One connection. Envelopes that it gets come without their origins; ``origins`` has those in the same order."""

    def __init__(self, world: World, principal: Principal = HOST) -> None:
        self.world = world
        self.session = world.bus.attach(principal, world.now)
        self.name = ""
        self.origins: list[list[Any] | None] = []
        self._decoder = Decoder()
        self._last_id = 0

    def send(self, *envelopes: bytes) -> None:
        """Send ``envelopes`` in one frame."""
        self.world.bus.receive(self.session, b"".join(envelopes), self.world.now)

    def take_frames(self) -> list[bytes]:
        """Every frame that waits."""
        frames = []
        while parts := self.world.bus.take(self.session):
            frames.append(b"".join(parts))
        return frames

    def take(self) -> list[list[Any]]:
        """Every envelope that waits."""
        got: list[list[Any]] = []
        for frame in self.take_frames():
            origin: list[Any] | None = None
            for message in self._decoder.decode(frame).envelopes:
                if message[0] == Kind.ORIGIN:
                    origin = message
                    continue
                message = [bytes(field) if isinstance(field, memoryview) else field for field in message]
                self.origins.append(origin)
                got.append(message)
        return got

    def leave(self, departure: Departure = Departure.CONNECTION_LOST) -> None:
        """The connection goes away."""
        self.world.bus.detach(self.session, self.world.now, departure)

    def id(self) -> int:
        """An id not used before."""
        self._last_id += 1
        return self._last_id

    # -- requests whose answer is checked on the spot -----------------------------------------------------------------

    def request(self, data: bytes, id: int) -> list[Any]:
        """Send one request and return the only answer there is."""
        self.send(data)
        answers = [message for message in self.take() if message[0] in (Kind.REPLY, Kind.ERROR)]
        assert len(answers) == 1
        assert answers[0][1] == id
        return answers[0]

    def subscribe(self, pattern: str, **options: Any) -> int:
        """Subscribe, accepted; the subscription's id."""
        id = self.id()
        assert self.request(envelope.subscribe(id, pattern, options), id)[2] == 0
        return id

    def serve(self, pattern: str, **options: Any) -> int:
        """Serve, accepted; the service's id."""
        id = self.id()
        assert self.request(envelope.serve(id, pattern, options), id)[2] == 0
        return id

    def publish(self, subject: str, payload: bytes = b"\xc0", times: int = 1) -> None:
        """Publish ``times`` the same message in one frame."""
        self.send(envelope.publish(subject, None, payload) * times)

    def call(self, subject: str, payload: bytes = b"\xc0", seconds: float = 1.0) -> int:
        """Call; the call's id."""
        id = self.id()
        self.send(envelope.call(id, subject, round(seconds * 1000), None, payload))
        return id

    def ask(self, subject: str, request: Any = None) -> Any:
        """Call one of the broker's own services: its reply, or the error body."""
        id = self.id()
        answer = self.request(envelope.call(id, subject, 1000, None, envelope.pack(request)), id)
        return envelope.unpack(answer[4])


def error_of(reply: list[Any]) -> dict[str, Any]:
    """The error body in a reply, error or bye."""
    body = reply[4] if reply[0] == Kind.REPLY else reply[-1]
    value = envelope.unpack(body) if isinstance(body, bytes) else body
    assert isinstance(value, dict)
    return value
