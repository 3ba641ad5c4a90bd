"""Sessions on a serial line without I/O: records framed by SLIP (RFC 1055), numbered and checked, that carry ZMTP.

A virtio-serial port or a UART is one endless pair of byte streams: it has no connect and no close, bytes stay in its
buffers when a program at either end is replaced, and a real line loses some. `SerialLine` is one end of such a line: it
is told what came (`receive`) and encodes what is to be sent. A record is

    C0   kind   body   CRC-32   C0          (between the C0: C0 is sent as DB DC, DB as DB DD)

====  =======  ===================================  ===================================================================
kind  sent by  body                                 meaning
====  =======  ===================================  ===================================================================
S     client   token: 8 random bytes                begin a session, whatever came before
A     broker   the token of that S                  the session stands
D     both     number (32-bit, big-endian), data    the next piece of the ZMTP stream, at most 4 KiB
R     both     reason: text of at most 64 bytes     the session is lost
E     both     nothing                              the session is over, as planned
====  =======  ===================================  ===================================================================

The CRC-32 (zlib's, big-endian) is taken over a prefix that is not sent, then kind and body. The prefix is the sender's
letter, ``c`` (client) or ``b`` (broker), and for D also the token. So a line that echoes does not answer itself, and
what an old session left in a buffer cannot be taken for data of a new one. D records count from 0 in each direction of
each session and wrap at 2^32.

**Damage never raises.** A client ignores everything until the A with the token of its last S: that synchronises both
ends, as the sentinel of QEMU's guest agent does (guest-sync-delimited). Then whatever does not fit (a wrong CRC, a
number out of order, a record too long) ends the session with a ``reset`` event; between sessions it is skipped. Data
is therefore delivered whole and in order, or not at all. What CRC and numbers cannot show is the loss of the last
records before a silence: that is for time limits above.
"""

from dataclasses import dataclass
from struct import Struct
from typing import Final, Literal, NamedTuple
from zlib import crc32

from busproto.limits import SERIAL_PIECE_BYTES, SERIAL_REASON_BYTES, SERIAL_TOKEN_BYTES

__all__ = ["Event", "SerialLine", "SerialStatistics"]

Role = Literal["broker", "client"]
EventKind = Literal["start", "accepted", "data", "reset", "end"]
Buffer = bytes | bytearray | memoryview

_END: Final = b"\xc0"
_ESCAPE: Final = b"\xdb"
_ESCAPED_END: Final = b"\xdb\xdc"
_ESCAPED_ESCAPE: Final = b"\xdb\xdd"

_START: Final = ord("S")
_ACCEPT: Final = ord("A")
_DATA: Final = ord("D")
_RESET: Final = ord("R")
_FINISH: Final = ord("E")

_CHECK: Final = Struct(">I")
_check_at: Final = _CHECK.unpack_from
_DATA_HEAD: Final = Struct(">BI")
_CHECK_BYTES: Final = 4
_RECORD_MIN: Final = 1 + _CHECK_BYTES
_RECORD_MAX: Final = _DATA_HEAD.size + SERIAL_PIECE_BYTES + _CHECK_BYTES
_LINE_MAX: Final = 2 * _RECORD_MAX
"""A record of nothing but escapes."""

_NUMBERS: Final = 1 << 32


class Event(NamedTuple):
    """What a line brought."""

    kind: EventKind
    """``start`` (at the broker) and ``accepted`` (at the client): a session begins; one that stood before is over.
    ``data``: of the session. ``reset``: the session is lost. ``end``: the other side ended it."""
    body: bytes
    """The token, the data, the reason, or nothing."""


@dataclass(frozen=True, slots=True)
class SerialStatistics:
    """One end's counters since it was made."""

    sessions: int
    """Sessions that began: starts received (broker) or acceptances received (client)."""
    records: int
    """Whole and correct records received."""
    damaged: int
    """Records skipped or refused because of their CRC, their form or their length."""
    resets: int
    """Sessions that were lost."""
    held_bytes: int
    """Memory held for a record of which only a part has come."""


class SerialLine:
    """One end of a serial line.

    Args:
        role: ``broker`` answers starts, ``client`` sends them.

    The broker answers a ``start`` event with `accept`; until then what it sends still belongs to the session before.
    Both sides drop their session at a ``reset`` or ``end`` event, and data that comes while there is none is to be
    ignored. The broker answers ``reset`` by sending `reset` too, also when it has no session: a client that still sends
    data to one that is gone learns it so. One `receive` gives at most one event that is not ``data`` between two that
    are, and an R that finds no session does nothing, so nothing is answered for ever.

    What a peer can make it hold is one record's longest form, about 8 KiB.
    """

    __slots__ = (
        "_damaged",
        "_discarding",
        "_held",
        "_peer_letter",
        "_peer_seed",
        "_receive_number",
        "_receive_seed",
        "_receive_token",
        "_records",
        "_resets",
        "_role",
        "_seed",
        "_send_number",
        "_send_seed",
        "_send_token",
        "_sessions",
        "_token",
    )

    def __init__(self, role: Role) -> None:
        own, self._peer_letter = (b"b", b"c") if role == "broker" else (b"c", b"b")
        self._role = role
        self._seed = crc32(own)
        self._peer_seed = crc32(self._peer_letter)
        self._token: bytes | None = None  # of the last S sent, until its session ends: at the client only
        # Sessions in each direction: the CRC's seed, None while there is none, and the next number.
        self._receive_seed: int | None = None
        self._receive_number = 0
        self._send_seed: int | None = None
        self._send_number = 0
        self._receive_token = self._send_token = b""
        self._held = b""
        self._discarding = False
        self._sessions = self._records = self._damaged = self._resets = 0

    @property
    def open(self) -> bool:
        """Whether data may be sent."""
        return self._send_seed is not None

    def statistics(self) -> SerialStatistics:
        """Counters, and what is held."""
        return SerialStatistics(self._sessions, self._records, self._damaged, self._resets, len(self._held))

    # -- sending ------------------------------------------------------------------------------------------------------

    def start(self, token: bytes) -> bytes:
        """The client begins a session; only an A with this token is heard from now on.

        Args:
            token: 8 bytes, random, new for each start: what an earlier one was answered is then known as such.
        """
        _check_token(token)
        self._token = token
        self._receive_seed = self._send_seed = None
        return self._record(_START, token)

    def accept(self, token: bytes) -> bytes:
        """The broker takes the session of a ``start`` event; data may follow."""
        _check_token(token)
        self._send_seed = crc32(token, self._seed)
        self._send_number = 0
        self._send_token = token
        return self._record(_ACCEPT, token)

    def data(self, payload: Buffer) -> bytes:
        """The next part of the stream, any size, as records.

        Raises:
            RuntimeError: no session stands: see `open`.
        """
        seed, number = self._send_seed, self._send_number
        if seed is None:
            raise RuntimeError("data needs a session")
        out = []
        for position in range(0, len(payload), SERIAL_PIECE_BYTES):
            record = _DATA_HEAD.pack(_DATA, number) + bytes(payload[position : position + SERIAL_PIECE_BYTES])
            out.append(_framed(record, seed))
            number = (number + 1) % _NUMBERS
        self._send_number = number
        return b"".join(out)

    def reset(self, reason: bytes) -> bytes:
        """The session is lost, for ``reason``; what is longer than 64 bytes is cut."""
        self._forget()
        return self._record(_RESET, reason[:SERIAL_REASON_BYTES])

    def end(self) -> bytes:
        """The session is over."""
        self._forget()
        return self._record(_FINISH, b"")

    def _record(self, kind: int, body: bytes) -> bytes:
        return _framed(bytes((kind,)) + body, self._seed)

    def _forget(self) -> None:
        # A start that came in the same bytes, and was not answered yet, is not what the caller speaks of.
        if self._send_seed is None or self._receive_token == self._send_token:
            self._receive_seed = None
        self._send_seed = self._token = None

    # -- receiving ----------------------------------------------------------------------------------------------------

    def receive(self, data: Buffer) -> list[Event]:
        """Take what came, whatever it is, and say what it meant. Never raises."""
        lines = (self._held + data).split(_END) if self._held else bytes(data).split(_END)
        rest = lines.pop()
        events: list[Event] = []
        if self._discarding and lines:
            self._discarding = False
            del lines[0]
        for line in lines:
            if line:
                self._line(line, events)
        if self._discarding:
            rest = b""
        elif len(rest) > _LINE_MAX:
            self._discarding = True
            rest = b""
            self._damage(b"a record is too long", events)
        self._held = rest
        return events

    def _line(self, line: bytes, events: list[Event]) -> None:
        if _ESCAPE in line:
            line = line.replace(_ESCAPED_END, _END).replace(_ESCAPED_ESCAPE, _ESCAPE)
        size = len(line)
        if not _RECORD_MIN <= size <= _RECORD_MAX:
            self._damage(b"a record is too long" if size > _RECORD_MAX else b"a record is too short", events)
            return
        kind = line[0]
        if kind == _DATA:
            self._data(line, events)
            return
        stop = size - _CHECK_BYTES
        if crc32(line[:stop], self._peer_seed) != _check_at(line, stop)[0]:
            self._damage(b"a record is damaged", events)
            return
        self._records += 1
        body = line[1:stop]
        if kind == _START and self._role == "broker" and len(body) == SERIAL_TOKEN_BYTES:
            self._began(Event("start", body), events)
        elif kind == _ACCEPT and self._role == "client" and len(body) == SERIAL_TOKEN_BYTES:
            # A second one with our token answers a copy of our S: if the broker began anew, numbers will tell.
            if body == self._token and self._receive_seed is None:
                self._send_seed = crc32(body, self._seed)
                self._send_number = 0
                self._send_token = body
                self._began(Event("accepted", body), events)
        elif kind == _RESET and len(body) <= SERIAL_REASON_BYTES:
            self._lost(body, events)
        elif kind == _FINISH and not body:
            if self._receive_seed is not None:
                self._receive_seed = self._token = None
                _supersede(Event("end", b""), events)
        else:
            self._damage(b"a record is not understood", events)

    def _data(self, line: bytes, events: list[Event]) -> None:
        seed = self._receive_seed
        stop = len(line) - _CHECK_BYTES
        if seed is None:
            # Data for a session that is gone, most likely because this program was replaced: its client must be told.
            if self._role == "broker" and stop >= _DATA_HEAD.size and (not events or events[-1].kind == "data"):
                events.append(Event("reset", b"no session"))
        elif stop < _DATA_HEAD.size or crc32(memoryview(line)[:stop], seed) != _check_at(line, stop)[0]:
            self._damage(b"a record is damaged", events)
        elif _DATA_HEAD.unpack_from(line)[1] != self._receive_number:
            self._records += 1
            self._lost(b"records were lost", events)
        else:
            self._records += 1
            self._receive_number = (self._receive_number + 1) % _NUMBERS
            events.append(Event("data", line[_DATA_HEAD.size : stop]))

    def _began(self, event: Event, events: list[Event]) -> None:
        self._sessions += 1
        self._receive_seed = crc32(event.body, self._peer_seed)
        self._receive_number = 0
        self._receive_token = event.body
        _supersede(event, events)

    def _damage(self, reason: bytes, events: list[Event]) -> None:
        self._damaged += 1
        self._lost(reason, events)

    def _lost(self, reason: bytes, events: list[Event]) -> None:
        if self._receive_seed is not None:
            self._receive_seed = self._token = None
            self._resets += 1
            _supersede(Event("reset", reason), events)


def _supersede(event: Event, events: list[Event]) -> None:
    """Add ``event`` in place of those before it that no data separates: only the last of them says how the line stands.

    A client whose starts piled up while the broker was away is so answered once, and one that begins and ends sessions
    in a loop costs the broker one per read.
    """
    while events and events[-1].kind != "data":
        events.pop()
    events.append(event)


def _framed(record: bytes, seed: int) -> bytes:
    """``record`` with its CRC as it goes on the line; the C0 in front ends whatever came before it (RFC 1055)."""
    record += _CHECK.pack(crc32(record, seed))
    if _ESCAPE in record:
        record = record.replace(_ESCAPE, _ESCAPED_ESCAPE)
    if _END in record:
        record = record.replace(_END, _ESCAPED_END)
    return b"%b%b%b" % (_END, record, _END)


def _check_token(token: bytes) -> None:
    if len(token) != SERIAL_TOKEN_BYTES:
        raise ValueError(f"a token has {SERIAL_TOKEN_BYTES} bytes, not {len(token)}")
