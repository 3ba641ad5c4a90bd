"""vsock:// addresses in the SDK. AF_VSOCK itself is dialled only to CID 1 and only where loopback exists for it;
elsewhere a socket that stands in for it leads to the node's unix socket.
"""

import asyncio
import errno
import os
import socket
import sys
from collections.abc import Callable, Coroutine
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import busclient
from busclient import BusError, Code, NotConnected, dial
from tests.support import RunningNode

Run = Callable[[Coroutine[Any, Any, Any]], Any]

SECONDS = 20.0
MANIFEST: dict[str, Any] = {"component": "guest-agent", "owner": "tests", "purpose": "tries vsock"}


def on_asyncio(work: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(asyncio.wait_for(work, SECONDS))


def on_uvloop(work: Coroutine[Any, Any, Any]) -> Any:
    uvloop = pytest.importorskip("uvloop")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(asyncio.wait_for(work, SECONDS))


@pytest.fixture(params=[on_asyncio, on_uvloop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine on one of the two event loops."""
    runner: Run = request.param
    return runner


class Wire:
    """What stands in for the kernel's AF_VSOCK: which unix socket is at which address, and how connecting goes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.places: dict[tuple[int, int], str] = {}
        self.asked: list[tuple[int, int]] = []
        self.refusal = errno.ECONNRESET
        """How AF_VSOCK refuses where nobody listens."""
        self.late = False
        """Connections take a moment, as between machines."""
        wire = self

        class Socket(socket.socket):
            def connect_ex(self, address: Any) -> int:
                wire.asked.append(address)
                path = wire.places.get(address)
                if path is None:
                    return wire.refusal
                self.connect(path)
                return errno.EINPROGRESS if wire.late else 0

        monkeypatch.setattr(dial, "new_vsock", lambda: Socket(socket.AF_UNIX, socket.SOCK_STREAM))


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    return Wire(monkeypatch)


@pytest.mark.parametrize("late", [False, True])
def test_a_guest_attaches_by_context_id_and_port(shared_node: RunningNode, wire: Wire, run: Run, late: bool) -> None:
    wire.places[2, 5555] = shared_node.url.removeprefix("unix://")
    wire.late = late

    async def main() -> None:
        async with busclient.connect("vsock://host:5555", **MANIFEST) as bus, bus.subscribe("vs1.>") as sub:
            payload = os.urandom(300_000)
            await bus.publish("vs1.x", payload)
            assert (await anext(sub)).payload == payload

    run(main())
    assert wire.asked == [(2, 5555)]


def test_the_blocking_face_takes_the_same_addresses(shared_node: RunningNode, wire: Wire) -> None:
    wire.places[1, 7] = shared_node.url.removeprefix("unix://")
    with busclient.blocking.connect("vsock://local:7", **MANIFEST) as bus:
        assert bus.call("$bus.ping").payload["endpoint"]


@pytest.mark.parametrize(
    ("refusal", "reason"),
    [
        (errno.ECONNRESET, "nobody listens there"),
        (errno.ECONNREFUSED, "nobody listens there"),
        (errno.ENODEV, "this machine has no AF_VSOCK to that side"),
        (errno.EAFNOSUPPORT, "this machine has no AF_VSOCK to that side"),
        (errno.EACCES, "this user may not connect to it"),
        (errno.ETIMEDOUT, "timed out"),
    ],
)
def test_why_there_is_no_connection(wire: Wire, run: Run, refusal: int, reason: str) -> None:
    wire.refusal = refusal

    async def main() -> None:
        async with busclient.connect("vsock://3:1"):
            pass

    with pytest.raises(NotConnected, match=reason):
        run(main())


def test_a_connection_that_fails_late_is_refused_too(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    class Socket(socket.socket):
        def connect_ex(self, address: Any) -> int:
            return errno.EINPROGRESS

        def getsockopt(self, *option: Any) -> Any:
            return errno.ETIMEDOUT if option == (socket.SOL_SOCKET, socket.SO_ERROR) else super().getsockopt(*option)

    one, other = socket.socketpair()
    monkeypatch.setattr(dial, "new_vsock", lambda: Socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=one.detach()))

    async def main() -> None:
        async with busclient.connect("vsock://3:1"):
            pass

    with other, pytest.raises(NotConnected, match="timed out"):
        run(main())


def test_nobody_answers_the_connection(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    """Within the handshake's time, and nothing is left behind."""
    monkeypatch.setattr("busclient.connector.HANDSHAKE_SECONDS", 0.1)
    made: list[socket.socket] = []

    class Socket(socket.socket):
        def connect_ex(self, address: Any) -> int:
            self.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 0)
            while True:  # full: never writable
                try:
                    self.send(bytes(4096))
                except BlockingIOError:
                    return errno.EINPROGRESS

    one, other = socket.socketpair()

    def new() -> socket.socket:
        made.append(Socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=one.detach()))
        return made[0]

    monkeypatch.setattr(dial, "new_vsock", new)

    async def main() -> None:
        async with busclient.connect("vsock://3:1"):
            pass

    with other, pytest.raises(BusError) as caught:
        run(main())
    assert caught.value.code == Code.HANDSHAKE_TIMEOUT
    assert made[0].fileno() == -1


def test_other_platforms_say_that_they_have_none(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    async def main(url: str) -> None:
        async with busclient.connect(url):
            pass

    monkeypatch.setattr(sys, "platform", "win32")
    for url in ("vsock://2:1", "serial:///dev/ttyS0"):
        with pytest.raises(BusError) as caught:
            run(main(url))
        assert caught.value.code == Code.URL_INVALID
        assert "win32 has no" in caught.value.text


@contextmanager
def bridged(path: str) -> Any:
    """Something that listens on AF_VSOCK, CID 1, and copies each connection to the unix socket ``path``."""
    from threading import Thread

    listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    listener.bind((1, socket.VMADDR_PORT_ANY))
    listener.listen()
    peers: list[socket.socket] = []

    def copy(one: socket.socket, other: socket.socket) -> None:
        while data := one.recv(65536):
            other.sendall(data)
        other.shutdown(socket.SHUT_WR)

    def accept() -> None:
        peer, _ = listener.accept()
        node = socket.socket(socket.AF_UNIX)
        node.connect(path)
        peers.extend((peer, node))
        back = Thread(target=copy, args=(node, peer))
        back.start()
        copy(peer, node)
        back.join()

    thread = Thread(target=accept)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        thread.join(SECONDS)
        for each in (listener, *peers):
            each.close()


@pytest.mark.skipif(not Path("/sys/module/vsock_loopback").exists(), reason="this kernel has no vsock loopback")
def test_real_af_vsock(shared_node: RunningNode, run: Run) -> None:
    with bridged(shared_node.url.removeprefix("unix://")) as port:

        async def main() -> None:
            async with busclient.connect(f"vsock://local:{port}", **MANIFEST) as bus:
                assert (await bus.call("$bus.ping")).payload["endpoint"]

        run(main())
