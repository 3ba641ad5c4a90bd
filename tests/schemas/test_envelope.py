"""Envelopes and batches: what is encoded is read back, and every bound holds at the bound and above it."""

import subprocess
import sys
import textwrap
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from busproto import envelope as wire
from busproto import limits
from busproto.envelope import KIND_NAMES, Batch, Decoder, Kind, Status, pack, unpack
from busproto.errors import BusError, Code

SCHEMAS = Path(wire.__file__).parents[1]

ID = st.integers(1, limits.ID_MAX)
WORD = st.text("abc-_0", min_size=1, max_size=10)
SUBJECT = st.lists(WORD, min_size=1, max_size=5).map(".".join)
SCALAR = st.one_of(
    st.text(max_size=20),
    st.binary(max_size=20),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False),
)
HEADERS = st.one_of(st.none(), st.dictionaries(WORD, SCALAR, max_size=6))
CONTROL = st.dictionaries(
    st.text(max_size=10),
    st.one_of(st.none(), SCALAR, st.lists(SCALAR, max_size=4), st.dictionaries(WORD, SCALAR)),
    max_size=6,
)
PAYLOAD = st.binary(max_size=400)
STATUS = st.integers(Status.OK, Status.UNKNOWN)

FIELDS: dict[int, tuple[st.SearchStrategy[Any], ...]] = {
    Kind.HELLO: (st.integers(1, 9), CONTROL),
    Kind.WELCOME: (st.integers(1, 9), WORD, CONTROL),
    Kind.PUBLISH: (SUBJECT, HEADERS, PAYLOAD),
    Kind.SUBSCRIBE: (ID, SUBJECT, CONTROL),
    Kind.UNSUBSCRIBE: (ID, ID),
    Kind.SERVE: (ID, SUBJECT, CONTROL),
    Kind.UNSERVE: (ID, ID),
    Kind.CALL: (ID, SUBJECT, st.integers(1, limits.TIMEOUT_MS_MAX), HEADERS, PAYLOAD),
    Kind.REPLY: (ID, STATUS, HEADERS, PAYLOAD),
    Kind.CANCEL: (ID,),
    Kind.PING: (st.integers(0, limits.ID_MAX),),
    Kind.PONG: (st.integers(0, limits.ID_MAX),),
    Kind.DRAIN: (st.integers(0, limits.ID_MAX),),
    Kind.BYE: (st.one_of(st.none(), CONTROL),),
    Kind.ORIGIN: (WORD, WORD, WORD, WORD, st.integers(0, 2**32)),
    Kind.GAP: (ID, st.integers(1, 2**40), WORD),
    Kind.ERROR: (st.one_of(st.none(), ID), CONTROL),
}
ENVELOPE = st.sampled_from(sorted(FIELDS)).flatmap(lambda kind: st.tuples(st.just(kind), *FIELDS[kind]).map(list))


def encode(fields: list[Any]) -> bytes:
    """Through the encoder of the envelope's kind."""
    kind, *rest = fields
    data = wire.hello(rest[1], rest[0]) if kind == Kind.HELLO else getattr(wire, KIND_NAMES[kind])(*rest)
    assert isinstance(data, bytes)
    return data


def refusal(data: bytes) -> BusError:
    with pytest.raises(BusError) as caught:
        Decoder().decode(data)
    return caught.value


def outcome(read: Callable[[bytes], Any], data: bytes) -> Any:
    """What ``read`` returns, or the BusError it raises. Anything else that it raises fails the test."""
    try:
        return read(data)
    except BusError as error:
        return error


def plain(batch: Batch) -> list[list[Any]]:
    return [[bytes(field) if isinstance(field, memoryview) else field for field in read] for read in batch.envelopes]


def test_every_kind_has_an_encoder_and_a_round_trip() -> None:
    assert set(FIELDS) == set(KIND_NAMES)


@given(ENVELOPE)
def test_what_is_encoded_is_read_back(fields: list[Any]) -> None:
    data = encode(fields)
    assert Decoder().decode(data) == Batch([fields], [0, len(data)], [1])


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "a.b"]), st.sampled_from([None, {}, {"id": "1"}]), st.sampled_from([0, 1, 300])
        ),
        min_size=1,
        max_size=20,
    )
)
def test_folded_publishes_unfold_to_what_they_were(messages: list[tuple[str, dict[str, str] | None, int]]) -> None:
    data = b"".join(wire.publish(subject, headers, b"x" * size) for subject, headers, size in messages)
    whole, folded = Decoder().decode(data), Decoder().decode(data, fold=True)
    assert sum(folded.counts) == len(messages)
    assert set(folded.offsets) <= set(whole.offsets)
    unfolded = [
        envelope for start, end in pairwise(folded.offsets) for envelope in Decoder().decode(data[start:end]).envelopes
    ]
    assert unfolded == whole.envelopes


def test_a_run_of_like_publishes_is_one_entry() -> None:
    one = wire.publish("a.b", None, b"x")
    batch = Decoder().decode(wire.ping(1) + one * 5 + wire.publish("a.c", None, b"") + one, fold=True)
    assert batch.counts == [1, 1, 4, 1, 1]
    assert batch.offsets[2:4] == [3 + len(one), 3 + 5 * len(one)]


@given(st.lists(ENVELOPE, min_size=1, max_size=8))
def test_a_batch_is_its_envelopes_and_can_be_sliced(batch: list[list[Any]]) -> None:
    encoded = [encode(fields) for fields in batch]
    frame = b"".join(encoded)
    read = Decoder().decode(frame)
    assert read.envelopes == batch
    assert [frame[start:end] for start, end in zip(read.offsets, read.offsets[1:], strict=False)] == encoded


@given(st.lists(ENVELOPE, min_size=1, max_size=6), st.integers(0, 5), st.sampled_from([0, 60_000, 70_000, 200_000]))
def test_large_frames_read_as_small_ones_do(batch: list[list[Any]], place: int, size: int) -> None:
    batch.insert(place, [Kind.PUBLISH, "large", None, b"L" * size])
    padding = [Kind.PUBLISH, "pad", None, b"P" * limits.LARGE_FRAME_BYTES]
    encoded = [encode(fields) for fields in [*batch, padding]]
    read = Decoder().decode(b"".join(encoded))
    assert plain(read) == [*batch, padding]
    assert [end - start for start, end in zip(read.offsets, read.offsets[1:], strict=False)] == [
        len(data) for data in encoded
    ]


def test_a_large_payload_is_not_copied() -> None:
    frame = encode([Kind.PUBLISH, "a", None, b"p" * 1_000_000])
    payload = Decoder().decode(frame).envelopes[0][3]
    assert isinstance(payload, memoryview)
    assert payload.obj is frame


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused_with_a_code(data: bytes) -> None:
    read = outcome(Decoder().decode, data)
    if isinstance(read, BusError):
        assert Code.ENVELOPE_MALFORMED <= read.code <= Code.HEADERS_INVALID
    else:
        assert read.offsets[-1] == len(data)


@given(ENVELOPE, st.data())
def test_one_changed_byte_is_read_or_refused_with_a_code(fields: list[Any], data: st.DataObject) -> None:
    frame = bytearray(encode(fields))
    frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    read = outcome(Decoder().decode, bytes(frame))
    assert not isinstance(read, BusError) or Code.ENVELOPE_MALFORMED <= read.code <= Code.HEADERS_INVALID


@given(st.lists(ENVELOPE, min_size=1, max_size=4), st.data())
def test_every_true_prefix_is_refused(batch: list[list[Any]], data: st.DataObject) -> None:
    encoded = [encode(fields) for fields in batch]
    whole = {sum(map(len, encoded[:count])) for count in range(1, len(encoded) + 1)}
    frame = b"".join(encoded)
    cut = data.draw(st.integers(0, len(frame) - 1))
    if cut not in whole:
        assert refusal(frame[:cut]).code == Code.ENVELOPE_MALFORMED


@given(ENVELOPE.filter(lambda fields: fields[0] in (Kind.CALL, Kind.REPLY, Kind.CANCEL)), ID)
def test_an_id_is_rewritten_in_place(fields: list[Any], id: int) -> None:
    data = encode(fields)
    head, rest = wire.head_with_id(data, 0, id)
    rewritten = head + data[rest:]
    assert Decoder().decode(rewritten).envelopes == [[fields[0], id, *fields[2:]]]


@st.composite
def lookalikes(draw: st.DrawFn) -> bytes:
    """Publishes that differ little, many with an appended field that looks like a payload; perhaps a changed byte."""
    frame = bytearray()
    for _ in range(draw(st.integers(1, 5))):
        size = draw(st.sampled_from([1, 1, 1, 0, 2]))
        claimed = draw(st.sampled_from([1, 1, 1, 4, 7, 18]))
        appended = draw(st.sampled_from([[], [b"\xc4" + bytes([claimed]) + b"x"]]))
        frame += pack([Kind.PUBLISH, "a", None, b"p" * size, *appended])
    frame += draw(st.sampled_from([b"", wire.ping(1), wire.ping(1) * 2, wire.publish("b", None, b"q") + wire.ping(1)]))
    if draw(st.integers(0, 3)) == 0:
        frame[draw(st.integers(0, len(frame) - 1))] = draw(st.sampled_from([0, 1, 3, 15, 0x94, 0x95, 0xC4, 0xC5]))
    return bytes(frame)


@settings(max_examples=300)
@given(lookalikes())
def test_what_is_folded_is_what_is_there(frame: bytes) -> None:
    folded = outcome(lambda data: Decoder().decode(data, fold=True), frame)
    plainly = outcome(Decoder().decode, frame)
    if isinstance(plainly, BusError):
        assert isinstance(folded, BusError)
        assert folded.code == plainly.code
        return
    assert folded.offsets[-1] == len(frame)
    unfolded: list[list[Any]] = []
    for place, first in enumerate(folded.envelopes):
        part = Decoder().decode(frame[folded.offsets[place] : folded.offsets[place + 1]]).envelopes
        assert len(part) == folded.counts[place]
        assert part[0] == first
        assert len(part) == 1 or all(other[:3] == first[:3] for other in part)
        unfolded += part
    assert unfolded == plainly.envelopes


def hello(manifest: dict[str, Any]) -> bytes:
    return pack([Kind.HELLO, 1, manifest])


def publish(headers: dict[str, Any] | None, payload: bytes = b"\xc0") -> bytes:
    return pack([Kind.PUBLISH, "a", headers, payload])


def headers_of(size: int) -> bytes:
    """Headers whose names and values have ``size`` bytes together."""
    return publish({"a": b"v" * VALUE, "b": b"v" * (size - VALUE - 2)})


def manifest_of(values: int) -> bytes:
    """A manifest of so many values: itself, its entries, and what is in their lists."""
    lists, rest = divmod(values - 1, limits.CONTROL_ITEMS)
    rows: dict[str, Any] = {f"k{i}": [0] * (limits.CONTROL_ITEMS - 1) for i in range(lists)}
    return hello({**rows, "rest": [0] * (rest - 1)} if rest else rows)


def structure_of(size: int) -> bytes:
    """A frame that has ``size`` bytes besides the strings and binaries that are its envelopes' own fields."""
    rows = [[64, [b"s" * 4000] * 10]] * 3
    filled = sum(len(pack(row)) for row in rows)
    # The last envelope takes two bytes and the payload's header; a list of binaries of 258 and more takes the rest.
    left = size - filled - len(pack([64, []]))
    return b"".join(map(pack, rows)) + pack([64, [b"s" * (n - 3) for n in spread(left)]])


def spread(total: int) -> list[int]:
    """Summands of ``total``, each from 300 to 4000."""
    count = total // 4000 + 1
    return [total // count + (place < total % count) for place in range(count)]


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"n": value}
    return value


NAME = limits.HEADER_NAME_BYTES
VALUE = limits.VALUE_BYTES

BOUNDS: list[tuple[str, int, Callable[[int], bytes], Code]] = [
    ("fields", limits.ENVELOPE_FIELDS, lambda n: pack([Kind.PING] + [7] * (n - 1)), Code.ENVELOPE_FIELDS),
    ("envelopes", limits.ENVELOPES_PER_FRAME, lambda n: wire.ping(1) * n, Code.ENVELOPE_TOO_MANY),
    ("id", limits.ID_MAX, wire.cancel, Code.ENVELOPE_FIELDS),
    ("token", limits.ID_MAX, wire.ping, Code.ENVELOPE_FIELDS),
    ("timeout", limits.TIMEOUT_MS_MAX, lambda n: wire.call(1, "a", n, None, b""), Code.ENVELOPE_FIELDS),
    ("headers", limits.HEADERS, lambda n: publish({f"h{i}": 1 for i in range(n)}), Code.HEADERS_INVALID),
    ("header-name", NAME, lambda n: publish({"n" * n: 1}), Code.HEADERS_INVALID),
    ("header-binary", VALUE, lambda n: publish({"a": b"v" * n}), Code.HEADERS_INVALID),
    ("header-string", VALUE, lambda n: publish({"a": "v" * n}), Code.ENVELOPE_MALFORMED),
    ("header-multibyte", VALUE // 2, lambda n: publish({"a": "ü" * n}), Code.ENVELOPE_MALFORMED),
    ("headers-bytes", limits.HEADERS_BYTES, headers_of, Code.HEADERS_INVALID),
    ("control-entries", limits.CONTROL_ITEMS, lambda n: hello({f"k{i}": 1 for i in range(n)}), Code.ENVELOPE_MALFORMED),
    ("control-list", limits.CONTROL_ITEMS, lambda n: hello({"serves": ["a"] * n}), Code.ENVELOPE_MALFORMED),
    ("control-depth", limits.CONTROL_DEPTH, lambda n: hello(nested(n)), Code.ENVELOPE_FIELDS),
    ("control-values", limits.CONTROL_VALUES, manifest_of, Code.ENVELOPE_FIELDS),
    ("structure", limits.STRUCTURE_BYTES, structure_of, Code.ENVELOPE_MALFORMED),
    ("control-string", VALUE, lambda n: hello({"a": "v" * n}), Code.ENVELOPE_MALFORMED),
    ("control-binary", VALUE, lambda n: hello({"a": b"v" * n}), Code.ENVELOPE_FIELDS),
    ("control-key", VALUE, lambda n: hello({"k" * n: 1}), Code.ENVELOPE_MALFORMED),
]  # fmt: skip


@pytest.mark.parametrize(("bound", "build", "code"), [row[1:] for row in BOUNDS],
                         ids=[row[0] for row in BOUNDS])  # fmt: skip
def test_bound(bound: int, build: Callable[[int], bytes], code: Code) -> None:
    data = build(bound)
    assert Decoder().decode(data).offsets[-1] == len(data)
    assert refusal(build(bound + 1)).code == code


def test_bound_of_the_payload() -> None:
    largest = publish(None, b"p" * limits.PAYLOAD_BYTES)
    assert len(Decoder().decode(largest).envelopes[0][3]) == limits.PAYLOAD_BYTES
    assert refusal(publish(None, b"p" * (limits.PAYLOAD_BYTES + 1))).code == Code.ENVELOPE_MALFORMED


def test_bound_of_the_frame() -> None:
    padding = publish(None, b"p" * 20_000)
    largest = publish(None, b"p" * limits.PAYLOAD_BYTES)
    rest = limits.FRAME_BYTES - len(largest) - 2 * len(padding)
    frame = largest + padding * 2 + publish(None, b"p" * (rest - len(publish(None, b"p" * 20_000)) + 20_000))
    assert len(frame) == limits.FRAME_BYTES
    assert len(Decoder().decode(frame).envelopes) == 4
    assert refusal(frame + wire.ping(1)).code == Code.FRAME_TOO_LARGE


def test_the_lowest_values_and_below() -> None:
    Decoder().decode(wire.call(1, "a", 1, None, b""))
    for data in (wire.call(0, "a", 1, None, b""), wire.call(1, "a", 0, None, b""), wire.cancel(0), wire.ping(-1)):
        assert refusal(data).code == Code.ENVELOPE_FIELDS


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (wire.ping(1) + b"\x93", "envelope 1 of the frame cannot be decoded: it ends in the middle"),
        (b"", "envelope 0 of the frame cannot be decoded: the frame is empty"),
        (b"\x80", "envelope 0 of the frame cannot be decoded: not an array that begins with a kind"),
        (wire.cancel(2**32), "cancel envelope has wrong fields: id 4294967296 is not within 1 to 4294967295"),
        (b"\x92\x12\x01", "kind 18 envelope has wrong fields: this kind is not known and may not be skipped"),
        (publish({"X": 1}), "headers are not acceptable: header name 'X' may hold only a-z, 0-9, - and _"),
        (publish({"a": None}), "headers are not acceptable: header a must be a string, number, boolean or binary"),
    ],
)
def test_a_refusal_says_why(data: bytes, text: str) -> None:
    assert refusal(data).text == text


VALUES = st.recursive(
    st.one_of(st.none(), SCALAR),
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(st.text(max_size=5), inner, max_size=5)),
    max_leaves=20,
)


@given(VALUES)
def test_payload_values_survive(value: Any) -> None:
    assert unpack(pack(value)) == value


def test_payload_maps_may_have_keys_of_any_scalar() -> None:
    assert unpack(pack({1: "a", b"k": 2, -1.5: 3, None: 4})) == {1: "a", b"k": 2, -1.5: 3, None: 4}


@given(st.binary(max_size=200))
def test_a_payload_is_read_or_refused_with_its_code(data: bytes) -> None:
    read = outcome(unpack, data)
    assert not isinstance(read, BusError) or read.code == Code.PAYLOAD_UNDECODABLE


@pytest.mark.parametrize(
    "data", [b"", b"\xc1", b"\xc0\xc0", b"\x92\x01", b"\xa2\xc3\x28", b"\x91" * 2000, b"\x81\x90\x01"]
)
def test_payload_that_is_not_one_value(data: bytes) -> None:
    with pytest.raises(BusError) as caught:
        unpack(data)
    assert caught.value.code == Code.PAYLOAD_UNDECODABLE


@pytest.mark.parametrize("value", [object(), {1, 2}, 2**64, -(2**63) - 1, "\ud800", [lambda: 0]])
def test_value_that_msgpack_cannot_hold(value: object) -> None:
    with pytest.raises(BusError) as caught:
        pack(value)
    assert caught.value.code == Code.PAYLOAD_UNENCODABLE


def test_packer_is_sound_after_a_refusal() -> None:
    with pytest.raises(BusError):
        pack(["half", object()])
    assert pack(1) == b"\x01"


BOMB = """
    import resource, sys, time
    from busproto.envelope import Decoder, unpack
    from busproto.errors import BusError

    def peak_mib():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    deep = b"\\xdd\\x00\\x03\\xff\\xff"
    bombs = [
        (unpack, deep * 60_000),
        (unpack, deep * 1000 + b"\\x00" * 300_000),
        (unpack, b"\\xdf\\x00\\x03\\xff\\xff\\xa1a" * 50_000),
        (Decoder().decode, b"\\x93\\x01\\x01" + deep * 20_000),
        (Decoder().decode, b"\\x93\\x01\\x01" + b"\\xdc\\x01\\x00" * 40_000),
        (Decoder().decode, b"\\x93\\x01\\x01" + b"\\xdc\\x01\\x00" * 100_000),
        (Decoder().decode, b"\\x91" * 15_000_000),
    ]
    base = peak_mib() + sum(len(data) for _, data in bombs) / 2**20
    started = time.perf_counter()
    for read, data in bombs:
        try:
            read(data)
        except BusError:
            continue
        sys.exit("a bomb was accepted")
    print(peak_mib() - base, time.perf_counter() - started)
"""


def test_bombs_take_neither_memory_nor_time() -> None:
    command = [sys.executable, "-c", textwrap.dedent(BOMB)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=SCHEMAS, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    mib, seconds = map(float, run.stdout.split())
    assert mib < 16
    assert seconds < 2
