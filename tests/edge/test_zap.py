"""The ZAP handler, asked as libzmq asks, and as libzmq would not."""

from collections.abc import Iterator

import pytest
import zmq

from busd.edge.curvesocket import check_libzmq
from busd.edge.zap import ADDRESS, ZapHandler, ZapProbe
from busproto.errors import BusError, Code
from busproto.z85 import decode_key
from tests.edge.curve_support import KeyPair

KNOWN = KeyPair()
TRAP = KeyPair()


def user_id_of(key: str) -> str | None:
    if key == TRAP.public:
        raise RuntimeError("a bug")
    return "dpu0/1" if key == KNOWN.public else None


@pytest.fixture
def context() -> Iterator["zmq.Context[zmq.Socket[bytes]]"]:
    with zmq.Context() as context:
        yield context


@pytest.fixture
def handler(context: "zmq.Context[zmq.Socket[bytes]]") -> Iterator[ZapHandler]:
    handler = ZapHandler(context, "busd", user_id_of)
    handler.start()
    yield handler
    handler.stop(5.0)
    assert not handler.is_alive


@pytest.fixture
def asker(context: "zmq.Context[zmq.Socket[bytes]]", handler: ZapHandler) -> Iterator["zmq.Socket[bytes]"]:
    with context.socket(zmq.DEALER) as asker:
        asker.setsockopt(zmq.LINGER, 0)
        asker.setsockopt(zmq.RCVTIMEO, 5000)
        asker.connect(ADDRESS)
        yield asker


def request(pair: KeyPair, **changes: bytes) -> list[bytes]:
    """What libzmq sends about ``pair``'s public key."""
    frames = {
        "version": b"1.0",
        "id": b"7",
        "domain": b"busd",
        "address": b"192.0.2.7",
        "identity": b"",
        "mechanism": b"CURVE",
        "key": decode_key(pair.public),
    }
    return [b"", *{**frames, **changes}.values()]


def test_an_enrolled_key_gets_its_user_id(asker: "zmq.Socket[bytes]", handler: ZapHandler) -> None:
    asker.send_multipart(request(KNOWN))
    assert asker.recv_multipart() == [b"", b"1.0", b"7", b"200", b"", b"dpu0/1", b""]
    assert (handler.statistics().requests, handler.statistics().denied) == (1, 0)


def test_everything_else_is_denied_and_the_next_is_answered(asker: "zmq.Socket[bytes]", handler: ZapHandler) -> None:
    stranger = KeyPair()
    malformed = [
        request(KNOWN, version=b"2.0"),
        request(KNOWN, domain=b"other"),
        request(KNOWN, mechanism=b"NULL"),
        request(KNOWN, mechanism=b"PLAIN"),
        request(KNOWN, key=b""),
        request(KNOWN, key=b"x" * 31),
        [*request(KNOWN), b"one more"],
        request(KNOWN)[:-1],
        [b""],
        [b"x" * 100_000],
        request(TRAP),
    ]
    for frames in [*malformed, request(stranger)]:
        asker.send_multipart(frames)
        reply = asker.recv_multipart()
        assert reply[3] == b"400", frames
        assert reply[5] == b""
    asker.send_multipart(request(KNOWN))
    assert asker.recv_multipart()[3] == b"200"
    figures = handler.statistics()
    assert (figures.malformed, figures.denied) == (len(malformed), 1)
    assert figures.last_denied == f"{stranger.public} from 192.0.2.7"


def test_the_probe_is_answered_while_the_handler_is_well(
    context: "zmq.Context[zmq.Socket[bytes]]", handler: ZapHandler
) -> None:
    probe = ZapProbe(context, "busd", patience=3)
    for _ in range(5):
        assert probe.is_answered()
        probe._socket.poll(1000)
    assert handler.statistics().requests == 0
    handler.stop(5.0)
    assert [probe.is_answered() for _ in range(6)].count(False) >= 2
    probe.close()


def test_the_probe_notices_a_handler_that_lets_everybody_in(context: "zmq.Context[zmq.Socket[bytes]]") -> None:
    with context.socket(zmq.ROUTER) as impostor:
        impostor.bind(ADDRESS)
        probe = ZapProbe(context, "busd", patience=3)
        assert probe.is_answered()
        peer, _, version, id, *_ = impostor.recv_multipart()
        impostor.send_multipart([peer, b"", version, id, b"200", b"", b"root", b""])
        probe._socket.poll(1000)
        assert not probe.is_answered()
        probe.close()


@pytest.mark.parametrize(
    ("version", "has_curve", "reason"),
    [((4, 3, 4), True, "libzmq is 4.3.4, and 4.3.5 is needed"), ((4, 3, 5), False, "built without it")],
)
def test_a_libzmq_that_will_not_do_is_refused(version: tuple[int, int, int], has_curve: bool, reason: str) -> None:
    with pytest.raises(BusError) as caught:
        check_libzmq(version, has_curve=has_curve)
    assert caught.value.code == Code.CURVE_UNAVAILABLE
    assert reason in caught.value.text
    check_libzmq((4, 3, 5), has_curve=True)
