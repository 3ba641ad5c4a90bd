"""A serial line to a guest: virtio-serial or any character device, or the unix socket of a VMM's chardev.

A line has no connections, so `busproto.serial` makes them: sessions that a start record begins. Here each session
becomes one end of a socket pair whose other end is let in as any connection is; this module moves bytes between the
pair and the line, in both directions no more than the other side takes.
"""

import asyncio
import errno
import os
import socket
import stat
import termios
import tty
from collections.abc import Callable
from typing import Any, Final

from busd.core.principal import Principal
from busd.edge.admission import Admission, Refusal
from busd.edge.connection import LINGER_SECONDS
from busd.edge.pump import clock
from busd.edge.retry import Retry
from busd.edge.socketfile import SocketFile
from busproto.errors import BusError
from busproto.serial import SerialLine

CHUNK: Final = 4096
"""Bytes that are read at a time. What the line does not take yet waits in the endpoint's outbox, where it is charged,
so as little as possible of it is moved on."""

BUFFER: Final = 16 * 1024
"""Send buffer of the pair, for the same reason; the kernel doubles it."""


class SerialPort:
    """Opens one line, again and again for as long as the unit lives, and carries one endpoint at a time over it."""

    def __init__(
        self, file: SocketFile, admission: Admission, identify: Callable[[socket.socket | None], Principal]
    ) -> None:
        """``identify`` names who is at the other end of the line: of its socket, or of a device if it is given None."""
        self._file = file
        self._admission = admission
        self._identify = identify
        self._retry = Retry(self._carry)
        self._line: _Line | None = None
        self._error: str | None = None
        self.principal: Principal
        """Who is at the other end, since the line was opened."""

    def start(self) -> None:
        """Open the line, now or as soon as it is there."""
        self._retry.start()

    def stop(self) -> int:
        """Begin no session any more. One that stands stays; nothing can wait, so the number of refused ones is 0."""
        self._retry.stop()
        if self._line is not None:
            self._line.finish()
        self._file.close()
        return 0

    async def close(self) -> None:
        """Close the line as soon as what the endpoint was sent last is on it, or the guest is too slow for that."""
        if self._line is None:
            return
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                await asyncio.shield(self._line.ended)
        except TimeoutError:
            self._line.close("the unit is gone")

    def describe(self) -> dict[str, Any]:
        """Its state, as ``bus guest list`` shows it."""
        if self._line is not None and not self._line.ended.done():
            return {"state": "connected" if self._line.in_session else "open"}
        return self._retry.describe("opening", self._error)

    async def _carry(self) -> None:
        """Open the line, and let it run to its end."""
        self._line = self._open()
        if self._line is not None:
            self._error = await asyncio.shield(self._line.ended)

    def _open(self) -> "_Line | None":
        peer: socket.socket | None = None
        try:
            if self._file.is_socket():
                peer = self._file.connect()
            self.principal = self._identify(peer)
            return _Line(self._file.open() if peer is None else peer.detach(), self._admission)
        except BusError as error:
            self._error = error.text
            self._admission.refuse(Refusal.UNIT, error=error.text)
        except (OSError, ValueError) as error:
            self._error = getattr(error, "strerror", None) or str(error)
        if peer is not None:
            peer.close()
        return None


class _Line:
    """An open line and the session on it, if there is one."""

    def __init__(self, descriptor: int, admission: Admission) -> None:
        """Takes ``descriptor`` over. Raises OSError if it cannot be used as a line."""
        self._descriptor = descriptor
        self._admission = admission
        self._loop = asyncio.get_running_loop()
        self._line = SerialLine("broker")
        self._out = b""
        """What the line has not taken yet."""
        self._in = b""
        """What the session has not taken yet."""
        self._pair: socket.socket | None = None
        self._rest: asyncio.TimerHandle | None = None
        self._finishing = False
        self.ended: asyncio.Future[str] = self._loop.create_future()
        """Why the line was closed, once it is."""
        try:
            os.set_blocking(descriptor, False)
            if stat.S_ISCHR(os.fstat(descriptor).st_mode) and os.isatty(descriptor):
                tty.setraw(descriptor, termios.TCSANOW)
            self._loop.add_reader(descriptor, self._from_line)
        except (OSError, termios.error) as error:
            os.close(descriptor)
            raise OSError(errno.EIO, str(error)) from None
        # A client that still believes in a session of an earlier broker learns that there is none.
        self._write(self._line.reset(b"the broker opened the line"))

    @property
    def in_session(self) -> bool:
        """Whether an endpoint is on the line."""
        return self._pair is not None

    def finish(self) -> None:
        """Close the line as soon as no session is on it; begin none any more."""
        self._finishing = True
        if self._pair is None:
            self.close("the unit is gone")

    def close(self, reason: str) -> None:
        """End the session and close the line."""
        if self.ended.done():
            return
        self.ended.set_result(reason)
        self._drop()
        if self._rest is not None:
            self._rest.cancel()
        self._loop.remove_reader(self._descriptor)
        self._loop.remove_writer(self._descriptor)
        os.close(self._descriptor)

    # -- from the guest -----------------------------------------------------------------------------------------------

    def _from_line(self) -> None:
        try:
            data = os.read(self._descriptor, CHUNK)
        except BlockingIOError:
            return
        except OSError as error:  # EIO: the other side of a pty, or of the port, is closed
            self.close(f"the line failed: {error.strerror or error}")
            return
        if not data:
            self.close("the other side closed the line")
            return
        events = self._line.receive(data)
        # Starts with data between them: each begins a session anew, so only the last one is worth a session here.
        first = max((index for index, (kind, _) in enumerate(events) if kind == "start"), default=0)
        for kind, body in events[first:]:
            if self.ended.done():
                return
            if kind == "start":
                self._begin(body)
            elif kind == "data":
                self._to_session(body)
            else:
                self._drop()
                if kind == "reset":
                    self._write(self._line.reset(body))

    def _begin(self, token: bytes) -> None:
        """A new session, whatever came before."""
        self._drop()
        if self._finishing:
            self._write(self._line.end())
            self.close("the unit is gone")
            return
        connects = self._admission.connects
        if connects is not None:
            now = clock()
            if connects.ready_at > now:
                self._pause(connects.ready_at - now)
                self._write(self._line.end())
                return
            connects.spend(1, now)
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            self._admission.refuse(Refusal.DESCRIPTORS, error=error.strerror)
            self._write(self._line.end())
            return
        ours.setblocking(False)
        theirs.setblocking(False)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        if not self._admission.admit(theirs):
            ours.close()
            self._write(self._line.end())
            return
        self._pair = ours
        self._write(self._line.accept(token))

    def _to_session(self, data: bytes) -> None:
        """Hand ``data`` to the session; while it does not take all of it, nothing more is read from the line."""
        if self._pair is None:
            return
        self._in += data
        try:
            self._in = self._in[self._pair.send(self._in) :]
        except BlockingIOError:
            pass
        except OSError:  # the broker ended the session: `_from_session` will see it
            self._in = b""
        if self._in:
            self._loop.add_writer(self._pair, self._to_session, b"")
        else:
            self._loop.remove_writer(self._pair)
        self._watch_line()

    # -- to the guest -------------------------------------------------------------------------------------------------

    def _from_session(self) -> None:
        assert self._pair is not None
        try:
            data = self._pair.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._write(self._line.data(data))
        else:
            self._drop()
            self._write(self._line.end())
            if self._finishing:
                self.close("the unit is gone")

    def _write(self, data: bytes) -> None:
        """Send ``data``; while the line does not take all that waits, nothing more is read from the session."""
        if self.ended.done():
            return
        self._out += data
        try:
            self._out = self._out[os.write(self._descriptor, self._out) :]
        except BlockingIOError:
            pass
        except OSError as error:
            self.close(f"the line failed: {error.strerror or error}")
            return
        if self._out:
            self._loop.add_writer(self._descriptor, self._write, b"")
        else:
            self._loop.remove_writer(self._descriptor)
        if self._pair is not None:
            if self._out:
                self._loop.remove_reader(self._pair)
            else:
                self._loop.add_reader(self._pair, self._from_session)
        self._watch_line()

    # -- both ---------------------------------------------------------------------------------------------------------

    def _watch_line(self) -> None:
        """Read from the line, unless the session is behind, or answers pile up that the guest does not read."""
        if self.ended.done():
            return
        if self._in or len(self._out) > BUFFER or self._rest is not None:
            self._loop.remove_reader(self._descriptor)
        else:
            self._loop.add_reader(self._descriptor, self._from_line)

    def _pause(self, seconds: float) -> None:
        """Read nothing from the line for ``seconds``."""
        self._rest = self._loop.call_later(seconds, self._resume)
        self._watch_line()

    def _resume(self) -> None:
        self._rest = None
        self._watch_line()

    def _drop(self) -> None:
        """End the session on this side."""
        self._in = b""
        if self._pair is not None:
            self._loop.remove_reader(self._pair)
            self._loop.remove_writer(self._pair)
            self._pair.close()
            self._pair = None
