"""Envelopes and batches: encode, decode with every bound, and rewrite an id without touching the rest.

An envelope is one msgpack array whose first field is its kind; a batch is envelopes one after another in one frame.
The layout of each kind is the table in ``schemas/README.md``; `_SHAPES` below is that table.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

import msgpack

from busproto.errors import BusError, Code
from busproto.limits import (
    BATCH_BYTES,
    CONTROL_DEPTH,
    CONTROL_ITEMS,
    CONTROL_VALUES,
    ENVELOPE_FIELDS,
    ENVELOPES_PER_FRAME,
    FRAME_BYTES,
    HEADER_NAME_BYTES,
    HEADERS,
    HEADERS_BYTES,
    ID_MAX,
    LARGE_FRAME_BYTES,
    PAYLOAD_BYTES,
    PAYLOAD_ITEMS,
    STRUCTURE_BYTES,
    TIMEOUT_MS_MAX,
    VALUE_BYTES,
)

VERSION: Final = 1
"""Protocol version that this code speaks. README, "Evolution"."""

Headers = Mapping[str, str | int | float | bool | bytes]


class Kind:
    """The first field of every envelope."""

    HELLO: Final = 1
    WELCOME: Final = 2
    PUBLISH: Final = 3
    SUBSCRIBE: Final = 4
    UNSUBSCRIBE: Final = 5
    SERVE: Final = 6
    UNSERVE: Final = 7
    CALL: Final = 8
    REPLY: Final = 9
    CANCEL: Final = 10
    PING: Final = 11
    PONG: Final = 12
    DRAIN: Final = 13
    BYE: Final = 14
    ORIGIN: Final = 15
    GAP: Final = 16
    ERROR: Final = 17


KIND_NAMES: Final[dict[int, str]] = {
    number: name.lower() for name, number in vars(Kind).items() if not name.startswith("_")
}
"""The name of each kind, for errors and tools."""

SKIPPABLE: Final = range(64, 128)
"""Kinds that a reader who does not know them ignores. All other unknown kinds end the session."""


class Status:
    """How a call stands or ended: the third field of a reply. README, "Call and serve"."""

    OK: Final = 0
    PARTIAL: Final = 1
    ERROR: Final = 2
    NO_RESPONDERS: Final = 3
    TIMEOUT: Final = 4
    CANCELLED: Final = 5
    DENIED: Final = 6
    OVERLOADED: Final = 7
    UNKNOWN: Final = 8


OUTCOMES: Final[dict[int, str]] = {
    Status.OK: "reply",
    Status.ERROR: "error",
    Status.NO_RESPONDERS: "no-responders",
    Status.TIMEOUT: "timeout",
    Status.CANCELLED: "cancelled",
    Status.DENIED: "denied",
    Status.OVERLOADED: "overloaded",
    Status.UNKNOWN: "unknown",
}
"""The eight definite outcomes of a call, by final status."""

STATUS_CODES: Final[dict[int, Code]] = {
    Status.NO_RESPONDERS: Code.NO_RESPONDERS,
    Status.TIMEOUT: Code.TIMEOUT,
    Status.CANCELLED: Code.CANCELLED,
    Status.DENIED: Code.DENIED,
    Status.OVERLOADED: Code.OVERLOADED,
    Status.UNKNOWN: Code.UNKNOWN,
}
"""The error code that goes with each outcome that the broker decides."""

# -- encoding ---------------------------------------------------------------------------------------------------------

_pack: Final[Callable[[Any], bytes]] = msgpack.Packer(use_bin_type=True, autoreset=True).pack


def pack(value: Any) -> bytes:
    """One payload value as msgpack. Raises BusError 6003 for what msgpack cannot hold."""
    try:
        return _pack(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise BusError(Code.PAYLOAD_UNENCODABLE, reason=str(error)) from None


def unpack(data: bytes | memoryview, items: int = PAYLOAD_ITEMS) -> Any:
    """The one msgpack value in ``data``, within bounds. Raises BusError 6002 when it is not exactly that.

    ``items`` bounds each list and map. msgpack makes room for all of a list when it reads its header, at every level of
    nesting: 4 KB of headers take 32 MiB and 8 ms with ``items`` of 4096, and 0.5 MiB with 64.
    """
    try:
        if len(data) <= items:
            # msgpack's own bound, without the cost of saying so: no list can be longer than its bytes.
            return msgpack.unpackb(data, strict_map_key=False)
        return msgpack.unpackb(data, strict_map_key=False, max_array_len=items, max_map_len=items)
    except (ValueError, TypeError, msgpack.UnpackException, OverflowError, MemoryError) as error:
        reason = str(error) or type(error).__name__
        raise BusError(Code.PAYLOAD_UNDECODABLE, subject="", encoding="msgpack", reason=reason) from None


def hello(manifest: Mapping[str, Any], version: int = VERSION) -> bytes:
    return pack((Kind.HELLO, version, manifest))


def welcome(version: int, endpoint: str, info: Mapping[str, Any]) -> bytes:
    return pack((Kind.WELCOME, version, endpoint, info))


def publish(subject: str, headers: Headers | None, payload: bytes) -> bytes:
    return _pack((Kind.PUBLISH, subject, headers, payload))


def subscribe(id: int, pattern: str, options: Mapping[str, Any]) -> bytes:
    return pack((Kind.SUBSCRIBE, id, pattern, options))


def unsubscribe(id: int, subscription: int) -> bytes:
    return _pack((Kind.UNSUBSCRIBE, id, subscription))


def serve(id: int, pattern: str, options: Mapping[str, Any]) -> bytes:
    return pack((Kind.SERVE, id, pattern, options))


def unserve(id: int, serve_id: int) -> bytes:
    return _pack((Kind.UNSERVE, id, serve_id))


def call(
    id: int, subject: str, timeout_ms: int, headers: Headers | None, payload: bytes, on_behalf_of: int | None = None
) -> bytes:
    """``on_behalf_of`` is the id of a call that the sender holds and acts for."""
    if on_behalf_of is None:
        return _pack((Kind.CALL, id, subject, timeout_ms, headers, payload))
    return _pack((Kind.CALL, id, subject, timeout_ms, headers, payload, on_behalf_of))


def reply(id: int, status: int, headers: Headers | None, payload: bytes) -> bytes:
    return _pack((Kind.REPLY, id, status, headers, payload))


def cancel(id: int) -> bytes:
    return _pack((Kind.CANCEL, id))


def ping(token: int) -> bytes:
    return _pack((Kind.PING, token))


def pong(token: int) -> bytes:
    return _pack((Kind.PONG, token))


def drain(grace_ms: int) -> bytes:
    return _pack((Kind.DRAIN, grace_ms))


def bye(body: Mapping[str, Any] | None) -> bytes:
    return pack((Kind.BYE, body))


def origin(
    endpoint: str,
    boundary: str,
    tenant: str,
    unit: str,
    generation: int,
    on_behalf_of: tuple[str, str, str, str, int] | None = None,
) -> bytes:
    """``on_behalf_of`` is the same five of the endpoint that this one acts for."""
    if on_behalf_of is None:
        return _pack((Kind.ORIGIN, endpoint, boundary, tenant, unit, generation))
    return _pack((Kind.ORIGIN, endpoint, boundary, tenant, unit, generation, on_behalf_of))


def gap(subscription: int, count: int, reason: str) -> bytes:
    return _pack((Kind.GAP, subscription, count, reason))


def error(ref: int | None, body: Mapping[str, Any]) -> bytes:
    return pack((Kind.ERROR, ref, body))


_ARRAY_WIDTH: Final = bytes({0xDC: 3, 0xDD: 5}.get(first, 1) for first in range(256))
_INT_WIDTH: Final = bytes(
    {0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9, 0xD0: 2, 0xD1: 3, 0xD2: 5, 0xD3: 9}.get(first, 1) for first in range(256)
)
"""Bytes that a msgpack array header or integer takes, by its first byte."""


_STR_WIDTH: Final = {0xD9: 2, 0xDA: 3, 0xDB: 5}
"""Bytes of a msgpack string's header, by its first byte; all others take one."""


def head_with_id(frame: bytes, start: int, id: int) -> tuple[bytes, int]:
    """The beginning of the decoded call, reply or cancel at ``frame[start:]`` with another id, and where its rest is.

    Works on the bytes, so a payload is never decoded or encoded again.
    """
    old = start + _ARRAY_WIDTH[frame[start]]
    old += _INT_WIDTH[frame[old]]
    return b"%b\xce%b" % (frame[start:old], id.to_bytes(4, "big")), old + _INT_WIDTH[frame[old]]


def publish_as(frame: bytes, start: int, end: int, old: str, new: str) -> bytes:
    """The decoded publish at ``frame[start:end]`` with subject ``new`` instead of ``old``; the rest of it as it is."""
    place = start + _ARRAY_WIDTH[frame[start]]
    place += _INT_WIDTH[frame[place]]
    rest = place + _STR_WIDTH.get(frame[place], 1) + len(old)
    return b"%b%b%b" % (frame[start:place], _pack(new), frame[rest:end])


# -- decoding ---------------------------------------------------------------------------------------------------------


class Batch(NamedTuple):
    """A decoded frame. Envelope ``i`` stands in ``frame[offsets[i]:offsets[i + 1]]``.

    In a folded batch it may stand there with others like it: ``counts[i]`` publishes whose bytes before the payload
    are the same, of which ``envelopes[i]`` is the first.
    """

    envelopes: list[list[Any]]
    """Each is ``[kind, field, ...]``, checked against the table of kinds; fields appended by newer senders are kept."""
    offsets: list[int]
    """One more than there are envelopes; the last is the frame's length."""
    counts: list[int]
    """How many envelopes each one stands for; 1 in a batch that is not folded."""


_Check = Callable[[list[Any]], str | None]


def _check_id(envelope: list[Any]) -> str | None:
    return None if 0 < envelope[1] <= ID_MAX else f"id {envelope[1]} is not within 1 to {ID_MAX}"


def _check_two_ids(envelope: list[Any]) -> str | None:
    return _check_id(envelope) or _check_id(envelope[1:])


def _check_token(envelope: list[Any]) -> str | None:
    return None if 0 <= envelope[1] <= ID_MAX else f"token {envelope[1]} is not an unsigned 32-bit integer"


def _check_call(envelope: list[Any]) -> str | None:
    if not 0 < envelope[1] <= ID_MAX:
        return _check_id(envelope)
    if not 0 < envelope[3] <= TIMEOUT_MS_MAX:
        return f"timeout of {envelope[3]} ms is not within 1 to {TIMEOUT_MS_MAX}"
    return None if envelope[4] is None else check_headers(envelope[4])


def _check_reply(envelope: list[Any]) -> str | None:
    if not 0 < envelope[1] <= ID_MAX:
        return _check_id(envelope)
    if envelope[2] not in OUTCOMES and envelope[2] != Status.PARTIAL:
        return f"status {envelope[2]} is not one of 0 to 8"
    return None if envelope[3] is None else check_headers(envelope[3])


def _check_hello(envelope: list[Any]) -> str | None:
    return check_control(envelope[2]) if envelope[1] > 0 else "the version must be at least 1"


def _check_request(envelope: list[Any]) -> str | None:
    return _check_id(envelope) or check_control(envelope[3])


def _check_body(envelope: list[Any]) -> str | None:
    return None if envelope[-1] is None else check_control(envelope[-1])


def check_headers(headers: dict[Any, Any]) -> str | None:
    """Why ``headers`` are not acceptable (README, "Headers"); None if they are."""
    if len(headers) > HEADERS:
        return f"{len(headers)} headers, the limit is {HEADERS}"
    total = 0
    for name, value in headers.items():
        if type(name) is not str or not 0 < len(name) <= HEADER_NAME_BYTES:
            return f"a header's name is a string of 1 to {HEADER_NAME_BYTES} characters"
        if not _HEADER_NAME.issuperset(name):
            return f"header name {name!a} may hold only a-z, 0-9, - and _"
        if type(value) is str or type(value) is bytes:
            if (size := _size(value)) > VALUE_BYTES:
                return f"header {name} has {size} bytes, the limit is {VALUE_BYTES}"
            total += size
        elif type(value) not in _SCALARS:
            return f"header {name} must be a string, number, boolean or binary"
        total += len(name)
    return None if total <= HEADERS_BYTES else f"{total} bytes of headers, the limit is {HEADERS_BYTES}"


def _size(value: str | bytes) -> int:
    """Bytes on the wire. Limits are of bytes, whatever the script; ``isascii`` costs nothing on ASCII."""
    if isinstance(value, bytes) or value.isascii():
        return len(value)
    return len(value.encode("utf-8", "surrogatepass"))


_HEADER_NAME: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")
_SCALARS: Final = frozenset({int, float, bool})


def check_control(value: Any) -> str | None:
    """Why a manifest, options or error body is not acceptable (README, "Bounds"); None if it is."""
    level = [value]
    count = 1
    for depth in range(CONTROL_DEPTH + 1):
        below: list[Any] = []
        for item in level:
            kind = type(item)
            if kind is str or kind is bytes:
                if (size := _size(item)) > VALUE_BYTES:
                    return f"a value has {size} bytes, the limit is {VALUE_BYTES}"
            elif kind is dict or kind is list:
                if depth == CONTROL_DEPTH:
                    return f"nested deeper than {CONTROL_DEPTH} levels"
                if len(item) > CONTROL_ITEMS:
                    return f"{len(item)} entries, the limit is {CONTROL_ITEMS}"
                below.extend(item)
                if kind is dict:
                    if not all(type(key) is str for key in item):
                        return "keys must be strings"
                    below.extend(item.values())
                count += len(item)
                if count > CONTROL_VALUES:
                    return f"more than {CONTROL_VALUES} values"
            elif item is not None and kind not in _SCALARS:
                return f"{kind.__name__} is not allowed here"
        level = below
    return None


_MAYBE_MAP: Final = (type(None), dict)

_SHAPES: Final[dict[int, tuple[tuple[Any, ...], _Check | None]]] = {
    Kind.HELLO: ((int, dict), _check_hello),
    Kind.WELCOME: ((int, str, dict), _check_body),
    Kind.PUBLISH: ((str, _MAYBE_MAP, bytes), None),
    Kind.SUBSCRIBE: ((int, str, dict), _check_request),
    Kind.UNSUBSCRIBE: ((int, int), _check_two_ids),
    Kind.SERVE: ((int, str, dict), _check_request),
    Kind.UNSERVE: ((int, int), _check_two_ids),
    Kind.CALL: ((int, str, int, _MAYBE_MAP, bytes), _check_call),
    Kind.REPLY: ((int, int, _MAYBE_MAP, bytes), _check_reply),
    Kind.CANCEL: ((int,), _check_id),
    Kind.PING: ((int,), _check_token),
    Kind.PONG: ((int,), _check_token),
    Kind.DRAIN: ((int,), _check_token),
    Kind.BYE: ((_MAYBE_MAP,), _check_body),
    Kind.ORIGIN: ((str, str, str, str, int), None),
    Kind.GAP: ((int, int, str), _check_id),
    Kind.ERROR: (((type(None), int), dict), _check_body),
}
"""The field types after the kind, and the check of their values. A tuple of types means any of them."""


def _check_publish_headers(envelope: list[Any]) -> str | None:
    return check_headers(envelope[2])


def _signatures() -> dict[tuple[type, ...], dict[int, _Check | None]]:
    """The table of kinds turned around: from the types of an envelope's fields to the kinds that may have them."""
    table: dict[tuple[type, ...], dict[int, _Check | None]] = {}
    for kind, (fields, check) in _SHAPES.items():
        spread: list[tuple[type, ...]] = [(int,)]
        for field in fields:
            options = field if isinstance(field, tuple) else (field,)
            spread = [(*head, option) for head in spread for option in options]
        for signature in spread:
            table.setdefault(signature, {})[kind] = check
    table[(int, str, dict, bytes)][Kind.PUBLISH] = _check_publish_headers
    return table


_SIGNATURES: Final = _signatures()
_PLAIN_PUBLISH: Final = (int, str, type(None), bytes)
_HEADER_KINDS: Final = frozenset({Kind.PUBLISH, Kind.CALL, Kind.REPLY})
_UNDECODABLE: Final = (ValueError, TypeError, OverflowError, msgpack.UnpackException)


class Decoder:
    """Decodes frames. One serves any number of peers: between two frames it holds no state of theirs."""

    __slots__ = ("_reader", "_unpacker")

    def __init__(self) -> None:
        self._reader = _unpacker(use_list=False)
        self._unpacker = _unpacker()

    def decode(self, frame: bytes, *, fold: bool = False, limit: int = ENVELOPES_PER_FRAME) -> Batch:
        """Decode one frame of one or more envelopes, at most ``limit``.

        Skippable kinds are left in, for the caller to count. In frames above ``LARGE_FRAME_BYTES`` a payload above 255
        bytes may be a ``memoryview`` into ``frame`` instead of ``bytes``: it has not been copied. With ``fold``,
        publishes in a row that differ in their short payloads alone are one entry: who forwards them need not look at
        each, and comparing the bytes that they share takes a third of the time of decoding them.

        Raises:
            BusError: 1010 to 1013, naming the envelope. If this raises anything else, that is a bug.
        """
        if len(frame) > LARGE_FRAME_BYTES:
            return self._decode_large(frame, limit)
        unpacker = self._unpacker
        envelopes: list[list[Any]] = []
        offsets = [0]
        counts: list[int] = []
        end = 0
        try:
            tell = unpacker.tell
            base = tell()
            unpacker.feed(frame)
            last = ""
            for envelope in islice(unpacker, limit + 1):
                start = end
                end = tell() - base
                count = 1
                arity = len(envelope) if envelope.__class__ is list else 0
                # The types of the fields, class by class: for the usual arities a quarter of the time of map().
                if arity == 4:
                    a, b, c, d = envelope
                    types: tuple[type, ...] = (a.__class__, b.__class__, c.__class__, d.__class__)
                    if types == _PLAIN_PUBLISH and a == Kind.PUBLISH:
                        # A message without headers, as most are: nothing is left to check.
                        if fold and b == last and len(d) < 256:
                            stop, count = _find_run(frame, start, end, len(d), limit)
                            if stop > end:
                                unpacker.read_bytes(stop - end)
                                end = stop
                        last = b
                        envelopes.append(envelope)
                        offsets.append(end)
                        counts.append(count)
                        continue
                elif arity == 5:
                    a, b, c, d, e = envelope
                    types = (a.__class__, b.__class__, c.__class__, d.__class__, e.__class__)
                elif arity == 6:
                    a, b, c, d, e, f = envelope
                    types = (a.__class__, b.__class__, c.__class__, d.__class__, e.__class__, f.__class__)
                else:
                    types = tuple(map(type, envelope))
                kinds = _SIGNATURES.get(types)
                if kinds is None or envelope[0] not in kinds:
                    self._examine(envelope, sum(counts))
                elif (check := kinds[envelope[0]]) is not None and (reason := check(envelope)) is not None:
                    raise _refusal(envelope[0], reason)
                last = ""
                envelopes.append(envelope)
                offsets.append(end)
                counts.append(1)
        except _UNDECODABLE as error:
            self._unpacker = _unpacker()
            raise _malformed(sum(counts), error) from None
        except BusError:
            self._unpacker = _unpacker()
            raise
        if sum(counts) > limit:
            self._unpacker = _unpacker()
            raise BusError(Code.ENVELOPE_TOO_MANY, limit=limit)
        if end != len(frame) or not envelopes:
            self._unpacker = _unpacker()
            raise _malformed(sum(counts), "it ends in the middle" if frame else "the frame is empty")
        return Batch(envelopes, offsets, counts)

    def read(self, frame: bytes) -> Sequence[Sequence[Any]]:
        """The envelopes of a frame from one's own broker, which has checked it: a sixth of ``decode``'s time.

        Every bound on size is kept, but shapes are not looked at. A reader that stumbles over one gives the frame to
        ``decode``, which says what is wrong with it. Envelopes and what is in them come as tuples, mostly: the garbage
        collector lets those be, and in a queue of thousands it spent a fifth of a reader's time on lists.

        Raises:
            BusError: 1010 or 1011. If this raises anything else, that is a bug.
        """
        if len(frame) > LARGE_FRAME_BYTES:
            return self._decode_large(frame, ENVELOPES_PER_FRAME).envelopes
        unpacker = self._reader
        envelopes: list[Sequence[Any]] = []
        try:
            unpacker.feed(frame)
            envelopes.extend(unpacker)
            # A nil that is read back as one: what came before it was complete. The count of bytes read does not tell,
            # for it is also right when a frame ends within an array, and the next frame would be read as its rest.
            unpacker.feed(b"\xc0")
            complete = unpacker.unpack() is None
        except _UNDECODABLE as error:
            self._reader = _unpacker(use_list=False)
            raise _malformed(len(envelopes), error) from None
        if not complete or not envelopes:
            self._reader = _unpacker(use_list=False)
            raise _malformed(len(envelopes), "it ends in the middle" if frame else "the frame is empty")
        if len(envelopes) > ENVELOPES_PER_FRAME:
            raise BusError(Code.ENVELOPE_TOO_MANY, limit=ENVELOPES_PER_FRAME)
        return envelopes

    def _decode_large(self, frame: bytes, limit: int) -> Batch:
        """As ``decode``, but payloads stay where they are: each envelope is read through a window of BATCH_BYTES."""
        if len(frame) > FRAME_BYTES:
            raise BusError(Code.FRAME_TOO_LARGE, size=len(frame), limit=FRAME_BYTES)
        view = memoryview(frame)
        envelopes: list[list[Any]] = []
        offsets = [0]
        position = 0
        structure = 0
        while position < len(frame):
            unpacker = _unpacker()
            unpacker.feed(view[position : position + BATCH_BYTES])
            window = position
            try:
                for envelope in unpacker:
                    self._examine(envelope, len(envelopes))
                    envelopes.append(envelope)
                    position = window + unpacker.tell()
                    structure += position - offsets[-1] - _plain_bytes(envelope)
                    offsets.append(position)
                if position == window:
                    envelope, position = _read_in_pieces(view, position)
                    self._examine(envelope, len(envelopes))
                    envelopes.append(envelope)
                    structure += position - offsets[-1] - _plain_bytes(envelope)
                    offsets.append(position)
            except _UNDECODABLE as error:
                raise _malformed(len(envelopes), error) from None
            if structure > STRUCTURE_BYTES:
                raise _malformed(len(envelopes), f"more than {STRUCTURE_BYTES} bytes besides strings and payloads")
            if len(envelopes) > limit:
                raise BusError(Code.ENVELOPE_TOO_MANY, limit=limit)
        return Batch(envelopes, offsets, [1] * len(envelopes))

    def _examine(self, envelope: Any, index: int) -> None:
        """The full check, for what the signature look-up does not settle at once. Raises BusError."""
        if type(envelope) is not list or not envelope or type(envelope[0]) is not int:
            raise _malformed(index, "not an array that begins with a kind")
        kind = envelope[0]
        if len(envelope) > ENVELOPE_FIELDS:
            raise _refusal(kind, f"{len(envelope)} fields, the limit is {ENVELOPE_FIELDS}")
        if kind in SKIPPABLE:
            return
        shape = _SHAPES.get(kind)
        if shape is None:
            raise _refusal(kind, "this kind is not known and may not be skipped")
        arity = len(shape[0]) + 1
        if len(envelope) < arity:
            raise _refusal(kind, f"{len(envelope)} fields, it has at least {arity}")
        known = envelope[:arity]
        signature = tuple(bytes if type(field) is memoryview else type(field) for field in known)
        kinds = _SIGNATURES.get(signature)
        if kinds is None or kind not in kinds:
            raise _refusal(kind, f"fields of types {', '.join(t.__name__ for t in signature[1:])}")
        if (check := kinds[kind]) is not None and (reason := check(known)) is not None:
            raise _refusal(kind, reason)


def _find_run(frame: bytes, start: int, end: int, payload: int, most: int) -> tuple[int, int]:
    """How far publishes go on behind ``frame[start:end]`` that begin with the same bytes, and how many that makes.

    Not many more than ``most``: who sends more than that is refused.

    ``payload`` is the length of the first one's, which stands last (the caller has seen to that: behind an appended
    field a sender could hide what is not looked at) and must have a two-byte header (msgpack's bin 8), as in those that
    follow: an envelope with other fields, other headers or a longer payload ends the run.
    """
    mark = end - payload - 2
    if frame[mark] != _BIN8 or frame[mark + 1] != payload:
        return end, 1
    head = frame[start : mark + 1]
    length = len(head)
    size = len(frame)
    count = 1
    while count <= most and frame.startswith(head, end):
        after = end + length
        if after >= size or (stop := after + 1 + frame[after]) > size:
            break
        end = stop
        count += 1
    return end, count


_BIN8: Final = 0xC4


def _unpacker(*, use_list: bool = True) -> Any:
    """An msgpack reader that refuses before it allocates (its own defaults accept 100 MB lengths)."""
    return msgpack.Unpacker(
        raw=False,
        use_list=use_list,
        strict_map_key=True,
        max_buffer_size=2 * LARGE_FRAME_BYTES,
        max_str_len=VALUE_BYTES,
        max_bin_len=LARGE_FRAME_BYTES,
        max_array_len=CONTROL_ITEMS,
        max_map_len=CONTROL_ITEMS,
        max_ext_len=0,
    )


def _read_in_pieces(view: memoryview, start: int) -> tuple[list[Any], int]:
    """One envelope that is longer than the window, field by field: a long binary becomes a slice of ``view``."""
    unpacker = _unpacker()
    unpacker.feed(view[start : start + BATCH_BYTES])
    base = start
    envelope: list[Any] = []
    for _ in range(unpacker.read_array_header()):
        position = base + unpacker.tell()
        width = {0xC5: 2, 0xC6: 4}.get(view[position] if position < len(view) else 0)
        if width is None:
            envelope.append(unpacker.unpack())
            continue
        begin = position + 1 + width
        base = begin + int.from_bytes(view[position + 1 : begin], "big")
        if base > len(view):
            raise ValueError("a binary is longer than the frame")
        if base - begin > PAYLOAD_BYTES:
            raise ValueError(f"a binary of {base - begin} bytes, the limit is {PAYLOAD_BYTES}")
        envelope.append(view[begin:base])
        unpacker = _unpacker()
        unpacker.feed(view[base : base + BATCH_BYTES])
    return envelope, base + unpacker.tell()


def _plain_bytes(envelope: list[Any]) -> int:
    """Bytes of the fields that take as much memory as they take bytes of the frame."""
    return sum(len(field) for field in envelope if type(field) in _PLAIN)


_PLAIN: Final = frozenset({str, bytes, memoryview})


def _malformed(index: int, reason: object) -> BusError:
    text = "it ends in the middle" if isinstance(reason, msgpack.OutOfData) else str(reason) or type(reason).__name__
    return BusError(Code.ENVELOPE_MALFORMED, index=index, reason=text)


def _refusal(kind: Any, reason: str) -> BusError:
    if kind in _HEADER_KINDS and "header" in reason:
        return BusError(Code.HEADERS_INVALID, reason=reason)
    return BusError(Code.ENVELOPE_FIELDS, kind=KIND_NAMES.get(kind, f"kind {kind}"), reason=reason)
