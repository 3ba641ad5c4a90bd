"""Fuzzing of the envelope decoder and of the payload decoder.

The invariant: for any bytes, ``Decoder.decode`` gives a batch or raises BusError 1010 to 1013, never another exception,
and ``Decoder.read`` gives the same envelopes wherever ``decode`` accepts, else any or such a refusal; a folded batch
unfolds to the same; what ``decode``
accepts has the types of the README's table; offsets rise strictly from 0 to the frame's length, and each slice alone
decodes to the same envelope; a decoder that has refused a thousand frames decodes the next as a new one would; peak
memory stays below ``MEMORY_BASE`` and ``MEMORY_FACTOR`` bytes for each of up to ``STRUCTURE_BYTES``, and CPU time below
5 ms for a frame of up to 10 KB and in proportion above. ``unpack`` gives a value or raises BusError 6002, within 72
bytes a byte for what it accepts.
"""

import gc
import tracemalloc
import zlib
from collections.abc import Callable, Hashable, Sequence
from itertools import pairwise
from typing import Any

import msgpack
import pytest

from busproto import envelope as wire
from busproto.envelope import SKIPPABLE, Batch, Decoder, Kind
from busproto.errors import BusError, Code
from busproto.limits import BATCH_BYTES, ENVELOPE_FIELDS, ENVELOPES_PER_FRAME, ID_MAX, STRUCTURE_BYTES
from tests.fuzz import driver
from tests.schemas.vectors_support import data_of, load

pytestmark = pytest.mark.timeout(driver.TIMEOUT)

CODES = range(Code.ENVELOPE_MALFORMED, Code.HEADERS_INVALID + 1)

MEMORY_BASE = 512 * 1024
"""The reader's own buffers and, in a nest of arrays, one list of 256 places for each of its 1024 levels at most."""
MEMORY_FACTOR = 72
"""The costliest byte is an empty list: 56 bytes and its place in another list."""
NEST_BYTES = 1024 * (256 * 8 + 64)

SECONDS_EACH = 0.005
BYTES_IN_THAT = 10_000

MAP: tuple[type, ...] = (dict,)
HEADERS: tuple[type, ...] = (dict, type(None))
PAYLOAD: tuple[type, ...] = (bytes, memoryview)
INT: tuple[type, ...] = (int,)
STR: tuple[type, ...] = (str,)

FIELDS: dict[int, tuple[tuple[type, ...], ...]] = {
    1: (INT, MAP),
    2: (INT, STR, MAP),
    3: (STR, HEADERS, PAYLOAD),
    4: (INT, STR, MAP),
    5: (INT, INT),
    6: (INT, STR, MAP),
    7: (INT, INT),
    8: (INT, STR, INT, HEADERS, PAYLOAD),
    9: (INT, INT, HEADERS, PAYLOAD),
    10: (INT,),
    11: (INT,),
    12: (INT,),
    13: (INT,),
    14: (HEADERS,),
    15: (STR, STR, STR, STR, INT),
    16: (INT, INT, STR),
    17: ((int, type(None)), MAP),
}
"""The table of kinds in schemas/README.md, written down a second time."""

IDS = {Kind.SUBSCRIBE, Kind.UNSUBSCRIBE, Kind.SERVE, Kind.UNSERVE, Kind.CALL, Kind.REPLY, Kind.CANCEL}


def corpus() -> list[bytes]:
    """The test vectors, right and wrong, and a few larger batches."""
    cases = load("envelopes.json")["cases"] + load("batches.json")["cases"]
    large = wire.publish("a.b", None, b"p" * 70_000)
    return [
        *(data for data in map(data_of, cases) if len(data) < 3000),
        wire.publish("a.b", {"traceparent": "00-1", "n": 1, "f": 1.5, "b": b"\0", "t": True}, b"payload") * 5,
        b"".join(wire.call(id, "a.b", 1000, None, b"\xc0") for id in range(1, 40)),
        wire.ping(1) + large + wire.pong(2),
        large + large[:-5],
        b"\x93\x01\x01\x81\xa1a" + b"\x91" * 50,
    ]


TOKENS = [
    b"\xdc\xff\xff",
    b"\xdd\xff\xff\xff\xff",
    b"\xdd\x00\x00\x01\x00",
    b"\xde\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xc6\x00\x01\x00\x01",
    b"\xdb\xff\xff\xff\xff",
    b"\xc9\xff\xff\xff\xff\x01",
    b"\xd4\x01\x00",
    b"\xd6\xff\x00\x00\x00\x00",
    b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",
    b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xd3\x80\x00\x00\x00\x00\x00\x00\x00",
    b"\xa2\xc3\x28",
    b"\xa3\xed\xa0\x80",
    b"\x81\xa1a\x01",
    b"\x82\xa1a\x01\xa1a\x02",
    b"\x81\x90\x01",
    b"\xc1",
    b"\xc0",
    b"\xc2",
    b"\x91" * 40,
    b"\x90" * 40,
    *(bytes((0x90 + count,)) for count in range(2, 8)),
    *(bytes((0x92 + count % 5, kind)) for count, kind in enumerate([*FIELDS, 0, 18, 63, 64, 127])),
    wire.ping(7),
    wire.publish("a", None, b""),
]


def shown(envelope: Sequence[Any]) -> str:
    """For comparison: NaN equals itself here, a view is its bytes, and a tuple the list that it was on the wire."""
    text = repr([bytes(field) if type(field) is memoryview else field for field in envelope])
    return text.replace(",)", ")").translate(BRACKETS)


BRACKETS = str.maketrans("()", "[]")


def decode(decoder: Decoder, frame: bytes, *, fold: bool = False) -> Batch | BusError:
    try:
        return decoder.decode(frame, fold=fold)
    except BusError as refusal:
        return refusal


def read(decoder: Decoder, frame: bytes) -> Sequence[Sequence[Any]] | BusError:
    """As a client reads what its own broker has checked."""
    try:
        return decoder.read(frame)
    except BusError as refusal:
        return refusal


def check_types(envelope: list[Any]) -> None:
    kind = envelope[0]
    assert type(kind) is int
    assert len(envelope) <= ENVELOPE_FIELDS
    if kind in SKIPPABLE:
        return
    fields = FIELDS[kind]
    assert len(envelope) > len(fields)
    for field, types in zip(envelope[1:], fields, strict=False):
        assert type(field) in types
    if kind in IDS:
        assert 0 < envelope[1] <= ID_MAX


def check_batch(batch: Batch, frame: bytes) -> None:
    offsets = batch.offsets
    assert len(offsets) == len(batch.envelopes) + 1
    assert 0 < len(batch.envelopes) <= ENVELOPES_PER_FRAME
    assert (offsets[0], offsets[-1]) == (0, len(frame))
    assert all(start < end for start, end in pairwise(offsets))
    for index, envelope in enumerate(batch.envelopes):
        check_types(envelope)
        if index < 30:
            alone = Decoder().decode(frame[offsets[index] : offsets[index + 1]])
            assert [shown(envelope) for envelope in alone.envelopes] == [shown(envelope)]


def check_folded(folded: Batch, batch: Batch, frame: bytes) -> None:
    """Unfolded again, a folded batch is the batch."""
    assert len(folded.counts) == len(folded.envelopes) == len(folded.offsets) - 1
    index = 0
    for envelope, (start, end), count in zip(folded.envelopes, pairwise(folded.offsets), folded.counts, strict=True):
        assert (batch.offsets[index], batch.offsets[index + count]) == (start, end)
        assert shown(envelope) == shown(batch.envelopes[index])
        for like in batch.envelopes[index + 1 : index + count]:
            assert like[0] == Kind.PUBLISH
            assert shown([*like[:3], *like[4:]]) == shown([*envelope[:3], *envelope[4:]])
        index += count
    assert index == len(batch.envelopes)


def peak_of(read: Callable[[bytes], Any], data: bytes) -> int:
    """Bytes allocated at the worst moment of one ``read``."""
    tracemalloc.start()
    try:
        read(data)
    except BusError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


def check_cost(data: bytes) -> None:
    limit = SECONDS_EACH * max(1.0, len(data) / BYTES_IN_THAT)
    assert driver.cpu_seconds(lambda: decode(Decoder(), data), limit) < limit
    structure = min(len(data), STRUCTURE_BYTES + BATCH_BYTES)
    assert peak_of(Decoder().decode, data) < MEMORY_BASE + NEST_BYTES + MEMORY_FACTOR * structure + len(data)


def envelope_target() -> driver.Target:
    old = Decoder()

    def judge(data: bytes) -> Hashable:
        result = decode(old, data)
        fresh = decode(Decoder(), data)
        trusted = read(old, data)
        folded = decode(old, data, fold=True)
        if zlib.crc32(data) % 16 == 0:
            check_cost(data)
        if isinstance(result, BusError):
            assert result.code in CODES
            assert not isinstance(trusted, BusError) or trusted.code in CODES
            assert isinstance(fresh, BusError)
            assert isinstance(folded, BusError)
            assert (fresh.code, fresh.text) == (folded.code, folded.text) == (result.code, result.text)
            reason = str(result.fields.get("reason", ""))
            return result.code, "".join(letter for letter in reason if letter.isalpha())[:40]
        assert isinstance(fresh, Batch)
        assert not isinstance(trusted, BusError)
        assert [shown(envelope) for envelope in trusted] == [shown(envelope) for envelope in result.envelopes]
        assert [shown(envelope) for envelope in fresh.envelopes] == [shown(envelope) for envelope in result.envelopes]
        assert fresh.offsets == result.offsets
        assert isinstance(folded, Batch)
        check_batch(result, data)
        check_folded(folded, result, data)
        return tuple(sorted({read[0] for read in result.envelopes})[:3]), len(result.envelopes).bit_length()

    return judge


def test_any_frame() -> None:
    report = driver.run("envelope", envelope_target(), corpus(), 20_000, TOKENS)
    assert report.endings > 60


def unpacked(data: bytes) -> Any:
    """The value, or the refusal."""
    try:
        return wire.unpack(data)
    except BusError as refusal:
        return refusal


def payload_target(data: bytes) -> Hashable:
    value = unpacked(data)
    if isinstance(value, BusError):
        assert value.code == Code.PAYLOAD_UNDECODABLE
        return "".join(letter for letter in str(value.fields["reason"]) if letter.isalpha())[:40]
    if zlib.crc32(data) % 16 == 0:
        assert peak_of(wire.unpack, data) < MEMORY_BASE + MEMORY_FACTOR * len(data)
    # Exactly one value, and nothing of it lost: the reference reader without our limits agrees.
    # Compared as bytes: values nest up to 1023 deep, which repr() and == do not survive.
    assert msgpack.packb(value) == msgpack.packb(msgpack.unpackb(data, strict_map_key=False))
    return type(value).__name__, len(data).bit_length()


def test_any_payload() -> None:
    values = [
        None,
        True,
        1,
        -1,
        2**64 - 1,
        1.5,
        "text",
        b"bytes",
        [1, [2, [3]]],
        {"a": {"b": [1, 2]}},
        {1: 2, b"k": None},
    ]
    inputs = [*map(wire.pack, values), *(data for data in corpus() if len(data) < 500)]
    report = driver.run("payload", payload_target, inputs, 20_000, TOKENS)
    assert report.endings > 20


def wide(levels: int) -> bytes:
    """A list of empty lists, nearly as many as one list may hold, ``levels`` deep."""
    value = b"\x90"
    for _ in range(levels):
        value = b"\xdc\x00\xfa" + value * 250
    return value


def hello(manifest_value: bytes) -> bytes:
    return b"\x93\x01\x01\x81\xa1a" + manifest_value


BOMBS = {
    "arrays of one, nested": b"\x91" * BATCH_BYTES,
    "arrays of 256, nested": b"\xdc\x01\x00" * (BATCH_BYTES // 3),
    "arrays of 65535, nested": b"\xdc\xff\xff" * (BATCH_BYTES // 3),
    "arrays of 2^32 - 1, nested": b"\xdd\xff\xff\xff\xff" * (BATCH_BYTES // 5),
    "maps of one, nested": b"\x81\xa1a" * (BATCH_BYTES // 3),
    "maps of 256, nested": b"\xde\x01\x00\xa1a" * (BATCH_BYTES // 5),
    "maps of 2^32 - 1, nested": b"\xdf\xff\xff\xff\xff\xa1a" * (BATCH_BYTES // 7),
    "nested in a manifest": hello(b"\x91" * BATCH_BYTES),
    "nested maps in a manifest": hello(b"\x81\xa1a" * (BATCH_BYTES // 3)),
    "nested in a skippable kind": b"\x92\x40" + b"\x91" * BATCH_BYTES,
    "wide manifest of two levels": hello(wide(1)),
    "wide manifest of three levels": hello(wide(2)),
    "16 MiB of wide manifests": hello(wide(2)) * 260,
    "16 MiB of wide skippable kinds": (b"\x92\x40" + wide(2)) * 260,
    "empty arrays": b"\x90" * BATCH_BYTES,
    "empty maps": b"\x80" * BATCH_BYTES,
    "numbers instead of envelopes": b"\x01" * BATCH_BYTES,
    "nils instead of envelopes": b"\xc0" * BATCH_BYTES,
    "string of 2^32 - 1": b"\x94\x03\xdb\xff\xff\xff\xff",
    "binary of 2^32 - 1": b"\x94\x03\xa1a\xc0\xc6\xff\xff\xff\xff",
    "binary of 2^32 - 1 in a large frame": b"\x94\x03\xa1a\xc0\xc6\xff\xff\xff\xff" + bytes(100_000),
    "binary just longer than the frame": b"\x94\x03\xa1a\xc0\xc6" + (100_001).to_bytes(4, "big") + bytes(100_000),
    "extension of 2^32 - 1": b"\x92\x40\xc9\xff\xff\xff\xff\x01",
    "extension": b"\x92\x40\xd4\x01\x00",
    "timestamp": b"\x92\x40\xd6\xff\x00\x00\x00\x00",
    "headers of one name, 256 times": b"\x94\x03\xa1a\xde\x01\x00" + b"\xa1a\x01" * 256 + b"\xc4\x00",
    "headers, too many": wire.publish("a", {f"h{index}": 1 for index in range(256)}, b""),
    "key of a map is an array": b"\x94\x03\xa1a\x81\x90\x01\xc4\x00",
    "key of a map is a map": hello(b"\x81\x80\x01"),
    "colliding numbers as keys": hello(b"\x82\x01\x01\x01\x02"),
    "subject is not UTF-8": b"\x94\x03\xa2\xc3\x28\xc0\xc4\x00",
    "subject is a surrogate": b"\x94\x03\xa3\xed\xa0\x80\xc0\xc4\x00",
    "id is NaN": b"\x92\x0a\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",
    "id is a boolean": b"\x92\x0a\xc3",
    "id is 2^64 - 1": b"\x92\x0a\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
    "id is -2^63": b"\x92\x0a\xd3\x80\x00\x00\x00\x00\x00\x00\x00",
    "kind is a boolean": b"\x92\xc3\x01",
    "kind is a float": b"\x92\xcb\x40\x24\x00\x00\x00\x00\x00\x00\x01",
    "reserved byte": b"\xc1" * 1000,
    "16384 envelopes and one more": wire.ping(1) * (ENVELOPES_PER_FRAME + 1),
    "good envelopes, then the end of the world": wire.ping(1) * 3000 + b"\xdd\xff\xff\xff\xff",
    "large payload, then rubbish": wire.publish("a", None, b"p" * 1_000_000) + b"\xc1",
    "large payload, cut off": wire.publish("a", None, b"p" * 1_000_000)[:-1],
}

HARMLESS = {"wide manifest of two levels", "headers of one name, 256 times"}


@pytest.mark.parametrize("name", BOMBS)
def test_hostile_frame_is_refused_at_a_bounded_cost(name: str) -> None:
    data = BOMBS[name]
    result = decode(Decoder(), data)
    assert isinstance(result, Batch if name in HARMLESS else BusError), result
    if isinstance(result, BusError):
        assert result.code in CODES
    gc.collect()
    check_cost(data)


def test_numbers_that_are_not_numbers_are_carried() -> None:
    """NaN in a header is the sender's business: it is neither compared nor computed with."""
    frame = b"\x94\x03\xa1a\x81\xa1a\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00\xc4\x00"
    assert shown(Decoder().decode(frame).envelopes[0]) == "[3, 'a', {'a': nan}, b'']"


@pytest.mark.parametrize(
    "rest", [b"\x92\x0b", b"\x93\x0b", b"\x90\x92\x0b", b"\xc0\x93\x0b", b"\xc4\x01", b"\xcc", b"\x92"]
)
@pytest.mark.parametrize("way", [decode, read])
def test_frame_that_ends_within_an_envelope_does_not_run_on_into_the_next(
    way: Callable[[Decoder, bytes], object], rest: bytes
) -> None:
    """The reader's count of bytes is also right after half an array; only asking it for more tells."""
    decoder = Decoder()
    assert isinstance(way(decoder, wire.ping(1) + rest), BusError)
    assert decoder.decode(wire.ping(2)).envelopes == [[Kind.PING, 2]]
