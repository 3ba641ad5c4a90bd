"""From a handle to a component wherever it is attached to a bus."""

import weakref
from collections.abc import Mapping
from typing import Any, Final, Self

import msgspec

from busclient import Bus, BusError, Call, Closed, Code, ErrorReply, Reply, Stream
from busd.components.model.caller import call_on_behalf, current_caller
from busd.components.model.codec import Codec, explain
from busd.components.model.component import Component
from busd.components.model.events import EventSubscription, Source
from busd.components.model.operation import Operation, compile_operations
from busd.components.model.statistics import OperationStatistics

__all__ = ["BusParts", "BusRoute"]


class BusRoute:
    """To a component wherever it is attached to a bus."""

    where: Final = "on the bus"

    def __init__(self, component: type[Component], bus: Bus) -> None:
        self.manifest = component.manifest
        self.operations = compile_operations(component)
        self.statistics: Mapping[str, OperationStatistics] = {name: OperationStatistics() for name in self.operations}
        self.bus: Final = bus
        self.closed = False
        self.streams: Final[weakref.WeakSet[BusParts]] = weakref.WeakSet()
        self._subscriptions: Final[weakref.WeakSet[Source]] = weakref.WeakSet()

    async def request(self, operation: Operation, data: bytes, seconds: float, behalf: bool) -> Any:
        """Call a request; see `Route`."""
        if self.closed:
            raise Closed("handle")
        statistics = self.statistics[operation.name]
        call = _behind() if behalf else None
        begun = statistics.begin()
        code = int(Code.CANCELLED)
        try:
            reply = await self.bus.call(operation.subject, timeout=seconds, data=data, on_behalf_of=call)
            result = decoded(operation, reply)
            code = 0
            return result
        except BusError as error:
            code = error.code
            raise
        finally:
            statistics.end(begun, code)

    def stream(self, operation: Operation, data: bytes, seconds: float, behalf: bool) -> "BusParts":
        """Call a stream; see `Route`."""
        if self.closed:
            raise Closed("handle")
        call = _behind() if behalf else None
        stream = self.bus.stream(operation.subject, timeout=seconds, data=data, on_behalf_of=call)
        return BusParts(self, operation, stream)

    def subscribe(self, subject: str, codec: Codec[Any], latest: bool, max_pending: int) -> EventSubscription[Any]:
        """Subscribe to an event; see `Route`."""
        if self.closed:
            raise Closed("handle")
        source = self.bus.subscribe(subject, latest=latest, max_pending=max_pending)
        self._subscriptions.add(source)
        return EventSubscription(subject, codec, source)

    async def close(self) -> None:
        """Take no more calls, and close the streams and subscriptions that are open. The bus stays."""
        self.closed = True
        for parts in list(self.streams):
            await parts.aclose()
        for subscription in list(self._subscriptions):
            subscription.close()


class BusParts:
    """A stream of a component on a bus."""

    def __init__(self, route: BusRoute, operation: Operation, stream: Stream) -> None:
        self._route = route
        self._operation = operation
        self._stream = stream
        self._begun: float | None = None
        self._ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        if self._route.closed:
            raise Closed("handle")
        if self._ended:
            raise StopAsyncIteration
        if self._begun is None:
            self._begun = self._route.statistics[self._operation.name].begin()
            self._route.streams.add(self)
        try:
            return decoded(self._operation, await self._stream.__anext__())
        except StopAsyncIteration:
            self._end(0)
            if self._route.closed:
                raise Closed("handle") from None
            raise
        except BusError as error:
            self._end(error.code)
            await self.aclose()
            raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the iteration; the operation is cancelled if it is not over."""
        self._end(int(Code.CANCELLED))
        await self._stream.aclose()

    def _end(self, code: int) -> None:
        if not self._ended and self._begun is not None:
            self._route.statistics[self._operation.name].end(self._begun, code)
        self._ended = True

    def __del__(self) -> None:
        self._end(int(Code.CANCELLED))  # dropped early: the SDK's stream cancels the call


def decoded(operation: Operation, reply: Reply) -> Any:
    """The result (or part) in ``reply``.

    Raises `ErrorReply` 3007 when it is none of this operation, and BusError 6002 when it cannot be decoded.
    """
    try:
        return operation.output.read_content(reply)
    except (msgspec.ValidationError, RecursionError) as error:
        raise ErrorReply.from_body(operation.broken(explain(error)).body()) from None


def _behind() -> Call | None:
    """The call that the running operation answers. Raises LookupError when none is running."""
    current_caller()
    return call_on_behalf()
