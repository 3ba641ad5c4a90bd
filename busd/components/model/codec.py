"""Values of one type as bytes and back, with every difference between the two refused and named."""

import re
from typing import Any, Final, Generic, TypeVar

import msgspec

from busclient.message import Content
from busproto.envelope import unpack

__all__ = ["PLAIN", "Codec", "explain"]

T = TypeVar("T")

PLAIN: Final = (bytes, bytearray, memoryview)
"""Types that msgpack has and JSON has not: bytes are bytes, and no text is taken for bytes in base64."""

REASON_CHARACTERS: Final = 300
"""How much an error says of what was wrong: names in it may be the sender's."""

_PLACE: Final = re.compile(r"(?P<what>.*?) - at (?:`key` in )?`\$(?P<place>.*)`", re.DOTALL)
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING: Final = re.compile(r"Object missing required field `(.*)`", re.DOTALL)

_encode: Final = msgspec.msgpack.Encoder().encode

_FLAT: Final = (
    msgspec.inspect.NoneType,
    msgspec.inspect.BoolType,
    msgspec.inspect.IntType,
    msgspec.inspect.FloatType,
    msgspec.inspect.StrType,
    msgspec.inspect.BytesType,
    msgspec.inspect.UnionType,
    msgspec.inspect.StructType,
    msgspec.inspect.Field,
)
"""Kinds of which a type's values are as deep as the type says, and whose decoder allocates no more than came."""

FLAT_ITEMS: Final = 4096
"""A list may have so many at most to be as good as flat: the decoder allocates what its head says, if the type allows
that many, before it has seen one of them. That is 32 KiB for each level of the type."""

_TEXTS: Final = (
    msgspec.inspect.AnyType,
    msgspec.inspect.DateTimeType,
)
"""Types whose values may be times. A time travels as text, as its JSON Schema says, not as msgpack's extension."""


class Codec(Generic[T]):
    """One type, as it travels. Raises TypeError when it is a type whose values cannot travel.

    What is told apart in process but not on a bus (tuples and lists, a class of one's own) is so after ``decode``: the
    values of a type are what its bytes say.
    """

    __slots__ = ("_decode", "_flat", "_has_times", "type")

    def __init__(self, type: Any) -> None:
        kinds = _kinds(type)
        for kind in kinds:
            if isinstance(kind, msgspec.inspect.CustomType):
                raise TypeError(f"{kind.cls.__name__} cannot travel; use a Struct, a dataclass or plain types")
        self.type = type
        self._decode = msgspec.msgpack.Decoder(type).decode
        self._flat = all(_is_flat(kind) for kind in kinds)
        self._has_times = any(isinstance(kind, _TEXTS) for kind in kinds)

    def encode(self, value: Any) -> bytes:
        """``value`` as msgpack. Raises TypeError, ValueError or OverflowError for what msgpack cannot hold.

        It is not checked to be of the type: ``decode`` does that, here or where it arrives.
        """
        if self._has_times:
            value = msgspec.to_builtins(value, builtin_types=PLAIN)
        return _encode(value)

    def decode(self, data: bytes) -> T:
        """The value in ``data``, which this process itself encoded. Raises msgspec.ValidationError."""
        value: T = self._decode(data)
        return value

    def read(self, value: Any) -> T:
        """The value of a payload that came from elsewhere and was decoded in bounds. Raises msgspec.ValidationError."""
        found: T = msgspec.convert(value, self.type, builtin_types=PLAIN)
        return found

    def read_content(self, content: Content, *, empty: bool = False) -> T:
        """The value of a payload that came from elsewhere. Raises as `read`, and what `Content.payload` does.
        ``empty``: None stands for a map with nothing in it.

        Of a type that bounds its values itself they are decoded in one step, at half the cost; what does not go so
        takes the way of all others, which knows why.
        """
        if self._flat and not content.headers:
            try:
                found: T = self._decode(content.view)
                return found
            except (msgspec.MsgspecError, ValueError, RecursionError):
                pass
        value = content.payload
        return self.read({} if value is None and empty else value)

    def read_bytes(self, data: bytes | memoryview) -> T:
        """As `read`, of bytes. Raises BusError 6002 when they are not one value, or are too many."""
        return self.read(unpack(data) if data else None)


def explain(error: Exception) -> str:
    """What was wrong, the field first: ``limit: expected int >= 1``, ``rows[3].pid: missing``."""
    text = str(error)
    place = ""
    if match := _PLACE.fullmatch(text):
        text, place = match["what"], match["place"].removeprefix(".")
    if match := _UNKNOWN.fullmatch(text):
        place, text = _joined(place, match[1]), "there is no such field"
    elif match := _MISSING.fullmatch(text):
        place, text = _joined(place, match[1]), "missing"
    else:
        text = text[:1].lower() + text[1:]
    text = text.replace("`", "").replace("got null", "got None")
    shown = ascii(f"{place}: {text}" if place else text)[1:-1].replace("\\'", "'")
    return shown if len(shown) <= REASON_CHARACTERS else shown[:REASON_CHARACTERS] + "..."


def _joined(place: str, field: str) -> str:
    return f"{place}.{field[:80]}" if place else field[:80]


def _is_flat(kind: Any) -> bool:
    """Whether the decoder bounds values of ``kind`` by itself."""
    if isinstance(kind, msgspec.inspect.ListType):
        return kind.max_length is not None and kind.max_length <= FLAT_ITEMS
    return isinstance(kind, _FLAT)


def _kinds(type: Any) -> list[Any]:
    """Every kind of value in ``type``, at whatever depth. Raises TypeError for what is no type of values."""
    found: list[Any] = []
    seen: set[int] = set()
    todo: list[Any] = [msgspec.inspect.type_info(type)]
    while todo:
        kind = todo.pop()
        if isinstance(kind, tuple):
            todo.extend(kind)
        elif isinstance(kind, msgspec.inspect.Type | msgspec.inspect.Field) and id(kind) not in seen:
            seen.add(id(kind))
            found.append(kind)
            todo.extend(getattr(kind, name) for name in kind.__struct_fields__)
    return found
