"""A CURVE client made by hand (RFC 26). It can do what libzmq does not let its user do: a message that never ends."""

import ctypes
import ctypes.util
import os
import socket
import struct
from pathlib import Path
from typing import Final

import pytest
import zmq

from busproto.z85 import decode_key
from tests.edge.curve_support import KeyPair

_MAC: Final = 16


def _sodium() -> ctypes.CDLL:
    """libsodium: the one in pyzmq's wheel, or the system's."""
    bundled = sorted(Path(zmq.__file__).parent.parent.glob("pyzmq.libs/libsodium*"))
    name = str(bundled[0]) if bundled else ctypes.util.find_library("sodium")
    if name is None:
        if os.environ.get("BUSD_REQUIRE_ALL") == "1":
            pytest.fail("libsodium is not installed, and BUSD_REQUIRE_ALL=1 leaves nothing out")
        pytest.skip("libsodium is not installed")
    return ctypes.CDLL(name)


class RawCurve:
    """A blocking connection that has finished the handshake as a DEALER."""

    def __init__(self, address: str, pair: KeyPair, server: str) -> None:
        self._lib = _sodium()
        self._nonce = 0
        host, _, port = address.rpartition(":")
        self.tcp = socket.create_connection((host, int(port)), timeout=10)
        mine, secret, theirs = decode_key(pair.public), decode_key(pair.secret), decode_key(server)
        short_public, self._short_secret = self._keypair()
        self.tcp.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"CURVE".ljust(20, b"\0") + bytes(32))
        self._read(64)
        nonce = self._next()
        signature = self._box(bytes(64), b"CurveZMQHELLO---" + nonce, theirs, self._short_secret)
        self._command(b"\x05HELLO\1\0" + bytes(72) + short_public + nonce + signature)
        welcome = self._receive()
        assert welcome[:8] == b"\x07WELCOME", welcome
        opened = self._open(welcome[24:], b"WELCOME-" + welcome[8:24], theirs, self._short_secret)
        self._peer, cookie = opened[:32], opened[32:]
        voucher = os.urandom(16)
        vouch = self._box(short_public + theirs, b"VOUCH---" + voucher, self._peer, secret)
        ready = b"\x0bSocket-Type" + struct.pack(">I", 6) + b"DEALER"
        nonce = self._next()
        plain = mine + voucher + vouch + ready
        sealed = self._box(plain, b"CurveZMQINITIATE" + nonce, self._peer, self._short_secret)
        self._command(b"\x08INITIATE" + cookie + nonce + sealed)
        answer = self._receive()
        assert answer[:6] == b"\x05READY", answer

    def send(self, part: bytes, *, more: bool = False) -> None:
        """Send one part of a message."""
        nonce = self._next()
        sealed = self._box(bytes([more]) + part, b"CurveZMQMESSAGEC" + nonce, self._peer, self._short_secret)
        self._frame(0, b"\x07MESSAGE" + nonce + sealed)

    def receive(self) -> bytes:
        """The next message. Raises EOFError at the end of the connection."""
        frame = self._receive()
        assert frame[:8] == b"\x07MESSAGE", frame
        return self._open(frame[16:], b"CurveZMQMESSAGES" + frame[8:16], self._peer, self._short_secret)[1:]

    # -- ZMTP and boxes -----------------------------------------------------------------------------------------------

    def _next(self) -> bytes:
        self._nonce += 1
        return struct.pack(">Q", self._nonce)

    def _command(self, body: bytes) -> None:
        self._frame(4, body)

    def _frame(self, flags: int, body: bytes) -> None:
        long = len(body) > 255
        self.tcp.sendall(struct.pack(">BQ" if long else ">BB", flags | 2 * long, len(body)) + body)

    def _receive(self) -> bytes:
        flags, size = self._read(2)
        if flags & 2:
            (size,) = struct.unpack(">Q", bytes([size]) + self._read(7))
        return self._read(size)

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            chunk = self.tcp.recv(size - len(data))
            if not chunk:
                raise EOFError
            data += chunk
        return data

    def _keypair(self) -> tuple[bytes, bytes]:
        public, secret = ctypes.create_string_buffer(32), ctypes.create_string_buffer(32)
        assert self._lib.crypto_box_keypair(public, secret) == 0
        return public.raw, secret.raw

    def _box(self, plain: bytes, nonce: bytes, public: bytes, secret: bytes) -> bytes:
        sealed = ctypes.create_string_buffer(len(plain) + _MAC)
        size = ctypes.c_ulonglong(len(plain))
        assert self._lib.crypto_box_easy(sealed, plain, size, nonce, public, secret) == 0
        return sealed.raw

    def _open(self, sealed: bytes, nonce: bytes, public: bytes, secret: bytes) -> bytes:
        plain = ctypes.create_string_buffer(len(sealed) - _MAC)
        size = ctypes.c_ulonglong(len(sealed))
        assert self._lib.crypto_box_open_easy(plain, sealed, size, nonce, public, secret) == 0
        return plain.raw
