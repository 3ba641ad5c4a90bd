"""What a component offers: the declarations of its manifest, and the same read off its methods, ready to be called."""

import inspect
import typing
import weakref
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, TypeVar

import msgspec

from busclient import Call
from busd.components.model.codec import Codec, explain
from busproto.envelope import unpack
from busproto.errors import BusError, Code

if typing.TYPE_CHECKING:
    from busd.components.model.component import Component

__all__ = [
    "Declaration",
    "Event",
    "Operation",
    "Request",
    "Stream",
    "codec_of",
    "compile_operations",
    "hints_of",
    "parameters_of",
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Request:
    """An operation that is called and gives one result: an ``async def`` of the same name."""

    name: str


@dataclass(frozen=True, slots=True)
class Stream:
    """An operation that is called and gives parts, one after the other: an async generator of the same name."""

    name: str


@dataclass(frozen=True, slots=True)
class Event(Generic[T]):
    """Messages that the component publishes, all of one type: ``CPU = Event("cpu", Cpu)``."""

    name: str
    type: type[T]


Declaration = Request | Stream | Event[Any]

_PARTS: Final = (AsyncIterator, AsyncIterable, AsyncGenerator)


class Operation:
    """One request or stream of a component's class. Made by `compile_operations`."""

    __slots__ = ("doc", "input", "kind", "method", "name", "output", "parameters", "signature", "subject")

    def __init__(self, component: "type[Component]", declaration: Request | Stream) -> None:
        """Raises TypeError, naming class, method and parameter, when the method is not what was declared."""
        self.name: Final = declaration.name
        self.kind: Final[Literal["request", "stream"]] = "stream" if isinstance(declaration, Stream) else "request"
        self.subject: Final = component.manifest.subject(declaration)
        method = _method(component, self.name, stream=self.kind == "stream")
        where = f"{component.__name__}.{self.name}"
        hints = hints_of(method, where)
        parameters = parameters_of(method, where, hints)
        signature = inspect.signature(method)
        own = [*signature.parameters.values()][1:]
        self.method: Final[Callable[..., Any]] = method
        """Takes the component and the arguments by name."""
        self.doc: Final = inspect.getdoc(method) or ""
        self.signature: Final = signature.replace(parameters=own)
        """As a caller sees it: without self."""
        self.parameters: Final = tuple(each.name for each in own if each.kind is not each.KEYWORD_ONLY)
        """Names of those that may be given by position."""
        self.input: Final[Codec[Any]] = _input(_title(self.subject), parameters, where)
        """Of the arguments: one map."""
        self.output: Final[Codec[Any]] = _output(hints, where, stream=self.kind == "stream")
        """Of the result, or of each part."""

    def __repr__(self) -> str:
        return f"<Operation {self.subject}{self.signature}>"

    # -- arguments ----------------------------------------------------------------------------------------------------

    def read(self, value: Any) -> dict[str, Any]:
        """The arguments in a payload that was decoded in bounds: a map, or None where nothing is required.

        Raises BusError 2008, whose reason begins with the field at fault.
        """
        try:
            return _fields(self.input.read({} if value is None else value))
        except (msgspec.ValidationError, RecursionError) as error:
            raise self.invalid(explain(error)) from None

    def read_call(self, call: Call) -> dict[str, Any]:
        """As `read`, of what came over a bus."""
        try:
            return _fields(self.input.read_content(call, empty=True))
        except (msgspec.ValidationError, RecursionError) as error:
            raise self.invalid(explain(error)) from None

    def read_own(self, data: bytes) -> dict[str, Any]:
        """As `read`, of bytes that `pack` has made in this process."""
        try:
            return _fields(self.input.decode(data))
        except (msgspec.ValidationError, RecursionError):
            return self.read(unpack(data))  # for the same words as on a bus

    def pack(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """A call's arguments as they travel, not yet checked. Raises BusError 2008 for what no payload can hold."""
        if args:
            kwargs = self._named(args, kwargs)
        try:
            return self.input.encode(kwargs)
        except _UNSENDABLE as error:
            reason = explain(error)
        for name, value in kwargs.items():
            try:
                self.input.encode(value)
            except _UNSENDABLE as error:
                raise self.invalid(f"{name}: {explain(error)}") from None
        raise self.invalid(reason)  # not reached: a map of what can travel can travel

    def _named(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        names = self.parameters
        if len(args) > len(names):
            given = f"takes at most {len(names)} arguments by position, not {len(args)}"
            raise self.invalid(f"{given}{': ' if names else ''}{', '.join(names)}")
        named = dict(zip(names, args, strict=False))
        if kwargs:
            if not named.keys().isdisjoint(kwargs):
                raise self.invalid(f"{min(named.keys() & kwargs.keys())}: given twice")
            named.update(kwargs)
        return named

    # -- results ------------------------------------------------------------------------------------------------------

    def encode(self, result: Any) -> bytes:
        """A result (or part) as it travels. Raises TypeError, ValueError or OverflowError; see `seal`."""
        return self.output.encode(result)

    def decode(self, data: bytes | memoryview) -> Any:
        """The result (or part) in bytes that came from elsewhere.

        Raises BusError 6002 when they cannot be decoded and 3007 when they are no result of this operation.
        """
        try:
            return self.output.read_bytes(data)
        except (msgspec.ValidationError, RecursionError) as error:
            raise self.broken(explain(error)) from None

    def seal(self, result: Any) -> tuple[bytes, Any]:
        """What the method returned: as it travels, and as who called gets it, which is nothing the component still has.

        Raises BusError 3007 when it is not what the method's annotation promises.
        """
        try:
            data = self.output.encode(result)
            return data, self.output.decode(data)
        except _UNSENDABLE as error:
            raise self.broken(explain(error)) from None

    def invalid(self, reason: str) -> BusError:
        """The error for arguments that are not acceptable."""
        return BusError(Code.REQUEST_INVALID, subject=self.subject, reason=reason)

    def broken(self, reason: str) -> BusError:
        """The error for a result that is none."""
        what = "result" if self.kind == "request" else "part"
        return BusError(Code.HANDLER_FAILED, reason=f"a {what} of {self.subject} is not what it promises: {reason}")


_UNSENDABLE: Final = (TypeError, ValueError, OverflowError, RecursionError)
"""What encoding raises for what msgpack cannot hold, and decoding (ValidationError is a ValueError)."""

_fields: Final = msgspec.structs.asdict

_compiled: Final[weakref.WeakKeyDictionary[type, Mapping[str, Operation]]] = weakref.WeakKeyDictionary()


def compile_operations(component: "type[Component]") -> Mapping[str, Operation]:
    """The requests and streams of a component's class by name, read off its methods the first time.

    Raises TypeError, naming class, method and parameter, for every mistake that the class itself shows: a method that
    is missing or not async, a parameter without annotation, ``*args``, a type whose values cannot travel.
    """
    operations = _compiled.get(component)
    if operations is None:
        from busd.components.model.component import Component  # both import this module
        from busd.components.model.manifest import Manifest

        manifest = getattr(component, "manifest", None)
        if not isinstance(manifest, Manifest):
            raise TypeError(f"{component.__name__}.manifest must be a Manifest, not {type(manifest).__name__}")
        for event in manifest.events():
            _checked(event.type, f"{component.__name__}: event '{event.name}'")
        if manifest.state is not None:
            _checked(manifest.state, f"{component.__name__}: state")
            for name in ("hand_over", "take_over"):
                method = getattr(component, name)
                if method is getattr(Component, name):
                    raise TypeError(f"{component.__name__}.{name} is missing: the manifest has a state")
                if not inspect.iscoroutinefunction(method):
                    raise TypeError(f"{component.__name__}.{name} must be async def: the manifest has a state")
        operations = _compiled[component] = {
            each.name: Operation(component, each) for each in manifest.operations if not isinstance(each, Event)
        }
    return operations


_codecs: Final[dict[Any, Codec[Any]]] = {}


def codec_of(kind: Any) -> Codec[Any]:
    """The codec of a type, above all an event's or a state's. Raises TypeError for one whose values cannot travel."""
    try:
        codec = _codecs.get(kind)
    except TypeError:  # not hashable, as a Literal of lists would be
        return Codec(kind)
    if codec is None:
        codec = _codecs[kind] = Codec(kind)
    return codec


def parameters_of(
    method: Callable[..., Any], where: str, hints: Mapping[str, Any], *, foreign: bool = False
) -> list[tuple[Any, ...]]:
    """The parameters of ``method`` after self, as the fields of a Struct. Raises TypeError naming ``where``.

    With ``foreign`` they may be of types whose values cannot travel: they are given in process.
    """
    first, *rest = inspect.signature(method).parameters.values() or (None,)
    if first is None or first.kind not in (first.POSITIONAL_ONLY, first.POSITIONAL_OR_KEYWORD):
        raise TypeError(f"{where} has no parameter self")
    fields: list[tuple[Any, ...]] = []
    for each in rest:
        if each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD):
            star = "*" if each.kind is each.VAR_POSITIONAL else "**"
            raise TypeError(f"{where}: '{star}{each.name}' has no type; name every parameter")
        if each.kind is each.POSITIONAL_ONLY:
            raise TypeError(f"{where}: parameter '{each.name}' must have a name to callers: take the / away")
        if each.name not in hints:
            raise TypeError(f"{where}: parameter '{each.name}' has no annotation")
        kind = hints[each.name] if foreign else _checked(hints[each.name], f"{where}: parameter '{each.name}'")
        fields.append((each.name, kind) if each.default is each.empty else (each.name, kind, each.default))
    return fields


def _method(component: type, name: str, *, stream: bool) -> Callable[..., Any]:
    where = f"{component.__name__}.{name}"
    method = inspect.getattr_static(component, name, None)
    if method is None:
        raise TypeError(f"{component.__name__} has no method '{name}', which its manifest names")
    if not inspect.isfunction(method):
        raise TypeError(f"{where} must be a plain method, not {type(method).__name__}")
    if stream and not inspect.isasyncgenfunction(method):
        raise TypeError(f"{where} is declared a Stream: it must be async def and yield its parts")
    if not stream and inspect.isasyncgenfunction(method):
        raise TypeError(f"{where} yields: declare it a Stream, not a Request")
    if not stream and not inspect.iscoroutinefunction(method):
        raise TypeError(f"{where} must be async def")
    return method


def hints_of(method: Callable[..., Any], where: str) -> dict[str, Any]:
    """The annotations of ``method``. Raises TypeError naming ``where`` when they cannot be read."""
    try:
        return typing.get_type_hints(method, include_extras=True)
    except (NameError, AttributeError, TypeError, SyntaxError) as error:
        raise TypeError(f"{where}: its annotations cannot be read: {error}") from None


def _checked(kind: Any, where: str) -> Any:
    """``kind``, if its values can travel. Raises TypeError naming ``where``."""
    try:
        codec_of(kind)
    except (TypeError, NameError) as error:
        raise TypeError(f"{where}: {error}") from None
    return kind


def _input(name: str, fields: list[tuple[Any, ...]], where: str) -> Codec[Any]:
    try:
        return Codec(msgspec.defstruct(name, fields, kw_only=True, forbid_unknown_fields=True, frozen=True))
    except TypeError as error:  # above all a default that all calls would share
        raise TypeError(f"{where}: {error}") from None


def _output(hints: Mapping[str, Any], where: str, *, stream: bool) -> Codec[Any]:
    if "return" not in hints:
        raise TypeError(f"{where} has no annotation of what it returns")
    kind = hints["return"]
    if stream:
        if typing.get_origin(kind) not in _PARTS or not typing.get_args(kind):
            raise TypeError(f"{where} must be annotated -> AsyncIterator[type of its parts]")
        kind = typing.get_args(kind)[0]
    return Codec(_checked(kind, f"{where}: what it returns"))


def _title(subject: str) -> str:
    """A class's name for a subject: ``telemetry.processes`` becomes ``TelemetryProcesses``."""
    return "".join(word.title() for word in subject.replace(".", "_").replace("-", "_").split("_"))
