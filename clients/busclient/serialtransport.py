"""A serial line as an asyncio transport: a device of this machine with one session of `busproto.serial` on it."""

import asyncio
import errno
import os
import stat
import sys
from typing import Any, Final

from busproto.limits import SERIAL_TOKEN_BYTES
from busproto.serial import SerialLine

if sys.platform == "win32":
    raise ImportError("Windows has no serial devices of this kind")

import fcntl
import termios
import tty

__all__ = ["SerialTransport"]

START_SECONDS: Final = 1.0
"""Between starts until one is answered: the broker may come later than its guests."""

READ_BYTES: Final = 64 * 1024

ENCODE_BYTES: Final = 64 * 1024
"""Data made into records at a time: what waits for the line waits as it is."""


class SerialTransport(asyncio.Transport):
    """The client's end of a line: from `begin` to the session's end, which is the end of the connection.

    The device is this process's alone (flock(2), and TIOCEXCL on a terminal): two programs would mix their bytes. A
    terminal is set to raw mode; its speed stays what it was, see stty(1). The protocol may be buffered or not.
    """

    def __init__(self, path: str, protocol: asyncio.BaseProtocol) -> None:
        """Opens the device at ``path``. Raises OSError: it is not there, not a device, in use or not permitted."""
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._protocol = protocol
        self._line = SerialLine("client")
        self._path = path
        self._accepted: asyncio.Future[None] = self._loop.create_future()
        self._unsent = bytearray()
        """Data that is not yet in records."""
        self._records = memoryview(b"")
        """Records that the line has not taken yet."""
        self._high, self._low = 64 * 1024, 16 * 1024
        self._writing_paused = False
        self._reading = True
        self._waits_to_write = False
        self._closing = False
        self._lost = False
        self._descriptor = _open_device(path)
        try:
            self._loop.add_reader(self._descriptor, self._on_readable)
        except BaseException:
            os.close(self._descriptor)
            raise

    async def begin(self) -> None:
        """Begin a session, however long the broker takes; ``connection_made`` when it stands.

        Raises OSError: the line ended.
        """
        try:
            while not self._accepted.done():
                # What is still unsent is an earlier start, as good as a new one.
                if not self._records:
                    self._records = memoryview(self._line.start(os.urandom(SERIAL_TOKEN_BYTES)))
                    self._flush()
                await asyncio.wait([self._accepted], timeout=START_SECONDS)
            await self._accepted
        except BaseException:
            self.abort()
            raise

    # -- from the line ------------------------------------------------------------------------------------------------

    def _on_readable(self) -> None:
        try:
            data = os.read(self._descriptor, READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lose(error)
            return
        if not data:  # a virtio port reads so while the host has its side closed
            self._lose(ConnectionResetError(errno.ECONNRESET, "the other side of the line is closed"))
            return
        for kind, body in self._line.receive(data):
            if self._closing:
                return
            if kind == "accepted":
                self._accepted.set_result(None)
                self._protocol.connection_made(self)
            elif kind == "data":
                self._deliver(body)
            elif kind == "end":
                self._lose(None)
            else:
                reason = body.decode("ascii", "backslashreplace")
                self._lose(ConnectionResetError(errno.ECONNRESET, f"the session on the line was lost: {reason}"))

    def _deliver(self, data: bytes) -> None:
        protocol = self._protocol
        if isinstance(protocol, asyncio.Protocol):
            protocol.data_received(data)
            return
        assert isinstance(protocol, asyncio.BufferedProtocol)
        view = memoryview(data)
        while view:
            room = memoryview(protocol.get_buffer(len(view)))
            count = min(len(room), len(view))
            room[:count] = view[:count]
            protocol.buffer_updated(count)
            if self._closing:
                return
            view = view[count:]

    # -- to the line --------------------------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send ``data``; what the line does not take now waits."""
        if self._closing or not data:
            return
        self._unsent += data
        if not self._waits_to_write:
            self._flush()
        if not self._writing_paused and self.get_write_buffer_size() > self._high:
            self._writing_paused = True
            self._protocol.pause_writing()

    def _flush(self) -> None:
        """Write until nothing is left or the line takes no more."""
        try:
            while True:
                if not self._records:
                    if not self._unsent:
                        break
                    self._records = memoryview(self._line.data(self._unsent[:ENCODE_BYTES]))
                    del self._unsent[:ENCODE_BYTES]
                self._records = self._records[os.write(self._descriptor, self._records) :]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            self._lose(error)
            return
        waits = bool(self._records)
        if waits != self._waits_to_write:
            self._waits_to_write = waits
            if waits:
                self._loop.add_writer(self._descriptor, self._flush)
            else:
                self._loop.remove_writer(self._descriptor)
        if self._writing_paused and self.get_write_buffer_size() <= self._low:
            self._writing_paused = False
            self._protocol.resume_writing()
        if self._closing and not waits:
            self._lose(None)

    # -- the end ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Send what is unsent, end the session, then close the device."""
        if self._closing:
            return
        self._closing = True
        self._loop.remove_reader(self._descriptor)
        if not self._records and not self._unsent:
            self._lose(None)

    def abort(self) -> None:
        """End the session and close the device at once."""
        self._lose(None)

    def _lose(self, error: OSError | None) -> None:
        if self._lost:
            return
        self._closing = self._lost = True
        self._unsent.clear()
        self._records = memoryview(b"")
        self._loop.remove_reader(self._descriptor)
        self._loop.remove_writer(self._descriptor)
        # The broker learns of the end, if the line takes that much: half a record before it is ended by its first byte.
        try:
            os.write(self._descriptor, self._line.end())
        except OSError:
            pass
        _close_device(self._descriptor)
        if not self._accepted.done():
            self._accepted.set_exception(error or ConnectionResetError("the connection was given up"))
            self._accepted.exception()  # whoever waited may have gone
        else:
            # Later, as asyncio's own transports do: a protocol is not called from inside its own call.
            self._loop.call_soon(self._protocol.connection_lost, error)

    # -- what else a transport has ------------------------------------------------------------------------------------

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """``device``: the path."""
        return self._path if name == "device" else default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Let another protocol have what comes."""
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """The protocol that has what comes."""
        return self._protocol

    def is_closing(self) -> bool:
        """Whether it is closed or about to be."""
        return self._closing

    def is_reading(self) -> bool:
        """Whether the line is read."""
        return self._reading and not self._closing

    def pause_reading(self) -> None:
        """Read no more for now; what was read already is still delivered."""
        if self.is_reading():
            self._reading = False
            self._loop.remove_reader(self._descriptor)

    def resume_reading(self) -> None:
        """Read again."""
        if not self._reading and not self._closing:
            self._reading = True
            self._loop.add_reader(self._descriptor, self._on_readable)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """When the protocol is told to pause and to resume, in bytes unsent."""
        self._high = high if high is not None else 64 * 1024 if low is None else 4 * low
        self._low = low if low is not None else self._high // 4

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """The low and the high limit."""
        return self._low, self._high

    def get_write_buffer_size(self) -> int:
        """Bytes unsent."""
        return len(self._unsent) + len(self._records)

    def can_write_eof(self) -> bool:
        """No: a session ends in both directions at once."""
        return False


def _open_device(path: str) -> int:
    """The device at ``path``: exclusive, not blocking, raw. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISCHR(os.fstat(descriptor).st_mode):
            raise OSError(errno.ENODEV, "it is not a serial device")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError(errno.EBUSY, "another program uses this line") from None
        if os.isatty(descriptor):
            _make_raw(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _make_raw(descriptor: int) -> None:
    try:
        fcntl.ioctl(descriptor, termios.TIOCEXCL)
        tty.setraw(descriptor, termios.TCSANOW)
        mode = termios.tcgetattr(descriptor)
        mode[2] |= termios.CLOCAL | termios.CREAD  # three wires are enough: no carrier is waited for
        termios.tcsetattr(descriptor, termios.TCSANOW, mode)
    except termios.error as error:
        raise OSError(errno.EIO, f"its terminal cannot be set to raw mode: {error}") from None


def _close_device(descriptor: int) -> None:
    """Close it, so that others can open it even while someone else still has it open."""
    try:
        if os.isatty(descriptor):
            fcntl.ioctl(descriptor, termios.TIOCNXCL)
    except OSError:  # it was hung up
        pass
    os.close(descriptor)
