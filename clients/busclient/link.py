"""What carries frames: a byte stream with ZMTP on it. `Link` is all that a bus needs to know of it."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol, cast

from busproto.errors import BusError
from busproto.zmtp import ZmtpConnection, ZmtpError, frame_header

__all__ = ["Connector", "Link", "LinkReceiver", "StreamLink"]

READ_BYTES: Final = 256 * 1024
"""Read at a time: what a unix socket's buffer holds by default (net.core.wmem_default) fits."""

WRITE_HIGH_BYTES: Final = 0
"""Above this much unsent, senders wait: once the kernel takes no more. With 0 uvloop also writes at once instead of at
the turn's end."""

JOIN_BYTES: Final = 128 * 1024
"""Frames up to this are joined into one buffer; larger ones are handed over in pieces."""

CLOSE_SECONDS: Final = 1.0
"""How long an orderly close waits for the other side to read what was written before."""

_PEERS: Final = frozenset({"ROUTER"})


class LinkReceiver(Protocol):
    """Who takes what a link brings."""

    def frames_received(self, frames: Sequence[bytes]) -> None:
        """Whole frames came in."""

    def link_lost(self, link: "Link", reason: str) -> None:
        """The link is gone; nothing more will come from it."""

    def link_resumed(self) -> None:
        """What was written has gone out far enough for more."""


class Link(Protocol):
    """An open connection that carries whole frames."""

    paused: bool
    """Too much is unsent: wait for `LinkReceiver.link_resumed` before sending more."""

    @property
    def unsent_bytes(self) -> int:
        """What was handed over and has not gone out."""

    def send(self, frames: list[list[bytes]]) -> None:
        """Send frames, each given as its pieces."""

    def close(self) -> None:
        """Send what is unsent, then close."""

    async def wait_closed(self) -> None:
        """Wait until it is closed, for `CLOSE_SECONDS` at most."""


Connector = Callable[[str, LinkReceiver], Awaitable[Link]]
"""Opens a link to a URL. Raises OSError or BusError."""


class StreamLink(asyncio.BufferedProtocol):
    """ZMTP on a stream transport: asyncio's, uvloop's or `busclient.serialtransport`'s."""

    def __init__(self, receiver: LinkReceiver) -> None:
        loop = asyncio.get_running_loop()
        self.paused = False
        self.opened: asyncio.Future[None] = loop.create_future()
        self._closed: asyncio.Future[None] = loop.create_future()
        self._receiver = receiver
        self._zmtp = ZmtpConnection("client", socket_type="DEALER", peers=_PEERS)
        self._room = memoryview(bytearray(READ_BYTES))
        self._direct = False
        self._is_open = False
        self._pings = 0
        self._error: BusError | None = None

    # -- what asyncio calls -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        self._transport.write(self._zmtp.data_to_send())

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._zmtp.held_bytes and (large := self._zmtp.get_buffer()) is not None:
            self._direct = True
            return large
        self._direct = False
        return self._room

    def buffer_updated(self, nbytes: int) -> None:
        try:
            if self._direct:
                frames: Sequence[bytes] = self._zmtp.buffer_updated(nbytes)
            else:
                frames = self._zmtp.receive(bytes(self._room[:nbytes]))
        except ZmtpError as error:
            self._error = error
            frames = error.frames
        if not self._is_open or self._zmtp.pings != self._pings or self._error is not None:
            self._advance_zmtp()
        if frames:
            self._receiver.frames_received(frames)

    def _advance_zmtp(self) -> None:
        """Send what ZMTP itself has to say, and note how far it has come."""
        self._pings = self._zmtp.pings
        answer = self._zmtp.data_to_send()
        if answer:
            self._transport.write(answer)
        if self._error is not None:
            self._transport.close()
        elif self._zmtp.ready and not self._is_open:
            self._is_open = True
            if not self.opened.done():
                self.opened.set_result(None)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._closed.done():
            self._closed.set_result(None)
        reason = str(self._error or exc or "the broker closed the connection")
        if not self.opened.done():
            self.opened.set_exception(self._error or exc or ConnectionResetError(reason))
            self.opened.exception()  # whoever opened it may have given up meanwhile
        else:
            self._receiver.link_lost(self, reason)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self._receiver.link_resumed()

    # -- what the bus calls -------------------------------------------------------------------------------------------

    @property
    def unsent_bytes(self) -> int:
        """What was handed over and has not gone out."""
        return self._transport.get_write_buffer_size()

    def send(self, frames: list[list[bytes]]) -> None:
        """Send frames, each given as its pieces."""
        write = self._transport.write
        for pieces in frames:
            size = sum(map(len, pieces)) if len(pieces) > 1 else len(pieces[0])
            if size <= JOIN_BYTES:
                write(b"".join((frame_header(size), *pieces)))
            else:
                self._transport.writelines([frame_header(size), *pieces])

    def close(self) -> None:
        """Send what is unsent, then close."""
        self._transport.close()

    async def wait_closed(self) -> None:
        """Wait until it is closed; what the other side does not read in time is given up."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await asyncio.shield(self._closed)
        if not self._closed.done():
            await self.abort()

    async def wait_opened(self) -> None:
        """Wait until the ZMTP handshake is complete; if it fails, or nobody waits any more, the connection is closed.

        Raises:
            OSError: the connection ended in the handshake.
            BusError: 1001 to 1009, when the other side does not speak ZMTP.
        """
        try:
            await asyncio.shield(self.opened)
        except BaseException:
            await self.abort()
            raise
        if self.lost:
            raise ConnectionResetError("the connection ended as soon as it was made")

    async def abort(self) -> None:
        """Close at once; what is unsent is lost."""
        self._transport.abort()
        await asyncio.shield(self._closed)

    @property
    def lost(self) -> bool:
        """Whether the connection is gone."""
        return self._closed.done()
