"""Our ZMTP against real libzmq over unix sockets: both roles, heartbeats, refusals, large messages."""

import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from busproto.errors import Code
from busproto.zmtp import ZmtpConnection, ZmtpError, frame_header
from tests.schemas.zmtp_support import new_client, new_server

PATIENCE = 10.0
LARGE = 5 << 20


@pytest.fixture
def path() -> Iterator[Path]:
    # Not tmp_path: a unix socket's path may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="zmtp-") as directory:
        yield Path(directory) / "s"


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    with zmq.Context() as context:
        yield context


class Wire:
    """One of our connections on a blocking socket."""

    def __init__(self, link: socket.socket, connection: ZmtpConnection) -> None:
        self.link = link
        self.connection = connection
        self.frames: list[bytes] = []
        self.closed = False
        self.muted = False
        link.settimeout(PATIENCE)
        self.flush()

    def flush(self) -> None:
        data = self.connection.data_to_send()
        if data and not self.muted:
            self.link.sendall(data)

    def send(self, body: bytes) -> None:
        self.link.sendall(frame_header(len(body)))
        self.link.sendall(body)

    def read(self) -> None:
        """Read once, into a large frame's own memory where there is one."""
        room = self.connection.get_buffer()
        try:
            if room is not None:
                count = self.link.recv_into(room)
                self.frames += self.connection.buffer_updated(count)
                self.closed = not count
            else:
                data = self.link.recv(65536)
                self.frames += self.connection.receive(data)
                self.closed = not data
        finally:
            if not self.closed:
                self.flush()

    def read_until(self, done: Callable[[], bool], seconds: float = PATIENCE) -> None:
        end = time.monotonic() + seconds
        while not done() and not self.closed:
            left = end - time.monotonic()
            assert left > 0, f"not there after {seconds} s (stage {self.connection.stage})"
            self.link.settimeout(left)
            self.read()

    def message(self) -> bytes:
        """The next message."""
        self.read_until(lambda: bool(self.frames))
        return self.frames.pop(0)


@pytest.fixture
def listener(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.settimeout(PATIENCE)
        listener.bind(str(path))
        listener.listen()
        yield listener


Connect = Callable[..., tuple["zmq.Socket[bytes]", Wire]]


@pytest.fixture
def accept(listener: socket.socket, path: Path, context: zmq.Context[zmq.Socket[bytes]]) -> Iterator[Connect]:
    """A libzmq socket of the given type and options, connected to our server role."""
    open_links: list[socket.socket] = []
    open_sockets: list[zmq.Socket[bytes]] = []

    def connect(kind: int = zmq.DEALER, **options: int | bytes) -> tuple[zmq.Socket[bytes], Wire]:
        peer = context.socket(kind)
        open_sockets.append(peer)
        peer.linger = 0
        peer.rcvtimeo = peer.sndtimeo = int(PATIENCE * 1000)
        for name, value in options.items():
            peer.set(getattr(zmq, name), value)
        peer.connect(f"ipc://{path}")
        link, _ = listener.accept()
        open_links.append(link)
        return peer, Wire(link, new_server(LARGE + 64))

    yield connect
    for link in open_links:
        link.close()
    for peer in open_sockets:
        peer.close()


def test_dealer_attaches_and_talks(accept: Connect) -> None:
    dealer, wire = accept()
    dealer.send(b"hello")
    assert wire.message() == b"hello"
    assert (wire.connection.stage, wire.connection.peer_minor) == ("open", 1)
    wire.send(b"welcome")
    assert dealer.recv_multipart() == [b"welcome"]
    for size in (0, 1, 255, 256, 70_000):
        dealer.send(b"x" * size)
        assert wire.message() == b"x" * size
        wire.send(b"y" * size)
        assert dealer.recv_multipart() == [b"y" * size]


def test_dealer_with_a_routing_id_attaches(accept: Connect) -> None:
    dealer, wire = accept(ROUTING_ID=b"squatter")
    dealer.send(b"hello")
    assert wire.message() == b"hello"


def test_ten_thousand_messages_in_order(accept: Connect) -> None:
    dealer, wire = accept(SNDHWM=0, RCVHWM=0)
    bodies = [index.to_bytes(4, "big") * (index % 100) for index in range(10_000)]
    for body in bodies:
        dealer.send(body)
    wire.read_until(lambda: len(wire.frames) == len(bodies))
    assert wire.frames == bodies
    wire.link.sendall(b"".join(frame_header(len(body)) + body for body in bodies))
    assert [dealer.recv() for _ in bodies] == bodies


def test_five_mebibytes_both_ways_as_server(accept: Connect) -> None:
    dealer, wire = accept()
    body = bytes(range(256)) * (LARGE // 256)
    dealer.send(body)
    dealer.send(b"after")
    assert wire.message() == body
    assert wire.message() == b"after"
    assert wire.connection.held_bytes == 0
    wire.send(body)
    wire.send(b"after")
    assert dealer.recv() == body
    assert dealer.recv() == b"after"


def test_frame_above_the_bound_from_libzmq(accept: Connect) -> None:
    dealer, wire = accept()
    dealer.send(b"x" * (LARGE + 65))
    with pytest.raises(ZmtpError) as caught:
        wire.message()
    assert caught.value.code == Code.FRAME_TOO_LARGE
    assert caught.value.fields == {"size": LARGE + 65, "limit": LARGE + 64}


def test_multipart_from_libzmq(accept: Connect) -> None:
    dealer, wire = accept()
    dealer.send(b"whole")
    dealer.send_multipart([b"a", b"b"])
    with pytest.raises(ZmtpError) as caught:
        wire.read_until(lambda: False)
    assert caught.value.code == Code.MULTIPART_MESSAGE
    assert [*wire.frames, *caught.value.frames] == [b"whole"]


def test_heartbeats_of_libzmq_are_answered(accept: Connect) -> None:
    dealer, wire = accept(HEARTBEAT_IVL=20, HEARTBEAT_TIMEOUT=200, HEARTBEAT_TTL=2000)
    wire.read_until(lambda: wire.connection.pings >= 20)
    assert not wire.closed
    assert wire.connection.peer_ttl_ds == 20
    dealer.send(b"alive")
    assert wire.message() == b"alive"


def test_heartbeats_of_libzmq_that_go_unanswered_end_the_connection(accept: Connect) -> None:
    """The test above would see it if our PONG were missing or wrong."""
    _dealer, wire = accept(HEARTBEAT_IVL=20, HEARTBEAT_TIMEOUT=200)
    wire.read_until(lambda: wire.connection.ready)
    wire.muted = True
    wire.read_until(lambda: False)
    assert wire.closed


@pytest.mark.parametrize("text", [b"", b"0123456789abcdef"])
def test_our_ping_is_answered_by_libzmq(accept: Connect, text: bytes) -> None:
    _dealer, wire = accept()
    wire.read_until(lambda: wire.connection.ready)
    wire.connection.ping(0, text)
    wire.flush()
    wire.read_until(lambda: wire.connection.pongs == 1)
    assert wire.connection.pongs == 1


@pytest.mark.parametrize("kind", [zmq.REQ, zmq.SUB, zmq.PUSH, zmq.PAIR, zmq.ROUTER])
def test_other_socket_types_are_refused(accept: Connect, kind: int) -> None:
    _peer, wire = accept(kind)
    with pytest.raises(ZmtpError) as caught:
        wire.read_until(lambda: wire.connection.ready)
    assert caught.value.code == Code.ZMTP_SOCKET_TYPE
    assert caught.value.fields == {"type": zmq.SocketType(kind).name}
    # libzmq takes our ERROR for the end of the connection: it does not send on.
    assert wire.link.recv(100) == b""


# -- our client role --------------------------------------------------------------------------------------------------


@pytest.fixture
def router(path: Path, context: zmq.Context[zmq.Socket[bytes]]) -> Iterator[zmq.Socket[bytes]]:
    with context.socket(zmq.ROUTER) as router:
        router.linger = 0
        router.rcvtimeo = router.sndtimeo = int(PATIENCE * 1000)
        router.set(zmq.HEARTBEAT_IVL, 50)
        router.set(zmq.HEARTBEAT_TIMEOUT, 500)
        router.bind(f"ipc://{path}")
        yield router


@pytest.fixture
def wire(router: zmq.Socket[bytes], path: Path) -> Iterator[Wire]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.connect(str(path))
        yield Wire(link, new_client(LARGE + 64))


def test_client_talks_to_a_router(router: zmq.Socket[bytes], wire: Wire) -> None:
    wire.read_until(lambda: wire.connection.ready)
    assert wire.connection.peer_minor == 1
    wire.send(b"hello")
    identity, body = router.recv_multipart()
    assert body == b"hello"
    for size in (0, 1, 255, 256, 70_000):
        router.send_multipart([identity, b"x" * size])
        assert wire.message() == b"x" * size
        wire.send(b"y" * size)
        assert router.recv_multipart() == [identity, b"y" * size]


def test_five_mebibytes_both_ways_as_client(router: zmq.Socket[bytes], wire: Wire) -> None:
    wire.read_until(lambda: wire.connection.ready)
    body = bytes(range(256)) * (LARGE // 256)
    wire.send(body)
    identity, received = router.recv_multipart()
    assert received == body
    router.send_multipart([identity, body])
    assert wire.message() == body


def test_client_and_router_exchange_heartbeats(router: zmq.Socket[bytes], wire: Wire) -> None:
    wire.read_until(lambda: wire.connection.ready)
    wire.connection.ping(100, b"ours")
    wire.flush()
    wire.read_until(lambda: wire.connection.pongs == 1 and wire.connection.pings >= 3)
    assert not wire.closed
