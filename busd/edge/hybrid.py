"""Hybrid vsock: a guest's vsock ports as unix sockets on the host, one set of files for each VM.

Firecracker (docs/vsock.md), Cloud Hypervisor (docs/vsock.md) and vhost-device-vsock share the protocol. A guest
connects to CID 2, port P: the VMM connects to the file ``<uds>_P``, where ``HybridListener`` listens. The host connects
to a port in the guest: ``HybridDialer`` connects to ``<uds>``, writes ``CONNECT P`` and reads ``OK N``. Either way it
is then a stream, and ZMTP starts. No vsock support is needed in the host's kernel.
"""

import asyncio
import re
import socket
from collections.abc import Callable
from typing import Any, Final

from busd.core.principal import Principal
from busd.edge.acceptor import BACKLOG, Acceptor
from busd.edge.admission import Admission, Refusal
from busd.edge.retry import Retry
from busd.edge.socketfile import SocketFile
from busproto.errors import BusError

MODE: Final = 0o600
"""The VMM's user connects, and root."""

ANSWER_BYTES: Final = 32
"""``OK 4294967295`` and its newline are 14. What goes on longer is not a VMM."""

ANSWER_SECONDS: Final = 1.0
"""For the whole answer. The VMM answers at once or closes; buildbuddy 4590 hung for ever without this."""

_OK: Final = re.compile(rb"OK \d{1,10}\r?\n")


class HybridListener:
    """The guest connects: listens where its VMM will look."""

    def __init__(self, file: SocketFile, owner: int | None, admission: Admission) -> None:
        """``file`` is ``<uds>_<port>``; ``owner`` the user that may connect to it beside this one."""
        self._file = file
        self._owner = owner
        self._admission = admission
        self._acceptor: Acceptor | None = None

    def start(self) -> None:
        """Listen, and accept from now on. Raises ValueError with the reason if that cannot be."""
        self._acceptor = Acceptor(self._file.listen(MODE, self._owner, BACKLOG), self._admission)
        self._acceptor.start()

    def stop(self) -> int:
        """Listen no more; the number of connections that still waited and were refused. Those taken in stay."""
        refused = 0
        # The file goes first: who comes now finds nobody, instead of a queue that is being emptied.
        self._file.unlink()
        if self._acceptor is not None:
            refused = self._acceptor.refuse_waiting()
            for _ in range(refused):
                self._admission.refuse(Refusal.UNIT, error="nobody is let in any more")
            self._acceptor.stop()
            self._acceptor = None
        self._file.close()
        return refused

    async def close(self) -> None:
        """Nothing is left to be closed after the connections."""

    def describe(self) -> dict[str, Any]:
        """Its state, as ``bus guest list`` shows it."""
        if self._file.is_reachable():
            return {"state": "listening"}
        return {"state": "unreachable", "error": f"{self._file.path} is gone or was replaced: remove the unit, add it"}


class HybridDialer:
    """The host connects: to one port in the guest, again and again for as long as the unit lives."""

    def __init__(
        self, file: SocketFile, port: int, admission: Admission, identify: Callable[[socket.socket], Principal]
    ) -> None:
        """``file`` is the VMM's own ``<uds>``; ``identify`` refuses a connection to anyone but the unit's VMM."""
        self._file = file
        self._port = port
        self._admission = admission
        self._identify = identify
        self._retry = Retry(self._connect)
        self._connected = False
        self._error: str | None = None

    def start(self) -> None:
        """Connect, now or as soon as the guest is there."""
        self._retry.start()

    def stop(self) -> int:
        """Connect no more. A connection that stands stays; nothing can wait, so the number of refused ones is 0."""
        self._retry.stop()
        self._file.close()
        return 0

    async def close(self) -> None:
        """Nothing is left to be closed after the connection; it and what tries again let go of each other."""
        del self._retry

    def describe(self) -> dict[str, Any]:
        """Its state, as ``bus guest list`` shows it."""
        if self._connected:
            return {"state": "connected"}
        return self._retry.describe("connecting", self._error)

    async def _connect(self) -> None:
        """One connection, from its beginning to its end."""
        try:
            peer = self._file.connect()
        except (OSError, ValueError) as error:
            self._error = f"no VMM listens there: {getattr(error, 'strerror', None) or error}"
            return
        opened = False
        try:
            opened = await self._open(peer)
        finally:
            if not opened:
                peer.close()
        if opened and self._admission.admit(peer):
            self._connected, self._error = True, None
            await self._admission.emptied()
            self._connected = False

    async def _open(self, peer: socket.socket) -> bool:
        """Whether ``peer`` is the unit's VMM and has given us the port; if not, `_error` says why."""
        try:
            self._identify(peer)
            await open_stream(peer, self._port)
        except BusError as error:
            self._error = error.text
            self._admission.refuse(Refusal.UNIT, error=error.text)
        except OSError as error:
            self._error = str(error)
        else:
            self._error = "the connection was refused; the log says why"
            return True
        return False


async def open_stream(peer: socket.socket, port: int) -> None:
    """Ask the VMM at the other end of ``peer`` for ``port`` in its guest, and read its answer and not a byte more.

    The answer may come in pieces, and what comes behind it belongs to the stream: it is read byte by byte, at most 32
    of them once for each connection.

    Raises:
        OSError: there is no such stream; the reason.
    """
    loop = asyncio.get_running_loop()
    line = bytearray()
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            await loop.sock_sendall(peer, b"CONNECT %d\n" % port)
            while not line.endswith(b"\n"):
                if len(line) == ANSWER_BYTES:
                    raise OSError(f"this is no VMM: it answered with more than {ANSWER_BYTES} bytes")
                byte = await loop.sock_recv(peer, 1)
                if not byte:
                    break
                line += byte
    except TimeoutError:
        raise OSError(f"the VMM did not answer CONNECT {port} within {ANSWER_SECONDS:g} s") from None
    except ConnectionError:
        line.clear()  # reset instead of closed: to the one who asked it is the same
    if not line:
        raise OSError(f"nobody listens on port {port} in the guest (yet): the VMM closed the connection")
    if _OK.fullmatch(line) is None:
        raise OSError(f"the VMM answered CONNECT {port} with {ascii(bytes(line))[2:-1]}")
