"""Raw sockets that stall, lie and flood, against the real daemon: each is cut off for a reason that the census tells.

What is sent is made of bytes here, not by our ZMTP; who asks afterwards is a stock libzmq peer.
"""

import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgpack
import psutil
import pytest

from tests.conformance.dealer import Dealer
from tests.support import RunningNode, running_node, wait_until

HANDSHAKE_SECONDS = 0.5
FRAME_SECONDS = 1.0
SECONDS = 10.0

GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)


def frame(body: bytes, flags: int = 0) -> bytes:
    """A ZMTP frame: flags 1 MORE, 2 LONG, 4 COMMAND."""
    if len(body) > 255:
        return bytes([flags | 2]) + len(body).to_bytes(8, "big") + body
    return bytes([flags, len(body)]) + body


def ready(kind: bytes = b"DEALER") -> bytes:
    return frame(b"\x05READY\x0bSocket-Type" + len(kind).to_bytes(4, "big") + kind, 4)


OPEN = GREETING + ready()
HELLO = frame(msgpack.packb([1, 1, {"component": "hostile"}]))
ATTACHED = OPEN + HELLO
PUBLISH = msgpack.packb([3, "a", None, b"x"])


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    flags = ("--limits-handshake-seconds", str(HANDSHAKE_SECONDS), "--limits-frame-seconds", str(FRAME_SECONDS))
    with running_node(tmp_path_factory.mktemp("hostile"), *flags) as running:
        yield running


def connect(node: RunningNode) -> socket.socket:
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(SECONDS)
    peer.connect(node.url.removeprefix("unix://"))
    return peer


def send(peer: socket.socket, data: bytes) -> bool:
    """Send all of ``data``; False if the node has closed the connection before it took it."""
    try:
        peer.sendall(data)
    except (BrokenPipeError, ConnectionResetError):
        return False
    return True


def rest(peer: socket.socket) -> bytes:
    """All that the node sends until it closes the connection, which it must within ``SECONDS``."""
    received = bytearray()
    while True:
        try:
            data = peer.recv(1 << 16)
        except ConnectionResetError:
            return bytes(received)
        if not data:
            return bytes(received)
        received += data


def gone(node: RunningNode) -> list[dict[str, Any]]:
    """Who left, endpoints and refused connections, as the census tells it; latest first within each."""
    with Dealer(node.url) as asker:
        page = asker.call(1, "$bus.list", {"departed": True})
    rows: list[dict[str, Any]] = [*page["departed"], *page["refused"]]
    return rows


def memory(node: RunningNode) -> int:
    """Resident bytes of the node."""
    return int(psutil.Process(node.process.pid).memory_info().rss)


NESTED = b"\x91" * 60_000
BOMB = b"\x93\x01\x01" + b"\xdd\x7f\xff\xff\xff" * 1000

# What is sent before anything else, the error that it must end with, and the departure.
CUT: dict[str, tuple[bytes, int, str]] = {
    "http": (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", 1001, "protocol-error"),
    "tls": (bytes.fromhex("16030100c8010000c40303") + bytes(100), 1001, "protocol-error"),
    "ssh": (b"SSH-2.0-OpenSSH_9.2\r\n", 1001, "protocol-error"),
    "zmtp-1.0": (b"\x01\x00" + b"\x04\x00abc", 1001, "protocol-error"),
    "zmtp-2.0": (b"\xff" + bytes(8) + b"\x7f\x01\x05\x00\x00", 1001, "protocol-error"),
    "curve": (GREETING.replace(b"NULL", b"CURVE")[:64], 1002, "protocol-error"),
    "message-before-ready": (GREETING + HELLO, 1003, "protocol-error"),
    "req": (GREETING + ready(b"REQ"), 1004, "protocol-error"),
    "sub": (GREETING + ready(b"SUB"), 1004, "protocol-error"),
    "oversize-command": (GREETING + b"\x06" + (2**63).to_bytes(8, "big"), 1005, "protocol-error"),
    "no-hello": (OPEN + frame(PUBLISH), 1014, "protocol-error"),
    "hello-with-a-bad-name": (OPEN + frame(msgpack.packb([1, 1, {"component": "A B"}])), 1016, "refused"),
    "oversize-frame": (ATTACHED + b"\x02" + (2**63).to_bytes(8, "big"), 1005, "protocol-error"),
    "oversize-by-one": (ATTACHED + b"\x02" + (16 * 2**20 + 65537).to_bytes(8, "big"), 1005, "protocol-error"),
    "multipart": (ATTACHED + frame(PUBLISH, 1), 1006, "protocol-error"),
    "reserved-flags": (ATTACHED + b"\xf8\x01a", 1009, "protocol-error"),
    "no-msgpack": (ATTACHED + frame(b"\xc1"), 1010, "protocol-error"),
    "deep-nesting": (ATTACHED + frame(NESTED), 1010, "protocol-error"),
    "declared-lengths": (ATTACHED + frame(BOMB), 1010, "protocol-error"),
    "too-many-envelopes": (ATTACHED + frame(msgpack.packb([11, 1]) * 16_385), 1011, "protocol-error"),
    "unknown-kind": (ATTACHED + frame(msgpack.packb([63, 1])), 1012, "protocol-error"),
    "spoofed-origin": (ATTACHED + frame(msgpack.packb([15, "$bus", "host", "node", "", 0])), 1014, "protocol-error"),
    "hello-twice": (ATTACHED + HELLO, 1014, "protocol-error"),
}


@pytest.mark.parametrize("name", CUT)
def test_cut_off_at_once_with_the_reason(node: RunningNode, name: str) -> None:
    data, code, reason = CUT[name]
    with connect(node) as peer:
        send(peer, data)
        answer = rest(peer)
    assert answer.startswith(b"\xff"), "the node greets whoever comes"
    # The asker's own connections leave too, without an error.
    row = min((row for row in gone(node) if row["error"] is not None), key=lambda row: row["ago"])
    assert row["error"]["code"] == code
    assert row["reason"] == reason
    if data.startswith(ATTACHED):
        assert row["claims"] == {"component": "hostile"}
        assert row["error"]["text"].encode() in answer, "and is told so in its bye"


# What is sent, and how far that is in the handshake.
SILENT: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "greeting"),
    "half-a-greeting": (GREETING[:33], "greeting"),
    "greeting": (GREETING, "ready"),
    "half-of-ready": (OPEN[:80], "ready"),
    "no-hello": (OPEN, "open"),
    "half-of-hello": (ATTACHED[:-1], "open"),
    "ping-instead": (OPEN + frame(b"\x04PING\x00\x00", 4), "open"),
}


def test_silence_is_cut_off_at_the_deadline_and_named(node: RunningNode) -> None:
    with ExitStack() as stack:
        started = time.monotonic()
        peers = [stack.enter_context(connect(node)) for _ in SILENT]
        for peer, (data, _) in zip(peers, SILENT.values(), strict=True):
            send(peer, data)
        for peer in peers:
            rest(peer)
        took = time.monotonic() - started
    assert HANDSHAKE_SECONDS * 0.9 < took < HANDSHAKE_SECONDS + 5
    rows = [row for row in gone(node) if row["reason"] == "handshake-timeout" and row["ago"] < took]
    assert sorted(row["error"]["fields"]["stage"] for row in rows) == sorted(stage for _, stage in SILENT.values())
    assert {row["error"]["code"] for row in rows} == {1007}


@pytest.mark.parametrize(
    ("before", "dribbled", "code"),
    [(b"", ATTACHED, 1007), (ATTACHED, b"\x02" + (1 << 20).to_bytes(8, "big") + bytes(100), 1017)],
    ids=["handshake", "frame"],
)
def test_a_byte_now_and_then_does_not_stretch_the_deadline(
    node: RunningNode, before: bytes, dribbled: bytes, code: int
) -> None:
    with connect(node) as peer:
        send(peer, before)
        started = time.monotonic()
        for byte in dribbled:
            if not send(peer, bytes([byte])):
                break
            time.sleep(0.02)
        else:
            pytest.fail("all of it was taken")
        took = time.monotonic() - started
    assert took < FRAME_SECONDS + 5
    wait_until(lambda: any(row["error"] and row["error"]["code"] == code for row in gone(node)))


def flood(node: RunningNode, data: bytes, megabytes: int) -> int:
    """Say hello, then send ``data`` again and again. Returns how many bytes the node took before it hung up."""
    taken = 0
    with connect(node) as peer:
        send(peer, ATTACHED)
        while taken < megabytes << 20:
            if not send(peer, data):
                return taken
            taken += len(data)
    return taken


def test_endless_multipart_is_cut_at_its_first_frame(node: RunningNode) -> None:
    before = memory(node)
    taken = [flood(node, frame(bytes(60_000), 1) * 4, 64) for _ in range(20)]
    assert max(taken) < 4 << 20, "what the kernel's buffers hold, and not more"
    assert memory(node) - before < 8 << 20


def test_declared_lengths_take_no_memory(node: RunningNode) -> None:
    """A hundred peers that each begin the largest frame there is and send a byte of it."""
    before = memory(node)
    with ExitStack() as stack:
        peers = [stack.enter_context(connect(node)) for _ in range(100)]
        for peer in peers:
            send(peer, ATTACHED + b"\x02" + (16 << 20).to_bytes(8, "big") + b"\x94")
        with Dealer(node.url) as asker:
            asker.call(1, "$bus.ping")
            rows = asker.call(2, "$bus.list", {})["endpoints"]
            assert sum(row["claims"] == {"component": "hostile"} for row in rows) == 100
        assert memory(node) - before < 16 << 20
        for peer in peers:
            rest(peer)
    codes = [row["error"]["code"] for row in gone(node) if row["error"] is not None and row["ago"] < SECONDS]
    assert codes.count(1017) >= 100


def test_all_of_it_again_and_again_leaves_memory_flat(node: RunningNode) -> None:
    def once() -> None:
        for data, _, _ in CUT.values():
            with connect(node) as peer:
                send(peer, data)
                rest(peer)

    for _ in range(3):
        once()
    before = memory(node)
    for _ in range(25):
        once()
    assert memory(node) - before < 8 << 20
    with Dealer(node.url) as asker:
        stats = asker.call(1, "$bus.stats")
    assert stats["endpoints"]["host"] == 2, "nobody but who asks, and the supervisor of components"
    assert stats["queued_bytes"] == 0


def test_a_thousand_idle_connections_keep_nobody_out(tmp_path: Path) -> None:
    """CVE-2020-15166 in its general shape: peers that never complete a handshake must not delay those that do."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = 1000
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, count + 200)), hard))
    try:
        with running_node(tmp_path / "idle", "--limits-handshake-seconds", "5") as node, ExitStack() as stack:
            before = memory(node)
            idle = [stack.enter_context(connect(node)) for _ in range(count)]
            for number, peer in enumerate(idle):
                send(peer, [b"", GREETING[:20], GREETING, OPEN][number % 4])
            started = time.monotonic()
            with Dealer(node.url) as asker:
                assert asker.call(1, "$bus.ping")["endpoint"] == asker.name
                assert time.monotonic() - started < 1.0
                assert memory(node) - before < count * 24 * 1024
                stats = asker.call(2, "$bus.stats")
                assert stats["endpoints"]["host"] == 2  # who asks, and the supervisor of components
            for peer in idle:
                rest(peer)
            with Dealer(node.url) as asker:
                wait_until(lambda: asker.call(3, "$bus.stats")["departures"].get("host/handshake-timeout") == count)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_an_honest_peer_is_served_during_all_this(node: RunningNode) -> None:
    stop = threading.Event()

    def attack() -> None:
        while not stop.is_set():
            for data, _, _ in CUT.values():
                with connect(node) as peer:
                    send(peer, data)
                    rest(peer)

    threads = [threading.Thread(target=attack, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        with Dealer(node.url) as caller:
            took = []
            for id in range(1, 200):
                started = time.monotonic()
                caller.call(id, "$bus.ping")
                took.append(time.monotonic() - started)
    finally:
        stop.set()
        for thread in threads:
            thread.join(SECONDS)
    assert sorted(took)[len(took) // 2] < 0.2
    assert max(took) < 2.0
