"""ZMTP 3.1 (RFC 37) without I/O: bytes in, messages out, NULL mechanism, both roles.

``ZmtpConnection`` is one side of one connection. It is told what came (``receive``), and asked what to send
(``data_to_send``). Messages are one frame each and bounded; every refusal is a ``ZmtpError`` whose code is in
``errors.json``. What a peer can make it hold is bounded before it is held: the greeting by its 64 bytes, a command by
``limits.ZMTP_COMMAND_BYTES``, a frame by twice what the peer has really sent of it.

Commands after the handshake: PING and PONG are understood; **anything else is refused**, unknown names included. RFC 37
leaves that open. A peer of a later version must speak 3.1 to a 3.1 peer, so an unknown command is either a mistake or
an attack, and skipping it would hide both; SUBSCRIBE and CANCEL belong to PUB and SUB, which cannot attach.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Any, Final, Literal

from busproto.errors import Code, ProtocolError
from busproto.limits import FRAME_BYTES, ZMTP_COMMAND_BYTES, ZMTP_PING_CONTEXT_BYTES, ZMTP_PROPERTIES

__all__ = ["ZmtpConnection", "ZmtpError", "ZmtpStatistics", "frame_header"]

Role = Literal["server", "client"]
Stage = Literal["greeting", "ready", "open"]
Buffer = bytes | bytearray | memoryview

_MORE: Final = 1
_LONG: Final = 2
_COMMAND: Final = 4
_RESERVED: Final = 0xF8

_SHORT_HEADER: Final = 2
_SHORT_MAX: Final = 255
_LONG_HEADER: Final = 9
_LONG_FORM: Final = Struct(">BQ")
_parse_long: Final = _LONG_FORM.unpack_from
_SHORT_HEADERS: Final = tuple(bytes((0, size)) for size in range(256))

_GREETING_BYTES: Final = 64
_MECHANISM: Final = b"NULL".ljust(20, b"\0")
_MECHANISM_CHARS: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.+\0"
# The padding's last byte is 1, as libzmq sends it: RFC 37 gives it no meaning, ZMTP 1.0 peers read a length there.
_GREETING: Final = (b"\xff" + b"\0" * 7 + b"\x01\x7f" + b"\x03\x01" + _MECHANISM).ljust(_GREETING_BYTES, b"\0")

_NAME_CHARS: Final = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.+")
_IDENTITY_BYTES: Final = 255
_TTL_MAX: Final = 0xFFFF

_WHOLE_BYTES: Final = 64 * 1024
"""Incomplete frames up to this size are collected in one growing buffer; larger ones in chunks."""

_CHUNK_MIN: Final = 16 * 1024
_CHUNK_MAX: Final = 256 * 1024

_FAILED: Final = -1

_READY: Final = b"\x05READY"
_ERROR: Final = b"\x05ERROR"
_PING: Final = b"\x04PING"
_PONG: Final = b"\x04PONG"


class ZmtpError(ProtocolError):
    """The peer broke ZMTP, or said by an ERROR command that it will not talk to us. The connection is over.

    Attributes:
        frames: messages that came whole in the same bytes before the violation. What was fed in one piece and what was
            fed byte by byte is thereby the same: handle these, then end the session.
    """

    frames: Sequence[bytes] = ()


@dataclass(frozen=True, slots=True)
class ZmtpStatistics:
    """One connection's state."""

    stage: Stage
    """How far the connection is: greeting, ready (waiting for READY) or open."""
    peer_minor: int
    """Minor version in use: 1, or 0 for a peer of ZMTP 3.0."""
    pings: int
    """PING commands received; each was answered."""
    pongs: int
    """PONG commands received."""
    held_bytes: int
    """Memory held for a command or frame of which only a part has come."""


def frame_header(size: int) -> bytes:
    """What goes before a message of ``size`` bytes on the wire: 2 bytes, or 9 from 256 bytes on (RFC 37, Framing)."""
    return _SHORT_HEADERS[size] if size <= _SHORT_MAX else _LONG_FORM.pack(_LONG, size)


class ZmtpConnection:
    """One side of a ZMTP 3.1 connection: peers of 3.0 are accepted, older ones refused.

    Args:
        role: ``server`` answers the peer's READY with its own, ``client`` sends READY first (RFC 37, NULL).
        socket_type: what we say we are (``ROUTER``, ``DEALER``).
        peers: socket types that may talk to us.
        max_frame: bytes that one message may have, at least 255: short frames are not compared with it.

    Attributes:
        stage: ``greeting``, ``ready`` or ``open``.
        peer_minor: minor version in use (1, or 0 with a peer of ZMTP 3.0); known from stage ``ready`` on.
        peer_ttl_ds: the TTL of the peer's last PING in tenths of seconds: it asks to be given up when it is silent for
            that long; 0 if it did not ask.
        pings: PING commands received. Each was answered; the PONG is at most as long.
        pongs: PONG commands received.
        held_bytes: memory held for a command or frame of which only a part has come.
        unsent: what `data_to_send` would give; None when that is nothing.

    ``receive`` and ``buffer_updated`` raise ``ZmtpError``:

    ====  =============================================================================================================
    1001  greeting: not ZMTP, or older than 3.0; refused at the first wrong byte
    1002  mechanism other than NULL
    1003  command that is malformed, unknown, or not allowed in this stage
    1004  socket type not in ``peers``
    1005  frame larger than ``max_frame``, or command larger than ``limits.ZMTP_COMMAND_BYTES``
    1006  frame with the MORE flag
    1008  the peer sent ERROR
    1009  frame with reserved flag bits
    ====  =============================================================================================================

    After that the connection takes nothing more: each further call raises the same error.
    """

    __slots__ = (
        "_failure",
        "_handshake",
        "_large",
        "_max_frame",
        "_need",
        "_part",
        "held_bytes",
        "peer_minor",
        "peer_ttl_ds",
        "pings",
        "pongs",
        "stage",
        "unsent",
    )

    def __init__(self, role: Role, *, socket_type: str, peers: frozenset[str], max_frame: int = FRAME_BYTES) -> None:
        if max_frame < _SHORT_MAX:
            raise ValueError(f"max_frame of {max_frame} bytes is below {_SHORT_MAX}")
        self.stage: Stage = "greeting"
        self.peer_minor = 0
        self.peer_ttl_ds = 0
        self.pings = 0
        self.pongs = 0
        self.held_bytes = 0
        self._max_frame = max_frame
        # Given up when the handshake is complete: ten thousand idle connections hold no handshake state.
        self._handshake: tuple[Role, str, frozenset[str]] | None = (role, socket_type, peers)
        # The unit being received (greeting, command or frame): the bytes that have come, and how many must have come
        # for the next step. 0: between frames in stage open, the only state that the fast loop starts from.
        self._part: bytearray | None = bytearray()
        self._need = _GREETING_BYTES
        self._large: _LargeFrame | None = None
        self.unsent: bytearray | None = bytearray(_GREETING)
        self._failure: tuple[int, dict[str, Any]] | None = None

    @property
    def ready(self) -> bool:
        """Whether the handshake is complete, so that messages may be sent."""
        return self.stage == "open"

    def receive(self, data: Buffer) -> list[bytes]:
        """Take what came from the peer and return the messages that it completes.

        ``data`` may be reused after the call. A payload is copied once, except the parts of a frame that came in
        several calls: of a large one, read the rest into ``get_buffer``.
        """
        frames: list[bytes] = []
        position = 0
        try:
            if self._need:
                position = self._resume(data, 0, frames)
            if not isinstance(data, bytes):
                data, position = self._to_bytes(data, position, frames), 0
            end = len(data)
            last = end - 1
            # The path of every message: whole frames are taken here. Whatever else begins at `position` (a part of one,
            # a violation) goes to `_resume`, where each rule is written once.
            while position < last:
                if data[position] == 0:
                    start = position + 2
                    stop = start + data[position + 1]
                    if stop <= end:
                        frames.append(data[start:stop])
                        position = stop
                        continue
                elif data[position] == 2 and position + 9 <= end:
                    start = position + 9
                    stop = start + _parse_long(data, position)[1]
                    if stop <= end and stop - start <= self._max_frame:
                        frames.append(data[start:stop])
                        position = stop
                        continue
                elif data[position] == _COMMAND:
                    stop = position + 2 + data[position + 1]
                    if stop <= end:
                        self._command(data[position + 2 : stop])
                        position = stop
                        continue
                self._need = 1
                position = self._resume(data, position, frames)
            if position < end:
                self._need = 1
                self._resume(data, position, frames)
        except ZmtpError as error:
            self._fail(error)
            error.frames = frames
            raise
        return frames

    def get_buffer(self) -> memoryview | None:
        """In the middle of a large frame, memory to read more of it into; report with ``buffer_updated``.

        Else None: read anywhere and call ``receive``. The memory grows with what the peer has sent, never with what it
        has declared.
        """
        large = self._large
        if large is None:
            return None
        room = large.room()
        self.held_bytes = large.allocated
        return room

    def buffer_updated(self, count: int) -> list[bytes]:
        """``count`` bytes were read into the memory of ``get_buffer``: the message, if it is complete now.

        Raises:
            ValueError: more bytes than that memory has.
        """
        large = self._large
        if large is None or not 0 <= count <= large.room().nbytes:
            raise ValueError(f"{count} bytes reported that get_buffer() gave no room for")
        large.advance(count)
        if large.received < large.size:
            return []
        self._large = None
        self._need = self.held_bytes = 0
        return [large.join()]

    def data_to_send(self) -> bytes:
        """What is to be sent to the peer now (greeting, READY, PONG, PING, ERROR); each byte is given once.

        Ask after construction, after ``receive`` (also when it raised) and after ``ping``. One ``receive`` adds at
        most a READY and as many bytes of PONG as there were of PING.
        """
        out = self.unsent
        if out is None:
            return b""
        self.unsent = None
        return bytes(out)

    def ping(self, ttl_ds: int = 0, context: bytes = b"") -> None:
        """Queue a PING; a peer that lives answers and ``pongs`` counts it.

        Args:
            ttl_ds: tenths of seconds of silence after which the peer should give us up; 0 for no such wish.
            context: up to 16 bytes that the peer echoes.

        Raises:
            RuntimeError: the handshake is not complete, or the peer speaks ZMTP 3.0, which has no PING.
            ValueError: ``ttl_ds`` or ``context`` is out of bounds.
        """
        if self.stage != "open" or self._failure is not None:
            raise RuntimeError("PING needs an open connection")
        if self.peer_minor < 1:
            raise RuntimeError("the peer speaks ZMTP 3.0, which has no PING")
        if not 0 <= ttl_ds <= _TTL_MAX:
            raise ValueError(f"ttl of {ttl_ds} tenths of seconds is not between 0 and {_TTL_MAX}")
        if len(context) > ZMTP_PING_CONTEXT_BYTES:
            raise ValueError(f"context of {len(context)} bytes exceeds {ZMTP_PING_CONTEXT_BYTES}")
        self._send(_command(_PING, ttl_ds.to_bytes(2, "big") + context))

    def statistics(self) -> ZmtpStatistics:
        """The connection's state and counters."""
        return ZmtpStatistics(self.stage, self.peer_minor, self.pings, self.pongs, self.held_bytes)

    # -- bytes to units -----------------------------------------------------------------------------------------------

    def _to_bytes(self, data: bytearray | memoryview, position: int, frames: list[bytes]) -> bytes:
        """The rest of ``data`` as bytes, after whole long frames at its front, which are copied out directly."""
        view = memoryview(data)
        end = len(view)
        while position + _LONG_HEADER <= end and view[position] == _LONG:
            start = position + _LONG_HEADER
            stop = start + _parse_long(view, position)[1]
            if stop > end or stop - start > self._max_frame:
                break
            frames.append(view[start:stop].tobytes())
            position = stop
        return (view[position:] if position else view).tobytes()

    def _resume(self, data: Buffer, position: int, frames: list[bytes]) -> int:
        """Feed the unit in progress, and those after it until one ends in stage open; where the next one begins."""
        if self._failure is not None:
            raise ZmtpError(self._failure[0], **self._failure[1])
        view = memoryview(data)
        end = len(view)
        while self._need and position < end:
            if self._large is not None:
                room = self._large.room()
                stop = min(position + len(room), end)
                room[: stop - position] = view[position:stop]
                frames += self.buffer_updated(stop - position)
            else:
                if self._part is None:
                    self._part = bytearray()
                stop = min(position + self._need - len(self._part), end)
                self._part += view[position:stop]
                self._step(self._part, frames)
            position = stop
        if self._large is not None:
            self.held_bytes = self._large.allocated
        else:
            self.held_bytes = 0 if self._part is None else len(self._part)
        return position

    def _step(self, part: bytearray, frames: list[bytes]) -> None:
        """Bytes were added to ``part``: check them, and finish the unit or say in ``_need`` how many more it takes."""
        if self.stage == "greeting":
            _check_greeting(part)
            if len(part) == _GREETING_BYTES:
                self._greeted(part)
            return
        if len(part) < self._need:
            return
        flags = part[0]
        header = _LONG_HEADER if flags & _LONG else _SHORT_HEADER
        if self._need < header:
            self._check_flags(flags)
            self._need = header
            return
        if self._need == header:
            size = part[1] if header == _SHORT_HEADER else int.from_bytes(part[1:], "big")
            limit = ZMTP_COMMAND_BYTES if flags & _COMMAND else self._max_frame
            if size > limit:
                raise ZmtpError(Code.FRAME_TOO_LARGE, size=size, limit=limit)
            if size > _WHOLE_BYTES and not flags & _COMMAND:
                self._part = None
                self._large = _LargeFrame(size)
                return
            if size:
                self._need = header + size
                return
        body = bytes(memoryview(part)[header:])
        self._part = None
        if flags & _COMMAND:
            self._command(body)
        else:
            frames.append(body)
        self._need = 0 if self.stage == "open" else 1

    def _check_flags(self, flags: int) -> None:
        if flags & _RESERVED:
            raise ZmtpError(Code.ZMTP_FRAME, reason=f"flags 0x{flags:02x} have reserved bits set")
        if flags & _COMMAND:
            if flags & _MORE:
                raise ZmtpError(Code.ZMTP_COMMAND, reason="a command with the MORE flag")
        elif self.stage != "open":
            raise ZmtpError(Code.ZMTP_COMMAND, reason="a message before READY")
        elif flags & _MORE:
            raise ZmtpError(Code.MULTIPART_MESSAGE)

    # -- handshake ----------------------------------------------------------------------------------------------------

    def _greeted(self, greeting: bytearray) -> None:
        self.peer_minor = min(greeting[11], 1) if greeting[10] == 3 else 1
        self.stage = "ready"
        self._part = None
        self._need = 1
        if self._handshake is not None and self._handshake[0] == "client":
            self._send_ready(self._handshake[1])

    def _send_ready(self, socket_type: str) -> None:
        properties = _property("Socket-Type", socket_type.encode("ascii"))
        if socket_type == "DEALER":
            properties += _property("Identity", b"")
        self._send(_command(_READY, properties))

    def _accept_ready(self, data: bytes) -> None:
        assert self._handshake is not None
        role, socket_type, peers = self._handshake
        properties = _parse_properties(data)
        peer_type = properties.get("socket-type", b"(none)")
        if peer_type.decode("latin-1") not in peers:
            raise ZmtpError(Code.ZMTP_SOCKET_TYPE, type=_printable(peer_type))
        identity = properties.get("identity", b"")
        if len(identity) > _IDENTITY_BYTES or identity[:1] == b"\0":
            raise ZmtpError(
                Code.ZMTP_COMMAND,
                reason=f"Identity of {len(identity)} bytes is longer than {_IDENTITY_BYTES} or begins with a zero byte",
            )
        self.stage = "open"
        self._handshake = None
        if role == "server":
            self._send_ready(socket_type)

    # -- commands -----------------------------------------------------------------------------------------------------

    def _command(self, body: bytes) -> None:
        if self.stage == "open":
            if body.startswith(_PING):
                self._answer_ping(body[len(_PING) :])
                return
            if body.startswith(_PONG):
                if len(body) > len(_PONG) + ZMTP_PING_CONTEXT_BYTES:
                    raise ZmtpError(Code.ZMTP_COMMAND, reason=f"PONG with a context of {len(body) - len(_PONG)} bytes")
                self.pongs += 1
                return
        name_size = body[0] if body else 0
        name, data = body[1 : 1 + name_size], body[1 + name_size :]
        if not name or len(name) < name_size or not name.isalpha():
            raise ZmtpError(Code.ZMTP_COMMAND, reason="a command without a name of letters")
        if name == b"ERROR":
            raise ZmtpError(Code.ZMTP_REFUSED, reason=_parse_error(data))
        if self.stage != "ready" or name != b"READY":
            when = "before READY" if self.stage == "ready" else "after the handshake"
            raise ZmtpError(Code.ZMTP_COMMAND, reason=f"command {_printable(name)} {when}")
        self._accept_ready(data)

    def _answer_ping(self, data: bytes) -> None:
        # Peers of ZMTP 3.0 are answered too: libzmq 4.2 sent PING while its greeting still said 3.0.
        if not 2 <= len(data) <= 2 + ZMTP_PING_CONTEXT_BYTES:
            raise ZmtpError(Code.ZMTP_COMMAND, reason=f"PING of {len(data)} bytes; 2 to 18 are allowed")
        self.pings += 1
        self.peer_ttl_ds = data[0] << 8 | data[1]
        self._send(_command(_PONG, data[2:]))

    def _send(self, data: bytes) -> None:
        if self.unsent is None:
            self.unsent = bytearray(data)
        else:
            self.unsent += data

    def _fail(self, error: ZmtpError) -> None:
        """End the connection; tell the peer why if ZMTP lets us: in the handshake, instead of our READY (RFC 37)."""
        if self._failure is not None:
            return
        self._failure = (error.code, error.fields)
        if (
            self._handshake is not None
            and self._handshake[0] == "server"
            and self.stage == "ready"
            and error.code != Code.ZMTP_REFUSED
        ):
            reason = f"BUS-{error.code}:{error.name}".encode("ascii")  # VCHAR only: no blanks
            self._send(_command(_ERROR, bytes((len(reason),)) + reason))
        self._handshake = self._part = self._large = None
        self._need = _FAILED
        self.held_bytes = 0


class _LargeFrame:
    """A large frame of which a part has come, in chunks that grow with it and are joined once at the end."""

    __slots__ = ("_chunks", "_room", "allocated", "received", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.received = 0
        self.allocated = 0
        self._chunks: list[bytearray] = []
        self._room = memoryview(b"")

    def room(self) -> memoryview:
        """Memory for the next bytes; never empty while the frame is incomplete."""
        if not self._room:
            length = min(self.size - self.allocated, max(_CHUNK_MIN, min(self.allocated, _CHUNK_MAX)))
            chunk = bytearray(length)
            self._chunks.append(chunk)
            self.allocated += length
            self._room = memoryview(chunk)
        return self._room

    def advance(self, count: int) -> None:
        self.received += count
        self._room = self._room[count:]

    def join(self) -> bytes:
        return b"".join(self._chunks)


def _check_greeting(part: bytearray) -> None:
    """Refuse the beginning of a greeting at its first wrong byte; padding, minor version and filler may be anything."""
    length = len(part)
    if length and part[0] != 0xFF:
        raise _not_a_greeting(f"its first byte is 0x{part[0]:02x}, not 0xff (another protocol, or ZMTP 1.0)")
    if length > 9 and part[9] != 0x7F:
        raise _not_a_greeting(f"its signature ends in 0x{part[9]:02x}, not 0x7f")
    if length > 10 and part[10] < 3:
        raise _not_a_greeting(f"its version byte is {part[10]}, which is older than ZMTP 3.0")
    mechanism = part[12:32]
    strange = mechanism.translate(None, _MECHANISM_CHARS)
    if strange:
        raise _not_a_greeting(f"its security mechanism has a byte 0x{strange[0]:02x}")
    if length >= 32 and mechanism != _MECHANISM:
        name = bytes(mechanism.rstrip(b"\0")) or b"(none)"
        raise ZmtpError(Code.ZMTP_MECHANISM, mechanism=_printable(name))
    if length > 32 and part[32] > 1:
        raise _not_a_greeting(f"its as-server field is {part[32]}")


def _not_a_greeting(reason: str) -> ZmtpError:
    return ZmtpError(Code.ZMTP_GREETING, reason=reason)


def _command(name: bytes, data: bytes) -> bytes:
    """A command's frame; ``name`` has its length before it. Ours are all below 256 bytes."""
    return bytes((_COMMAND, len(name) + len(data))) + name + data


def _property(name: str, value: bytes) -> bytes:
    return bytes((len(name),)) + name.encode("ascii") + len(value).to_bytes(4, "big") + value


def _parse_properties(data: bytes) -> dict[str, bytes]:
    """READY's properties by lower-case name: names are letters, digits and ``-_.+``, each at most once."""
    properties: dict[str, bytes] = {}
    position = 0
    while position < len(data):
        value_at = position + 1 + data[position] + 4
        name = data[position + 1 : value_at - 4]
        if value_at > len(data):
            raise ZmtpError(Code.ZMTP_COMMAND, reason=f"READY ends within property {len(properties)}")
        if not name or not _NAME_CHARS.issuperset(name):
            raise ZmtpError(Code.ZMTP_COMMAND, reason=f"READY has a property named '{_printable(name)}'")
        position = value_at + int.from_bytes(data[value_at - 4 : value_at], "big")
        if position > len(data):
            raise ZmtpError(
                Code.ZMTP_COMMAND,
                reason=f"READY ends within the {position - value_at} bytes of property {_printable(name)}",
            )
        key = name.decode("ascii").lower()
        if key in properties:
            raise ZmtpError(Code.ZMTP_COMMAND, reason=f"READY has property {_printable(name)} twice")
        if len(properties) == ZMTP_PROPERTIES:
            raise ZmtpError(Code.ZMTP_COMMAND, reason=f"READY has more than {ZMTP_PROPERTIES} properties")
        properties[key] = data[value_at:position]
    return properties


def _parse_error(data: bytes) -> str:
    if not data or len(data) != 1 + data[0]:
        raise ZmtpError(Code.ZMTP_COMMAND, reason="ERROR whose reason has another length than it says")
    return _printable(data[1:], 255) or "no reason given"


def _printable(data: bytes, limit: int = 32) -> str:
    """``data`` for an error text: ASCII, everything else escaped, cut at ``limit`` bytes."""
    text = "".join(chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}" for byte in data[:limit])
    return text if len(data) <= limit else text + "..."
