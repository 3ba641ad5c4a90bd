"""Takes connections in from a listening socket: eagerly, within bounds, and standing up when there is no room."""

import asyncio
import errno
import os
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Protocol

from busd.core.principal import Principal
from busd.core.reasons import Departure
from busd.core.session import Session
from busd.edge.connection import Connection
from busd.edge.pump import Pump, clock
from busproto.errors import BusError, Code

BACKLOG: Final = 4096
"""Connections that may wait in the kernel. A VMM that meets a full backlog stalls its guest (Firecracker PR 6208)."""

BURST: Final = 64
"""Connections accepted in one turn of the loop: a storm of them must not hold up messages."""

PAUSE_SECONDS: Final = 0.1
"""How long accepting rests when the process has no descriptor left, not even by giving up its spare one."""

_NO_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_PEER_GONE: Final = frozenset({errno.ECONNABORTED, errno.EPROTO, errno.EINTR})


class Refusal(StrEnum):
    """Why a connection was refused before it had a session."""

    DESCRIPTORS = "descriptors"
    """The process has no file descriptor left."""
    ENDPOINTS = "endpoints"
    """The node has as many connections as it may."""
    USER = "user"
    """The peer's user has as many as one user may."""
    IDENTITY = "identity"
    """The kernel did not say who the peer is."""
    DRAINING = "draining"
    """The node is going away."""


class Report(Protocol):
    """Where the edge says that someone was at fault: an event's name and its facts."""

    def __call__(self, name: str, /, **fields: Any) -> None: ...


@dataclass(frozen=True, slots=True)
class AcceptorStatistics:
    """One listener."""

    boundary: str
    """The boundary that it is the way in from."""
    accepted: int
    """Connections accepted, with a session."""
    refused: dict[str, int]
    """Connections refused, by ``Refusal``."""
    open: int
    """Connections now."""
    handshaking: int
    """Those of them that have not said hello."""
    held_bytes: int
    """Bytes of frames of which only a part has come."""


class Acceptor:
    """One listening stream socket and the connections that came through it."""

    def __init__(
        self,
        listener: socket.socket,
        pump: Pump,
        identify: Callable[[socket.socket], Principal],
        *,
        boundary: str,
        connections_per_uid: int,
        report: Report,
    ) -> None:
        """``listener`` listens and does not block; ``identify`` names the principal of an accepted socket."""
        self._listener = listener
        self._pump = pump
        self._identify = identify
        self._boundary = boundary
        self._per_uid = connections_per_uid
        self._report = report
        self._loop = asyncio.get_running_loop()
        self._connections: set[Connection] = set()
        self._by_uid: Counter[int | None] = Counter()
        self._opening: set[asyncio.Task[None]] = set()
        self._accepted = 0
        self._refused: Counter[Refusal] = Counter()
        self._spare: int | None = _open_spare()
        self._listening = False
        self._empty = asyncio.Event()
        self._empty.set()

    def start(self) -> None:
        """Accept from now on."""
        self._listening = True
        self._loop.add_reader(self._listener, self._accept)

    def stop(self) -> None:
        """Accept no more; connections stay."""
        if self._listening:
            self._listening = False
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._give_spare()

    async def close(self, seconds: float) -> None:
        """Stop, and wait until every connection is gone; those that are left after ``seconds`` are cut."""
        self.stop()
        try:
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        except TimeoutError:
            for connection in list(self._connections):
                connection.abort()
            await self._empty.wait()

    def statistics(self) -> AcceptorStatistics:
        """Figures of this listener."""
        return AcceptorStatistics(
            boundary=self._boundary,
            accepted=self._accepted,
            refused={str(reason): count for reason, count in self._refused.items()},
            open=len(self._connections),
            handshaking=sum(not connection.session.name for connection in self._connections),
            held_bytes=sum(connection.held_bytes for connection in self._connections),
        )

    # -- inside -------------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        for _ in range(BURST):
            try:
                peer, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _NO_DESCRIPTORS:
                    self._shed(error)
                    return
                if error.errno in _PEER_GONE:
                    continue
                raise
            peer.setblocking(False)
            self._admit(peer)

    def _admit(self, peer: socket.socket) -> None:
        """Give ``peer`` a session, or close it. Nothing is allocated for it before it is known who it is."""
        try:
            principal = self._identify(peer)
        except OSError as error:
            self._refuse(peer, Refusal.IDENTITY, error=str(error))
            return
        if self._by_uid[principal.uid] >= self._per_uid:
            self._refuse(peer, Refusal.USER, uid=principal.uid, limit=self._per_uid)
            return
        connection = Connection(self._pump, self._closed)
        try:
            connection.session = self._pump.bus.attach(principal, clock(), connection)
        except BusError as error:
            refusal = Refusal.DRAINING if error.code == Code.DRAINING else Refusal.ENDPOINTS
            self._refuse(peer, refusal, uid=principal.uid, pid=principal.pid, error=error.text)
            return
        self._accepted += 1
        self._connections.add(connection)
        self._empty.clear()
        self._by_uid[principal.uid] += 1
        task = self._loop.create_task(self._open(connection, peer))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)
        self._pump.wake()

    async def _open(self, connection: Connection, peer: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: connection, peer)
        except OSError as error:
            peer.close()
            self._pump.detach(connection.session)
            self._closed(connection)
            self._report("connection-failed", boundary=self._boundary, error=str(error))

    def _closed(self, connection: Connection) -> None:
        if connection not in self._connections:
            return
        self._connections.discard(connection)
        uid = connection.session.principal.uid
        self._by_uid[uid] -= 1
        if not self._by_uid[uid]:
            del self._by_uid[uid]
        if not self._connections:
            self._empty.set()
        self._report_end(connection.session)

    def _report_end(self, session: Session) -> None:
        """Leaving is everyone's right; being cut off is someone's fault, and is said."""
        if session.error is None or session.departure is Departure.SHUTDOWN:
            return
        principal = session.principal
        self._report(
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

    def _refuse(self, peer: socket.socket, reason: Refusal, **fields: Any) -> None:
        peer.close()
        self._refused[reason] += 1
        self._report("connection-refused", boundary=self._boundary, reason=str(reason), **fields)

    def _shed(self, error: OSError) -> None:
        """No descriptors: give up the spare one to accept and close a connection, so that its peer is not left waiting.

        Without this the listener stays readable and the loop spins; closing tells the peer at once (libev's advice).
        """
        self._refused[Refusal.DESCRIPTORS] += 1
        self._report("connection-refused", boundary=self._boundary, reason="descriptors", error=error.strerror)
        self._give_spare()
        try:
            self._listener.accept()[0].close()
        except OSError:
            pass
        self._loop.remove_reader(self._listener)
        self._resume_later()

    def _give_spare(self) -> None:
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None

    def _resume_later(self) -> None:
        self._loop.call_later(PAUSE_SECONDS, self._resume)

    def _resume(self) -> None:
        if not self._listening:
            return
        try:
            self._spare = _open_spare()
        except OSError:
            # Someone else took it in between. Rest, and hope for a descriptor to come back.
            self._resume_later()
            return
        self._loop.add_reader(self._listener, self._accept)


def _open_spare() -> int:
    return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
