"""ZMTP 3.1 (RFC 37) as a broker (ROUTER) and a client (DEALER) meet it: handshakes, commands, messages, and breakage."""
# ruff: noqa: E501 - one case a line

from typing import Final

from vectors.case import Json, written

GREETING: Final = 1001
MECHANISM: Final = 1002
COMMAND: Final = 1003
SOCKET_TYPE: Final = 1004
TOO_LARGE: Final = 1005
MULTIPART: Final = 1006
REFUSED: Final = 1008
FRAME: Final = 1009

FRAME_LIMIT: Final = 16 * 1024 * 1024 + 64 * 1024


def greeting(
    minor: int = 1, *, major: int = 3, mechanism: bytes = b"NULL", signature: bytes = b"\xff" + bytes(8) + b"\x7f",
    server: int = 0, filler: bytes = bytes(31),
) -> bytes:  # fmt: skip
    """64 bytes: signature 10, version 2, mechanism 20 (NUL-padded), as-server 1, filler 31."""
    return signature + bytes([major, minor]) + mechanism.ljust(20, b"\x00") + bytes([server]) + filler


def frame(body: bytes, flags: int = 0) -> bytes:
    """A frame: flags (1 MORE, 2 LONG, 4 COMMAND), length in 1 byte or 8, body. LONG is set when the length asks for it."""
    if len(body) > 255:
        flags |= 2
    return bytes([flags]) + len(body).to_bytes(8 if flags & 2 else 1, "big") + body


def command(name: bytes, body: bytes = b"", flags: int = 4) -> bytes:
    """A command frame: length of the name, name, what belongs to it."""
    return frame(bytes([len(name)]) + name + body, flags)


def prop(name: bytes, value: bytes) -> bytes:
    """A property of READY: name with a 1-byte length, value with a 4-byte length."""
    return bytes([len(name)]) + name + len(value).to_bytes(4, "big") + value


def ready(socket_type: bytes = b"DEALER", *more: tuple[bytes, bytes]) -> bytes:
    """READY, which names the socket type."""
    return command(b"READY", prop(b"Socket-Type", socket_type) + b"".join(prop(*entry) for entry in more))


OPEN: Final = greeting() + ready(b"DEALER", (b"Identity", b""))
OPEN_30: Final = greeting(0) + ready(b"DEALER", (b"Identity", b""))


def document() -> Json:
    """zmtp.json."""
    return {
        "about": "What one side of a ZMTP connection reads. role: the reader, server (a ROUTER that takes DEALER) or client (a DEALER "
        "that takes ROUTER). messages: what it hands up. replies: what it sends on its own after its greeting and READY. open: whether the "
        "handshake is complete at the end. error: the code it ends the connection with. Every case holds for "
        "any division of the bytes into reads; messages before an offending byte are handed up.",
        "cases": [*_handshakes(), *_bad_handshakes(), *_traffic(), *_bad_traffic()],
    }


def _case(
    name: str, data: bytes, why: str, *, role: str = "server", messages: tuple[bytes, ...] = (), replies: bytes = b"",
    error: int | None = None, is_open: bool = True,
) -> Json:  # fmt: skip
    return {
        "name": name, "role": role, **written(data), "valid": error is None, "open": is_open and error is None, "error": error,
        "messages": [written(message) for message in messages], "replies": replies.hex(), "why": why,
    }  # fmt: skip


def _handshakes() -> list[Json]:
    libzmq = b"\xff" + bytes(7) + b"\x01\x7f"
    anonymous = greeting() + ready()
    return [
        _case("handshake-3.1", OPEN, "greeting and READY of a DEALER"),
        _case("handshake-3.0", OPEN_30, "3.0 peers are accepted"),
        _case("handshake-libzmq", greeting(signature=libzmq) + ready(b"DEALER", (b"Identity", b"")),
              "libzmq's signature: the 8 bytes between FF and 7F are padding"),
        _case("handshake-no-identity", anonymous, "Identity is optional"),
        _case("handshake-identity", greeting() + ready(b"DEALER", (b"Identity", b"me")), "an identity is read and not used"),
        _case("handshake-unknown-property", greeting() + ready(b"DEALER", (b"X-Shoe-Size", b"43")), "unknown properties are ignored"),
        _case("handshake-property-case", greeting() + command(b"READY", prop(b"socket-type", b"DEALER")),
              "names of properties are case-insensitive"),
        _case("handshake-minor-9", greeting(9) + ready(), "a newer minor version is read as 3.1"),
        _case("handshake-long-ready", greeting() + command(b"READY", prop(b"Socket-Type", b"DEALER"), flags=6),
              "a short command may come as a long frame"),
        _case("handshake-client", greeting() + ready(b"ROUTER"), "what a client reads from the broker", role="client"),
        _case("handshake-greeting-only", greeting(), "not wrong, and not complete", is_open=False),
        _case("handshake-half-greeting", greeting()[:33], "not wrong, and not complete", is_open=False),
    ]  # fmt: skip


def _bad_handshakes() -> list[Json]:
    def bad(name: str, data: bytes, error: int, why: str, role: str = "server") -> Json:
        return _case(name, data, why, error=error, role=role)

    return [
        bad("http-request", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", GREETING, "another protocol"),
        bad("tls-client-hello", bytes.fromhex("16030100c8010000c40303"), GREETING, "another protocol"),
        bad("signature-start", greeting(signature=b"\xfe" + bytes(8) + b"\x7f"), GREETING, "the first byte must be FF"),
        bad("signature-end", greeting(signature=b"\xff" + bytes(8) + b"\x7e"), GREETING, "the tenth byte must be 7F"),
        bad("zmtp-1.0", b"\x01\x00", GREETING, "ZMTP 1.0: an anonymous identity frame and no signature"),
        bad("zmtp-2.0", b"\xff" + bytes(8) + b"\x7f\x01\x05\x00\x00", GREETING, "ZMTP 2.0: revision 1"),
        bad("zmtp-2.1", greeting(1, major=2), GREETING, "major version 2"),
        bad("mechanism-plain", greeting(mechanism=b"PLAIN"), MECHANISM, "NULL is the only mechanism on local streams"),
        bad("mechanism-curve", greeting(mechanism=b"CURVE"), MECHANISM, "NULL is the only mechanism on local streams"),
        bad("mechanism-empty", greeting(mechanism=b""), MECHANISM, "no mechanism is none"),
        bad("mechanism-null-lower", greeting(mechanism=b"null"), GREETING, "names of mechanisms are upper case"),
        bad("message-before-ready", greeting() + frame(b"\x92\x0b\x01"), COMMAND, "READY comes first"),
        bad("ping-before-ready", greeting() + command(b"PING", b"\x00\x00"), COMMAND, "READY comes first"),
        bad("ready-no-socket-type", greeting() + command(b"READY", prop(b"Identity", b"")), SOCKET_TYPE, "Socket-Type is required"),
        bad("ready-empty-frame", greeting() + frame(b"", 4), COMMAND, "a command has a name"),
        bad("ready-name-overruns", greeting() + frame(b"\x09READY", 4), COMMAND, "the name is longer than the frame"),
        bad("ready-value-overruns", greeting() + command(b"READY", b"\x0bSocket-Type\xff\xff\xff\xffDEALER"), COMMAND,
            "the value is longer than the frame"),
        bad("ready-property-name-overruns", greeting() + command(b"READY", b"\xffSocket"), COMMAND, "the name is longer than the frame"),
        bad("ready-property-name-empty", greeting() + ready(b"DEALER", (b"", b"x")), COMMAND, "a property has a name"),
        bad("ready-17-properties", greeting() + ready(b"DEALER", *((b"x%d" % n, b"") for n in range(16))), COMMAND,
            "at most 16 properties"),
        bad("ready-too-large", greeting() + ready(b"DEALER", (b"X-Pad", bytes(4096))), TOO_LARGE, "a handshake command has at most 4096 bytes"),
        bad("ready-declares-2^63", greeting() + b"\x06" + (2**63).to_bytes(8, "big"), TOO_LARGE, "refused before it is read"),
        bad("ready-with-more", greeting() + command(b"READY", prop(b"Socket-Type", b"DEALER"), flags=5), COMMAND, "commands have no MORE"),
        bad("ready-other-command", greeting() + command(b"HELLO", bytes(64)), COMMAND, "HELLO belongs to PLAIN and CURVE"),
        bad("peer-sends-error", greeting() + command(b"ERROR", b"\x04nope"), REFUSED, "the peer refuses us: the connection ends"),
        bad("ready-property-twice", greeting() + ready(b"DEALER", (b"socket-type", b"DEALER")), COMMAND, "each property once"),
        bad("ready-identity-256", greeting() + ready(b"DEALER", (b"Identity", b"i" * 256)), COMMAND, "an identity has at most 255 bytes"),
        bad("greeting-as-server-2", greeting(server=2), GREETING, "as-server is 0 or 1"),
        bad("socket-type-req", greeting() + ready(b"REQ"), SOCKET_TYPE, "a REQ cannot do what the protocol asks for"),
        bad("socket-type-router", greeting() + ready(b"ROUTER"), SOCKET_TYPE, "both sides are ROUTER"),
        bad("socket-type-sub", greeting() + ready(b"SUB"), SOCKET_TYPE, "subscriptions are envelopes here"),
        bad("socket-type-nonsense", greeting() + ready(b"\xff\x00"), SOCKET_TYPE, "not a socket type"),
        bad("client-meets-pub", greeting() + ready(b"PUB"), SOCKET_TYPE, "a client talks to a ROUTER", role="client"),
    ]  # fmt: skip


def _traffic() -> list[Json]:
    one = b"\x92\x0b\x01"
    two = b"\x92\x0b\x02"
    ping = command(b"PING", b"\x00\x0ahello")
    pong = command(b"PONG", b"hello")
    return [
        _case("message", OPEN + frame(one), "one message", messages=(one,)),
        _case("message-empty", OPEN + frame(b""), "an empty message is legal ZMTP", messages=(b"",)),
        _case("message-255", OPEN + frame(b"a" * 255), "the longest short frame", messages=(b"a" * 255,)),
        _case("message-256", OPEN + frame(b"a" * 256), "the shortest frame that must be long", messages=(b"a" * 256,)),
        _case("message-long-form", OPEN + frame(one, 2), "a short message may come as a long frame", messages=(one,)),
        _case("message-100000", OPEN + frame(b"z" * 100_000), "a long frame", messages=(b"z" * 100_000,)),
        _case("messages-several", OPEN + frame(one) + frame(two) + frame(one), "several in one read", messages=(one, two, one)),
        _case("message-3.0", OPEN_30 + frame(one), "a message from a 3.0 peer", messages=(one,)),
        _case("message-half", OPEN + frame(one) + frame(two)[:3], "the rest has not come", messages=(one,)),
        _case("ping", OPEN + ping, "answered with PONG and the same context", replies=pong),
        _case("ping-no-context", OPEN + command(b"PING", b"\x00\x00"), "the context may be empty", replies=command(b"PONG")),
        _case("ping-context-16", OPEN + command(b"PING", b"\xff\xff" + b"c" * 16), "the longest context", replies=command(b"PONG", b"c" * 16)),
        _case("ping-between", OPEN + frame(one) + ping + frame(two), "commands stand between messages", messages=(one, two), replies=pong),
        _case("ping-client", greeting() + ready(b"ROUTER") + ping, "a client answers too", role="client", replies=pong),
        _case("pong-unasked", OPEN + pong, "a PONG nobody waits for does no harm"),
    ]  # fmt: skip


def _bad_traffic() -> list[Json]:
    one = b"\x92\x0b\x01"

    def bad(name: str, data: bytes, error: int, why: str) -> Json:
        return _case(name, OPEN + frame(one) + data, why, messages=(one,), error=error)

    return [
        bad("frame-more", frame(b"a", 1), MULTIPART, "one frame per message"),
        bad("frame-more-long", frame(b"a" * 300, 1), MULTIPART, "one frame per message"),
        bad("frame-more-empty", frame(b"", 1), MULTIPART, "one frame per message"),
        bad("frame-over-limit", b"\x02" + (FRAME_LIMIT + 1).to_bytes(8, "big"), TOO_LARGE, "refused at its header"),
        bad("frame-2^63", b"\x02" + (2**63).to_bytes(8, "big"), TOO_LARGE, "refused at its header"),
        bad("frame-2^64-1", b"\x02" + b"\xff" * 8, TOO_LARGE, "refused at its header"),
        bad("flags-reserved", b"\x08\x01a", FRAME, "bits 3 to 7 are zero"),
        bad("flags-all", b"\xff" + b"\x01" * 16, FRAME, "bits 3 to 7 are zero"),
        bad("command-with-more", command(b"PING", b"\x00\x00", flags=5), COMMAND, "commands have no MORE"),
        bad("command-empty", frame(b"", 4), COMMAND, "a command has a name"),
        bad("command-name-empty", frame(b"\x00", 4), COMMAND, "a command has a name"),
        bad("command-name-overruns", frame(b"\x05PING", 4), COMMAND, "the name is longer than the frame"),
        bad("command-too-large", command(b"PING", bytes(5000)), TOO_LARGE, "a command has at most 4096 bytes"),
        bad("command-declares-2^63", b"\x06" + (2**63).to_bytes(8, "big"), TOO_LARGE, "refused before it is read"),
        bad("ping-no-ttl", command(b"PING"), COMMAND, "PING has a TTL of two bytes"),
        bad("ping-half-ttl", command(b"PING", b"\x00"), COMMAND, "PING has a TTL of two bytes"),
        bad("ping-context-17", command(b"PING", b"\x00\x00" + b"c" * 17), COMMAND, "a context has at most 16 bytes"),
        bad("pong-context-17", command(b"PONG", b"c" * 17), COMMAND, "a context has at most 16 bytes"),
        bad("ready-twice", ready(), COMMAND, "READY belongs to the handshake"),
        bad("subscribe-command", command(b"SUBSCRIBE", b"a"), COMMAND, "subscriptions are envelopes here"),
        bad("error-command", command(b"ERROR", b"\x04nope"), REFUSED, "the peer gives up"),
    ]  # fmt: skip
