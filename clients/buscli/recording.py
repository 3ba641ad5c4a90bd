"""Recordings of a subscription: the file that ``bus record`` writes and ``bus replay`` reads.

It begins with `MAGIC`. Then come frames: the length of the body and a checksum, four bytes each (big-endian), and the
body, one msgpack value of at most `BODY_BYTES`. The checksum is CRC-32 (zlib) over the length and the body, begun with
the checksum of the frame before: what was cut out, repeated or put elsewhere shows like a changed byte. The first frame
is a map, the header. The others are arrays that begin with their kind (`MESSAGE`, `GAP`, `END`) and the microseconds
since the start. The last one is an `END`: without it the end is torn, wherever that is.

A checksum finds accidents, not a forger, so all that is read is checked as if it came from the bus. Nothing is
allocated that the file itself does not hold.
"""

import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from struct import Struct
from typing import Any, BinaryIO, Final, NamedTuple, TypeVar

from busproto.envelope import check_headers, pack, unpack
from busproto.errors import BusError, Code
from busproto.limits import FRAME_BYTES, PAYLOAD_BYTES
from busproto.subjects import check_pattern, check_subject

__all__ = ["End", "Gap", "Header", "Item", "Message", "Reader", "Writer"]

MAGIC: Final = b"busrec\r\n"
"""CR and LF, so that a transfer as text shows at once."""

VERSION: Final = 1

BODY_BYTES: Final = FRAME_BYTES
"""The largest payload with its subject, headers and origin: what fits into a frame of the bus."""

ITEMS: Final = 64
"""Entries in one list or map of a body: a message has up to 32 headers."""

TEXT_BYTES: Final = 1024
"""One text of the header."""

MICROSECONDS: Final = 366 * 24 * 3600 * 10**6 * 100
"""A hundred years: a longer recording is damage."""

MESSAGE: Final = 0
GAP: Final = 1
END: Final = 2

_HEAD: Final = Struct(">II")


class Header(NamedTuple):
    """What was recorded, where and when."""

    node: str
    broker: str
    started: str
    """RFC 3339, UTC."""
    patterns: tuple[str, ...]


class Message(NamedTuple):
    """One message as it came."""

    at: float
    """Seconds since the start, to a microsecond."""
    subject: str
    headers: Mapping[str, Any] | None
    data: bytes
    """The payload, not decoded."""
    origin: tuple[str, str, str, str, int] | None
    """Who sent it: endpoint, boundary, tenant, unit, generation, as the broker stamped them then."""


class Gap(NamedTuple):
    """Messages that were lost here."""

    at: float
    pattern: str
    lost: int | None
    """None: nobody knows how many."""
    reason: str


class End(NamedTuple):
    """The recording was ended, and is whole."""

    at: float
    messages: int
    gaps: int


Item = Message | Gap | End

_Read = TypeVar("_Read")


class Writer:
    """Writes one recording to a file that is open for writing, and begins with its header.

    Raises OSError where writing does. What was written until then can be read.
    """

    def __init__(self, file: BinaryIO, header: Header) -> None:
        self._file = file
        self._checksum = 0
        self.messages = self.gaps = 0
        self.size = file.write(MAGIC)
        """Bytes written."""
        self._write({"version": VERSION, **header._asdict(), "patterns": list(header.patterns)})

    @staticmethod
    def size_of(message: Message) -> int:
        """The most bytes that ``message`` takes, with the end that must follow."""
        headers = 0 if message.headers is None else len(pack(dict(message.headers)))
        return len(message.data) + headers + len(message.subject) + 512

    def message(self, message: Message) -> None:
        """Append ``message``."""
        headers = None if not message.headers else dict(message.headers)
        self._write([MESSAGE, _micros(message.at), message.subject, headers, message.data, message.origin])
        self.messages += 1

    def gap(self, gap: Gap) -> None:
        """Append ``gap``."""
        self._write([GAP, _micros(gap.at), gap.pattern, gap.lost, gap.reason])
        self.gaps += 1

    def end(self, at: float) -> None:
        """Append the end, ``at`` seconds after the start, and see to it that all of it is on the disk."""
        self._write([END, _micros(at), self.messages, self.gaps])
        self._file.flush()
        os.fsync(self._file.fileno())

    def _write(self, value: Any) -> None:
        body = pack(value)
        length = len(body).to_bytes(4, "big")
        self._checksum = zlib.crc32(body, zlib.crc32(length, self._checksum))
        self.size += self._file.write(length + self._checksum.to_bytes(4, "big") + body)


def _micros(seconds: float) -> int:
    return max(0, round(seconds * 1e6))


@dataclass(frozen=True, slots=True)
class _Body:
    """One frame that is whole."""

    number: int
    offset: int
    value: Any


class Reader:
    """Reads one recording, from a file that is open for reading and can be read twice."""

    def __init__(self, file: BinaryIO, path: str) -> None:
        """``path`` is what errors call it. Raises BusError 6020 if the file does not begin as a recording, 6021."""
        self._file = file
        self._path = path
        self._size = file.seek(0, os.SEEK_END)
        file.seek(0)
        magic = file.read(len(MAGIC))
        if magic != MAGIC:
            reason = "it is empty" if not magic else "it does not begin as one"
            raise BusError(Code.RECORDING_UNREADABLE, path=path, reason=reason)
        bodies = self._bodies()
        first = next(bodies, None)
        if first is None:
            raise self._damage(0, len(MAGIC), "it ends before its header")
        self.header = self._read(first, _read_header)
        """What was recorded."""

    def items(self) -> Iterator[Item]:
        """All of it, in order, and last the end. Raises BusError 6021 behind the last record that is whole."""
        bodies = self._bodies()
        next(bodies)
        messages = gaps = 0
        at = 0.0
        end: End | None = None
        number, offset = 0, self._size
        for body in bodies:
            if end is not None:
                raise self._damage(body.number, body.offset, "something follows the end")
            item = self._read(body, _read_item)
            if item.at < at:
                raise self._damage(body.number, body.offset, "it is earlier than the one before")
            at, number = item.at, body.number
            if isinstance(item, End):
                if (item.messages, item.gaps) != (messages, gaps):
                    raise self._damage(body.number, body.offset, "the end counts other records than there are")
                end = item
                continue  # it is given only when nothing is behind it
            messages += isinstance(item, Message)
            gaps += isinstance(item, Gap)
            yield item
        if end is None:
            raise self._damage(
                number + 1, offset, "the end is torn: whoever recorded it was stopped, or is still at it"
            )
        yield end

    def _bodies(self) -> Iterator[_Body]:
        """Every frame from the header on, read from its own place in the file: two walks do not disturb each other."""
        offset, checksum, number = len(MAGIC), 0, 0
        while offset < self._size:
            self._file.seek(offset)
            head = self._file.read(_HEAD.size)
            if len(head) < _HEAD.size:
                raise self._damage(number, offset, "the end is torn: it stops in the middle of a record")
            length, expected = _HEAD.unpack(head)
            if length > BODY_BYTES:
                raise self._damage(number, offset, f"it would be {length} bytes long; {BODY_BYTES} is the most")
            if length > self._size - offset - _HEAD.size:
                raise self._damage(number, offset, "the end is torn: it stops in the middle of a record")
            body = self._file.read(length)
            checksum = zlib.crc32(body, zlib.crc32(head[:4], checksum))
            if len(body) < length or checksum != expected:
                raise self._damage(number, offset, "its checksum is wrong")
            try:
                value = unpack(body, ITEMS)
            except BusError as error:
                raise self._damage(number, offset, str(error.fields.get("reason"))) from None
            yield _Body(number, offset, value)
            offset += _HEAD.size + length
            number += 1

    def _read(self, body: _Body, read: Callable[[Any], _Read]) -> _Read:
        try:
            return read(body.value)
        except BusError as error:
            if error.code == Code.RECORDING_UNREADABLE:
                raise BusError(error.code, path=self._path, reason=error.fields["reason"]) from None
            raise self._damage(body.number, body.offset, error.text) from None
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise self._damage(body.number, body.offset, f"it is no record: {error}") from None

    def _damage(self, record: int, offset: int, reason: str) -> BusError:
        return BusError(Code.RECORDING_DAMAGED, path=self._path, record=record, offset=offset, reason=reason)


def _read_header(value: Any) -> Header:
    version = value["version"] if isinstance(value, dict) else None
    if type(version) is not int:
        raise ValueError("the header has no version")
    if version != VERSION:
        reason = f"it is of version {version}, and {VERSION} is known here"
        raise BusError(Code.RECORDING_UNREADABLE, path="", reason=reason)
    patterns = value["patterns"]
    if type(patterns) is not list:
        raise ValueError("the header has no patterns")
    for pattern in patterns:
        check_pattern(_text(pattern))
    return Header(_text(value["node"]), _text(value["broker"]), _text(value["started"]), tuple(patterns))


def _read_item(value: Any) -> Item:
    if type(value) is not list or len(value) < 2:
        raise ValueError("a list was expected")
    kind, at = value[0], _number(value[1], MICROSECONDS) / 1e6
    if kind == MESSAGE:
        _, _, subject, headers, data, origin = value
        return _read_message(at, subject, headers, data, origin)
    if kind == GAP:
        _, _, pattern, lost, reason = value
        check_pattern(_text(pattern))
        return Gap(at, pattern, None if lost is None else _number(lost, 2**63), _text(reason))
    if kind == END:
        _, _, messages, gaps = value
        return End(at, _number(messages, 2**63), _number(gaps, 2**63))
    raise ValueError(f"there is no kind {kind!r:.40}")


def _read_message(at: float, subject: Any, headers: Any, data: Any, origin: Any) -> Message:
    check_subject(_text(subject))
    if headers is not None:
        if type(headers) is not dict:
            raise ValueError("headers are a map")
        if (reason := check_headers(headers)) is not None:
            raise ValueError(reason)
    if type(data) is not bytes or len(data) > PAYLOAD_BYTES:
        raise ValueError(f"a payload is at most {PAYLOAD_BYTES} bytes")
    if origin is None:
        return Message(at, subject, headers, data, None)
    endpoint, boundary, tenant, unit, generation = origin
    stamped = (_text(endpoint), _text(boundary), _text(tenant), _text(unit), _number(generation, 2**64))
    return Message(at, subject, headers, data, stamped)


def _text(value: Any) -> str:
    if type(value) is not str or len(value) > TEXT_BYTES:
        raise ValueError(f"a text of at most {TEXT_BYTES} characters was expected")
    return value


def _number(value: Any, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"a number from 0 to {most} was expected")
    return value
