"""Operations read off a class: mistakes are named, values are read strictly, results are what was promised."""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Annotated, Any

import msgspec
import pytest

from busclient import BusError
from busd.components.model import (
    Codec,
    Component,
    Declaration,
    Event,
    Manifest,
    Operation,
    Request,
    Stream,
    compile_operations,
)
from busproto.envelope import pack, unpack
from tests.components.model_support import Row, Sample


class Odd:
    """A class of one's own, whose values cannot travel."""


class Leaf(msgspec.Struct):
    """A type that holds itself."""

    under: "list[Leaf]" = []
    next: "Leaf | None" = None


def made(body: dict[str, Any], *operations: Declaration, state: Any = None) -> type[Component]:
    """A component's class with ``body``."""
    manifest = Manifest(component="made", version="1", owner="t", purpose="p", operations=operations, state=state)
    return type("Made", (Component,), {"manifest": manifest, **body})


def mistakes() -> list[tuple[str, Any, Declaration, str]]:
    async def bare(self, key) -> int: ...  # type: ignore[no-untyped-def, empty-body]
    async def no_result(self, key: int): ...  # type: ignore[no-untyped-def]
    async def star(self: Any, *keys: int) -> int: ...  # type: ignore[empty-body]
    async def stars(self: Any, **keys: int) -> int: ...  # type: ignore[empty-body]
    async def slash(self: Any, key: int, /) -> int: ...  # type: ignore[empty-body]
    async def odd(self: Any, key: Odd) -> int: ...  # type: ignore[empty-body]
    async def deep(self: Any, key: dict[str, list[Odd]]) -> int: ...  # type: ignore[empty-body]
    async def gives_odd(self: Any) -> list[Odd]: ...  # type: ignore[empty-body]
    async def calls(self: Any, key: Callable[[], int]) -> int: ...  # type: ignore[empty-body]
    async def unknown(self: Any, key: "Nowhere") -> int: ...  # type: ignore[name-defined, empty-body]  # noqa: F821
    async def union(self: Any, key: list[int] | set[int]) -> int: ...  # type: ignore[empty-body]
    async def shared(self: Any, key: list[int] = [1]) -> int: ...  # type: ignore[empty-body]  # noqa: B006
    async def parts(self: Any) -> AsyncIterator[int]:
        yield 1

    async def bare_parts(self: Any) -> AsyncIterator:  # type: ignore[type-arg]
        yield 1

    async def no_parts(self: Any) -> list[int]:  # type: ignore[misc]
        yield 1

    async def plain(self: Any) -> int: ...  # type: ignore[empty-body]
    def sync(self: Any) -> int: ...  # type: ignore[empty-body]
    async def selfless() -> int: ...  # type: ignore[empty-body]

    request, stream = Request("work"), Stream("work")
    return [
        ("no annotation", bare, request, "Made.work: parameter 'key' has no annotation"),
        ("no result", no_result, request, "Made.work has no annotation of what it returns"),
        ("*args", star, request, "Made.work: '*keys' has no type; name every parameter"),
        ("**kwargs", stars, request, "Made.work: '**keys' has no type"),
        ("/", slash, request, "Made.work: parameter 'key' must have a name to callers"),
        ("own class", odd, request, "Made.work: parameter 'key': Odd cannot travel"),
        ("own class, deep", deep, request, "Made.work: parameter 'key': Odd cannot travel"),
        ("own class returned", gives_odd, request, "Made.work: what it returns: Odd cannot travel"),
        ("callable", calls, request, "Made.work: parameter 'key': Callable cannot travel"),
        ("unknown name", unknown, request, "Made.work: its annotations cannot be read: name 'Nowhere'"),
        (
            "ambiguous",
            union,
            request,
            "Made.work: parameter 'key': Type unions may not contain more than one array-like",
        ),
        ("shared default", shared, request, "Made.work: Using a non-empty mutable collection"),
        ("yields", parts, request, "Made.work yields: declare it a Stream"),
        ("does not yield", plain, stream, "Made.work is declared a Stream: it must be async def and yield"),
        ("parts of what", bare_parts, stream, "Made.work must be annotated -> AsyncIterator[type of its parts]"),
        ("no iterator", no_parts, stream, "Made.work must be annotated -> AsyncIterator"),
        ("not async", sync, request, "Made.work must be async def"),
        ("static", staticmethod(plain), request, "Made.work must be a plain method, not staticmethod"),
        ("class method", classmethod(plain), request, "Made.work must be a plain method, not classmethod"),
        ("a value", 3, request, "Made.work must be a plain method, not int"),
        ("no self", selfless, request, "Made.work has no parameter self"),
    ]


@pytest.mark.parametrize(
    ("method", "declared", "text"), [each[1:] for each in mistakes()], ids=[m[0] for m in mistakes()]
)
def test_a_mistake_in_a_method_is_named(method: Any, declared: Declaration, text: str) -> None:
    with pytest.raises(TypeError) as caught:
        compile_operations(made({"work": method}, declared))
    assert str(caught.value).startswith(text)


def test_a_mistake_in_a_class_is_named() -> None:
    with pytest.raises(TypeError, match="Made has no method 'work', which its manifest names"):
        compile_operations(made({}, Request("work")))
    with pytest.raises(TypeError, match="Made: event 'odd': Odd cannot travel"):
        compile_operations(made({}, Event("odd", Odd)))
    with pytest.raises(TypeError, match="Made: state: Odd cannot travel"):
        compile_operations(made({}, state=Odd))
    with pytest.raises(TypeError, match=r"Made\.hand_over must be async def: the manifest has a state"):
        compile_operations(made({"hand_over": lambda self: 3}, state=Row))
    with pytest.raises(TypeError, match=r"Made\.hand_over is missing: the manifest has a state"):
        compile_operations(made({}, state=Row))
    with pytest.raises(TypeError, match=r"Bare\.manifest must be a Manifest, not NoneType"):
        compile_operations(type("Bare", (Component,), {}))


def test_a_class_is_read_once() -> None:
    assert compile_operations(Sample) is compile_operations(Sample)


def test_a_subclass_may_do_it_otherwise() -> None:
    class Other(Sample):
        async def add(self, a: int, b: int = 1, c: int = 2) -> int:
            return a + b + c

    assert compile_operations(Other)["add"].read({"a": 1, "c": 3}) == {"a": 1, "b": 1, "c": 3}
    with pytest.raises(BusError):
        compile_operations(Sample)["add"].read({"a": 1, "c": 3})


def operation(name: str) -> Operation:
    return compile_operations(Sample)[name]


def test_what_an_operation_says_of_itself() -> None:
    rows, count = operation("rows"), operation("count")
    assert (rows.kind, count.kind) == ("request", "stream")
    assert rows.subject == "sample.rows"
    assert rows.parameters == ("limit", "name")
    assert list(rows.signature.parameters) == ["limit", "name", "sort"]
    assert rows.output.type == list[Row]
    assert count.output.type is Row
    assert count.doc == "Count."
    assert rows.doc == ""
    assert "sample.rows" in repr(rows)
    schema = msgspec.json.schema(rows.input.type)["$defs"]["SampleRows"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["limit"] == {"type": "integer", "minimum": 1, "maximum": 1000, "default": 10}
    assert json.dumps(msgspec.json.schema(operation("everything").output.type))


@pytest.mark.parametrize(
    ("name", "payload", "arguments"),
    [
        ("rows", None, {"limit": 10, "name": None, "sort": "pid"}),
        ("rows", {}, {"limit": 10, "name": None, "sort": "pid"}),
        ("rows", {"limit": 3, "name": "x"}, {"limit": 3, "name": "x", "sort": "pid"}),
        ("raw", {"data": b"\xff"}, {"data": b"\xff"}),
        ("share", {"share": 1}, {"share": 1.0}),
        ("nothing", None, {}),
    ],
)
def test_a_payload_is_read(name: str, payload: Any, arguments: dict[str, Any]) -> None:
    assert operation(name).read(payload) == arguments


@pytest.mark.parametrize(
    ("name", "payload", "reason"),
    [
        ("rows", [], "expected object, got array"),
        ("rows", 7, "expected object, got int"),
        ("rows", b"bytes", "expected object, got bytes"),
        ("rows", {1: 2}, "expected str"),
        ("rows", {b"limit": 2}, "expected str"),
        ("rows", {"limit": "3"}, "limit: expected int, got str"),
        ("rows", {"limit": 2**63}, "limit: expected int <= 1000"),
        ("rows", {"limit": -(2**63)}, "limit: expected int >= 1"),
        ("rows", {"nmae": "x"}, "nmae: there is no such field"),
        ("add", None, "a: missing"),
        ("raw", {"data": "YWJj"}, "data: expected bytes, got str"),
        ("rows", {"name": b"x"}, "name: expected str | null, got bytes"),
        ("share", {"share": float("nan")}, "share: expected float >= 0.0"),
        ("basket", {"basket": {"rows": [{"pid": {}}]}}, "basket.rows[0].pid: expected int, got object"),
        ("rows", {"limit": [[[[[[]]]]]]}, "limit: expected int, got array"),
    ],
)
def test_a_payload_that_is_not_valid(name: str, payload: Any, reason: str) -> None:
    with pytest.raises(BusError) as caught:
        operation(name).read(payload)
    assert caught.value.code == 2008
    assert caught.value.fields == {"subject": f"sample.{name}", "reason": reason}


def test_arguments_travel() -> None:
    packed = operation("basket").pack((), {"basket": {"rows": [Row(1)]}})
    assert unpack(packed) == {"basket": {"rows": [{"pid": 1, "name": ""}]}}
    assert operation("basket").read(unpack(packed)) == operation("basket").read_own(packed)


def test_results_of_elsewhere_are_read_in_bounds() -> None:
    rows = operation("rows")
    assert rows.decode(rows.encode([Row(1)])) == [Row(1)]
    assert operation("nothing").decode(b"") is None
    for data in (b"\xc1", b"\xdd\xff\xff\xff\xff", b"\xdd\x00\x10\x00\x00", pack([1]) + b"\x00"):
        with pytest.raises(BusError) as caught:
            rows.decode(data)
        assert caught.value.code == 6002
    with pytest.raises(BusError) as caught:
        rows.decode(pack([{"pid": 1}, {}]))
    assert caught.value.code == 3007
    assert caught.value.fields["reason"].endswith("[1].pid: missing")


def test_a_type_that_holds_itself() -> None:
    codec: Codec[Leaf] = Codec(Leaf)
    leaf = Leaf(under=[Leaf(), Leaf(next=Leaf())])
    assert codec.decode(codec.encode(leaf)) == leaf


def test_what_asynchronous_parts_may_be_called() -> None:
    async def work(self: Any, to: Annotated[int, msgspec.Meta(ge=0)]) -> AsyncGenerator[Row, None]:
        yield Row(to)

    assert compile_operations(made({"work": work}, Stream("work")))["work"].output.type is Row
