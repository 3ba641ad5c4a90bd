"""Copies connections to a unix socket to a broker, byte for byte: what ``bus relay`` does."""

import asyncio
import errno
import os
import socket
import stat
import sys
from argparse import Namespace
from dataclasses import dataclass
from time import monotonic
from typing import Final, cast

from buscli.exits import Exit
from buscli.output import Output
from busclient.dial import dial
from busclient.url import Address, parse
from busproto.errors import BusError, Code
from busproto.limits import HANDSHAKE_SECONDS

BUFFER_BYTES: Final = 64 * 1024
"""Read at a time, and unsent above which the other side is not read: what one direction of a connection may hold is
about twice this."""

BACKLOG: Final = 128
"""Programs that may wait to be accepted, all starting at once."""

LINGER_SECONDS: Final = 5.0
"""For one side to take what is unsent when the other has ended."""

STOP_SECONDS: Final = 1.0
"""The same when the relay itself ends."""

ACCEPT_PAUSE_SECONDS: Final = 0.1
"""Before another attempt when the system has no descriptor to accept with."""

REPORT_SECONDS: Final = 1.0
"""Between two lines about the same thing."""

STATISTICS_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class RelayStatistics:
    """A relay's figures since it began."""

    open: int
    """Connections now, those included that still wait for the broker."""
    accepted: int
    """Connections that were taken."""
    refused: int
    """Connections closed at once: too many, or the line is taken."""
    failed: int
    """Connections closed because the broker could not be reached."""
    bytes_up: int
    """Bytes to the broker."""
    bytes_down: int
    """Bytes from the broker."""

    def __str__(self) -> str:
        return (
            f"{self.open} open, {self.accepted} accepted, {self.refused} refused, {self.failed} failed; "
            f"{self.bytes_up} bytes up, {self.bytes_down} down"
        )


class Side(asyncio.BufferedProtocol):
    """One end of a connection that is copied: what comes in here goes out at the other side.

    A side that is not joined yet reads nothing; what comes all the same (a serial line's first data) is kept.
    """

    def __init__(self, room: memoryview) -> None:
        """``room`` is read into, and may be everyone's: it is empty again when the call ends that filled it."""
        self._room = room
        self._early = b""
        self._other: Side | None = None
        self._ended = False
        self.received = 0
        """Bytes that came in here."""
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the connection is gone."""

    def join(self, other: "Side") -> None:
        """From now on send what comes in here to ``other``, and the other way round. Both are connected."""
        self._other, other._other = other, self
        for one in (self, other):
            if not one.transport.is_closing():
                one.transport.resume_reading()
        for one, another in ((self, other), (other, self)):
            if one._early:
                another.transport.write(one._early)
                one._early = b""

    def close(self) -> None:
        """Send what is unsent, then close."""
        self.transport.close()

    def abort(self) -> None:
        """Close at once."""
        self.transport.abort()

    # -- what asyncio calls -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=BUFFER_BYTES)
        self.transport.pause_reading()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._room

    def buffer_updated(self, nbytes: int) -> None:
        self.received += nbytes
        data = bytes(self._room[:nbytes])
        if self._other is None:
            self._early += data
        else:
            self._other.transport.write(data)

    def eof_received(self) -> bool:
        """Pass the end on; stay open for the other direction until that has ended too."""
        self._ended = True
        other = self._other
        if other is None or other._ended:
            return False
        if not other.transport.can_write_eof():
            other.close()
        elif not other.transport.is_closing():
            other.transport.write_eof()
        return True

    def pause_writing(self) -> None:
        if self._other is not None and not self._other.transport.is_closing():
            self._other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self._other is not None and not self._other.transport.is_closing():
            self._other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(None)


class Relay:
    """One run of ``bus relay``."""

    def __init__(self, args: Namespace) -> None:
        """Raises BusError 6005 for addresses that cannot be relayed."""
        self._to = parse(args.to)
        if self._to.scheme == "tcp":
            raise BusError(
                Code.URL_INVALID, url=args.to, reason="libzmq can connect to tcp:// itself and encrypts it end to end"
            )
        self._listen = listen_address(args.listen)
        if self._to.path == self._listen.path:
            raise BusError(Code.URL_INVALID, url=args.to, reason="the relay would connect to itself")
        self._limit: int = 1 if self._to.scheme == "serial" else args.connections
        self._mode: int = args.mode
        self._verbose: bool = args.verbose
        self._output = Output.standard(force_json=args.json, no_color=args.no_color)
        self._room = memoryview(bytearray(BUFFER_BYTES))
        self._tasks: set[asyncio.Task[None]] = set()
        self._pairs: set[tuple[Side, Side]] = set()
        self._accepted = self._refused = self._failed = self._up = self._down = 0
        self._reported: dict[str, float] = {}
        self._unsaid: dict[str, int] = {}

    def statistics(self) -> RelayStatistics:
        """The figures so far."""
        return RelayStatistics(
            open=len(self._tasks),
            accepted=self._accepted,
            refused=self._refused,
            failed=self._failed,
            bytes_up=self._up + sum(local.received for local, _ in self._pairs),
            bytes_down=self._down + sum(upstream.received for _, upstream in self._pairs),
        )

    async def run(self) -> int:
        """Relay until cancelled. Raises BusError 7005 when the socket cannot be made."""
        path = self._listen.path
        listener = bind(path, self._mode)
        made = os.stat(path)
        telling = asyncio.create_task(self._tell()) if self._verbose else None
        try:
            self._say_ready()
            await self._accept(listener)
        finally:
            remove(path, made)
            listener.close()
            if telling is not None:
                telling.cancel()
            await self._stop()
            if self._verbose:
                self._output.note(f"bus relay: {self.statistics()}")
        return Exit.OK

    def _say_ready(self) -> None:
        listen, to = f"ipc://{self._listen.path}", self._to.url
        if self._output.human:
            self._output.line(f"relaying {listen} -> {to}; Ctrl-C ends it")
        else:
            self._output.record({"event": "ready", "listen": listen, "to": to, "pid": os.getpid()})
        self._output.flush()

    # -- connections --------------------------------------------------------------------------------------------------

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                program, _ = await loop.sock_accept(listener)
            except OSError as error:
                if error.errno != errno.ECONNABORTED:
                    self._report("accept", f"cannot accept: {error.strerror}")
                    await asyncio.sleep(ACCEPT_PAUSE_SECONDS)
                continue
            if len(self._tasks) >= self._limit:
                program.close()
                self._refused += 1
                why = "the line carries one" if self._to.scheme == "serial" else f"--connections {self._limit}"
                self._report("limit", f"a connection was refused: {len(self._tasks)} open ({why})")
                continue
            self._accepted += 1
            task = asyncio.create_task(self._carry(program))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry(self, program: socket.socket) -> None:
        """One connection, from when it was accepted to its end."""
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                upstream = await dial(self._to, lambda: Side(self._room))
        except (OSError, BusError) as error:  # TimeoutError is one
            program.close()
            self._failed += 1
            reason = getattr(error, "strerror", None) or str(error) or f"no answer in {HANDSHAKE_SECONDS:g} s"
            self._report("upstream", f"a connection was closed: {self._to.url}: {reason}")
            return
        except BaseException:
            program.close()
            raise
        local = Side(self._room)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: local, program)
        except BaseException:
            program.close()
            upstream.abort()
            raise
        pair = (local, upstream)
        self._pairs.add(pair)
        try:
            local.join(upstream)
            await asyncio.wait([side.lost for side in pair], return_when=asyncio.FIRST_COMPLETED)
            for side in pair:
                side.close()
            await asyncio.wait([side.lost for side in pair], timeout=LINGER_SECONDS)
        finally:
            for side in pair:
                side.abort()
            self._pairs.discard(pair)
            self._up += local.received
            self._down += upstream.received

    async def _stop(self) -> None:
        """End every connection; what is unsent has a moment to go out."""
        for pair in self._pairs:
            for side in pair:
                side.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STOP_SECONDS)
        if self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)

    # -- what is said -------------------------------------------------------------------------------------------------

    def _report(self, kind: str, text: str) -> None:
        """Say ``text`` on standard error, unless something of its kind was just said."""
        now = monotonic()
        if now < self._reported.get(kind, 0.0) + REPORT_SECONDS:
            self._unsaid[kind] = self._unsaid.get(kind, 0) + 1
            return
        self._reported[kind] = now
        unsaid = self._unsaid.pop(kind, 0)
        self._output.note(f"bus relay: {text}" + (f" ({unsaid} more since the last line)" if unsaid else ""))

    async def _tell(self) -> None:
        last = ""
        while True:
            await asyncio.sleep(STATISTICS_SECONDS)
            line = str(self.statistics())
            if line != last:
                self._output.note(f"bus relay: {line}")
                last = line


def listen_address(text: str) -> Address:
    """Where to listen: as ZeroMQ writes it, as the bus does, or a path. Raises BusError 6005."""
    scheme, separator, rest = text.partition("://")
    if scheme == "ipc" and separator:
        if not rest.startswith("/"):
            raise BusError(Code.URL_INVALID, url=text, reason="ipc:// takes three slashes here: ipc:///path")
        return parse(rest)
    address = parse(text)
    if address.scheme != "unix":
        raise BusError(Code.URL_INVALID, url=text, reason="bus relay listens on unix sockets only")
    return address


def bind(path: str, mode: int) -> socket.socket:
    """A listening socket at ``path`` that does not block, with permissions ``mode``, in place of a dead one.

    Raises BusError 7005: someone listens there, something else is there, or the system refused.
    """
    listener = _unix_socket(path)
    # Under another name until it listens: nobody ever meets one that does not.
    temporary = f"{os.path.dirname(path).rstrip('/')}/.{os.getpid():x}"
    try:
        if taken := _taken(path):
            raise BusError(Code.LISTEN_FAILED, address=path, reason=taken)
        _unlink(temporary)
        listener.bind(temporary)
        os.chmod(temporary, mode)
        listener.listen(BACKLOG)
        listener.setblocking(False)
        os.rename(temporary, path)
    except OSError as error:
        listener.close()
        _unlink(temporary)
        raise BusError(Code.LISTEN_FAILED, address=path, reason=error.strerror or str(error)) from None
    except BusError:
        listener.close()
        raise
    return listener


def _unix_socket(path: str) -> socket.socket:
    """A stream socket for ``path``. Raises BusError 7005 where there are none."""
    if sys.platform == "win32":
        raise BusError(Code.LISTEN_FAILED, address=path, reason="win32 has no unix sockets")
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)


def _taken(path: str) -> str:
    """Why ``path`` may not be replaced; empty if it may. Raises OSError."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return "something that is not a socket is there"
    except FileNotFoundError:
        return ""
    with _unix_socket(path) as probe:
        probe.setblocking(False)
        number = probe.connect_ex(path)
    return "" if number in (errno.ECONNREFUSED, errno.ENOENT) else "another process listens on it"


def remove(path: str, made: os.stat_result) -> None:
    """Remove the socket at ``path`` if it is still the one that was made."""
    try:
        if os.path.samestat(os.lstat(path), made):
            os.unlink(path)
    except OSError:  # gone already, or the directory is
        pass


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
