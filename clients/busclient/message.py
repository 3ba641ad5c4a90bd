"""What arrives: messages, replies and calls. Payloads are decoded when they are first looked at."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from busproto.envelope import Headers, Kind, pack, unpack
from busproto.errors import BusError, Code

__all__ = ["Call", "Content", "Message", "Origin", "Reply", "encode"]

MSGPACK: Final = "application/msgpack"
"""The payload's encoding where no ``datacontenttype`` header names another (schemas/README.md, "Headers")."""

_NONE: Final[Headers] = MappingProxyType({})


NO_ORIGIN: Final[Sequence[Any]] = (Kind.ORIGIN,)
"""In place of the origin envelope of what was made in this process."""

_BIN8: Final = 0xC4

UNDECODED: Final = object()
"""Stands for a payload that nobody has looked at yet."""


class Origin(NamedTuple):
    """Who sent it, as the broker proved it; nothing here is the sender's own word."""

    endpoint: str
    """The name the broker gave the sender; ``$bus`` is the broker itself."""
    boundary: str
    """``guest``, ``host`` or ``soc``."""
    tenant: str
    unit: str
    generation: int
    on_behalf_of: "Origin | None" = None
    """Of a call: who is behind it, if the sender acts for someone whose call it holds. Check the rights of that one."""


def _read_origin(envelope: Sequence[Any]) -> Origin:
    global _latest
    own: list[Any] = [*envelope[1:6]]
    if len(envelope) > 6 and envelope[6] is not None:
        own.append(Origin(*envelope[6][:5]))
    origin = Origin(*own)
    _latest = envelope, origin
    return origin


_latest: tuple[Sequence[Any], Origin] = ((), Origin("", "", "", "", 0))
"""The origin envelope that was read last: what one sender has in a frame shares one. Replaced whole."""


class Content:
    """A payload with its headers and its origin: what messages, replies and calls have in common."""

    __slots__ = ("_data", "_headers", "_origin", "_payload")

    _data: bytes | memoryview
    _headers: Headers | None
    _origin: Any
    _payload: Any

    def __init__(self, data: bytes | memoryview, headers: Headers | None, origin: Any) -> None:
        """``origin`` is an origin envelope as it came, or NO_ORIGIN when this was made here."""
        self._data = data
        self._headers = headers
        self._origin = origin
        self._payload = UNDECODED

    @property
    def payload(self) -> Any:
        """The payload: one msgpack value, decoded; or the raw bytes when ``datacontenttype`` names another encoding.

        An empty payload (0 bytes) is None. Raises BusError 6002 when it is not what its header says.
        """
        if self._payload is UNDECODED:
            data = self._data
            if self._headers is None and len(data) > 1 and data[0] == _BIN8 and data[1] == len(data) - 2:
                # Bytes of up to 255: as msgpack would give them, in a third of the time.
                self._payload = bytes(data[2:])
            elif self._headers is not None and self._headers.get("datacontenttype", MSGPACK) != MSGPACK:
                self._payload = self.data
            elif not self._data:
                self._payload = None
            else:
                try:
                    self._payload = unpack(self._data)
                except BusError as error:
                    fields = {**error.fields, "subject": getattr(self, "subject", "a reply")}
                    raise BusError(Code.PAYLOAD_UNDECODABLE, **fields) from None
        return self._payload

    @property
    def data(self) -> bytes:
        """The payload as it came, not decoded."""
        if type(self._data) is not bytes:
            self._data = bytes(self._data)
        return self._data

    @property
    def view(self) -> bytes | memoryview:
        """The payload as it came, neither decoded nor copied. It may keep more in memory than itself."""
        return self._data

    @property
    def headers(self) -> Mapping[str, str | int | float | bool | bytes]:
        """The sender's headers. A claim, like the payload."""
        return self._headers if self._headers is not None else _NONE

    @property
    def origin(self) -> Origin | None:
        """Who sent it; None if it was made in this process."""
        if self._origin is NO_ORIGIN:
            return None
        origin = self._origin
        if type(origin) is not Origin:
            latest = _latest
            origin = self._origin = latest[1] if latest[0] is origin else _read_origin(origin)
        return origin

    def __repr__(self) -> str:
        about = f"{getattr(self, 'subject', '')} {len(self._data)} bytes".strip()
        return f"<{type(self).__name__} {about}>"


class Message(Content):
    """A message of a subscription."""

    __slots__ = ("subject",)

    subject: str
    """What it is about."""

    @classmethod
    def received(cls, envelope: Sequence[Any], origin: Sequence[Any]) -> "Message":
        """The message of a publish envelope, from whom ``origin`` says."""
        message = cls.__new__(cls)
        message.subject = envelope[1]
        message._data = envelope[3]
        message._headers = envelope[2]
        message._origin = origin
        message._payload = UNDECODED
        return message


class Reply(Content):
    """A reply, or one part of a stream.

    A handler may return one as well, to send headers (``Reply(value, headers={...})``) or bytes that are already
    encoded (``Reply(data=..., headers={"datacontenttype": ...})``), or to pass on a reply it got.
    """

    __slots__ = ()

    def __init__(self, payload: Any = None, *, data: bytes | None = None, headers: Headers | None = None) -> None:
        super().__init__(encode(payload, data), headers, NO_ORIGIN)

    @classmethod
    def received(cls, data: bytes | memoryview, headers: Headers | None, origin: Any) -> "Reply":
        """A reply that came from the bus."""
        reply = cls.__new__(cls)
        reply._data = data
        reply._headers = headers
        reply._origin = origin
        reply._payload = UNDECODED
        return reply


class Call(Content):
    """A call that this endpoint is to answer."""

    __slots__ = ("cancelled", "deadline", "id", "subject", "task")

    def __init__(
        self,
        id: int,
        subject: str,
        deadline: float,
        data: bytes | memoryview,
        headers: Headers | None,
        origin: Any,
    ) -> None:
        self.id = id
        self.subject = subject
        self.deadline = deadline
        """When the caller stops waiting, on the clock of `Bus.time`."""
        self.cancelled = False
        """Nobody waits for the reply any more."""
        self.task: Any = None
        """What runs the handler; set by the shell."""
        self._data = data
        self._headers = headers
        self._origin = origin
        self._payload = UNDECODED


def encode(payload: Any, data: bytes | bytearray | memoryview | None) -> bytes:
    """The bytes to send: ``data`` as it is, or else ``payload`` as msgpack.

    Raises:
        TypeError: both were given.
        BusError: 6003, msgpack cannot hold the payload.
    """
    if data is None:
        return pack(payload)
    if payload is not None:
        raise TypeError("give a payload, or data that is already encoded, but not both")
    return data if type(data) is bytes else bytes(data)
