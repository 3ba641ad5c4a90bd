"""ZMTP bytes written from RFC 37 by hand, and ways to feed them: for tests of the decoder and the fuzzer's corpus."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from busproto.zmtp import ZmtpConnection, ZmtpError

DEALERS = frozenset({"DEALER"})
ROUTERS = frozenset({"ROUTER"})


def greeting(
    *,
    first: int = 0xFF,
    padding: bytes = bytes(8),
    tenth: int = 0x7F,
    major: int = 3,
    minor: int = 1,
    mechanism: bytes = b"NULL",
    as_server: int = 0,
    filler: bytes = bytes(31),
) -> bytes:
    """A greeting of 64 bytes; each field can be made wrong."""
    start = bytes((first,)) + padding + bytes((tenth, major, minor))
    return start + mechanism.ljust(20, b"\0") + bytes((as_server,)) + filler


def frame(flags: int, body: bytes) -> bytes:
    """One frame; the size is long where ``flags`` say so."""
    return bytes((flags,)) + len(body).to_bytes(8 if flags & 2 else 1, "big") + body


def message(body: bytes) -> bytes:
    """A message of one frame, short or long as its size asks."""
    return frame(0 if len(body) < 256 else 2, body)


def command(name: bytes, data: bytes = b"") -> bytes:
    body = bytes((len(name),)) + name + data
    return frame(4 if len(body) < 256 else 6, body)


def prop(name: bytes, value: bytes) -> bytes:
    return bytes((len(name),)) + name + len(value).to_bytes(4, "big") + value


def ready(*properties: bytes) -> bytes:
    """READY of a DEALER as libzmq sends it, or of the given properties."""
    return command(b"READY", b"".join(properties or (prop(b"Socket-Type", b"DEALER"), prop(b"Identity", b""))))


def ping(ttl_ds: int, context: bytes) -> bytes:
    return command(b"PING", ttl_ds.to_bytes(2, "big") + context)


def error(reason: bytes) -> bytes:
    return command(b"ERROR", bytes((len(reason),)) + reason)


def new_server(max_frame: int = 1 << 20) -> ZmtpConnection:
    """A fresh connection in the broker's role."""
    return ZmtpConnection("server", socket_type="ROUTER", peers=DEALERS, max_frame=max_frame)


def new_client(max_frame: int = 1 << 20) -> ZmtpConnection:
    """A fresh connection in a client's role."""
    return ZmtpConnection("client", socket_type="DEALER", peers=ROUTERS, max_frame=max_frame)


def open_server(max_frame: int = 1 << 20, minor: int = 1) -> ZmtpConnection:
    """A server past its handshake, with nothing left to send."""
    connection = new_server(max_frame)
    connection.receive(greeting(minor=minor) + ready())
    assert connection.ready
    connection.data_to_send()
    return connection


class Outcome(NamedTuple):
    """What a connection made of some bytes."""

    frames: list[bytes]
    code: int | None
    sent: bytes
    held_peak: int


Feed = Callable[[ZmtpConnection, bytes, list[bytes]], None]
"""Feeds one piece and adds the messages that it completes to the list."""


def by_receive(connection: ZmtpConnection, piece: bytes, frames: list[bytes]) -> None:
    frames += connection.receive(piece)


def by_reused_buffer(connection: ZmtpConnection, piece: bytes, frames: list[bytes]) -> None:
    """As an acceptor that reads into one buffer for all connections: what is returned must not point into it."""
    shared = bytearray(piece)
    try:
        frames += connection.receive(memoryview(shared))
    finally:
        shared[:] = b"\xee" * len(shared)


def by_get_buffer(connection: ZmtpConnection, piece: bytes, frames: list[bytes]) -> None:
    """As an acceptor that reads large frames straight into their own memory."""
    while piece:
        room = connection.get_buffer()
        if room is None:
            by_reused_buffer(connection, piece, frames)
            return
        count = min(len(room), len(piece))
        room[:count] = piece[:count]
        frames += connection.buffer_updated(count)
        piece = piece[count:]


def cut(data: bytes, sizes: Iterable[int]) -> Iterable[bytes]:
    """``data`` in pieces of the given sizes; what is left over comes as the last piece."""
    position = 0
    for size in sizes:
        if position >= len(data):
            return
        yield data[position : position + size]
        position += size
    if position < len(data):
        yield data[position:]


def feed(connection: ZmtpConnection, pieces: Iterable[bytes], way: Feed = by_receive) -> Outcome:
    """Feed ``pieces`` until they end or the connection refuses; only ``ZmtpError`` may come out of it."""
    frames: list[bytes] = []
    sent = connection.data_to_send()
    peak = 0
    for piece in pieces:
        try:
            way(connection, piece, frames)
        except ZmtpError as refusal:
            frames += refusal.frames
            return Outcome(frames, refusal.code, sent + connection.data_to_send(), peak)
        sent += connection.data_to_send()
        peak = max(peak, connection.held_bytes)
    return Outcome(frames, None, sent, peak)
