"""Opening the listener of operators' HTTP. Apart from serving on it, so that an address that cannot be had is known
before the bus opens, and aiohttp (longer to import than all of busd) is imported when clients can already attach.
"""

import errno
import logging
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from busd.ops.address import Listen, Off, TcpAddress, UnixAddress
from busd.ops.logs import event
from busd.ops.rundir import bind_unix, remove_socket
from busproto.errors import BusError, Code

__all__ = ["HttpListener", "open_listener"]

BACKLOG: Final = 128
"""Connections that wait to be accepted."""

SOCKET_NAME: Final = "http.sock"
"""The listener in the run directory that stands in when the default port is taken."""

SOCKET_MODE: Final = 0o660
"""Who may write can read the figures: the node's user and group."""

_log = logging.getLogger("busd.http")


@dataclass(frozen=True, slots=True)
class HttpListener:
    """An open listening socket."""

    socket: socket.socket
    """Listening, non-blocking."""
    address: TcpAddress | UnixAddress
    """Where it is, with the port that the kernel chose."""

    @property
    def url(self) -> str:
        """``http://127.0.0.1:9850`` or ``unix:///path``."""
        return self.address.url

    def close(self) -> None:
        """Stop listening and remove the socket file, if it is one."""
        self.socket.close()
        if isinstance(self.address, UnixAddress):
            remove_socket(Path(self.address.path))


def open_listener(listen: Listen, *, is_default: bool, run_dir: Path) -> HttpListener | None:
    """Listen at ``listen``; None for "off".

    If ``is_default`` and the port is taken (another user's busd, most likely), the node still starts, and listens at
    http.sock in its run directory: a place that is this user's own and can be guessed, which a free port is neither.

    Raises:
        BusError: LISTEN_FAILED.
    """
    if isinstance(listen, Off):
        return None
    if isinstance(listen, UnixAddress):
        return _listen_unix(listen)
    try:
        return _listen_tcp(listen)
    except OSError as error:
        if not (is_default and error.errno == errno.EADDRINUSE):
            raise BusError(Code.LISTEN_FAILED, address=str(listen), reason=error.strerror or str(error)) from None
    stand_in = _listen_unix(UnixAddress(str(run_dir / SOCKET_NAME)))
    event(_log, logging.WARNING, "http-address-taken", wanted=str(listen), using=stand_in.url)
    return stand_in


def _listen_unix(address: UnixAddress) -> HttpListener:
    return HttpListener(bind_unix(Path(address.path), SOCKET_MODE, BACKLOG), address)


def _listen_tcp(address: TcpAddress) -> HttpListener:
    listener = socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a restart need not wait for TIME_WAIT
        listener.bind((address.host, address.port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
        port = listener.getsockname()[1]
    except OSError:
        listener.close()
        raise
    return HttpListener(listener, TcpAddress(address.host, port))
