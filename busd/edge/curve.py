"""The SoC boundary: a libzmq ROUTER with CURVE on the network, its peers as sessions of the bus.

libzmq's socket lives on the event loop, not in a thread of its own: the work of CURVE is done on libzmq's I/O thread
anyway, and a second hand-over would only add to each message's way (zmq.asyncio is not used: measured elsewhere at a
seventh of the speed, pyzmq#1209). Its descriptor is edge-triggered, and every call on the socket, a send too, may
consume the edge (pyzmq#2173 is what comes of forgetting that). Hence one rule: after anything was done to the socket,
receive until there is nothing (`_serve_soon`). A look every `TICK_SECONDS` catches what the rule might miss, and
counts it.

Who a peer is was decided by the ZAP handler, and libzmq says so with every message ("User-Id"). A message without it
came from a peer that nobody was asked about, which is what libzmq does when no handler is there: it is not taken. When
the handler stops answering the listener closes.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import Final, Protocol

import zmq

from busd.core.bus import Bus
from busd.core.principal import Principal
from busd.core.reasons import Departure
from busd.core.states import State
from busd.edge.admission import Refusal, Report, report_end
from busd.edge.connection import LINGER_SECONDS
from busd.edge.curvepeer import CurvePeer
from busd.edge.curvesocket import ZAP_DOMAIN, open_context, open_router, wire_bytes
from busd.edge.curvestatistics import CurveStatistics
from busd.edge.keyring import Keyring
from busd.edge.pump import Pump, clock
from busd.edge.tcpconnections import TcpConnection, TcpConnections
from busd.edge.zap import ZapHandler, ZapProbe
from busproto import envelope
from busproto.errors import BusError, Code
from busproto.limits import BATCH_BYTES, FRAME_BYTES

TICK_SECONDS: Final = 0.05
"""How long a message that libzmq failed to announce could wait. Twenty looks a second cost 0.4 % of a core, and 0.015 %
more for each peer."""

LOOK_TICKS: Final = 5
"""Every so many ticks (a quarter of a second) leases and the ZAP handler are looked after."""

ZAP_PATIENCE: Final = 8
"""Looks, so two seconds, that an answer of the ZAP handler may take."""

BURST_MESSAGES: Final = 64
BURST_BYTES: Final = 1 << 20
"""Taken in at one go, before others on the loop get their turn: as many messages as `Acceptor` takes connections, or a
dozen full batches."""

LOOK_CONNECTIONS: Final = 64
"""Connections whose bytes are looked at in a tick: 8 us each, so 1 % of a core at most. Until a message that never ends
is noticed it takes a tick's worth of the line's speed."""

MOST_HELD_BYTES: Final = wire_bytes(FRAME_BYTES)
"""Bytes that can come from a peer without a complete message in them. More is a message that never ends."""

CONNECTIONS: Final = 1024
"""Connections at once. Each costs a descriptor, and libzmq's buffers, before anybody knows who it is."""

PENDING_PER_ADDRESS: Final = 128
"""Connections from one address on which nothing has come: one stranger cannot take all places."""

REVOKED: Final = "its key was revoked"
"""What a peer is told that passed the handshake before the revocation and says its first word after it."""


@dataclass(frozen=True, slots=True)
class Lease:
    """When a peer that says nothing is asked, and when it is given up."""

    quiet_seconds: float = 5.0
    """Silence after which it is pinged. As libzmq's own heartbeat here; a card's watchdog takes longer to bite."""
    answer_seconds: float = 10.0
    """After the ping: long enough for a program that swaps, short enough that its calls find another responder."""


class Authority(Protocol):
    """What the listener asks about keys; `Keyring` is one."""

    def user_id_of(self, key: str) -> str | None: ...


class CurveListener:
    """A CURVE ROUTER on one address, and the peers that came through it."""

    def __init__(
        self,
        bus: Bus,
        pump: Pump,
        keyring: Keyring,
        address: str,
        secret_key: bytes,
        *,
        report: Report,
        connections: int = CONNECTIONS,
        lease: Lease | None = None,
        authority: Authority | None = None,
    ) -> None:
        """``address`` is ``IP:PORT`` (``[IPV6]:PORT``; port 0 for any), ``secret_key`` the broker's, 32 bytes.

        Raises BusError 7021 when libzmq cannot be used for this.
        """
        self.address = address
        self._bus = bus
        self._pump = pump
        self._keyring = keyring
        self._report = report
        self._lease = lease or Lease()
        self._loop = asyncio.get_running_loop()
        self._peers: dict[bytes, CurvePeer] = {}
        self._blocked: dict[CurvePeer, None] = {}
        self._last_heard: dict[str, float] = {}
        self._refused: Counter[str] = Counter()
        self._state = "stopped"
        self._failed = False
        self._scheduled = False
        self._discarding = False
        self._ticks = 0
        self._timer: asyncio.TimerHandle | None = None
        self._attached = self._lease_expiries = self._discarded = self._late_wakeups = 0
        self._denied = 0
        self._cut: Counter[str] = Counter()
        self._empty = asyncio.Event()
        self._empty.set()
        self._context = open_context()
        self._router = open_router(self._context, secret_key, ipv6=address.startswith("["))
        self._connections = TcpConnections(
            self._router,
            limit=connections,
            limit_per_address=PENDING_PER_ADDRESS,
            seconds=bus.quotas.handshake_seconds,
        )
        self._zap = ZapHandler(self._context, ZAP_DOMAIN, (authority or keyring).user_id_of)
        self._probe = ZapProbe(self._context, ZAP_DOMAIN, ZAP_PATIENCE)
        self._descriptor = int(self._router.getsockopt(zmq.FD))

    # -- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Let peers in from now on; the ZAP handler first. Raises BusError 7005 when the address cannot be had."""
        self._zap.start()
        try:
            self._router.bind(f"tcp://{self.address}")
        except zmq.ZMQError as error:
            raise BusError(Code.LISTEN_FAILED, address=f"tcp://{self.address}", reason=error.strerror) from None
        endpoint = self._router.getsockopt_string(zmq.LAST_ENDPOINT)
        self.address = endpoint.removeprefix("tcp://")
        self._state = "listening"
        self._loop.add_reader(self._descriptor, self._serve)
        self._loop.add_reader(self._connections.descriptor, self._serve)
        self._timer = self._loop.call_later(TICK_SECONDS, self._tick)
        # What happened before the readers were there has used up its edge.
        self._serve_soon()

    def stop(self) -> None:
        """Let nobody in any more; sessions stay."""
        self._connections.takes_in = False
        if self._state == "listening":
            self._state = "stopped"

    async def close(self, seconds: float) -> None:
        """Stop, wait until every peer is gone, cut those that are left after ``seconds``, and give everything back."""
        if self._router.closed:
            return
        self.stop()
        if self._timer is not None:
            try:
                async with asyncio.timeout(seconds):
                    await self._empty.wait()
            except TimeoutError:
                pass
            self._timer.cancel()
            self._loop.remove_reader(self._descriptor)
            self._loop.remove_reader(self._connections.descriptor)
        for peer in list(self._peers.values()):
            self._drop(peer)
        self._probe.close()
        # In a thread: the handler may be busy, and ending the context waits for libzmq's own threads.
        await asyncio.to_thread(self._zap.stop, LINGER_SECONDS)
        self._connections.close()
        self._router.close(linger=0)
        if not self._zap.is_alive:
            await asyncio.to_thread(self._context.term)

    @property
    def url(self) -> str:
        """What clients connect to."""
        return f"tcp://{self.address}"

    def statistics(self) -> CurveStatistics:
        """Figures of this listener."""
        refused = self._refused + Counter({str(reason): count for reason, count in self._connections.cut.items()})
        return CurveStatistics(
            boundary="soc",
            address=self.url,
            state=self._state,
            accepted=self._connections.accepted,
            attached=self._attached,
            refused=dict(refused),
            unproven=self._connections.unproven,
            open=len(self._connections),
            handshaking=len(self._connections) - sum(bool(peer.session.name) for peer in self._peers.values()),
            held_bytes=sum(connection.held_bytes for connection in self._connections),
            lease_expiries=self._lease_expiries,
            discarded=self._discarded,
            late_wakeups=self._late_wakeups,
            zap=self._zap.statistics(),
        )

    def endpoints(self, name: str) -> list[str]:
        """The endpoints of unit ``name`` that are attached."""
        return sorted(
            peer.session.name
            for peer in self._peers.values()
            if peer.session.principal.unit == name and peer.session.name and not peer.session.closing
        )

    def last_heard(self, name: str) -> float | None:
        """When anything came from unit ``name`` last (the bus's clock); None if nothing has since the start."""
        heard = [peer.heard for peer in self._peers.values() if peer.session.principal.unit == name]
        return max([*heard, self._last_heard[name]] if name in self._last_heard else heard, default=None)

    # -- out ----------------------------------------------------------------------------------------------------------

    def flush(self, peer: CurvePeer) -> None:
        """Send what waits for ``peer``, as far as libzmq takes it; see to its end when the session is over."""
        session = peer.session
        outbox = session.outbox
        router = self._router
        while outbox and not peer.blocked:
            try:
                # With this libzmq chooses the peer's queue, or says that it is full or gone: nothing is taken out of
                # the outbox that would not be taken.
                router.send(peer.routing_id, zmq.DONTWAIT | zmq.SNDMORE)
            except zmq.Again:
                peer.blocked = True
                self._blocked[peer] = None
                break
            except zmq.ZMQError:  # EHOSTUNREACH
                self._drop(peer)
                break
            parts = self._bus.take(session)
            frame = parts[0] if len(parts) == 1 else b"".join(parts)
            router.send(frame, zmq.DONTWAIT, copy=len(frame) <= BATCH_BYTES)
        if session.closing:
            self._end(peer)
        self._serve_soon()

    def _end(self, peer: CurvePeer) -> None:
        """The session is over: the peer has a while to read its bye and go, then it is cut."""
        if peer.lingering:
            return
        peer.lingering = True
        peer.connection.over = True
        if peer.connection.held_bytes:
            # It is in the middle of a message that may have no end; every byte of it is memory.
            peer.connection.cut()
        else:
            self._loop.call_later(LINGER_SECONDS, peer.connection.cut)

    # -- in -----------------------------------------------------------------------------------------------------------

    def _serve_soon(self) -> None:
        """The socket was used, so its edge may be: look at it again in this turn of the loop."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._serve)

    def _serve(self) -> None:
        """Take in what has come, connections and messages; then send again to those that took no more."""
        self._scheduled = False
        if self._router.closed:
            return
        messages = self._receive()
        # After the messages: who sent one was accepted before, so the connection of each is known by now.
        self._connections.update(clock())
        for routing_id, frame in messages:
            self._take(routing_id, frame)
        if self._blocked:
            blocked, self._blocked = self._blocked, {}
            for peer in blocked:
                peer.blocked = False
                self.flush(peer)

    def _receive(self) -> list[tuple[bytes, zmq.Frame]]:
        """The messages that have come, each as its sender's routing id and its first part."""
        messages: list[tuple[bytes, zmq.Frame]] = []
        size = 0
        receive = self._router.recv
        try:
            for _ in range(BURST_MESSAGES):
                if self._discarding:
                    self._discarding = receive(zmq.DONTWAIT, copy=False).more
                    self._discarded += 1
                    continue
                routing_id = receive(zmq.DONTWAIT)
                # The parts of a message come out of libzmq all or none.
                frame = receive(zmq.DONTWAIT, copy=False)
                self._discarding = frame.more
                messages.append((routing_id, frame))
                size += len(frame.buffer)
                if size > BURST_BYTES:
                    break
        except zmq.Again:
            return messages
        self._serve_soon()
        return messages

    def _take(self, routing_id: bytes, frame: zmq.Frame) -> None:
        """One message. Whose it is, is what libzmq says of the connection it came from."""
        try:
            descriptor = int(frame.get(zmq.SRCFD))
            user = str(frame.get("User-Id"))
        except zmq.ZMQError:
            self._refuse_unproven(frame)
            return
        peer = self._peers.get(routing_id)
        if peer is not None and (peer.user != user or peer.connection.descriptor != descriptor):
            # A routing id is its client's own choice and proves nothing: this is another connection.
            self._drop(peer)
            peer = None
        if peer is None:
            connection = self._connections.find(descriptor)
            if connection is None or connection.over or self._failed:
                self._discarded += 1
                return
            peer = self._begin(routing_id, user, connection)
            if peer is None:
                return
        peer.heard = clock()
        peer.pinged = None
        peer.connection.delivered += wire_bytes(len(frame.buffer))
        if frame.more:
            self._pump.refuse(peer.session, BusError(Code.MULTIPART_MESSAGE))
        else:
            peer.receive(frame.bytes)

    def _begin(self, routing_id: bytes, user: str, connection: TcpConnection) -> CurvePeer | None:
        """A session for the sender of a first message; None if it gets none, which it is told."""
        enrolment = self._keyring.proven(user)
        if enrolment is None:
            self._refuse(routing_id, connection, Refusal.UNIT, BusError(Code.UNIT_UNKNOWN, unit=user, reason=REVOKED))
            return None
        principal = Principal("soc", enrolment.tenant, enrolment.name, enrolment.generation, key=enrolment.key)
        peer = CurvePeer(self.flush, self._pump, routing_id, user, connection)
        try:
            peer.session = self._bus.attach(principal, clock(), peer)
        except BusError as error:
            reasons = {Code.DRAINING: Refusal.DRAINING, Code.UNIT_UNKNOWN: Refusal.UNIT}
            self._refuse(routing_id, connection, reasons.get(Code(error.code), Refusal.ENDPOINTS), error)
            return None
        self._peers[routing_id] = peer
        self._empty.clear()
        self._attached += 1
        self._connections.own(connection, peer)
        self._pump.wake()
        return peer

    def _refuse_unproven(self, frame: zmq.Frame) -> None:
        """A message of someone whom the ZAP handler never let in: libzmq does that when there is no handler."""
        self._refused["unproven"] += 1
        self._report("connection-refused", boundary="soc", reason="unproven", error="no proven key came with a message")
        try:
            connection = self._connections.find(int(frame.get(zmq.SRCFD)))
        except zmq.ZMQError:
            connection = None
        if connection is not None:
            connection.cut()

    def _refuse(self, routing_id: bytes, connection: TcpConnection, reason: Refusal, error: BusError) -> None:
        """Tell who sent a first message why it gets no session, and cut it off after a while."""
        self._refused[str(reason)] += 1
        self._report(
            "connection-refused", boundary="soc", reason=str(reason), address=connection.peer, error=error.text
        )
        try:
            self._router.send_multipart((routing_id, envelope.bye(error.body())), zmq.DONTWAIT)
        except zmq.ZMQError:
            pass
        self._serve_soon()
        connection.over = True
        self._loop.call_later(LINGER_SECONDS, connection.cut)

    def _drop(self, peer: CurvePeer) -> None:
        """The connection of ``peer`` is gone, or counts as gone."""
        if self._peers.get(peer.routing_id) is not peer:
            return
        del self._peers[peer.routing_id]
        self._blocked.pop(peer, None)
        peer.drop_waiting()
        self._last_heard[peer.session.principal.unit] = peer.heard
        peer.connection.cut()
        self._pump.detach(peer.session)
        report_end(peer.session, self._report)
        if not self._peers:
            self._empty.set()

    # -- time ---------------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        self._timer = self._loop.call_later(TICK_SECONDS, self._tick)
        announced = self._scheduled or zmq.zmq_poll([(self._descriptor, zmq.POLLIN)], 0)
        if not announced and int(self._router.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            self._late_wakeups += 1
        self._serve()
        for connection in self._connections.departed():
            if isinstance(peer := connection.owner, CurvePeer):
                self._drop(peer)
        for connection in self._connections.look(LOOK_CONNECTIONS, clock(), MOST_HELD_BYTES):
            if isinstance(peer := connection.owner, CurvePeer) and not peer.session.closing:
                self._charge_held(peer)
        self._ticks += 1
        if self._ticks % LOOK_TICKS == 0:
            self._look()

    def _look(self) -> None:
        now = clock()
        if not self._failed:
            if not self._zap.is_alive:
                self._fail("the ZAP handler has ended")
            elif not self._probe.is_answered():
                self._fail("the ZAP handler does not answer")
        for peer in list(self._peers.values()):
            if not peer.session.closing:
                self._renew(peer, now)
        self._report_refusals()

    def _report_refusals(self) -> None:
        """Say whom libzmq or the bounds on connections kept out since the last look."""
        zap = self._zap.statistics()
        if zap.denied != self._denied:
            self._report("key-denied", boundary="soc", count=zap.denied - self._denied, last=zap.last_denied)
            self._denied = zap.denied
        connections = self._connections
        for reason, count in connections.cut.items():
            if new := count - self._cut[reason]:
                self._report(
                    "connection-refused", boundary="soc", reason=str(reason), count=new, last=connections.last_cut
                )
                self._cut[reason] = count

    def _charge_held(self, peer: CurvePeer) -> None:
        """Have the bytes of an incomplete message charged, as on every other way in.

        libzmq bounds a frame and not the number of frames in a message: without this, a message that never ends would
        grow its memory without limit.
        """
        held = peer.connection.held_bytes
        if held > MOST_HELD_BYTES:
            self._pump.refuse(peer.session, BusError(Code.FRAME_TOO_LARGE, size=held, limit=MOST_HELD_BYTES))
        elif held or peer.session.held_bytes:
            self._pump.hold(peer.session, held)

    def _renew(self, peer: CurvePeer, now: float) -> None:
        """Ask a silent peer for a sign of life; end its session if it was asked and gave none."""
        lease = self._lease
        session = peer.session
        if peer.pinged is not None:
            # Counted from the ping and not from the last message: this process may have been stopped for a while.
            if now - peer.pinged > lease.answer_seconds:
                self._lease_expiries += 1
                seconds = round(now - peer.heard, 1)
                self._bus.end(session, BusError(Code.LEASE_EXPIRED, seconds=seconds), Departure.LEASE_EXPIRED, now)
                self._pump.wake()
        elif now - peer.heard > lease.quiet_seconds and session.state in (State.OPEN, State.DRAINING):
            peer.pinged = now
            session.outbox.put_control(None, envelope.ping(self._ticks & 0xFFFFFFFF))
            self._pump.wake()

    # -- the end ------------------------------------------------------------------------------------------------------

    def _fail(self, reason: str) -> None:
        """Nobody can be asked who a peer is: let nobody in, and end what is there, loudly.

        Sessions end too: a revocation could still end them, but a broker that has lost a part of itself should not
        look healthy to the cards on it. It stays closed until busd is restarted.
        """
        self._failed = True
        self._state = f"closed: {reason}"
        self._connections.takes_in = False
        self._report("curve-listener-closed", boundary="soc", address=self.url, reason=reason)
        now = clock()
        for peer in list(self._peers.values()):
            error = BusError(Code.LISTENER_CLOSED, address=self.url, reason=reason)
            self._bus.end(peer.session, error, Departure.SHUTDOWN, now)
            self.flush(peer)
        # A tick for the byes to go out; unbinding ends the connections too, and libzmq does not tell.
        self._loop.call_later(TICK_SECONDS, self._unbind)

    def _unbind(self) -> None:
        if self._router.closed:
            return
        for connection in self._connections:
            connection.cut()
        for peer in list(self._peers.values()):
            self._drop(peer)
        self._router.unbind(self.url)
        self._serve_soon()
