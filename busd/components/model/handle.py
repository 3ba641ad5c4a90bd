"""A handle: the operations of a component as methods, wherever the component runs."""

import inspect
import weakref
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, TypeVar, cast, overload

from busclient import Bus, BusError, ErrorReply, connect
from busclient.clock import Clock, LoopClock
from busclient.queues import QUEUE_MESSAGES
from busd.components.model.component import Component, Context, configure
from busd.components.model.deadline import check_timeout
from busd.components.model.direct import DirectRoute
from busd.components.model.events import EventSubscription, LocalEvents
from busd.components.model.lifecycle import running
from busd.components.model.load import load
from busd.components.model.onbus import BusRoute
from busd.components.model.operation import Event, Operation, codec_of, compile_operations
from busd.components.model.route import Route
from busd.components.model.statistics import OperationStatistics
from busd.components.model.whereabouts import Where, program, whereabouts

__all__ = [
    "TIMEOUT",
    "Handle",
    "attach",
    "attach_here",
    "attach_to",
    "handle_statistics",
    "on_behalf",
    "subscribe",
    "within",
]

TIMEOUT: Final = 5.0
"""Seconds that a call may take, unless told otherwise: as ``Bus.call``."""

_SELF: Final = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)

T = TypeVar("T")
H = TypeVar("H")
C = TypeVar("C", bound=Component)


class Handle:
    """What all handles have in common. The operations are methods of a subclass, one for each component's class."""

    __slots__ = ("_behalf", "_route", "_timeout")

    def __init__(self, route: Route, timeout: float, behalf: bool = False) -> None:
        self._route = route
        self._timeout = timeout
        self._behalf = behalf

    def __getattr__(self, name: str) -> Any:
        there = ", ".join(self.__dir__()) or "none"
        raise AttributeError(f"component '{self._route.manifest.component}' has no operation '{name}'; it has: {there}")

    def __dir__(self) -> list[str]:
        return list(self._route.operations)

    def __repr__(self) -> str:
        return f"<handle of {self._route.manifest.component}, {self._route.where}>"


@overload
def attach(
    component: type[C],
    *,
    bus: Bus | None = ...,
    where: Where | None = ...,
    timeout: float = ...,
    config: Mapping[str, Any] = ...,
) -> AbstractAsyncContextManager[C]: ...


@overload
def attach(
    component: str,
    *,
    bus: Bus | None = ...,
    where: Where | None = ...,
    timeout: float = ...,
    config: Mapping[str, Any] = ...,
) -> AbstractAsyncContextManager[Any]: ...


def attach(
    component: type[Component] | str,
    *,
    bus: Bus | None = None,
    where: Where | None = None,
    timeout: float = TIMEOUT,
    config: Mapping[str, Any] | None = None,
) -> AbstractAsyncContextManager[Any]:
    """A handle of ``component``, to be entered with ``async with``.

    Args:
        component: its class, the name of one that is shipped, or ``module:Class``.
        bus: the connection to call it over; whoever opened it closes it. A component that runs here gets it as
            ``context.bus``.
        where: ``here`` starts the component in this process and stops it at the end; ``bus`` calls it wherever it is
            attached. By default what the environment's ``BUS_COMPONENTS`` says (``cache=here,*=bus``), or else ``bus``
            if one is given. For a component on a bus without ``bus``, a connection is made (``BUS_URL``).
        timeout: seconds that each call may take, or a stream in all; `within` makes a handle with another.
        config: of a component that runs here, what its constructor takes. Elsewhere it is configured where it runs.

    Methods of the handle raise, wherever the component is:

    * `ErrorReply` with the component's error: 2008 when an argument is not valid (the reason begins with its name),
      3007 when the component failed, or its own (10000 and above)
    * `CallTimeout`; the operation is cancelled then, as it is when the caller is
    * `Closed` after the end of ``async with``
    * `NoResponders` when the component is not there; on a bus also the other outcomes of ``Bus.call``

    Arguments and results travel in both cases: what the component does to an argument, or the caller to a result, the
    other does not see.

    Raises ValueError for a timeout that no call may have, and BusError: 8001 or 8006 when there is no such component or
    its class shows a mistake, 7002 for a configuration that it does not take, 6001 when there is no bus.
    """
    kind = load(component) if isinstance(component, str) else component
    check_timeout(timeout)
    chosen = where or whereabouts(kind.manifest.component) or ("here" if bus is None else "bus")
    if chosen == "here":
        return attach_here(kind, bus=bus, timeout=timeout, config=config or {})
    if chosen != "bus":
        raise ValueError(f"where is 'here' or 'bus', not {chosen!r}")
    return attach_to(bus, kind, timeout=timeout)


@asynccontextmanager
async def attach_here(
    component: type[C],
    *,
    bus: Bus | None = None,
    timeout: float = TIMEOUT,  # noqa: ASYNC109  (of each call of the handle, not of this one)
    config: Mapping[str, Any],
    clock: Clock | None = None,
) -> AsyncIterator[C]:
    """A handle of an instance of ``component`` that lives in this process, inside of ``async with``.

    Raises what its constructor, `start` and `stop` raise, and at the end what its `run` failed with.
    """
    kind = handle_class(component)
    instance = configure(component, config)
    clock = clock or LoopClock()
    events = LocalEvents()
    instance.context = Context(component, bus, clock=clock, events=events)
    async with running(instance) as background:
        route = DirectRoute(instance, background, events, clock)
        try:
            yield cast(C, kind(route, timeout))
        finally:
            await route.close()


@asynccontextmanager
async def attach_to(
    bus: Bus | None,
    component: type[C],
    *,
    timeout: float = TIMEOUT,  # noqa: ASYNC109  (of each call of the handle, not of this one)
) -> AsyncIterator[C]:
    """A handle of ``component`` wherever it is attached to ``bus``; without one, to this user's or BUS_URL's."""
    kind = handle_class(component)
    if bus is None:
        name = component.manifest.component
        async with (
            connect(component=program(), purpose=f"calls {name}") as own,
            attach_to(own, component, timeout=timeout) as handle,
        ):
            yield handle
        return
    route = BusRoute(component, bus)
    try:
        yield cast(C, kind(route, timeout))
    finally:
        await route.close()


def within(handle: H, seconds: float) -> H:
    """The same handle, whose calls may take ``seconds`` each. Raises ValueError for what no call may take."""
    own = _handle(handle)
    return cast(H, type(own)(own._route, check_timeout(seconds), own._behalf))


def on_behalf(handle: H) -> H:
    """The same handle, whose calls are made for the caller of the operation that is running.

    Who is called sees both (``current_caller().on_behalf_of``), and on a bus policy asks for the rights of both.
    """
    own = _handle(handle)
    return cast(H, type(own)(own._route, own._timeout, True))


def subscribe(
    handle: object, event: Event[T], *, latest: bool = False, max_pending: int = QUEUE_MESSAGES
) -> EventSubscription[T]:
    """The values of ``event`` of the component behind ``handle``: enter with ``async with``, then iterate.

    Args:
        event: as the component's manifest has it.
        latest: when this program cannot keep up, keep the newest value instead of the oldest.
        max_pending: values that wait for this program before it loses some; a `Gap` says so.

    Raises LookupError when the component has no such event, and `Closed` when the handle is.
    """
    route = _handle(handle)._route
    if event not in route.manifest.operations:
        there = ", ".join(each.name for each in route.manifest.events()) or "none"
        raise LookupError(f"{route.manifest.component} has no event '{event.name}' of that type; it has: {there}")
    return route.subscribe(route.manifest.subject(event), codec_of(event.type), latest, max_pending)


def handle_statistics(handle: object) -> Mapping[str, OperationStatistics]:
    """What became of the calls of each operation through ``handle`` and those made of it."""
    return _handle(handle)._route.statistics


def _handle(handle: object) -> Handle:
    if not isinstance(handle, Handle):
        raise TypeError(f"{type(handle).__name__} is not a handle: attach() gives one")
    return handle


_classes: Final[weakref.WeakKeyDictionary[type[Component], type[Handle]]] = weakref.WeakKeyDictionary()


def handle_class(component: type[Component]) -> type[Handle]:
    """The class of the handles of ``component``. Raises TypeError for a mistake that its class shows."""
    found = _classes.get(component)
    if found is not None:
        return found
    operations = compile_operations(component)
    methods: dict[str, Any] = {"__slots__": (), "__doc__": f"A handle of `{component.__name__}`."}
    for operation in operations.values():
        method = _stream(operation) if operation.kind == "stream" else _request(operation)
        method.__name__ = operation.name
        method.__qualname__ = f"{component.__name__}.{operation.name}"
        method.__module__ = component.__module__
        method.__doc__ = operation.doc
        method.__signature__ = operation.signature.replace(parameters=[_SELF, *operation.signature.parameters.values()])
        methods[operation.name] = method
    found = _classes[component] = type(f"{component.__name__}Handle", (Handle,), methods)
    return found


def _request(operation: Operation) -> Any:
    async def request(self: Handle, *args: Any, **kwargs: Any) -> Any:
        try:
            data = operation.pack(args, kwargs)
        except BusError as error:
            raise ErrorReply.from_body(error.body()) from None
        return await self._route.request(operation, data, self._timeout, self._behalf)

    return request


def _stream(operation: Operation) -> Any:
    def stream(self: Handle, *args: Any, **kwargs: Any) -> Any:
        try:
            data = operation.pack(args, kwargs)
        except BusError as error:
            raise ErrorReply.from_body(error.body()) from None
        return self._route.stream(operation, data, self._timeout, self._behalf)

    return stream
