"""From a handle to a component in this process: a method call, with all that a bus would do besides carrying it."""

import weakref
from collections.abc import AsyncGenerator
from typing import Any, Final, Self

from busclient import BusError, Call, CallTimeout, Closed, Code, ErrorReply, NoResponders
from busclient.clock import Clock
from busclient.waiters import Waiters
from busd.components.model.caller import LOCAL, Caller, call_on_behalf, current_caller
from busd.components.model.codec import Codec
from busd.components.model.component import Component
from busd.components.model.deadline import Deadline, Deadlines
from busd.components.model.events import EventSubscription, LocalEvents
from busd.components.model.invoke import invoke, invoke_stream
from busd.components.model.lifecycle import Background
from busd.components.model.operation import Operation, compile_operations
from busproto.envelope import pack, unpack

__all__ = ["DirectParts", "DirectRoute"]


class DirectRoute:
    """To a component in this process."""

    where: Final = "here"

    def __init__(self, component: Component, background: Background, events: LocalEvents, clock: Clock) -> None:
        self.manifest = component.manifest
        self.operations = compile_operations(type(component))
        self.statistics = component.context.statistics
        self.component: Final = component
        self.deadlines: Final = Deadlines(clock)
        self.closed = False
        self.streams: Final[weakref.WeakSet[DirectParts]] = weakref.WeakSet()
        self._background: Final = background
        self._events: Final = events
        self.steps = 0
        """Steps of operations that are under way."""
        self.idle: Final = Waiters()

    async def request(self, operation: Operation, data: bytes, seconds: float, behalf: bool) -> Any:
        """Call a request; see `Route`."""
        if self.closed or self._background.failure is not None:
            self.refuse(operation)
        caller, call = _for_whom() if behalf else (LOCAL, None)
        deadline = Deadline(self.deadlines, seconds)
        self.steps += 1
        try:
            running = invoke(self.component, operation, None, caller, data=data, call=call, deadline=deadline)
            return (await deadline.run(running))[1]
        except TimeoutError:
            raise CallTimeout(operation.subject, seconds) from None
        except BusError as error:
            raise as_reply(error) from error
        finally:
            self.steps -= 1
            if self.closed:
                self.idle.wake()

    def refuse(self, operation: Operation) -> None:
        """Raise why nothing can be called (any more), if that is so."""
        if self.closed:
            raise Closed("handle")
        if self._background.failure is not None:  # on a bus its runner would be gone
            raise NoResponders(Code.NO_RESPONDERS, subject=operation.subject)

    def stream(self, operation: Operation, data: bytes, seconds: float, behalf: bool) -> "DirectParts":
        """Call a stream; see `Route`."""
        return DirectParts(self, operation, data, seconds, behalf)

    def subscribe(self, subject: str, codec: Codec[Any], latest: bool, max_pending: int) -> EventSubscription[Any]:
        """Subscribe to an event; see `Route`."""
        if self.closed:
            raise Closed("handle")
        return EventSubscription(
            subject, codec, self._events.subscribe(subject, latest=latest, max_pending=max_pending)
        )

    async def close(self) -> None:
        """Take no more calls, wait for those that are under way (each has its deadline), and close what is open."""
        self.closed = True
        self.component.draining()
        while self.steps:
            await self.idle.wait()
        for parts in list(self.streams):
            await parts.aclose()
        self._events.close()
        self.deadlines.close()


class DirectParts:
    """A stream of a component in this process."""

    def __init__(self, route: DirectRoute, operation: Operation, data: bytes, timeout: float, behalf: bool) -> None:
        self._route = route
        self._operation = operation
        self._data = data
        self._timeout = timeout
        self._behalf = behalf
        self._deadline: Deadline | None = None
        self._parts: AsyncGenerator[tuple[bytes, Any], None] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        route = self._route
        route.refuse(self._operation)
        if self._deadline is None:
            self._deadline = deadline = Deadline(route.deadlines, self._timeout)
            caller, call = _for_whom() if self._behalf else (LOCAL, None)
            self._parts = invoke_stream(
                route.component, self._operation, None, caller, data=self._data, call=call, deadline=deadline
            )
            route.streams.add(self)
        if self._parts is None:
            raise StopAsyncIteration
        route.steps += 1
        try:
            if self._deadline.passed():
                raise TimeoutError
            return (await self._deadline.run(self._parts.__anext__()))[1]
        except BaseException as error:
            await self.aclose()
            if isinstance(error, TimeoutError):
                raise CallTimeout(self._operation.subject, self._timeout) from None
            if isinstance(error, BusError):
                raise as_reply(error) from error
            raise
        finally:
            route.steps -= 1
            if route.closed:
                route.idle.wake()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the iteration; the operation is closed if it is not over."""
        parts, self._parts = self._parts, None
        if self._deadline is None:
            self._deadline = Deadline(self._route.deadlines, 0.0)
        if parts is not None:
            await parts.aclose()


def as_reply(error: BusError) -> ErrorReply:
    """``error`` of an operation as its caller on a bus would get it."""
    return ErrorReply.from_body(unpack(pack(error.body())))


def _for_whom() -> tuple[Caller, Call | None]:
    """The caller of what is called for the caller of the operation that is running."""
    return LOCAL._replace(on_behalf_of=current_caller()), call_on_behalf()
