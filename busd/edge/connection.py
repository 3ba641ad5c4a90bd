"""One connection on a local stream: ZMTP on an asyncio transport, frames to and from the pump."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, cast

from busd.core.account import LONG_SECONDS
from busd.core.session import Session
from busd.edge.pump import Pump, clock
from busproto.limits import BATCH_BYTES, FRAME_BYTES
from busproto.zmtp import ZmtpConnection, ZmtpError, frame_header

PEERS: Final = frozenset({"DEALER"})
"""ZeroMQ socket types that may attach: the one that can send and receive at any time."""

WRITE_HIGH_WATER: Final = 0
"""Bytes that the transport may hold: none but the frame that the kernel took a part of. What waits does so in the
outbox, where it is charged and can be conflated. At 0 uvloop also writes at once instead of at the turn's end."""

STEP_BYTES: Final = 1024
"""Bytes that one step looks for frames in: 200 of the smallest take 0.06 ms."""

PIECE_BYTES: Final = 128 * 1024
"""What is read or written of a large frame at a time: 30 us of copying."""

_ROOM: Final = memoryview(bytearray(16 * 1024))
"""Where connections that take turns are read into, one after the other. Small: hundreds of them may have something at
the same time, and each would be given a quarter of a mebibyte of fresh memory by the loop (1 ms, measured)."""

READ_SECONDS: Final = 5e-6
READ_SECONDS_PER_BYTE: Final = 0.2e-9
"""What a read costs before this module sees it: the system call, and copying."""

FREE_BYTES: Final = 16 * 1024
"""What a connection may have read and waiting without being charged: as much as its objects take."""

STEP_SECONDS: Final = 50e-6
"""How long one step goes on with further frames."""

STEP_WEIGHT: Final = 8
"""Calls, or runs of messages, that one step handles: about 0.05 ms."""

LINGER_SECONDS: Final = 1.0
"""How long a session that is over may take to read its bye before the connection is cut."""


class Connection(asyncio.Protocol):
    """A peer's connection, from before its first word to its end."""

    __slots__ = (
        "_came",
        "_closed",
        "_data",
        "_direct",
        "_frames",
        "_lingering",
        "_paused",
        "_pump",
        "_queued",
        "_reader",
        "_reads",
        "_transport",
        "_unsent",
        "_violation",
        "_writes",
        "_zmtp",
        "session",
    )

    def __init__(self, pump: Pump, closed: "Callable[[Connection], None]") -> None:
        """``closed`` is told when the connection is gone."""
        self._pump = pump
        self._closed = closed
        self._zmtp = ZmtpConnection("server", socket_type="ROUTER", peers=PEERS, max_frame=FRAME_BYTES)
        self._transport: asyncio.Transport | None = None
        self._reader: _LargeFrameReader | None = None
        self._paused = False
        self._lingering = False
        self._data = memoryview(b"")
        self._direct = False
        self._frames: deque[bytes] = deque()
        self._reads = self._writes = self._queued = False
        self._unsent: deque[bytes | memoryview] = deque()
        self._came = 0.0
        self._violation: ZmtpError | None = None
        self.session: Session
        """Its session in the bus; set by whoever attaches it."""

    def protocol(self) -> asyncio.BaseProtocol:
        """What a socket's transport is to have as its protocol; call when the session is there."""
        return _PacedReader(self) if self.session.account.paced else self

    @property
    def stage(self) -> str:
        """How far the handshake has come: greeting, ready, open."""
        return self._zmtp.stage

    @property
    def held_bytes(self) -> int:
        """Bytes of a frame of which only a part has come."""
        return self._zmtp.held_bytes

    def flush(self) -> None:
        """Write what waits for the session, as far as the peer takes it; close when the session is over."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        session = self.session
        if session.account.paced:
            if session.closing:
                # Whoever is cut off shall know why, even if it would have to wait for its turn.
                self._write_on(transport)
            else:
                self._writes = True
            if self._writes:
                self._queue()
            return
        if self._zmtp.ready:
            outbox = session.outbox
            take = self._pump.bus.take
            while outbox and not self._paused:
                parts = take(session)
                size = sum(map(len, parts))
                if size <= BATCH_BYTES:
                    transport.write(b"".join((frame_header(size), *parts)))
                else:
                    transport.writelines((frame_header(size), *parts))
        if session.closing:
            self._end(transport)

    def abort(self) -> None:
        """Cut the connection; what waits is lost."""
        if self._transport is not None:
            self._transport.abort()

    # -- the transport's side -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(WRITE_HIGH_WATER)
        self._transport.write(self._zmtp.data_to_send())

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._reader = None
        self._drop_waiting()
        self._unsent.clear()
        if self.session.account.paced:
            self._pump.see_off(self._leave)
        else:
            self._leave()

    def _leave(self) -> None:
        self._pump.detach(self.session)
        self._closed(self)

    def data_received(self, data: bytes) -> None:
        if self.session.account.paced:
            self.charge_read(len(data), clock())
            self._data = memoryview(data)
            self._wait()
            return
        self._pump.receive(self.session, self._parse(data))
        zmtp = self._zmtp
        if zmtp.held_bytes or zmtp.unsent is not None or self.session.held_bytes or self._violation is not None:
            self._advance()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self.flush()

    # -- turns --------------------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Do a little of what waits: write something, handle a part of a frame, or take frames out of a few bytes."""
        self._queued = False
        if self._transport is None:
            return False
        if self._writes:
            self._write_on(self._transport)
        elif self._reads:
            self._read_on(self._transport)
        self._queued = self._writes or self._reads
        return self._queued

    def _write_on(self, transport: asyncio.Transport) -> None:
        """Write one frame, or a part of a large one: where a peer reads as fast the kernel takes megabytes at once, and
        the loop would do nothing else meanwhile."""
        if self._zmtp.unsent is not None:
            self._write_zmtp()  # READY, which no frame may go ahead of, and for which reading need not be done
        if self._zmtp.ready and not self._paused:
            if not self._unsent:
                parts = self._pump.bus.take(self.session)
                size = sum(map(len, parts))
                if 0 < size <= BATCH_BYTES:
                    transport.write(b"".join((frame_header(size), *parts)))
                elif parts:
                    self._unsent.append(frame_header(size))
                    for part in parts:
                        whole = memoryview(part)
                        self._unsent += [whole[at : at + PIECE_BYTES] for at in range(0, len(part), PIECE_BYTES)]
            if self._unsent:
                transport.write(self._unsent.popleft())
        self._writes = not self._paused and self._zmtp.ready and bool(self._unsent or self.session.outbox)
        if self.session.closing:
            self._end(transport)

    def _read_on(self, transport: asyncio.Transport) -> None:
        """Do a step of what was read; read on when that is done."""
        bus, session = self._pump.bus, self.session
        now = clock()
        if session.rest is not None:
            bus.proceed(session, now, STEP_WEIGHT)
        elif self._frames:
            while self._frames and clock() - now < STEP_SECONDS:
                if not bus.receive(session, self._frames.popleft(), now, STEP_WEIGHT):
                    break
        elif self._data:
            # The rest of a large frame is copied and no more: all of it at once.
            size = STEP_BYTES if self._zmtp.get_buffer() is None else len(self._data)
            piece, self._data = self._data[:size], self._data[size:]
            self._frames.extend(self._parse(bytes(piece)))
        if session.closing:
            self._drop_waiting()
        if session.rest is not None or self._frames or self._data:
            return
        if session.kept_bytes:
            bus.keep(session, 0, now)
        if self._came:
            bus.routed(clock() - self._came)
            self._came = 0.0
        self._reads = False
        self._advance()
        if not transport.is_closing():
            transport.resume_reading()

    def _wait(self) -> None:
        """Let what has come wait for its turn, and read no more meanwhile."""
        if self._transport is not None:
            self._transport.pause_reading()
        size = len(self._data) + sum(map(len, self._frames))
        if size > FREE_BYTES:
            self._pump.bus.keep(self.session, size, clock())
        self._reads = True
        self._came = self._pump.begin()
        self._queue()

    def _queue(self) -> None:
        if not self._queued:
            self._queued = True
            self._pump.turns.offer(self)

    def _drop_waiting(self) -> None:
        self._data = memoryview(b"")
        self._frames.clear()
        self.session.rest = None

    # -- inside -------------------------------------------------------------------------------------------------------

    def _parse(self, data: bytes) -> list[bytes]:
        """The frames that ``data`` completes; those before a violation, which `_advance` refuses when they are done."""
        try:
            return self._zmtp.receive(data)
        except ZmtpError as error:
            self._violation = error
            self._data = memoryview(b"")
            return list(error.frames)

    def _advance(self) -> None:
        """What was read is handled: answer for ZMTP, and go on with what of a frame has come."""
        if self._zmtp.unsent is not None:
            self._write_zmtp()
        if self._violation is not None:
            violation, self._violation = self._violation, None
            self._pump.refuse(self.session, violation)
        elif self._zmtp.held_bytes or self.session.held_bytes:
            self.charge_held()
            if self._zmtp.get_buffer() is not None and not self.session.account.paced:
                self._read_large_frame()

    def charge_held(self) -> None:
        """Have the bytes of a half-received frame charged. The handshake has a deadline of its own."""
        if self._zmtp.ready:
            self._pump.hold(self.session, self._zmtp.held_bytes)

    def _write_zmtp(self) -> None:
        """Send what ZMTP itself has to say: READY, PONG, ERROR."""
        data = self._zmtp.data_to_send()
        # A peer that does not read gets no PONG either: they would pile up in the transport, charged to nobody.
        if data and not self._paused and self._transport is not None:
            self._transport.write(data)

    def _end(self, transport: asyncio.Transport) -> None:
        """The session is over: close as soon as its bye is written, and cut the connection if that takes too long."""
        if not self._lingering:
            self._lingering = True
            asyncio.get_running_loop().call_later(LINGER_SECONDS, self.abort)
        if not (self.session.outbox or self._unsent) or not self._zmtp.ready:
            transport.close()

    def _read_large_frame(self) -> None:
        """Until the frame is complete, have the transport read into its memory: its bytes are not copied on the way."""
        if self._reader is None and self._transport is not None and not self._transport.is_closing():
            self._reader = _LargeFrameReader(self, self._zmtp)
            self._switch(self._reader)

    def charge_read(self, size: int, begin: float) -> None:
        """``size`` bytes were read, and taken in since ``begin``: that was time of the loop too.

        It is never long. What seems so is time in which the system had set the node aside for other processes.
        """
        now = clock()
        took = min(now - begin, LONG_SECONDS)
        self.session.account.take_time(took + READ_SECONDS + size * READ_SECONDS_PER_BYTE, now)

    def read_room(self) -> memoryview:
        """Where the next bytes of a connection that takes turns are to be read, and no more of them than that."""
        large = self._zmtp.get_buffer()
        self._direct = large is not None
        return _ROOM if large is None else large[:PIECE_BYTES]

    def room_filled(self, size: int) -> None:
        """``size`` bytes were read into that."""
        begin = clock()
        if not self._direct:
            self._data = memoryview(bytes(_ROOM[:size]))
        elif frames := self._zmtp.buffer_updated(size):
            self._frames.extend(frames)
        self._wait()
        self.charge_read(size, begin)

    def finish_large_frame(self, frames: list[bytes]) -> None:
        """The large frame is complete (``frames`` holds it): read as usual again."""
        self._reader = None
        self._switch(self)
        self.charge_held()
        self._pump.receive(self.session, frames)

    def _switch(self, protocol: asyncio.BaseProtocol) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        # uvloop looks at what kind of protocol it has only when it starts to read.
        transport.pause_reading()
        transport.set_protocol(protocol)
        transport.resume_reading()


class _PacedReader(asyncio.BufferedProtocol):
    """Stands for a connection that takes turns: reads no more than there is room for."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._connection.connection_made(transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._connection.read_room()

    def buffer_updated(self, nbytes: int) -> None:
        self._connection.room_filled(nbytes)

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.connection_lost(exc)


class _LargeFrameReader(asyncio.BufferedProtocol):
    """Stands in for a connection while a large frame comes in."""

    __slots__ = ("_connection", "_zmtp")

    def __init__(self, connection: Connection, zmtp: ZmtpConnection) -> None:
        self._connection = connection
        self._zmtp = zmtp

    def get_buffer(self, sizehint: int) -> memoryview:
        buffer = self._zmtp.get_buffer()
        assert buffer is not None
        return buffer

    def buffer_updated(self, nbytes: int) -> None:
        frames = self._zmtp.buffer_updated(nbytes)
        if frames:
            self._connection.finish_large_frame(frames)
        else:
            self._connection.charge_held()

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.connection_lost(exc)
