"""The libzmq socket of the SoC boundary, every option of it set on purpose.

libzmq's defaults suit trusted peers: a handshake may take half a minute, a message may have any size, a thousand of
them may queue for each peer, and a peer that vanished is kept. Here each default that matters is named and replaced.
"""

from typing import Final

import zmq

from busproto.errors import BusError, Code
from busproto.limits import FRAME_BYTES, HANDSHAKE_SECONDS
from busproto.z85 import encode_key

ZAP_DOMAIN: Final = "busd"
"""Must not be empty: without a domain libzmq asks nobody who a peer is."""

CURVE_OVERHEAD: Final = 33
"""Bytes that CURVE adds to a frame (RFC 26): command name 8, nonce 8, flags 1, authenticator 16."""

QUEUE_MESSAGES: Final = 4
"""Messages that libzmq may hold for one peer in each direction. A message has up to 16 MiB and is charged to nobody
while libzmq holds it, so nearly everything waits elsewhere: outgoing in the outbox, incoming in the peer's own kernel.
Batches keep throughput up: measured, 64 calls in flight, 43 k/s with 4 and 56 k/s with 16. Never 1: with a ZAP handler
libzmq 4.3.5 then delivers nothing at all."""

HEARTBEAT_SECONDS: Final = 5
"""ZMTP PING after this much silence, and the connection is cut when it is not answered in twice that: finds a peer
whose kernel is gone. A peer whose kernel is there and whose program hangs is found by the session's lease."""

KEEPALIVE_IDLE_SECONDS: Final = 10
KEEPALIVE_INTERVAL_SECONDS: Final = 5
KEEPALIVE_PROBES: Final = 3
"""The kernel's own question to a silent peer, for the time before ZMTP speaks: 25 s instead of Linux' two hours."""

BACKLOG: Final = 256
"""Connections that may wait in the kernel. libzmq accepts at once, so they wait only while its thread is busy."""

SOCKETS: Final = 32
"""Sockets of the context. It needs eight, those inside libzmq included; each accepted connection is none."""

_NEEDED: Final = (4, 3, 5)
"""The newest release. Older ones: CVE-2019-6250, CVE-2019-13132 (remote code in a CURVE server), CVE-2020-15166 (idle
connections starve the others)."""


def check_libzmq(version: tuple[int, int, int], *, has_curve: bool) -> None:
    """Raise BusError 7021 unless libzmq ``version`` can be trusted with a network listener."""
    shown, needed = (".".join(map(str, each)) for each in (version, _NEEDED))
    if version < _NEEDED:
        raise BusError(Code.CURVE_UNAVAILABLE, reason=f"libzmq is {shown}, and {needed} is needed")
    if not has_curve:
        raise BusError(Code.CURVE_UNAVAILABLE, reason=f"libzmq {shown} was built without it")


def open_context() -> zmq.Context[zmq.Socket[bytes]]:
    """A context for one listener. Raises BusError 7021."""
    check_libzmq(zmq.zmq_version_info(), has_curve=zmq.has("curve"))
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
    context.set(zmq.MAX_SOCKETS, SOCKETS)
    # Ending the context must never wait for messages that nobody takes.
    context.set(zmq.BLOCKY, 0)
    return context


def open_router(context: zmq.Context[zmq.Socket[bytes]], secret: bytes, *, ipv6: bool) -> zmq.Socket[bytes]:
    """An unbound ROUTER that is a CURVE server with the key ``secret`` (32 bytes)."""
    router = context.socket(zmq.ROUTER)
    milliseconds = {
        # From accept to the end of ZMTP's handshake. 30 s by default lets idle peers pile up (CVE-2020-15166's shape).
        zmq.HANDSHAKE_IVL: round(HANDSHAKE_SECONDS * 1000),
        zmq.HEARTBEAT_IVL: HEARTBEAT_SECONDS * 1000,
        zmq.HEARTBEAT_TIMEOUT: 2 * HEARTBEAT_SECONDS * 1000,
        # What the peer is asked to do on its side: give this one up after as long.
        zmq.HEARTBEAT_TTL: 3 * HEARTBEAT_SECONDS * 1000,
        # Bytes that the peer's kernel does not acknowledge for so long: the connection is over (TCP_USER_TIMEOUT).
        zmq.TCP_MAXRT: 3 * HEARTBEAT_SECONDS * 1000,
        # What is unsent when the socket closes is lost. Sessions have their own time to take a bye before that.
        zmq.LINGER: 0,
        # Never wait: sends and receives are tried, and tried again when there is a reason to.
        zmq.SNDTIMEO: 0,
        zmq.RCVTIMEO: 0,
    }
    numbers = {
        zmq.MAXMSGSIZE: FRAME_BYTES + CURVE_OVERHEAD,
        zmq.SNDHWM: QUEUE_MESSAGES,
        zmq.RCVHWM: QUEUE_MESSAGES,
        zmq.BACKLOG: BACKLOG,
        # A send to a peer that is gone or full is an error, not a silent loss.
        zmq.ROUTER_MANDATORY: 1,
        # Who comes with a routing id that is taken does not get it: with 1 the newcomer would get the other's messages.
        zmq.ROUTER_HANDOVER: 0,
        zmq.ROUTER_RAW: 0,
        # Only where the address is one: an IPv6 socket would take IPv4 peers too, under mapped addresses.
        zmq.IPV6: int(ipv6),
        zmq.TCP_KEEPALIVE: 1,
        zmq.TCP_KEEPALIVE_IDLE: KEEPALIVE_IDLE_SECONDS,
        zmq.TCP_KEEPALIVE_INTVL: KEEPALIVE_INTERVAL_SECONDS,
        zmq.TCP_KEEPALIVE_CNT: KEEPALIVE_PROBES,
        # Queue only for peers that are there. It is about connecting sockets; set, so that none of ours queues blindly.
        zmq.IMMEDIATE: 1,
    }
    for option, value in (milliseconds | numbers).items():
        router.setsockopt(option, value)
    router.setsockopt(zmq.ZAP_DOMAIN, ZAP_DOMAIN.encode())
    router.setsockopt(zmq.CURVE_SERVER, 1)
    router.setsockopt(zmq.CURVE_SECRETKEY, encode_key(secret).encode())
    return router


def wire_bytes(body: int) -> int:
    """The bytes that a message of one part of ``body`` bytes takes on a CURVE connection."""
    command = body + CURVE_OVERHEAD
    return command + (2 if command < 256 else 9)
