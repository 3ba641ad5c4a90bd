"""Opening the byte stream that an address names: ZMTP runs on it, or ``bus relay`` copies it."""

import asyncio
import errno
import os
import socket
import sys
from collections.abc import Callable
from typing import Final, NoReturn, TypeVar

from busclient.url import Address
from busproto.errors import BusError, Code

__all__ = ["dial", "new_vsock"]

P = TypeVar("P", bound=asyncio.BaseProtocol)

RETRY_SECONDS: Final = 0.01
"""Between attempts while the listener's backlog is full."""


async def dial(address: Address, protocol: Callable[[], P]) -> P:
    """Connect to ``address`` and run a ``protocol`` on the stream, which gets its transport by ``connection_made``.

    A unix socket's path is resolved anew each time: a broker that was restarted has made a new socket there. Takes as
    long as the system does, and for ever where nobody answers on a serial line: the caller sets a limit.

    Raises:
        OSError: nothing is there, nobody listens, no permission, or the device is in use.
        BusError: 6005: this platform has no such addresses, or ``tcp``, which is not a stream of ours.
    """
    if address.scheme == "unix":
        return await _open_unix(address, protocol)
    if address.scheme == "vsock":
        return await _open_vsock(address, protocol)
    if address.scheme == "serial":
        return await _open_serial(address, protocol)
    raise BusError(Code.URL_INVALID, url=address.url, reason="tcp:// is encrypted by ZeroMQ, not a plain stream")


async def _open_unix(address: Address, protocol: Callable[[], P]) -> P:
    if sys.platform == "win32":
        _unavailable(address)
    while True:
        try:
            return await _run(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), address.path, protocol)
        except OSError as error:
            # connect(2) refuses so where the backlog is full; there is no way to wait for room.
            if error.errno != errno.EAGAIN:
                raise
        await asyncio.sleep(RETRY_SECONDS)


def new_vsock() -> socket.socket:
    """A stream socket of family AF_VSOCK. Raises OSError where the kernel has none."""
    if sys.platform != "linux":
        raise OSError(errno.EAFNOSUPPORT, "this platform has no AF_VSOCK")
    return socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)


async def _open_vsock(address: Address, protocol: Callable[[], P]) -> P:
    if sys.platform != "linux":
        _unavailable(address)
    try:
        return await _run(new_vsock(), (address.cid, address.port), protocol)
    except OSError as error:
        if error.errno == errno.ECONNRESET:  # how AF_VSOCK says that nobody listens (vsock(7))
            raise ConnectionRefusedError(errno.ECONNREFUSED, "nobody listens there") from None
        if error.errno in (errno.EAFNOSUPPORT, errno.ENODEV):
            raise OSError(error.errno, "this machine has no AF_VSOCK to that side") from None
        raise


async def _open_serial(address: Address, protocol: Callable[[], P]) -> P:
    if sys.platform == "win32":
        _unavailable(address)
    from busclient.serialtransport import SerialTransport

    made = protocol()
    transport = SerialTransport(address.path, made)
    await transport.begin()
    return made


async def _run(connection: socket.socket, where: str | tuple[int, int], protocol: Callable[[], P]) -> P:
    """Connect, and run a protocol; the socket is closed if that fails."""
    if sys.platform == "win32":
        raise OSError(errno.EAFNOSUPPORT, "this platform has no stream sockets but TCP's")
    loop = asyncio.get_running_loop()
    try:
        connection.setblocking(False)
        await _connect(connection, where)
        # Under this name uvloop takes it: it refuses AF_VSOCK, though libuv's pipes read and write any stream socket.
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=connection.detach())
    except BaseException:
        connection.close()
        raise
    try:
        # Not create_unix_connection: uvloop's leaks the socket if its peer hangs up at once.
        _, made = await loop.connect_accepted_socket(protocol, stream)
    except BaseException:
        stream.close()
        raise
    return made


async def _connect(connection: socket.socket, where: str | tuple[int, int]) -> None:
    """``loop.sock_connect`` for families that uvloop's does not know."""
    number = connection.connect_ex(where)
    if number == errno.EINPROGRESS:
        loop = asyncio.get_running_loop()
        descriptor = connection.fileno()
        writable = loop.create_future()
        loop.add_writer(descriptor, _done, writable)
        try:
            await writable
        finally:
            loop.remove_writer(descriptor)
        number = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if number:
        raise OSError(number, os.strerror(number))


def _done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _unavailable(address: Address) -> NoReturn:
    raise BusError(Code.URL_INVALID, url=address.url, reason=f"{sys.platform} has no {address.scheme}:// addresses")
