"""The contract of every shipped component: called in this process or over a bus, nobody can tell which.

What is asked is made from the component's own schemas, so a component that is added is in these tests from its first
day. Components that need something to work on get it from `CONFIG` and `EXAMPLES`.
"""

import asyncio
import functools
import inspect
import os
import re
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, get_args

import msgspec
import pytest

from busclient import BusError, CallTimeout, Closed, Code, ErrorReply
from busclient.testing import FakeClock
from busd.components.model import (
    Component,
    Operation,
    compile_operations,
    configure,
    handle_statistics,
    load,
    subscribe,
    within,
)
from busd.components.model.testing import Form, both_forms, forms
from busd.components.shipped import SHIPPED

CONFIG: Final[dict[str, dict[str, Any]]] = {"cache": {"key": {"generate": True}, "mode": "both", "state": "off"}}
"""By component: with what it is made, where its defaults will not do in a test."""

EXAMPLES: Final[dict[str, dict[str, Any]]] = {
    **{f"cache.{name}": {"name": b"a-name"} for name in ("get", "touch", "delete")},
    **{f"cache.{name}": {"name": b"a-name", "value": b"a value"} for name in ("set", "add", "replace")},
    "cache.set_many": {"items": [{"name": b"a-name", "value": b"a value"}]},
    "cache.cas": {"name": b"a-name", "value": b"a value", "generation": 1},
    "cache.put_record": {"key": bytes(16), "record": bytes(29), "generation": 1},
    **{f"cache.{name}": {"key": bytes(16)} for name in ("get_record", "delete_record")},
    "deletion.submit": {"root": "scratch", "path": b"old", "dry_run": True},
    **{
        f"deletion.{name}": {"job": "a-job"}
        for name in ("watch", "pause", "resume", "change", "cancel", "undelete", "report")
    },
}
"""By subject: arguments that are valid, where there are parameters without a default."""


async def job_held(handle: Any) -> dict[str, Any]:
    """A job that took a tree away and removes nothing of it."""
    tree = Path(tempfile.mkdtemp(dir=CONFIG["deletion"]["roots"][0]["path"]))
    (tree / "file").touch()
    path = os.fsencode(tree.name)
    return {"job": (await handle.submit(root="scratch", path=path, files_per_second=0)).job}


async def job_in_grace(handle: Any) -> dict[str, Any]:
    """A job whose tree can be had back."""
    path = os.fsencode(Path(tempfile.mkdtemp(dir=CONFIG["deletion"]["roots"][0]["path"])).name)
    return {"job": (await handle.submit(root="scratch", path=path, grace_seconds=3600)).job}


async def job_over(handle: Any) -> dict[str, Any]:
    """A job whose tree was put back."""
    job = await job_in_grace(handle)
    await handle.undelete(**job)
    return job


async def value_stored(handle: Any) -> dict[str, Any]:
    """A value that can be compared and set."""
    return {**EXAMPLES["cache.cas"], "generation": await handle.set(b"a-name", value=b"before")}


PREPARED: Final[dict[str, Callable[[Any], Awaitable[dict[str, Any]]]]] = {
    "cache.cas": value_stored,
    "deletion.watch": job_over,
    "deletion.undelete": job_in_grace,
    **dict.fromkeys((f"deletion.{name}" for name in ("pause", "resume", "change", "cancel", "report")), job_held),
}
"""By subject: what has to be done before each time that it is asked; gives arguments instead of those of `EXAMPLES`."""

SETTLED: Final = 5.0
"""Seconds of the fake clock in which every component has published each of its events."""

OPERATIONS: Final = [operation for name in SHIPPED for operation in compile_operations(load(name)).values()]
REQUESTS: Final = [operation for operation in OPERATIONS if operation.kind == "request"]

each_component = pytest.mark.parametrize("name", SHIPPED)
each_operation = pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.subject)
each_request = pytest.mark.parametrize("operation", REQUESTS, ids=lambda operation: operation.subject)


@asynccontextmanager
async def handle_of(name: str, form: Form, clock: FakeClock | None = None, **options: Any) -> AsyncIterator[Any]:
    """A handle of a shipped component in one form."""
    async with both_forms(load(name), form, clock=clock, **options, **CONFIG.get(name, {})) as handle:
        yield handle


def owner(operation: Operation) -> str:
    return operation.subject.partition(".")[0]


@pytest.fixture(autouse=True)
def deletion_root(tmp_path: Path) -> None:
    """What the deletion component works on: a directory of each test's own."""
    root = tmp_path / "scratch"
    (root / "old").mkdir(parents=True)
    config = {"roots": [{"id": "scratch", "path": str(root)}], "state": str(tmp_path / "state"), "adaptive": False}
    CONFIG["deletion"] = config


async def example(handle: Any, operation: Operation) -> dict[str, Any]:
    """Arguments with which ``operation`` succeeds, once."""
    prepare = PREPARED.get(operation.subject)
    return EXAMPLES.get(operation.subject, {}) if prepare is None else await prepare(handle)


async def ask(handle: Any, operation: Operation, arguments: dict[str, Any]) -> Any:
    """The result, or all parts."""
    called = getattr(handle, operation.name)(**arguments)
    return await called if operation.kind == "request" else [part async for part in called]


class Failure(NamedTuple):
    """How a call failed, as the caller sees it."""

    kind: type[BusError]
    code: int
    name: str
    text: str
    retryable: bool


async def failure(handle: Any, operation: Operation, arguments: dict[str, Any]) -> Failure:
    with pytest.raises(BusError) as caught:
        await ask(handle, operation, arguments)
    error = caught.value
    return Failure(type(error), error.code, error.name, error.text, error.retryable)


def in_both(play: Callable[[Form], Awaitable[Any]]) -> tuple[Any, Any]:
    """What ``play`` gives with a direct handle, and over a bus."""
    direct, bus = (asyncio.run(_awaited(play(form))) for form in get_args(Form))
    return direct, bus


async def _awaited(work: Awaitable[Any]) -> Any:
    return await work


def parameters(operation: Operation) -> list[Any]:
    """The fields of an operation's arguments, as msgspec sees them."""
    return list(msgspec.inspect.type_info(operation.input.type).fields)  # type: ignore[attr-defined]


def default_of(field: Any) -> Any:
    """What a parameter is when nothing is said."""
    return field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()


def wrong_arguments(operation: Operation) -> list[dict[str, Any]]:
    """Arguments that cannot be valid: of a type that no parameter has, unknown, missing."""
    valid = EXAMPLES.get(operation.subject, {})
    wrong: list[dict[str, Any]] = [{**valid, "no_such_parameter": 1}]
    for field in parameters(operation):
        wrong.append({**valid, field.name: {"a map": [{}]}})
        wrong += [{**valid, field.name: value} for value in out_of_bounds(field.type)]
        if field.required:
            wrong.append({key: value for key, value in valid.items() if key != field.name})
    return wrong


def out_of_bounds(kind: Any) -> list[Any]:
    """Values just outside of what a type's annotations allow, or of another type."""
    if isinstance(kind, msgspec.inspect.UnionType):
        return [value for each in kind.types for value in out_of_bounds(each)]
    values: list[Any] = []
    if isinstance(kind, msgspec.inspect.IntType):
        values = ["1", 1.5, True]
        values += [kind.ge - 1] if kind.ge is not None else []
        values += [kind.le + 1] if kind.le is not None else []
    if isinstance(kind, msgspec.inspect.StrType):
        values = [1, b"x"]
        values += ["x" * (kind.max_length + 1)] if kind.max_length is not None else []
        values += [""] if kind.min_length else []
    if isinstance(kind, msgspec.inspect.LiteralType):
        values = ["not one of them", 1.5]
    return values


# -- what it is --------------------------------------------------------------------------------------------------------


@each_component
def test_it_is_whole(name: str) -> None:
    """The class, what it says of itself, and its name on the shelf agree."""
    component = load(name)
    assert issubclass(component, Component)
    manifest = component.manifest
    assert manifest.component == name
    assert manifest.purpose
    assert manifest.operations
    assert component.__doc__
    configure(component, CONFIG.get(name, {}))


@each_operation
def test_every_operation_says_what_it_does(operation: Operation) -> None:
    assert operation.doc, f"{operation.subject} has no docstring"


@each_component
@forms
def test_a_handle_has_the_operations_and_nothing_else(name: str, form: Form) -> None:
    async def main() -> None:
        operations = compile_operations(load(name))
        async with handle_of(name, form) as handle:
            assert dir(handle) == sorted(operations)
            for operation in operations.values():
                method = getattr(handle, operation.name)
                assert inspect.getdoc(method) == operation.doc
                assert inspect.signature(method) == operation.signature
            for other in ("start", "stop", "context", "no_such_operation"):
                with pytest.raises(AttributeError, match="it has: "):
                    getattr(handle, other)

    asyncio.run(main())


# -- results -----------------------------------------------------------------------------------------------------------


@each_operation
def test_results_are_of_the_type_that_is_promised(operation: Operation) -> None:
    async def play(form: Form) -> Any:
        async with handle_of(owner(operation), form) as handle:
            result = await ask(handle, operation, await example(handle, operation))
        return [shape(each) for each in ([result] if operation.kind == "request" else result)]

    direct, bus = in_both(play)
    assert direct, "there is a result, or a part"
    assert direct[0] == bus[0]


def shape(value: Any) -> Any:
    """The types in a result, without the figures: a machine's are not the same twice."""
    if isinstance(value, msgspec.Struct):
        return type(value), {field: shape(getattr(value, field)) for field in value.__struct_fields__}
    if isinstance(value, list | tuple):
        return type(value), {str(shape(type(each))) for each in value}
    return type(value)


@each_operation
@forms
def test_arguments_by_name_and_nil_are_the_same(operation: Operation, form: Form) -> None:
    """Every default said aloud is what is meant by saying nothing."""

    async def main() -> None:
        aloud = {field.name: default_of(field) for field in parameters(operation) if not field.required}
        async with handle_of(owner(operation), form) as handle:
            quiet, loud = [
                await ask(handle, operation, {**said, **await example(handle, operation)}) for said in ({}, aloud)
            ]
        assert shape(quiet) == shape(loud)

    asyncio.run(main())


@each_request
@forms
def test_results_are_the_caller_s_own(operation: Operation, form: Form) -> None:
    async def main() -> None:
        async with handle_of(owner(operation), form) as handle:
            first, second = [await ask(handle, operation, await example(handle, operation)) for _ in range(2)]
            assert first is None or first is not second or isinstance(first, int | str | bytes | float)

    asyncio.run(main())


# -- errors ------------------------------------------------------------------------------------------------------------


@each_operation
def test_errors_are_the_same_and_name_the_parameter(operation: Operation) -> None:
    wrong = wrong_arguments(operation)

    async def play(form: Form) -> list[Failure]:
        async with handle_of(owner(operation), form) as handle:
            return [await failure(handle, operation, arguments) for arguments in wrong]

    direct, bus = in_both(play)
    assert direct == bus
    for arguments, failed in zip(wrong, direct, strict=True):
        assert (failed.kind, failed.code) == (ErrorReply, Code.REQUEST_INVALID), arguments
        assert failed.text.startswith(f"the request to {operation.subject} is not valid: "), failed
        reason = failed.text.partition(" is not valid: ")[2]
        named = re.split(r"[:.\[]", reason, maxsplit=1)[0]  # it may be a field of a parameter
        assert named in {*arguments, *(field.name for field in parameters(operation))}, failed


@each_operation
def test_a_deadline_that_is_over_is_a_timeout_in_both(operation: Operation) -> None:
    async def play(form: Form) -> Failure:
        clock = FakeClock()
        component = held_up(load(owner(operation)), operation)
        async with both_forms(component, form, clock=clock, **CONFIG.get(owner(operation), {})) as handle:
            arguments = EXAMPLES.get(operation.subject, {})
            asked = asyncio.create_task(failure(within(handle, 1.0), operation, arguments))
            await clock.advance(0.9)
            assert not asked.done()
            await clock.advance(0.2)
            return await asked

    direct, bus = in_both(play)
    assert direct[:3] == bus[:3] == (CallTimeout, Code.TIMEOUT, "timeout")
    assert direct.retryable == bus.retryable
    assert without_figures(direct.text) == without_figures(bus.text)


def without_figures(text: str) -> str:
    """The broker says how long it took, which is a little more than was asked for."""
    return re.sub(r"[0-9.]+", "0", text)


def held_up(component: type[Component], operation: Operation) -> type[Component]:
    """The same component, but this operation does not end."""

    @functools.wraps(operation.method)
    async def request(self: Component, **arguments: Any) -> None:
        await asyncio.Event().wait()

    @functools.wraps(operation.method)
    async def stream(self: Component, **arguments: Any) -> AsyncIterator[None]:
        await asyncio.Event().wait()
        yield

    return type(component.__name__, (component,), {operation.name: stream if operation.kind == "stream" else request})


@each_operation
@forms
def test_a_handle_that_is_over_says_so(operation: Operation, form: Form) -> None:
    async def main() -> None:
        async with handle_of(owner(operation), form) as handle:
            pass
        with pytest.raises(Closed):
            await ask(handle, operation, EXAMPLES.get(operation.subject, {}))

    asyncio.run(main())


# -- figures, events, configuration ------------------------------------------------------------------------------------


@each_operation
def test_calls_are_counted_the_same(operation: Operation) -> None:
    async def play(form: Form) -> tuple[int, dict[int, int], int]:
        async with handle_of(owner(operation), form) as handle:
            await ask(handle, operation, await example(handle, operation))
            await failure(handle, operation, {"no_such_parameter": 1})
            counted = handle_statistics(handle)[operation.name]
            return counted.calls, dict(counted.errors), counted.in_flight

    direct, bus = in_both(play)
    assert direct == bus == (2, {int(Code.REQUEST_INVALID): 1}, 0)


@each_component
@forms
def test_events_come_typed(name: str, form: Form) -> None:
    async def main() -> None:
        clock = FakeClock()
        component = load(name)
        async with handle_of(name, form, clock) as handle:
            for event in component.manifest.events():
                async with subscribe(handle, event) as values:
                    reading = asyncio.create_task(anext(aiter(values)))
                    for _ in range(100):
                        await clock.advance(SETTLED / 100)
                        if reading.done():
                            break
                    assert reading.done(), f"{event.name} was not published in {SETTLED:g} s"
                    assert isinstance(await reading, event.type)

    asyncio.run(main())


@each_component
def test_configuration_that_is_not_its_own_is_refused(name: str) -> None:
    with pytest.raises(BusError) as caught:
        configure(load(name), {**CONFIG.get(name, {}), "no_such_setting": 1})
    assert caught.value.code == Code.CONFIG_INVALID
    assert "no_such_setting: there is no such field" in caught.value.text
    assert f"'{name}'" in caught.value.text


def test_the_makers_of_wrong_arguments_know_their_types() -> None:
    """The tests above are worth what these give."""

    def bounds(kind: Any) -> list[Any]:
        return out_of_bounds(msgspec.inspect.type_info(kind))

    assert bounds(int) == ["1", 1.5, True]
    assert bounds(Annotated[int, msgspec.Meta(ge=1, le=9)]) == ["1", 1.5, True, 0, 10]
    assert bounds(str) == [1, b"x"]
    assert bounds(Annotated[str, msgspec.Meta(min_length=1, max_length=2)]) == [1, b"x", "xxx", ""]
    assert bounds(Literal["a", "b"]) == ["not one of them", 1.5]
    assert bounds(str | None) == [1, b"x"]
    assert bounds(float) == []
