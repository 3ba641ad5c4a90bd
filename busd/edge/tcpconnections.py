"""The TCP connections of a libzmq listener: when they come and go, what they have sent, and how to cut one.

A ROUTER neither says who came or left nor can it cut anybody off (the options for that are drafts). Its socket monitor
says which file descriptor was accepted and which is over; every message says which descriptor it came from; and a
descriptor can be shut down by whoever is in the same process, upon which libzmq sees the peer leave. That is all it
takes for bounds on connections and for sessions that end at once. Before anything is done to a descriptor it is
compared by inode: libzmq's thread may have closed it, and the kernel given the number to someone else.
"""

import os
import socket
import struct
import sys
from collections import Counter
from collections.abc import Iterator
from enum import StrEnum
from typing import Final

import zmq
from zmq.utils.monitor import parse_monitor_message

MONITOR: Final = "inproc://busd.curve.monitor"

EVENTS: Final = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED

_RECEIVED_OFFSET: Final = 128
"""Of tcpi_bytes_received in Linux' struct tcp_info (linux/tcp.h, since 4.1)."""


SMALL_BYTES: Final = 64 * 1024
"""Bytes of an incomplete message that are not worth accounting: heartbeats, and what is just coming in."""


class Cut(StrEnum):
    """Why a connection was cut before it had a session."""

    CONNECTIONS = "connections"
    """The listener has as many as it may."""
    ADDRESS = "address"
    """Its address has as many without a session as one address may."""
    SILENT = "silent"
    """It did not attach in time."""
    HELD = "held"
    """Its first message was longer than any may be."""
    CLOSED = "closed"
    """The listener takes nobody in any more."""


class TcpConnection:
    """One accepted connection."""

    __slots__ = (
        "_base",
        "_looked",
        "delivered",
        "descriptor",
        "gone",
        "held_bytes",
        "inode",
        "over",
        "owner",
        "peer",
        "since",
    )

    def __init__(self, descriptor: int, inode: int, peer: str, now: float) -> None:
        self.descriptor = descriptor
        self.inode = inode
        self.peer = peer
        """Address of the other side, without its port."""
        self.since = now
        self.owner: object = None
        """Whose session came over it."""
        self.over = False
        """Cut, or about to be: what still comes over it is dropped."""
        self.gone = False
        """libzmq has closed it; messages that it had taken in before may still come out."""
        self.delivered = 0
        """Bytes on the wire of the messages that came out."""
        self.held_bytes = 0
        """Bytes of a message that is not complete, when it was last looked at."""
        self._looked = 0
        self._base = 0

    def cut(self) -> None:
        """End the connection. Nothing happens if it has ended."""
        self.over = True
        with _Borrowed(self) as tcp:
            if tcp is not None:
                try:
                    # Closing then resets it. A peer that still writes would otherwise hang on a window that stays shut.
                    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    tcp.shutdown(socket.SHUT_RDWR)
                except OSError:  # it ended in this moment
                    pass

    def look(self) -> None:
        """Bring ``held_bytes`` up to date, where the system says what came in (Linux)."""
        if not hasattr(socket, "TCP_INFO"):
            return
        with _Borrowed(self) as tcp:
            if tcp is None:
                return
            end = _RECEIVED_OFFSET + 8
            try:
                info = tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, end)
            except OSError:
                return
        if len(info) < end:
            return
        received = int.from_bytes(info[_RECEIVED_OFFSET:end], sys.byteorder)
        held = received - self.delivered - self._base
        moved, self._looked = self.delivered != self._looked, self.delivered
        if held < 0 or (moved and held < SMALL_BYTES):
            # Handshake and heartbeats are in no message. What they add up to is let go while it is small.
            self._base += held
        # While messages come out what is left in libzmq may be whole ones. When none did it is part of one.
        self.held_bytes = 0 if moved or held < SMALL_BYTES else held


class _Borrowed:
    """The socket of a connection, as long as it is still that connection's; None otherwise."""

    __slots__ = ("_connection", "_tcp")

    def __init__(self, connection: TcpConnection) -> None:
        self._connection = connection
        self._tcp: socket.socket | None = None

    def __enter__(self) -> socket.socket | None:
        if self._connection.gone:
            return None
        try:
            # The copy cannot be closed under our feet; only then is it compared.
            tcp = socket.socket(fileno=os.dup(self._connection.descriptor))
        except OSError:
            return None
        if os.fstat(tcp.fileno()).st_ino != self._connection.inode:
            tcp.close()
            return None
        self._tcp = tcp
        return tcp

    def __exit__(self, *exc_info: object) -> None:
        if self._tcp is not None:
            self._tcp.close()


class TcpConnections:
    """The connections of one listening socket."""

    def __init__(self, router: "zmq.Socket[bytes]", *, limit: int, limit_per_address: int, seconds: float) -> None:
        """Watches ``router``, which is not bound yet.

        At most ``limit`` connections, of these ``limit_per_address`` without a session from one address, and each of
        those for ``seconds``.
        """
        self._router = router
        self._limit = limit
        self._limit_per_address = limit_per_address
        self._seconds = seconds
        self._by_descriptor: dict[int, TcpConnection] = {}
        self._pending: Counter[str] = Counter()
        self._gone: list[TcpConnection] = []
        self._past: list[TcpConnection] = []
        self._next = 0
        self.takes_in = True
        """Whether who comes may stay. libzmq itself cannot stop listening without ending all connections."""
        self.accepted = 0
        """Connections that came."""
        self.cut: Counter[Cut] = Counter()
        """Of these, those that were cut before they had a session."""
        self.last_cut = ""
        """Address of the last of them."""
        self.unproven = 0
        """Of these, those that ended by themselves before they had one: not CURVE, another server key, a key not
        enrolled, or nothing at all."""
        router.monitor(MONITOR, EVENTS)
        self._monitor: zmq.Socket[bytes] = router.context.socket(zmq.PAIR)
        # Without a bound here: libzmq's thread waits for room when this queue is full, and the whole bus with it.
        self._monitor.setsockopt(zmq.RCVHWM, 0)
        self._monitor.setsockopt(zmq.LINGER, 0)
        self._monitor.connect(MONITOR)
        self.descriptor = int(self._monitor.getsockopt(zmq.FD))
        """Readable when something may have happened; edge-triggered like all of libzmq's."""

    def __iter__(self) -> Iterator[TcpConnection]:
        return iter(list(self._by_descriptor.values()))

    def __len__(self) -> int:
        return len(self._by_descriptor)

    def update(self, now: float) -> None:
        """Take in what has happened."""
        while True:
            try:
                event = parse_monitor_message(self._monitor.recv_multipart(zmq.DONTWAIT))
            except zmq.Again:
                return
            descriptor = int(event["value"])
            if event["event"] == zmq.EVENT_ACCEPTED:
                self._accept(descriptor, now)
            else:
                self._end(descriptor)

    def find(self, descriptor: int) -> TcpConnection | None:
        """The connection that a message came from; None if it has been gone for a while."""
        return self._by_descriptor.get(descriptor)

    def own(self, connection: TcpConnection, owner: object) -> None:
        """The session of ``owner`` came over ``connection``."""
        if connection.owner is None and not connection.gone:
            self._settle(connection)
        connection.owner = owner

    def departed(self) -> list[TcpConnection]:
        """The connections that were gone already when this was last asked: by now nothing of them comes out any more.

        They are forgotten.
        """
        departed, self._past, self._gone = self._past, self._gone, []
        for connection in departed:
            self.unproven += connection.owner is None and not connection.over
            if self._by_descriptor.get(connection.descriptor) is connection:
                del self._by_descriptor[connection.descriptor]
        return departed

    def look(self, count: int, now: float, most_held: int) -> list[TcpConnection]:
        """Look at the next ``count`` connections, all in turn. Returns those that live and have a session.

        Those without one are cut when they are too slow, or hold more than ``most_held`` bytes.
        """
        everyone = list(self._by_descriptor.values())
        start = self._next if self._next < len(everyone) else 0
        self._next = start + count
        living = []
        for connection in everyone[start : start + count]:
            if connection.gone:
                continue
            connection.look()
            if connection.owner is not None:
                living.append(connection)
            elif connection.over:
                continue
            elif connection.held_bytes > most_held:
                self._cut(connection, Cut.HELD)
            elif now - connection.since > self._seconds:
                self._cut(connection, Cut.SILENT)
        return living

    def close(self) -> None:
        """Watch no more. Before the router is closed: a monitor that nobody reads would block libzmq's thread."""
        self._router.disable_monitor()
        self._monitor.close(linger=0)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _accept(self, descriptor: int, now: float) -> None:
        try:
            tcp = socket.socket(fileno=os.dup(descriptor))
        except OSError:  # it has ended already
            self.accepted += 1
            self.unproven += 1
            return
        with tcp:
            try:
                peer = str(tcp.getpeername()[0])
            except OSError:
                peer = ""
            connection = TcpConnection(descriptor, os.fstat(tcp.fileno()).st_ino, peer, now)
        self._end(descriptor)
        self.accepted += 1
        self._by_descriptor[descriptor] = connection
        self._pending[peer] += 1
        if not self.takes_in:
            self._cut(connection, Cut.CLOSED)
        elif len(self._by_descriptor) > self._limit:
            self._cut(connection, Cut.CONNECTIONS)
        elif self._pending[peer] > self._limit_per_address:
            self._cut(connection, Cut.ADDRESS)

    def _end(self, descriptor: int) -> None:
        connection = self._by_descriptor.get(descriptor)
        if connection is not None and not connection.gone:
            connection.gone = True
            self._gone.append(connection)
            if connection.owner is None:
                self._settle(connection)

    def _cut(self, connection: TcpConnection, reason: Cut) -> None:
        self.cut[reason] += 1
        self.last_cut = connection.peer
        connection.cut()

    def _settle(self, connection: TcpConnection) -> None:
        """``connection`` is no longer one of those without a session."""
        self._pending[connection.peer] -= 1
        if not self._pending[connection.peer]:
            del self._pending[connection.peer]
