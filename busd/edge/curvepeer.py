"""One peer of the SoC boundary: its session, and what came from it and has not had its turn."""

from collections import deque
from collections.abc import Callable
from typing import Final

from busd.core.session import Session
from busd.edge.connection import STEP_WEIGHT
from busd.edge.pump import Pump, clock
from busd.edge.tcpconnections import TcpConnection

FRAME_OVERHEAD: Final = 128
"""Bytes charged for a frame that waits besides its own: the objects that hold it."""


class CurvePeer:
    """One peer's session, as the pump and the turns see it.

    libzmq cannot be told to read one peer more slowly. So what a tenant's card sends faster than it may waits here,
    charged like half a frame, and a card that goes on beyond its tenant's share of that is cut off.
    """

    __slots__ = (
        "_flush",
        "_frames",
        "_kept",
        "_pump",
        "_waiting",
        "blocked",
        "connection",
        "heard",
        "lingering",
        "pinged",
        "routing_id",
        "session",
        "user",
    )

    stage: Final = "open"
    """How far the handshake has come when a session begins: libzmq lets nothing through before."""

    def __init__(
        self,
        flush: "Callable[[CurvePeer], None]",
        pump: Pump,
        routing_id: bytes,
        user: str,
        connection: TcpConnection,
    ) -> None:
        self._flush = flush
        self._pump = pump
        self._frames: deque[bytes] = deque()
        self._kept = 0
        self._waiting = False
        self.routing_id = routing_id
        self.user = user
        """What the ZAP handler said of its key: a unit and its generation."""
        self.connection = connection
        self.session: Session
        self.heard = clock()
        self.pinged: float | None = None
        """When it was asked for a sign of life that has not come."""
        self.blocked = False
        """libzmq took no more for it; what waits does so in its outbox."""
        self.lingering = False
        """Its session is over, and it has a moment to read why."""

    def flush(self) -> None:
        """Send what waits for the session, as far as libzmq takes it."""
        self._flush(self)

    def receive(self, frame: bytes) -> None:
        """``frame`` came from it."""
        session = self.session
        if not session.account.paced:
            self._pump.receive(session, [frame])
            return
        if session.closing:
            return
        self._frames.append(frame)
        self._kept += len(frame) + FRAME_OVERHEAD
        self._pump.bus.keep(session, self._kept, clock())
        if session.closing:
            self.drop_waiting()
            self._pump.wake()
        elif not self._waiting:
            self._waiting = True
            self._pump.turns.offer(self)

    def step(self) -> bool:
        """Handle a part of a frame that waits; False when nothing is left."""
        bus, session, now = self._pump.bus, self.session, clock()
        if session.rest is not None:
            bus.proceed(session, now, STEP_WEIGHT)
        elif self._frames:
            frame = self._frames.popleft()
            self._kept -= len(frame) + FRAME_OVERHEAD
            bus.receive(session, frame, now, STEP_WEIGHT)
        if session.closing:
            self.drop_waiting()
        bus.keep(session, self._kept, now)
        self._waiting = session.rest is not None or bool(self._frames)
        return self._waiting

    def drop_waiting(self) -> None:
        """Forget what has not had its turn: the session is over."""
        self._frames.clear()
        self._kept = 0
        self.session.rest = None
