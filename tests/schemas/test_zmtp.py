"""ZMTP 3.1 without I/O: every malformed field by name, both roles against each other, bounds, and the fast path."""

import random
import tracemalloc
from collections.abc import Callable
from itertools import repeat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from busproto.errors import BusError, Code
from busproto.limits import FRAME_BYTES, ZMTP_COMMAND_BYTES, ZMTP_PROPERTIES
from busproto.zmtp import ZmtpConnection, ZmtpError, frame_header
from tests.schemas.zmtp_support import (
    DEALERS,
    Feed,
    by_get_buffer,
    by_receive,
    by_reused_buffer,
    command,
    cut,
    error,
    feed,
    frame,
    greeting,
    message,
    new_client,
    new_server,
    open_server,
    ping,
    prop,
    ready,
)

DEALER = prop(b"Socket-Type", b"DEALER")
OPENING = greeting() + ready()
MAX_FRAME = 1 << 20

# -- one malformed field a row ----------------------------------------------------------------------------------------

GREETINGS = {
    "another protocol": (b"GET / HTTP/1.1\r\n\r\n", Code.ZMTP_GREETING, "0x47"),
    "ZMTP 1.0, anonymous": (b"\x01\x00", Code.ZMTP_GREETING, "0x01"),
    "signature's last byte": (greeting(tenth=0x7E), Code.ZMTP_GREETING, "0x7e"),
    "ZMTP 2.0": (greeting(major=1), Code.ZMTP_GREETING, "version byte is 1"),
    "major version 2": (greeting(major=2), Code.ZMTP_GREETING, "version byte is 2"),
    "byte that no mechanism's name has": (greeting(mechanism=b"NU\x07L"), Code.ZMTP_GREETING, "0x07"),
    "lower-case mechanism": (greeting(mechanism=b"null"), Code.ZMTP_GREETING, "0x6e"),
    "mechanism CURVE": (greeting(mechanism=b"CURVE"), Code.ZMTP_MECHANISM, "CURVE"),
    "mechanism without a name": (greeting(mechanism=b""), Code.ZMTP_MECHANISM, "(none)"),
    "mechanism that begins with NULL": (greeting(mechanism=b"NULLX"), Code.ZMTP_MECHANISM, "NULLX"),
    "mechanism of 20 letters": (greeting(mechanism=b"N" * 20), Code.ZMTP_MECHANISM, "N" * 20),
    "mechanism with a zero inside": (greeting(mechanism=b"NULL\0X"), Code.ZMTP_MECHANISM, "NULL\\x00X"),
    "as-server": (greeting(as_server=2), Code.ZMTP_GREETING, "as-server field is 2"),
}

IDENTITY = prop(b"Identity", b"")
HANDSHAKES = {
    "message before READY": (message(b"hi"), Code.ZMTP_COMMAND, "message before READY"),
    "multipart message before READY": (frame(1, b"hi"), Code.ZMTP_COMMAND, "message before READY"),
    "command with MORE": (frame(5, b"\x05READY"), Code.ZMTP_COMMAND, "MORE"),
    "reserved flag": (frame(0x0C, b"\x05READY"), Code.ZMTP_FRAME, "0x0c"),
    "long command above the bound": (
        b"\x06" + (ZMTP_COMMAND_BYTES + 1).to_bytes(8, "big"),
        Code.FRAME_TOO_LARGE,
        str(ZMTP_COMMAND_BYTES + 1),
    ),
    "long command of 2^64 - 1 bytes": (b"\x06" + b"\xff" * 8, Code.FRAME_TOO_LARGE, str(2**64 - 1)),
    "empty command": (frame(4, b""), Code.ZMTP_COMMAND, "name"),
    "command with an empty name": (frame(4, b"\0READY"), Code.ZMTP_COMMAND, "name"),
    "command shorter than its name": (frame(4, b"\x06READY"), Code.ZMTP_COMMAND, "name"),
    "command name with a digit": (command(b"READY2"), Code.ZMTP_COMMAND, "name"),
    "lower-case READY": (command(b"ready", DEALER), Code.ZMTP_COMMAND, "command ready before READY"),
    "unknown command": (command(b"HELLO"), Code.ZMTP_COMMAND, "command HELLO before READY"),
    "PING before READY": (ping(0, b""), Code.ZMTP_COMMAND, "command PING before READY"),
    "SUBSCRIBE before READY": (command(b"SUBSCRIBE", b"a"), Code.ZMTP_COMMAND, "command SUBSCRIBE before READY"),
    "property without a name": (ready(prop(b"", b"x")), Code.ZMTP_COMMAND, "named ''"),
    "property name with a blank": (ready(prop(b"a b", b"x")), Code.ZMTP_COMMAND, "named 'a b'"),
    "property name cut off": (command(b"READY", b"\x0bSocket"), Code.ZMTP_COMMAND, "ends within property 0"),
    "property size cut off": (command(b"READY", b"\x01a\0\0\0"), Code.ZMTP_COMMAND, "ends within property 0"),
    "property value cut off": (
        command(b"READY", DEALER + b"\x01a\0\0\0\x05abcd"),
        Code.ZMTP_COMMAND,
        "within the 5 bytes of property a",
    ),
    "property value of 2^32 - 1 bytes": (
        command(b"READY", b"\x01a\xff\xff\xff\xff"),
        Code.ZMTP_COMMAND,
        "within the 4294967295 bytes",
    ),
    "property twice": (ready(DEALER, prop(b"SOCKET-type", b"DEALER")), Code.ZMTP_COMMAND, "SOCKET-type twice"),
    "properties above the bound": (
        ready(DEALER, *(prop(b"X-%d" % index, b"") for index in range(ZMTP_PROPERTIES))),
        Code.ZMTP_COMMAND,
        f"more than {ZMTP_PROPERTIES}",
    ),
    "no socket type": (command(b"READY"), Code.ZMTP_SOCKET_TYPE, "(none)"),
    "empty socket type": (ready(prop(b"Socket-Type", b"")), Code.ZMTP_SOCKET_TYPE, "type  cannot"),
    "socket type SUB": (ready(prop(b"Socket-Type", b"SUB")), Code.ZMTP_SOCKET_TYPE, "SUB"),
    "socket type REQ": (ready(prop(b"Socket-Type", b"REQ"), IDENTITY), Code.ZMTP_SOCKET_TYPE, "REQ"),
    "socket type of junk": (ready(prop(b"Socket-Type", b"\xff" * 99)), Code.ZMTP_SOCKET_TYPE, "\\xff..."),
    "identity of 256 bytes": (ready(DEALER, prop(b"Identity", b"i" * 256)), Code.ZMTP_COMMAND, "Identity of 256"),
    "identity that begins with zero": (ready(DEALER, prop(b"Identity", b"\0a")), Code.ZMTP_COMMAND, "zero byte"),
    "ERROR": (error(b"no"), Code.ZMTP_REFUSED, "no"),
    "ERROR without a reason": (error(b""), Code.ZMTP_REFUSED, "no reason given"),
    "ERROR whose reason is binary": (error(b"\x00\x1b[2J\xff"), Code.ZMTP_REFUSED, "\\x00\\x1b[2J\\xff"),
    "ERROR without a length": (command(b"ERROR"), Code.ZMTP_COMMAND, "ERROR"),
    "ERROR that is cut off": (command(b"ERROR", b"\x05no"), Code.ZMTP_COMMAND, "ERROR"),
}

TRAFFIC = {
    "MORE": (frame(1, b"part"), Code.MULTIPART_MESSAGE, "MORE"),
    "MORE, long": (frame(3, b"part"), Code.MULTIPART_MESSAGE, "MORE"),
    "reserved flag 3": (frame(0x08, b""), Code.ZMTP_FRAME, "0x08"),
    "reserved flag 7": (frame(0x80, b""), Code.ZMTP_FRAME, "0x80"),
    "all flags": (b"\xff", Code.ZMTP_FRAME, "0xff"),
    "command with MORE": (frame(7, b"\x04PING\0\0"), Code.ZMTP_COMMAND, "MORE"),
    "frame above the bound": (b"\x02" + (MAX_FRAME + 1).to_bytes(8, "big"), Code.FRAME_TOO_LARGE, str(MAX_FRAME)),
    "frame of 2^63 bytes": (b"\x02" + (1 << 63).to_bytes(8, "big"), Code.FRAME_TOO_LARGE, str(1 << 63)),
    "command above the bound": (
        b"\x06" + (ZMTP_COMMAND_BYTES + 1).to_bytes(8, "big"),
        Code.FRAME_TOO_LARGE,
        str(ZMTP_COMMAND_BYTES),
    ),
    "PING without a TTL": (command(b"PING", b"\0"), Code.ZMTP_COMMAND, "PING of 1 bytes"),
    "PING with a context of 17 bytes": (ping(0, b"c" * 17), Code.ZMTP_COMMAND, "PING of 19 bytes"),
    "PONG with a context of 17 bytes": (command(b"PONG", b"c" * 17), Code.ZMTP_COMMAND, "context of 17"),
    "second READY": (ready(), Code.ZMTP_COMMAND, "command READY after the handshake"),
    "SUBSCRIBE": (command(b"SUBSCRIBE", b"a"), Code.ZMTP_COMMAND, "command SUBSCRIBE after"),
    "CANCEL": (command(b"CANCEL", b"a"), Code.ZMTP_COMMAND, "command CANCEL after"),
    "unknown command": (command(b"JOIN", b"a"), Code.ZMTP_COMMAND, "command JOIN after"),
    "lower-case ping": (command(b"ping", b"\0\0"), Code.ZMTP_COMMAND, "command ping after"),
    "ERROR": (error(b"tired"), Code.ZMTP_REFUSED, "tired"),
}


def refusal_of(connection: ZmtpConnection, data: bytes, step: int) -> ZmtpError:
    with pytest.raises(ZmtpError) as caught:
        for piece in cut(data, repeat(step)):
            connection.receive(piece)
    return caught.value


@pytest.mark.parametrize("step", [1, 1 << 16], ids=["byte by byte", "whole"])
@pytest.mark.parametrize(("data", "code", "text"), GREETINGS.values(), ids=GREETINGS)
@pytest.mark.parametrize("new", [new_server, new_client], ids=["server", "client"])
def test_greeting_is_refused(new: Callable[[], ZmtpConnection], data: bytes, code: Code, text: str, step: int) -> None:
    connection = new()
    assert connection.data_to_send() == greeting(padding=bytes(7) + b"\x01")
    refusal = refusal_of(connection, data, step)
    assert refusal.code == code
    assert text in refusal.text
    # ZMTP has no way to say why before both greetings are complete: the connection is closed.
    assert connection.data_to_send() == b""
    assert (connection.stage, connection.ready, connection.held_bytes) == ("greeting", False, 0)


@pytest.mark.parametrize("step", [1, 1 << 16], ids=["byte by byte", "whole"])
@pytest.mark.parametrize(("data", "code", "text"), HANDSHAKES.values(), ids=HANDSHAKES)
def test_handshake_is_refused(data: bytes, code: Code, text: str, step: int) -> None:
    server = new_server()
    server.data_to_send()
    refusal = refusal_of(server, greeting() + data, step)
    assert refusal.code == code
    assert text in refusal.text
    assert (server.stage, server.ready, server.held_bytes) == ("ready", False, 0)
    # A server tells why, by a command that comes where its READY would; nobody answers an ERROR.
    told = b"" if code == Code.ZMTP_REFUSED else error(f"BUS-{int(code)}:{refusal.name}".encode())
    assert server.data_to_send() == told


@pytest.mark.parametrize("step", [1, 1 << 16], ids=["byte by byte", "whole"])
@pytest.mark.parametrize(("data", "code", "text"), TRAFFIC.values(), ids=TRAFFIC)
def test_traffic_is_refused(data: bytes, code: Code, text: str, step: int) -> None:
    server = open_server(MAX_FRAME)
    refusal = refusal_of(server, data, step)
    assert refusal.code == code
    assert text in refusal.text
    assert server.data_to_send() == b""
    assert server.held_bytes == 0


@pytest.mark.parametrize("data", [data for data, _, _ in GREETINGS.values()], ids=GREETINGS)
def test_greeting_is_refused_at_the_first_wrong_byte(data: bytes) -> None:
    """No byte after the one that makes the greeting impossible is waited for."""
    whole = feed(new_server(), [data])
    for length in range(len(data)):
        if feed(new_server(), [data[: length + 1]]).code is not None:
            assert feed(new_server(), [data[: length + 1]]).code == whole.code
            break
    else:
        pytest.fail("never refused")
    # Up to there, a correct greeting could still have come: only the last byte fed is to blame (a mechanism's name is
    # judged when its field is complete, so that the refusal can name it).
    good = greeting()
    first_wrong = next(index for index in range(len(data)) if index not in range(1, 9) and data[index] != good[index])
    assert length == (31 if whole.code == Code.ZMTP_MECHANISM else first_wrong)


def test_client_refuses_a_router_it_did_not_ask_for_without_a_word() -> None:
    client = new_client()
    client.receive(greeting())
    client.data_to_send()
    refusal = refusal_of(client, ready(prop(b"Socket-Type", b"PUB")), 1 << 16)
    assert refusal.code == Code.ZMTP_SOCKET_TYPE
    # RFC 37: ERROR stands where READY would, and the client has sent its READY.
    assert client.data_to_send() == b""


def test_refusal_is_final() -> None:
    server = open_server()
    with pytest.raises(ZmtpError) as first:
        server.receive(b"\x01")
    for data in (b"", b"\x00\x01a", OPENING):
        if data:
            with pytest.raises(ZmtpError) as again:
                server.receive(data)
            assert (again.value.code, again.value.text) == (first.value.code, first.value.text)
            assert again.value.frames == []
    assert server.get_buffer() is None
    with pytest.raises(RuntimeError):
        server.ping()


def test_refusal_carries_the_messages_before_it() -> None:
    server = open_server()
    with pytest.raises(ZmtpError) as caught:
        server.receive(message(b"one") + message(b"two") + frame(1, b"three"))
    assert caught.value.frames == [b"one", b"two"]
    assert isinstance(caught.value, BusError)
    assert ZmtpError.from_body(caught.value.body()).frames == ()


# -- what must be accepted --------------------------------------------------------------------------------------------

ACCEPTED = {
    "as libzmq sends it": OPENING,
    "padding is anything": greeting(padding=b"\xa5" * 8) + ready(),
    "ZMTP 1.0's padding": greeting(padding=bytes(7) + b"\x01") + ready(),
    "filler is anything": greeting(filler=b"\x01" * 31) + ready(),
    "as-server": greeting(as_server=1) + ready(),
    "a later minor version": greeting(minor=9) + ready(),
    "a later major version": greeting(major=4, minor=0) + ready(),
    "only a socket type": greeting() + ready(DEALER),
    "names in another case": greeting() + ready(prop(b"socket-TYPE", b"DEALER")),
    "an identity of 255 bytes": greeting() + ready(DEALER, prop(b"Identity", b"i" * 255)),
    "properties of its own": greeting() + ready(DEALER, prop(b"X-Name", b"\0\xff"), prop(b"Resource", b"a/b")),
    "as many properties as allowed": greeting()
    + ready(DEALER, *(prop(b"X-%d" % index, b"") for index in range(ZMTP_PROPERTIES - 1))),
    "READY in the long form": greeting() + frame(6, b"\x05READY" + DEALER),
    "READY as large as allowed": greeting()
    + frame(6, b"\x05READY" + DEALER + prop(b"X-Fill", bytes(ZMTP_COMMAND_BYTES - 6 - len(DEALER) - 11))),
}


@pytest.mark.parametrize("step", [1, 7, 1 << 16])
@pytest.mark.parametrize("data", ACCEPTED.values(), ids=ACCEPTED)
def test_handshake_is_accepted(data: bytes, step: int) -> None:
    server = new_server()
    outcome = feed(server, cut(data + message(b"first"), repeat(step)))
    assert outcome.code is None
    assert outcome.frames == [b"first"]
    assert outcome.sent == greeting(padding=bytes(7) + b"\x01") + ready(prop(b"Socket-Type", b"ROUTER"))
    assert (server.stage, server.ready) == ("open", True)


def test_stages() -> None:
    server = new_server()
    assert (server.stage, server.ready, server.held_bytes) == ("greeting", False, 0)
    server.receive(greeting()[:63])
    assert (server.stage, server.held_bytes) == ("greeting", 63)
    server.receive(greeting()[63:])
    assert (server.stage, server.ready, server.held_bytes) == ("ready", False, 0)
    server.receive(ready()[:10])
    assert (server.stage, server.held_bytes) == ("ready", 10)
    server.receive(ready()[10:])
    assert (server.stage, server.ready, server.held_bytes) == ("open", True, 0)


def test_peer_of_zmtp_3_0_takes_part_without_heartbeats() -> None:
    server = open_server(minor=0)
    assert server.peer_minor == 0
    assert server.receive(message(b"hello")) == [b"hello"]
    with pytest.raises(RuntimeError, match=r"3\.0"):
        server.ping()
    # libzmq 4.2 sent PING while its greeting said 3.0.
    server.receive(ping(0, b"x"))
    assert server.data_to_send() == command(b"PONG", b"x")


@pytest.mark.parametrize(("major", "minor", "used"), [(3, 0, 0), (3, 1, 1), (3, 7, 1), (4, 0, 1), (255, 255, 1)])
def test_version_in_use(major: int, minor: int, used: int) -> None:
    server = new_server()
    server.receive(greeting(major=major, minor=minor))
    assert server.peer_minor == used


def test_client_sends_ready_after_the_greeting_and_server_answers_it() -> None:
    client, server = new_client(), new_server()
    opening = client.data_to_send()
    assert len(opening) == 64
    server.receive(opening)
    assert server.data_to_send() == greeting(padding=bytes(7) + b"\x01")
    client.receive(greeting())
    assert client.data_to_send() == ready()
    assert not client.ready
    server.receive(ready())
    assert server.ready
    client.receive(server.data_to_send())
    assert client.ready


def test_max_frame_must_cover_short_frames() -> None:
    with pytest.raises(ValueError, match="254"):
        ZmtpConnection("server", socket_type="ROUTER", peers=DEALERS, max_frame=254)


# -- heartbeats -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", [b"", b"c", b"\xff" * 16])
def test_ping_is_answered_with_its_context(context: bytes) -> None:
    server = open_server()
    assert server.receive(message(b"a") + ping(300, context) + message(b"b")) == [b"a", b"b"]
    assert server.data_to_send() == command(b"PONG", context)
    assert server.data_to_send() == b""
    assert (server.pings, server.peer_ttl_ds) == (1, 300)


def test_many_pings_are_answered_in_order() -> None:
    server = open_server()
    contexts = [index.to_bytes(4, "big") for index in range(5000)]
    server.receive(b"".join(ping(0, context) for context in contexts))
    assert server.data_to_send() == b"".join(command(b"PONG", context) for context in contexts)
    assert server.statistics().pings == 5000


def test_ping_and_pong_between_two_of_ours() -> None:
    client, server = open_pair()
    client.ping(65535, b"0123456789abcdef")
    sent = client.data_to_send()
    assert sent == ping(65535, b"0123456789abcdef")
    server.receive(sent)
    client.receive(server.data_to_send())
    assert (client.pongs, client.pings, server.pings, server.pongs) == (1, 0, 1, 0)
    assert server.peer_ttl_ds == 65535


@pytest.mark.parametrize(("ttl_ds", "context"), [(-1, b""), (65536, b""), (0, b"c" * 17)])
def test_ping_out_of_bounds(ttl_ds: int, context: bytes) -> None:
    server = open_server()
    with pytest.raises(ValueError):
        server.ping(ttl_ds, context)
    assert server.data_to_send() == b""


def test_ping_before_the_handshake() -> None:
    with pytest.raises(RuntimeError):
        new_client().ping()


# -- pairs over a fake wire -------------------------------------------------------------------------------------------


def open_pair(step: int = 1 << 20) -> tuple[ZmtpConnection, ZmtpConnection]:
    """A client and a server that have shaken hands over a wire that carries ``step`` bytes at a time."""
    client, server = new_client(), new_server()
    ends = [(client, server), (server, client)]
    for _ in range(3):
        for sender, receiver in ends:
            for piece in cut(sender.data_to_send(), repeat(step)):
                assert receiver.receive(piece) == []
    assert client.ready
    assert server.ready
    assert client.data_to_send() == server.data_to_send() == b""
    return client, server


BODIES = [b"", b"a", b"b" * 254, b"c" * 255, b"d" * 256, b"e" * 4096, b"f" * 65536, b"g" * 65537, b"h" * 140_000, b"i"]


@pytest.mark.parametrize("way", [by_receive, by_reused_buffer, by_get_buffer])
@pytest.mark.parametrize("step", [1, 2, 3, 9, 1000, 65536, 1 << 20])
def test_pair_exchanges_messages_of_every_size(step: int, way: Feed) -> None:
    ends = open_pair(step)
    wire = b"".join(frame_header(len(body)) + body for body in BODIES)
    receiver = ends[step % 2]
    outcome = feed(receiver, cut(wire, repeat(step)), way)
    assert outcome.code is None
    assert outcome.frames == BODIES
    assert all(type(body) is bytes for body in outcome.frames)
    assert receiver.held_bytes == 0


@pytest.mark.parametrize("seed", range(20))
def test_pair_with_pieces_of_any_size(seed: int) -> None:
    rng = random.Random(seed)
    bodies = [rng.randbytes(rng.choice((0, 1, 200, 255, 256, 5000, 70_000))) for _ in range(30)]
    wire = greeting() + ready()
    for body in bodies:
        wire += message(body)
        if rng.random() < 0.3:
            wire += ping(0, b"p")
    sizes = [rng.choice((1, 2, 9, 100, 70_000)) for _ in range(2000)]
    for way in (by_receive, by_reused_buffer, by_get_buffer):
        server = new_server()
        assert feed(server, cut(wire, sizes), way).frames == bodies
        assert server.held_bytes == 0


@settings(max_examples=100, deadline=None)
@given(
    bodies=st.lists(st.binary(max_size=600), max_size=12),
    sizes=st.lists(st.integers(1, 700), max_size=40),
    large=st.integers(65_000, 140_000),
)
def test_messages_do_not_depend_on_how_bytes_arrive(bodies: list[bytes], sizes: list[int], large: int) -> None:
    bodies = [*bodies, bytes(large)]
    wire = b"".join(message(body) for body in bodies)
    for way in (by_receive, by_reused_buffer, by_get_buffer):
        assert feed(open_server(), cut(wire, sizes), way).frames == bodies


def test_long_form_of_a_small_message_is_a_message() -> None:
    assert open_server().receive(frame(2, b"small") + frame(2, b"")) == [b"small", b""]


@pytest.mark.parametrize("size", [0, 1, 255, 256, 65535, FRAME_BYTES])
def test_frame_header(size: int) -> None:
    expected = bytes((0, size)) if size < 256 else b"\x02" + size.to_bytes(8, "big")
    assert frame_header(size) == expected


# -- bounds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 10, 1000])
def test_message_of_exactly_the_bound(step: int) -> None:
    body = bytes(1000)
    assert feed(open_server(1000), cut(message(body), repeat(step))).frames == [body]
    assert feed(open_server(999), cut(message(body), repeat(step))).code == Code.FRAME_TOO_LARGE


def test_declared_size_is_not_allocated() -> None:
    """A thousand peers that declare 16 MiB each and send one byte hold less than 20 KiB each."""
    servers = [open_server(FRAME_BYTES) for _ in range(1000)]
    tracemalloc.start()
    try:
        for server in servers:
            server.receive(b"\x02" + FRAME_BYTES.to_bytes(8, "big") + b"x")
            assert server.held_bytes <= 16 * 1024
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1000 * 20 * 1024


@pytest.mark.parametrize("way", [by_reused_buffer, by_get_buffer])
def test_held_memory_follows_what_was_sent(way: Feed) -> None:
    server = open_server(FRAME_BYTES)
    body = random.Random(1).randbytes(3 << 20)
    wire = message(body)
    pieces = list(cut(wire, repeat(50_000)))
    sent = 0
    frames: list[bytes] = []
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for piece in pieces:
            way(server, piece, frames)
            sent += len(piece)
            now, _ = tracemalloc.get_traced_memory()
            if sent < len(wire):
                assert sent - 9 <= server.held_bytes <= max(2 * sent, sent + 256 * 1024)
                assert now - before <= server.held_bytes + 8 * 1024
    finally:
        tracemalloc.stop()
    assert frames == [body]
    assert server.held_bytes == 0


def test_held_bytes_count_a_small_part_exactly() -> None:
    server = open_server()
    server.receive(message(b"x" * 5000)[:3000])
    assert server.held_bytes == 3000
    server.receive(message(b"x" * 5000)[3000:] + b"\x00\x05ab")
    assert server.held_bytes == 4
    server.receive(b"cde")
    assert server.held_bytes == 0


def test_idle_connection_is_small() -> None:
    """Ten thousand idle connections must not cost more than a few hundred bytes each here."""
    wires = [(greeting() + ready(), message(b"x" * 5000)) for _ in range(500)]
    tracemalloc.start()
    try:
        servers = []
        for opening, body in wires:
            server = new_server()
            server.receive(opening)
            server.data_to_send()
            server.receive(body[:100])
            server.receive(body[100:])
            servers.append(server)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held / len(servers) < 400


def test_get_buffer_is_for_large_frames_only() -> None:
    server = open_server()
    assert server.get_buffer() is None
    server.receive(message(bytes(65536))[:1000])
    assert server.get_buffer() is None
    server.receive(message(bytes(65536))[1000:])
    server.receive(message(bytes(65537))[:1000])
    room = server.get_buffer()
    assert room is not None
    assert not room.readonly
    server.receive(bytes(65537 - 991))  # read elsewhere all the same: it is taken
    assert server.get_buffer() is None


@pytest.mark.parametrize("count", [-1, 1 << 24])
def test_buffer_updated_beyond_the_buffer(count: int) -> None:
    server = open_server()
    with pytest.raises(ValueError):
        server.buffer_updated(1)
    server.receive(message(bytes(70_000))[:100])
    assert server.get_buffer() is not None
    with pytest.raises(ValueError):
        server.buffer_updated(count)


def test_statistics() -> None:
    server = open_server()
    server.receive(ping(0, b"") + command(b"PONG") + b"\x00")
    figures = server.statistics()
    assert (figures.stage, figures.peer_minor, figures.pings, figures.pongs) == ("open", 1, 1, 1)
    assert figures.held_bytes == 1
