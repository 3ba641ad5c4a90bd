"""The link over a network: a libzmq DEALER with CURVE on the event loop.

libzmq's descriptor is edge-triggered, and every call on the socket may consume the edge. So after anything was done to
the socket it is received from until there is nothing more; a look every `TICK_SECONDS` finds what that might miss.
zmq.asyncio is not used: it has lost wake-ups (pyzmq#2173), and costs several times as much.
"""

import asyncio
import contextlib
import errno
import itertools
import os
import select
import socket
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import zmq
from zmq.utils.monitor import parse_monitor_message

from busclient.keys import Keys, find_keys
from busclient.link import CLOSE_SECONDS, LinkReceiver
from busclient.url import Address, parse
from busproto.errors import BusError, Code
from busproto.limits import BATCH_BYTES, FRAME_BYTES, HANDSHAKE_SECONDS

__all__ = ["CurveLink", "connect_curve"]

TICK_SECONDS: Final = 0.05
"""How long a message that libzmq failed to announce could wait."""

QUEUE_FRAMES: Final = 8
"""Frames that libzmq may hold in each direction; what it does not take waits here and holds senders back."""

BURST_FRAMES: Final = 64
BURST_BYTES: Final = 1 << 20
"""Taken in at one go, before others on the loop get their turn."""

CURVE_OVERHEAD: Final = 33
"""Bytes that CURVE adds to a frame (RFC 26), which count for libzmq's bound."""

NEVER_MS: Final = 3_600_000
"""Until libzmq would reconnect by itself: never, for a new connection is a new session and needs a new hello. It is not
-1, with which libzmq throws away what it has received and nobody has read yet, bye included."""

HEARTBEAT_MS: Final = 5000
"""ZMTP PING after this much silence, so that a broker whose machine is gone is noticed in 15 s."""

_EVENTS: Final = (
    zmq.EVENT_CONNECTED
    | zmq.EVENT_CLOSED
    | zmq.EVENT_CONNECT_RETRIED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)

_MONITORS: Final = itertools.count()


async def connect_curve(
    url: str,
    receiver: LinkReceiver,
    *,
    key: str | os.PathLike[str] | None = None,
    server_key: str | os.PathLike[str] | None = None,
) -> "CurveLink":
    """Open a link to ``tcp://HOST:PORT``, handshake included. The keys are as `busclient.keys.find_keys` has them.

    Raises:
        OSError: nobody listens there, or there is no way to it.
        BusError: 6005 for a bad URL, 6010 for a key that cannot be used, 6011 when the broker does not let this key in,
            6012 when the broker has another key, 1007 when it does not answer in time.
    """
    address = parse(url)
    keys = find_keys(key, server_key)
    link = CurveLink(address, keys, receiver)
    try:
        async with asyncio.timeout(HANDSHAKE_SECONDS):
            await asyncio.shield(link.opened)
    except TimeoutError:
        await link.abort()
        if not link.is_connected:
            raise TimeoutError(errno.ETIMEDOUT, "no answer from there") from None
        raise BusError(Code.HANDSHAKE_TIMEOUT, stage="greeting and CURVE", seconds=HANDSHAKE_SECONDS) from None
    except BaseException:
        await link.abort()
        raise
    return link


class CurveLink:
    """A DEALER, its monitor, and what waits to be sent."""

    def __init__(self, address: Address, keys: Keys, receiver: LinkReceiver) -> None:
        """Begins to connect to ``address``; ``opened`` is done when that is over."""
        self.paused = False
        self.late_wakeups = 0
        """Times that a message waited and libzmq had not said so; the next look found it."""
        self.is_connected = False
        """Whether someone accepted the connection."""
        self._url = address.url
        self._keys = keys
        self._receiver = receiver
        self._loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = self._loop.create_future()
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._unsent: deque[bytes] = deque()
        self._unsent_bytes = 0
        self._scheduled = False
        self._closing = False
        self._shut_down = False
        self._disconnected = False
        self._ended = False
        self._close_by = 0.0
        host = f"[{address.host}]" if ":" in address.host else address.host
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = _dealer(self._context, keys, ipv6=":" in address.host)
        name = f"inproc://busclient.monitor.{next(_MONITORS)}"
        self._socket.monitor(name, _EVENTS)
        self._monitor = self._context.socket(zmq.PAIR)
        # No bound: libzmq's thread would wait for room here.
        self._monitor.setsockopt(zmq.RCVHWM, 0)
        self._monitor.connect(name)
        self._timer = self._loop.call_later(TICK_SECONDS, self._tick)
        self._descriptor = _descriptor(self._socket)
        self._watch = _watch(self._loop, [self._descriptor, _descriptor(self._monitor)], self._serve)
        try:
            self._socket.connect(f"tcp://{host}:{address.port}")
        except zmq.ZMQError as error:
            self._drop()
            raise OSError(error.errno, error.strerror) from None
        self._serve_soon()

    # -- what the bus calls -------------------------------------------------------------------------------------------

    @property
    def unsent_bytes(self) -> int:
        """What was handed over and libzmq has not taken."""
        return self._unsent_bytes

    def send(self, frames: list[list[bytes]]) -> None:
        """Send frames, each given as its pieces."""
        if self._closing:
            return
        for pieces in frames:
            frame = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            self._unsent.append(frame)
            self._unsent_bytes += len(frame)
        self._send_rest()
        self.paused = bool(self._unsent)
        self._serve_soon()

    def close(self) -> None:
        """Send what is unsent, then close; what does not go out in `CLOSE_SECONDS` is lost."""
        if self._closing:
            return
        self._closing = True
        self._close_by = self._loop.time() + CLOSE_SECONDS
        self._send_rest()
        if self._unsent:
            self._loop.call_later(CLOSE_SECONDS, self._shut)
        else:
            self._shut()

    async def abort(self) -> None:
        """Close at once; what is unsent is lost."""
        self._drop()
        await self.wait_closed()

    async def wait_closed(self) -> None:
        """Wait until it is closed, for `CLOSE_SECONDS` at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await asyncio.shield(self._closed)

    def _drop(self) -> None:
        self._closing = True
        self._close_by = 0.0
        self._shut()

    # -- the socket ---------------------------------------------------------------------------------------------------

    def _serve_soon(self) -> None:
        """The socket was used, so its edge may be: look at it again in this turn of the loop."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._serve)

    def _serve(self) -> None:
        """Take in what has come, and send what has waited."""
        self._scheduled = False
        if self._shut_down:
            return
        self._take_events()
        if self._receive():
            self._serve_soon()
        elif self._ended and not self._closing:
            self._drop()
            self._receiver.link_lost(self, "the connection to the broker ended")
        if self._unsent:
            self._send_rest()
            if not self._unsent:
                if self._closing:
                    self._shut()
                elif self.paused:
                    self.paused = False
                    self._receiver.link_resumed()

    def _receive(self) -> bool:
        """Hand over what has come. Whether there may be more."""
        frames: list[bytes] = []
        size = 0
        more = True
        try:
            while len(frames) < BURST_FRAMES and size < BURST_BYTES:
                frames.append(self._socket.recv(zmq.DONTWAIT))
                size += len(frames[-1])
        except zmq.Again:
            more = False
        if frames and not self._closing:
            self._receiver.frames_received(frames)
        return more and not self._shut_down

    def _send_rest(self) -> None:
        unsent = self._unsent
        try:
            while unsent and not self._shut_down:
                frame = unsent[0]
                self._socket.send(frame, zmq.DONTWAIT, copy=len(frame) <= BATCH_BYTES)
                unsent.popleft()
                self._unsent_bytes -= len(frame)
        except zmq.Again:
            pass

    def _tick(self) -> None:
        self._timer = self._loop.call_later(TICK_SECONDS, self._tick)
        announced = self._scheduled or zmq.zmq_poll([(self._descriptor, zmq.POLLIN)], 0)
        if not announced and int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            self.late_wakeups += 1
        if self._disconnected:
            self._ended = True
        self._serve()

    # -- what libzmq tells --------------------------------------------------------------------------------------------

    def _take_events(self) -> None:
        while True:
            try:
                told = parse_monitor_message(self._monitor.recv_multipart(zmq.DONTWAIT))
            except zmq.Again:
                return
            self._take_event(told["event"], int(told["value"]))

    def _take_event(self, event: int, value: int) -> None:
        if event == zmq.EVENT_CONNECTED:
            self.is_connected = True
        elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            if not self.opened.done():
                self.opened.set_result(None)
        elif event == zmq.EVENT_DISCONNECTED:
            self._fail(self._wrong_key())
            self._disconnected = True
        elif event == zmq.EVENT_CONNECT_RETRIED:
            # After a disconnection this is told last: all that came before it can be received by now.
            self._ended = self._disconnected
            self._fail(OSError(errno.EHOSTUNREACH, "its name is not known, or there is no way to it"))
        elif event == zmq.EVENT_CLOSED:
            self._fail(ConnectionRefusedError(errno.ECONNREFUSED, "nobody listens there"))
        elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            self._fail(BusError(Code.KEY_REFUSED, url=self._url, key=self._keys.public))
        elif event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL and value == errno.EAGAIN:
            # Nobody spoke until libzmq's own time was over, which is ours too.
            self._fail(BusError(Code.HANDSHAKE_TIMEOUT, stage="greeting and CURVE", seconds=HANDSHAKE_SECONDS))
        else:
            self._fail(self._wrong_key())

    def _wrong_key(self) -> BusError:
        return BusError(Code.SERVER_KEY_WRONG, url=self._url, key=self._keys.server)

    def _fail(self, error: Exception) -> None:
        """The connection cannot be opened because of ``error``, unless it is open or the reason is known already."""
        if not self.opened.done():
            self.opened.set_exception(error)
            self.opened.exception()  # whoever opened it may have given up meanwhile

    # -- the end ------------------------------------------------------------------------------------------------------

    def _shut(self) -> None:
        if self._shut_down:
            return
        self._shut_down = True
        self._timer.cancel()
        self._watch.stop()
        linger = max(0, round((self._close_by - self._loop.time()) * 1000))
        # The monitor ends first: if nobody reads it libzmq's thread waits for that, and nothing closes.
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=linger)
        self._fail(ConnectionAbortedError(errno.ECONNABORTED, "the connection was given up"))
        # Ending the context waits until everything is sent, ``linger`` at most.
        threading.Thread(target=self._end_context, name="busclient-close", daemon=True).start()

    def _end_context(self) -> None:
        self._context.term()
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits
            self._loop.call_soon_threadsafe(self._closed.set_result, None)


def _dealer(context: "zmq.Context[zmq.Socket[bytes]]", keys: Keys, *, ipv6: bool) -> "zmq.Socket[bytes]":
    """A DEALER with every option set that libzmq's defaults do not suit."""
    dealer = context.socket(zmq.DEALER)
    for option, value in {
        zmq.HANDSHAKE_IVL: round(HANDSHAKE_SECONDS * 1000),
        zmq.CONNECT_TIMEOUT: round(HANDSHAKE_SECONDS * 1000),
        zmq.RECONNECT_IVL: NEVER_MS,
        zmq.MAXMSGSIZE: FRAME_BYTES + CURVE_OVERHEAD,
        zmq.SNDHWM: QUEUE_FRAMES,
        zmq.RCVHWM: QUEUE_FRAMES,
        zmq.HEARTBEAT_IVL: HEARTBEAT_MS,
        zmq.HEARTBEAT_TIMEOUT: 2 * HEARTBEAT_MS,
        zmq.HEARTBEAT_TTL: 3 * HEARTBEAT_MS,
        # Bytes that the other kernel does not acknowledge for so long: the connection is over.
        zmq.TCP_MAXRT: 3 * HEARTBEAT_MS,
        # An IPv6 socket would look names up as IPv6 first, and not try the other.
        zmq.IPV6: int(ipv6),
        zmq.LINGER: 0,
    }.items():
        dealer.setsockopt(option, value)
    dealer.setsockopt(zmq.CURVE_SERVERKEY, keys.server.encode())
    dealer.setsockopt(zmq.CURVE_PUBLICKEY, keys.public.encode())
    dealer.setsockopt(zmq.CURVE_SECRETKEY, keys.secret.encode())
    return dealer


def _descriptor(zmq_socket: "zmq.Socket[bytes]") -> int:
    return int(zmq_socket.getsockopt(zmq.FD))


# -- who looks whether there is something ------------------------------------------------------------------------------


class _LoopWatch:
    """The event loop watches the descriptors."""

    def __init__(self, loop: asyncio.AbstractEventLoop, descriptors: Sequence[int], call: Callable[[], None]) -> None:
        self._loop = loop
        self._descriptors = descriptors
        for descriptor in descriptors:
            loop.add_reader(descriptor, call)

    def stop(self) -> None:
        """Call no more."""
        for descriptor in self._descriptors:
            self._loop.remove_reader(descriptor)


class _ThreadWatch:
    """A thread watches the descriptors, for Windows' proactor loop, which cannot."""

    def __init__(self, loop: asyncio.AbstractEventLoop, descriptors: Sequence[int], call: Callable[[], None]) -> None:
        self._loop = loop
        self._descriptors = descriptors
        self._call = call
        self._served = threading.Event()
        self._stopping = False
        self._awake, self._wake = socket.socketpair()
        threading.Thread(target=self._run, name="busclient-watch", daemon=True).start()

    def stop(self) -> None:
        """Call no more."""
        self._stopping = True
        self._served.set()
        self._wake.close()

    def _run(self) -> None:
        with self._awake:
            while not self._stopping:
                try:
                    select.select([self._awake.fileno(), *self._descriptors], [], [])
                except OSError:  # they were closed in this moment
                    return
                self._served.clear()
                if self._stopping:
                    return
                try:
                    self._loop.call_soon_threadsafe(self._serve)
                except RuntimeError:  # the loop has ended
                    return
                # Until it was served the descriptor stays readable.
                self._served.wait()

    def _serve(self) -> None:
        if not self._stopping:
            self._call()
        self._served.set()


def _watch(
    loop: asyncio.AbstractEventLoop, descriptors: Sequence[int], call: Callable[[], None]
) -> _LoopWatch | _ThreadWatch:
    """See to it that ``call`` is called when a descriptor is readable."""
    try:
        return _LoopWatch(loop, descriptors, call)
    except NotImplementedError:
        return _ThreadWatch(loop, descriptors, call)
