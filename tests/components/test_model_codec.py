"""Payloads that are decoded in one step are the values, and the errors, that the way in two steps gives."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from busclient.message import NO_ORIGIN, Call, Reply
from busd.components.model.codec import Codec
from busproto.errors import BusError


class Inner(msgspec.Struct):
    at: float = 0.5


class Flat(msgspec.Struct, forbid_unknown_fields=True):
    name: bytes
    text: Annotated[str, msgspec.Meta(max_length=5)] = ""
    number: Annotated[int, msgspec.Meta(ge=-5)] = 1
    ttl: float | None = None
    sure: bool = False
    inner: Inner | None = None


class Open(msgspec.Struct):
    found: bool
    value: bytes = b""


FLAT: list[Any] = [Flat, Open, int, float, bool, bytes, str, None, int | None]
DEEP: list[Any] = [list[int], dict[str, int], Any, tuple[int, ...], Literal["a"], bytearray]

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.binary(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["name", "text", "number", "ttl", "sure", "inner", "at", "found", "value", "x"]), inner
        )
    ),
    max_leaves=8,
)


def in_two_steps(codec: Codec[Any], reply: Reply) -> Any:
    return codec.read(reply.payload)


def in_one(codec: Codec[Any], reply: Reply) -> Any:
    return codec.read_content(reply)


def outcome(read: Callable[[Codec[Any], Reply], Any], codec: Codec[Any], data: bytes) -> tuple[str, Any]:
    try:
        value = read(codec, Reply.received(memoryview(data), None, NO_ORIGIN))
    except (msgspec.ValidationError, BusError) as error:
        return type(error).__name__, str(error)
    return type(value).__name__, repr(value)  # NaN is not itself


@pytest.mark.parametrize("kind", FLAT, ids=str)
@given(value=values)
def test_every_value_is_read_as_in_two_steps(kind: Any, value: Any) -> None:
    codec: Codec[Any] = Codec(kind)
    data = msgpack.packb(value)
    assert outcome(in_one, codec, data) == outcome(in_two_steps, codec, data)


@pytest.mark.parametrize("kind", FLAT, ids=str)
@given(data=st.binary(max_size=40))
def test_so_are_any_bytes(kind: Any, data: bytes) -> None:
    codec: Codec[Any] = Codec(kind)
    assert outcome(in_one, codec, data) == outcome(in_two_steps, codec, data)


@given(name=st.binary(max_size=9), text=st.text(max_size=5), number=st.integers(-5, (1 << 64) - 1), cut=st.integers(0))
def test_what_is_valid_or_nearly_so_too(name: bytes, text: str, number: int, cut: int) -> None:
    codec: Codec[Flat] = Codec(Flat)
    data = codec.encode(Flat(name, text, number, 2.5, True, Inner(1.0)))
    assert outcome(in_one, codec, data)[1] == repr(Flat(name, text, number, 2.5, True, Inner(1.0)))
    for wrong in (data[: cut % len(data)], data + b"\0"):
        assert outcome(in_one, codec, wrong) == outcome(in_two_steps, codec, wrong)


@pytest.mark.parametrize("kind", DEEP, ids=str)
def test_types_that_do_not_bound_their_values_take_two_steps(kind: Any) -> None:
    codec: Codec[Any] = Codec(kind)
    reply = Reply.received(b"\xdd\xff\xff\xff\xff", None, NO_ORIGIN)  # a list of 2^32 - 1, of which nothing came
    with pytest.raises(BusError):
        codec.read_content(reply)


def test_another_encoding_is_not_taken_for_msgpack() -> None:
    reply = Reply.received(msgpack.packb({"found": True}), {"datacontenttype": "text/plain"}, NO_ORIGIN)
    with pytest.raises(msgspec.ValidationError):
        Codec(Open).read_content(reply)


def test_an_empty_payload_is_a_map_only_where_it_may_be() -> None:
    class Nothing(msgspec.Struct):
        pass

    call = Call(1, "a.b", 0.0, b"", None, NO_ORIGIN)
    assert Codec(Nothing).read_content(call, empty=True) == Nothing()
    with pytest.raises(msgspec.ValidationError):
        Codec(Nothing).read_content(call)
