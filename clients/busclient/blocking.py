"""The SDK for scripts and threads: the verbs of `busclient.Bus`, blocking.

    with busclient.blocking.connect(component="script") as bus:
        print(bus.call("$bus.ping", timeout=1.0).payload)

One background thread runs the asyncio bus; any number of threads may use this one. What the verbs take, return and
raise is said at `busclient.Bus`. Ctrl-C interrupts whatever waits; leaving ``with`` ends the thread.
"""

import asyncio
import concurrent.futures
import inspect
import os
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, Generic, Literal, Self, TypeVar, overload

from busclient.bus import TIMEOUT, BusStatistics
from busclient.bus import Bus as AsyncBus
from busclient.bus import connect as connect_async
from busclient.connection import State
from busclient.errors import Closed, Gap
from busclient.message import Call, Message, Reply
from busclient.queues import QUEUE_MESSAGES
from busclient.service import ServiceStatistics
from busclient.stream import Stream as AsyncStream
from busclient.subscription import Subscription as AsyncSubscription
from busclient.subscription import SubscriptionStatistics
from busproto.envelope import Headers

__all__ = ["Bus", "Handler", "Service", "Stream", "Subscription", "connect"]

Handler = Callable[[Call], Any]
"""``def handler(call)`` that returns the reply's payload (or a `Reply`), or a generator function of parts."""

CONCURRENCY: Final = 8
"""Threads that answer one service's calls, unless told otherwise."""

BATCH: Final = 512
"""Messages that cross from the background thread at a time, when that many wait."""

_END: Final = object()

Result = TypeVar("Result")
Item = TypeVar("Item", covariant=True)


def connect(
    url: str | None = None,
    *,
    component: str | None = None,
    version: str | None = None,
    owner: str | None = None,
    purpose: str | None = None,
    serves: Sequence[str] = (),
    publishes: Sequence[str] = (),
    needs: Sequence[str] = (),
    reconnect: bool = True,
    key: str | os.PathLike[str] | None = None,
    server_key: str | os.PathLike[str] | None = None,
) -> "Bus":
    """As `busclient.connect`, to be entered with ``with``."""
    return Bus(
        connect_async(
            url,
            component=component,
            version=version,
            owner=owner,
            purpose=purpose,
            serves=serves,
            publishes=publishes,
            needs=needs,
            reconnect=reconnect,
            key=key,
            server_key=server_key,
        )
    )


class _Thread:
    """A thread that runs an event loop until it is told to stop."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), name="busclient", daemon=True)
        self._thread.start()
        self._started.wait()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._started.set()
        await self._stop.wait()

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run ``work`` there and wait for it here. Raises `Closed` once the thread has ended."""
        if self._loop is None or self._loop.is_closed() or threading.current_thread() is self._thread:
            work.close()
            raise Closed("bus")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise Closed("bus") from None
        finally:
            future.cancel()  # Ctrl-C: nobody waits for it any more

    def end(self) -> None:
        """Cancel what still runs there, and end the thread."""
        if self._loop is not None and self._stop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()


class Bus:
    """One endpoint on the bus, for blocking code. Made by `connect`; safe to use from several threads."""

    def __init__(self, bus: AsyncBus) -> None:
        self._bus = bus
        self._thread: _Thread | None = None

    # -- coming and going ---------------------------------------------------------------------------------------------

    def open(self) -> Self:
        """Connect; what entering ``with`` does."""
        if self._thread is not None:
            raise RuntimeError("this bus is already open")
        self._thread = _Thread()
        try:
            self._run(self._bus.open())
        except BaseException:
            self._thread.end()
            raise
        return self

    def close(self) -> None:
        """Send what is unsent, say bye and close; what `busclient.Bus.close` raises."""
        if self._thread is not None:
            try:
                self._run(self._bus.close())
            finally:
                self._thread.end()

    def drain(self, grace: float = 30.0) -> None:
        """Ask for no new calls, and return when those that are here have been answered."""
        self._run(self._bus.drain(grace))

    def connected(self, timeout: float | None = None) -> None:
        """Return as soon as there is a connection. Raises TimeoutError."""
        self._run(asyncio.wait_for(self._bus.connected(), timeout))

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: Any) -> None:
        if exc_type is None:
            self.close()
        elif self._thread is not None:
            try:
                self._run(self._bus.__aexit__(exc_type, exc, traceback))
            finally:
                self._thread.end()

    # -- what it is ---------------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """As `busclient.Bus.state`."""
        return self._bus.state

    @property
    def url(self) -> str:
        """Where the bus is."""
        return self._bus.url

    @property
    def endpoint(self) -> str:
        """The name that the broker gave this endpoint."""
        return self._bus.endpoint

    @property
    def welcome(self) -> Mapping[str, Any]:
        """What the broker said of itself and of this endpoint."""
        return self._bus.welcome

    def statistics(self) -> BusStatistics:
        """Figures of this bus."""
        return self._bus.statistics()

    # -- verbs --------------------------------------------------------------------------------------------------------

    def publish(
        self,
        subject: str,
        payload: Any = None,
        *,
        headers: Headers | None = None,
        data: bytes | bytearray | memoryview | None = None,
    ) -> None:
        """Publish one message; waits while the connection takes no more."""
        self._run(self._bus.publish(subject, payload, headers=headers, data=data))

    def flush(self) -> None:
        """Return when the broker has handled everything published before; raises what it refused."""
        self._run(self._bus.flush())

    def call(
        self,
        subject: str,
        payload: Any = None,
        *,
        timeout: float = TIMEOUT,
        headers: Headers | None = None,
        data: bytes | bytearray | memoryview | None = None,
        on_behalf_of: Call | None = None,
    ) -> Reply:
        """Call one of those who serve ``subject`` and return its reply."""
        return self._run(
            self._bus.call(subject, payload, timeout=timeout, headers=headers, data=data, on_behalf_of=on_behalf_of)
        )

    def stream(
        self,
        subject: str,
        payload: Any = None,
        *,
        timeout: float = TIMEOUT,
        headers: Headers | None = None,
        data: bytes | bytearray | memoryview | None = None,
        on_behalf_of: Call | None = None,
    ) -> "Stream":
        """Call ``subject`` and iterate over the parts of its reply."""
        parts = self._bus.stream(
            subject, payload, timeout=timeout, headers=headers, data=data, on_behalf_of=on_behalf_of
        )
        return Stream(self, parts)

    @overload
    def subscribe(
        self, pattern: str, *, latest: bool = ..., gaps: Literal["raise"] = ..., max_pending: int = ...
    ) -> "Subscription[Message]": ...

    @overload
    def subscribe(
        self, pattern: str, *, latest: bool = ..., gaps: Literal["yield"], max_pending: int = ...
    ) -> "Subscription[Message | Gap]": ...

    def subscribe(
        self,
        pattern: str,
        *,
        latest: bool = False,
        gaps: Literal["raise", "yield"] = "raise",
        max_pending: int = QUEUE_MESSAGES,
    ) -> "Subscription[Any]":
        """Messages on the subjects that match ``pattern``: enter with ``with``, then iterate or ``receive``."""
        if gaps not in ("raise", "yield"):
            raise ValueError(f"gaps is 'raise' or 'yield', not {gaps!r}")
        return Subscription(
            self,
            self._bus.subscribe(pattern, latest=latest, gaps="yield", max_pending=max_pending),
            yield_gaps=gaps == "yield",
        )

    def serve(
        self, pattern: str, handler: Handler, *, group: str = "default", concurrency: int = CONCURRENCY
    ) -> "Service":
        """Answer calls whose subject matches ``pattern`` in threads, from entering ``with`` to leaving it.

        ``handler`` is a function, or a generator function for streams. It cannot be interrupted when nobody waits for
        its reply any more; a long one looks at ``call.cancelled``.
        """
        return Service(self, pattern, handler, group=group, concurrency=concurrency)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        if self._thread is None:
            work.close()
            raise RuntimeError("enter the bus with `with` first")
        return self._thread.run(work)


class Subscription(Generic[Item]):
    """Messages of one pattern, in order. Several threads may iterate: each message goes to one of them."""

    def __init__(self, bus: Bus, subscription: AsyncSubscription[Message | Gap], *, yield_gaps: bool) -> None:
        self._bus = bus
        self._subscription = subscription
        self._yield_gaps = yield_gaps
        self._fetched: deque[Message | Gap] = deque()

    def __enter__(self) -> Self:
        self._bus._run(self._subscription.open())
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._bus._run(self._close())

    async def _close(self) -> None:
        self._subscription.close()

    def receive(self, timeout: float | None = None) -> Item:
        """The next message. Raises TimeoutError when none came in ``timeout`` seconds, `Gap` when some were lost."""
        while True:
            try:
                item: Any = self._fetched.popleft()
            except IndexError:
                self._fetched.extend(self._bus._run(asyncio.wait_for(self._fetch(), timeout)))
                continue
            if isinstance(item, Gap) and not self._yield_gaps:
                raise item
            return item  # type: ignore[no-any-return]

    async def _fetch(self) -> list[Message | Gap]:
        """The next message, and those that wait behind it. Raises Closed at the end."""
        try:
            items = [await anext(self._subscription)]
        except StopAsyncIteration:
            raise Closed("subscription") from None
        inbox = self._subscription._inbox
        while len(items) < BATCH and (item := inbox.take()) is not None:
            items.append(item)
        return items

    def __iter__(self) -> Iterator[Item]:
        while True:
            try:
                item = self.receive()
            except Closed:
                return
            yield item

    def statistics(self) -> SubscriptionStatistics:
        """Figures of this subscription."""
        return self._subscription.statistics()


class Stream:
    """The parts of one call's reply. Leaving the loop early cancels the call."""

    def __init__(self, bus: Bus, stream: AsyncStream) -> None:
        self._bus = bus
        self._stream = stream

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Reply:
        part = self._bus._run(self._next())
        if part is None:
            raise StopIteration
        return part

    async def _next(self) -> Reply | None:
        return await anext(self._stream, None)

    def close(self) -> None:
        """End the iteration; cancel the call if it is not over."""
        self._bus._run(self._stream.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class Service:
    """Answers calls of one pattern in a pool of threads, from entering ``with`` to leaving it."""

    def __init__(self, bus: Bus, pattern: str, handler: Handler, *, group: str, concurrency: int) -> None:
        self._bus = bus
        self._handler = handler
        self._pool = concurrent.futures.ThreadPoolExecutor(concurrency, thread_name_prefix=f"serve {pattern}")
        answer = self._answer_parts if inspect.isgeneratorfunction(handler) else self._answer
        self._service = bus._bus.serve(pattern, answer, group=group, concurrency=concurrency)

    def __enter__(self) -> Self:
        self._bus._run(self._service.open())
        return self

    def __exit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: Any) -> None:
        try:
            self._bus._run(self._service.__aexit__(exc_type, exc, traceback))
        finally:
            self._pool.shutdown(wait=exc_type is None, cancel_futures=True)

    def wait(self) -> None:
        """Wait until the service has ended: raises when the broker or the bus ended it."""
        self._bus._run(self._service.wait())

    def statistics(self) -> ServiceStatistics:
        """Figures of this service."""
        return self._service.statistics()

    async def _answer(self, call: Call) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._handler, call)

    async def _answer_parts(self, call: Call) -> AsyncIterator[Any]:
        loop = asyncio.get_running_loop()
        parts = self._handler(call)
        with _closing(parts):
            while (part := await loop.run_in_executor(self._pool, next, parts, _END)) is not _END:
                yield part


@contextmanager
def _closing(parts: Generator[Any, None, None]) -> Iterator[None]:
    """Close the generator unless a thread is still in it: then it ends with that thread's step."""
    try:
        yield
    finally:
        try:
            parts.close()
        except ValueError:
            pass
