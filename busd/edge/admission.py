"""Who is let in: identity first, then bounds, then a session; and the connections that one way in has open."""

import asyncio
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Protocol

from busd.core.principal import Principal
from busd.core.reasons import Departure
from busd.core.session import Session
from busd.core.tokenbucket import TokenBucket
from busd.edge.connection import Connection
from busd.edge.pump import Pump, clock
from busproto.errors import BusError, Code


class Refusal(StrEnum):
    """Why a connection was refused before it had a session."""

    DESCRIPTORS = "descriptors"
    """The process has no file descriptor left, or none for this boundary."""
    ENDPOINTS = "endpoints"
    """The node, or this tenant, has as many connections as it may."""
    USER = "user"
    """The peer's user has as many as one user may."""
    IDENTITY = "identity"
    """The kernel did not say who the peer is."""
    UNIT = "unit"
    """The peer is not of the life of a unit that stands."""
    RATE = "rate"
    """Connections of this unit came faster than they may, where they cannot be left waiting in the kernel."""
    DRAINING = "draining"
    """The node is going away."""


_REFUSALS: Final[dict[int, Refusal]] = {Code.DRAINING: Refusal.DRAINING, Code.UNIT_UNKNOWN: Refusal.UNIT}


class Report(Protocol):
    """Where the edge says that someone was at fault: an event's name and its facts."""

    def __call__(self, name: str, /, **fields: Any) -> None: ...


@dataclass(frozen=True, slots=True)
class AdmissionStatistics:
    """One way in."""

    boundary: str
    """The boundary that it is the way in from."""
    accepted: int
    """Connections accepted, with a session."""
    refused: dict[str, int]
    """Connections refused, by ``Refusal``."""
    open: int
    """Connections now."""


class Arrived:
    """Counts of connections, of one way in or of many together."""

    __slots__ = ("accepted", "open", "refused")

    def __init__(self) -> None:
        self.accepted = self.open = 0
        self.refused: Counter[Refusal] = Counter()

    def statistics(self, boundary: str) -> AdmissionStatistics:
        """The counts, as those of the way in from ``boundary``."""
        refused = {str(reason): count for reason, count in self.refused.items()}
        return AdmissionStatistics(boundary=boundary, accepted=self.accepted, refused=refused, open=self.open)


class Admission:
    """One way in, whatever it is that connections come from: a listener, or a line that this side opens."""

    def __init__(
        self,
        pump: Pump,
        identify: Callable[[socket.socket], Principal],
        *,
        boundary: str,
        connections_per_uid: int,
        report: Report,
        connects: TokenBucket | None = None,
        together: Arrived | None = None,
    ) -> None:
        """``identify`` names the principal of a connected socket; ``connects`` bounds how fast they may come.

        What is counted here is counted in ``together`` too.
        """
        self.boundary = boundary
        self.report = report
        self.connects = connects
        self._pump = pump
        self._identify = identify
        self._per_uid = connections_per_uid
        self._loop = asyncio.get_running_loop()
        self._connections: set[Connection] = set()
        self._by_uid: Counter[int | None] = Counter()
        self._opening: set[asyncio.Task[None]] = set()
        own = Arrived()
        self._own: Final = own
        self._counts: Final = (own,) if together is None else (own, together)
        self._empty = asyncio.Event()
        self._empty.set()

    def admit(self, peer: socket.socket) -> bool:
        """Give ``peer``, which is connected and does not block, a session; close it and return False if it may not."""
        try:
            principal = self._identify(peer)
        except OSError as error:
            return self._refuse(peer, Refusal.IDENTITY, error=error.strerror or str(error))
        except BusError as error:
            return self._refuse(peer, _REFUSALS.get(error.code, Refusal.IDENTITY), error=error.text)
        connection = self.attach(principal)
        if isinstance(connection, tuple):
            reason, fields = connection
            return self._refuse(peer, reason, **fields)
        task = self._loop.create_task(self._open(connection, peer))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)
        return True

    def attach(self, principal: Principal) -> Connection | tuple[Refusal, dict[str, Any]]:
        """A connection of ``principal`` with a session, for a transport to be given to; or why there is none."""
        if self._by_uid[principal.uid] >= self._per_uid:
            return Refusal.USER, {"uid": principal.uid, "limit": self._per_uid}
        connection = Connection(self._pump, self._closed)
        try:
            connection.session = self._pump.bus.attach(principal, clock(), connection)
        except BusError as error:
            return _REFUSALS.get(error.code, Refusal.ENDPOINTS), {
                "unit": principal.unit,
                "uid": principal.uid,
                "pid": principal.pid,
                "error": error.text,
            }
        for counts in self._counts:
            counts.accepted += 1
            counts.open += 1
        self._connections.add(connection)
        self._empty.clear()
        self._by_uid[principal.uid] += 1
        self._pump.wake()
        return connection

    def refuse(self, reason: Refusal, **fields: Any) -> None:
        """Count and report a connection that did not come as far as ``admit``."""
        for counts in self._counts:
            counts.refused[reason] += 1
        self.report("connection-refused", boundary=self.boundary, reason=str(reason), **fields)

    def abort_all(self) -> None:
        """Cut every connection."""
        for connection in list(self._connections):
            connection.abort()

    async def emptied(self) -> None:
        """Wait until no connection is open."""
        await self._empty.wait()

    async def close(self, seconds: float) -> None:
        """Wait until every connection is gone; those that are left after ``seconds`` are cut."""
        try:
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        except TimeoutError:
            self.abort_all()
            await self._empty.wait()

    @property
    def endpoints(self) -> int:
        """Connections that have said hello."""
        return sum(bool(connection.session.name) for connection in self._connections)

    def statistics(self) -> AdmissionStatistics:
        """Figures of this way in."""
        return self._own.statistics(self.boundary)

    # -- inside -------------------------------------------------------------------------------------------------------

    async def _open(self, connection: Connection, peer: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(connection.protocol, peer)
        except OSError as error:
            peer.close()
            self._pump.detach(connection.session)
            self._closed(connection)
            self.report("connection-failed", boundary=self.boundary, error=str(error))

    def _closed(self, connection: Connection) -> None:
        if connection not in self._connections:
            return
        self._connections.discard(connection)
        for counts in self._counts:
            counts.open -= 1
        uid = connection.session.principal.uid
        self._by_uid[uid] -= 1
        if not self._by_uid[uid]:
            del self._by_uid[uid]
        if not self._connections:
            self._empty.set()
        report_end(connection.session, self.report)

    def _refuse(self, peer: socket.socket, reason: Refusal, **fields: Any) -> bool:
        peer.close()
        self.refuse(reason, **fields)
        return False


def report_end(session: Session, report: Report) -> None:
    """Leaving is everyone's right; being cut off is someone's fault, and is said."""
    if session.error is None or session.departure in (Departure.SHUTDOWN, Departure.UNIT_REMOVED):
        return
    principal = session.principal
    report(
        "endpoint-cut-off",
        endpoint=session.name,
        component=session.claims.get("component"),
        boundary=principal.boundary,
        unit=principal.unit,
        uid=principal.uid,
        pid=principal.pid,
        reason=str(session.departure),
        code=session.error["code"],
        error=session.error["text"],
    )
