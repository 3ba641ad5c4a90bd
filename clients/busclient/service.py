"""A service: a pattern, the handler that answers its calls, and the workers that run it."""

import asyncio
import contextvars
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from types import CoroutineType
from typing import Any, Final, Self

from busclient.connection import Connection
from busclient.errors import BusError, Code
from busclient.message import Call, Reply
from busclient.queues import Offer
from busclient.waiters import Waiters
from busproto.envelope import Status, pack

__all__ = ["Handler", "Service", "ServiceStatistics"]

Handler = Callable[[Call], Awaitable[Any] | AsyncIterator[Any]]
"""``async def handler(call)`` that returns the reply's payload (or a `Reply`), or an async generator of parts."""

CONCURRENCY: Final = 64
"""Calls that one service answers at a time, unless told otherwise."""

_log: Final = logging.getLogger("busclient")


@dataclass(frozen=True, slots=True)
class ServiceStatistics:
    """One service's figures."""

    pattern: str
    """What it serves."""
    queued_calls: int
    """Calls that no worker has taken yet."""
    running_calls: int
    """Calls that handlers work on."""
    workers: int
    """Tasks that run handlers."""
    answered_calls: int
    """Calls that were answered, error replies included."""
    failed_calls: int
    """Handlers that ended with an exception that they should not have raised."""


class Service:
    """Answers calls on the subjects of one pattern, from entering ``async with`` to leaving it, across reconnects.

    Leaving takes the offer back and lets running handlers finish; leaving through an exception cancels them. The
    handlers run in worker tasks that are used again; a worker whose handler changed a context variable is replaced, so
    that no handler sees what another one set.
    """

    def __init__(self, connection: Connection, pattern: str, handler: Handler, *, group: str, concurrency: int) -> None:
        if concurrency < 1:
            raise ValueError(f"concurrency of {concurrency} is below 1")
        self._connection = connection
        self._handler = handler
        self._concurrency = concurrency
        self._offer = Offer(pattern, group=group, token=self)
        self._context = contextvars.copy_context()
        self._workers: set[asyncio.Task[None]] = set()
        self._idle: list[asyncio.Future[None]] = []
        self._helping = False
        self._closing = False
        self._told = False
        self._over = False
        self._ended = Waiters()
        self._answered = 0
        self._failed = 0

    @property
    def pattern(self) -> str:
        """What it serves."""
        return self._offer.pattern

    @property
    def tasks(self) -> frozenset["asyncio.Task[None]"]:
        """The tasks that run the handlers."""
        return frozenset(self._workers)

    async def open(self) -> Self:
        """Offer to serve, and return when calls can come. Raises BusError when the broker refuses it."""
        connection = self._connection
        try:
            await connection.request(lambda now, token: connection.session.serve(self._offer, now, token))
        except BaseException:
            connection.session.unserve(self._offer, 0.0, None)
            connection.flush_soon()
            raise
        connection.dependents.add(self)
        return self

    async def close(self, *, cancel: bool = False) -> None:
        """Take no more calls, and wait until those that are here are answered (or, with ``cancel``, cancelled)."""
        connection = self._connection
        connection.dependents.discard(self)
        try:
            await connection.try_request(lambda now, token: connection.session.unserve(self._offer, now, token))
        finally:
            self._stop(cancel)
            while self._workers:
                await asyncio.wait(self._workers)

    async def wait(self) -> None:
        """Wait until the service has ended: returns when it was closed, raises when the broker or the bus ended it."""
        while not self._over:
            await self._ended.wait()
        self._raise_ended()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, exc_type: type[BaseException] | None, *exc_info: object) -> None:
        await self.close(cancel=exc_type is not None)
        if exc_type is None and not self._told:
            self._raise_ended()

    def _raise_ended(self) -> None:
        self._told = True
        if self._offer.ended is not None:
            raise type(self._offer.ended).from_body(self._offer.ended.body())

    def statistics(self) -> ServiceStatistics:
        """Figures of this service."""
        return ServiceStatistics(
            pattern=self._offer.pattern,
            queued_calls=len(self._offer.queue),
            running_calls=len(self._workers) - len(self._idle),
            workers=len(self._workers),
            answered_calls=self._answered,
            failed_calls=self._failed,
        )

    # -- what the bus calls -------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Calls have come in, or the broker has ended the offer."""
        self._offer.waiting = True
        if self._offer.ended is not None and not self._over:
            _log.error("the broker no longer lets this endpoint serve %s: %s", self.pattern, self._offer.ended)
            self._finish()
        if self._offer.queue:
            self._wake_worker()

    def end(self, failure: BusError | None) -> None:
        """The bus is gone for good, for ``failure`` or because this program closed it: stop at once."""
        if self._offer.ended is None:
            self._offer.ended = failure
        self._stop(cancel=True)

    # -- workers ------------------------------------------------------------------------------------------------------

    def _stop(self, cancel: bool) -> None:
        self._closing = True
        self._finish()
        for idle in self._idle:
            if not idle.done():
                idle.set_result(None)
        if cancel:
            for worker in self._workers:
                worker.cancel()

    def _finish(self) -> None:
        self._over = True
        self._ended.wake()

    def _wake_worker(self) -> None:
        """Have one more worker look at the queue, if there is one to be had."""
        while self._idle:
            idle = self._idle.pop()
            if not idle.done():
                idle.set_result(None)
                return
        if len(self._workers) < self._concurrency:
            self._start_worker()

    def _help(self) -> None:
        """A worker took a call in the last turn of the loop and more were waiting. If they still are, it is busy."""
        self._helping = False
        if self._offer.queue and not self._closing:
            self._wake_worker()

    def _start_worker(self) -> None:
        work = self._work()
        worker = self._connection.loop.create_task(work, context=self._context.copy())
        self._workers.add(worker)
        worker.add_done_callback(self._worker_done)

    def _worker_done(self, worker: asyncio.Task[None]) -> None:
        self._workers.discard(worker)
        if not worker.cancelled() and (error := worker.exception()) is not None:
            _log.critical("a worker of %s failed", self.pattern, exc_info=error)
        self._help()

    async def _work(self) -> None:
        """Answer calls until the service closes or a handler has changed this task's context."""
        task = asyncio.current_task()
        assert task is not None
        loop = self._connection.loop
        queue = self._offer.queue
        while True:
            while not queue:
                if self._closing:
                    return
                idle = loop.create_future()
                self._idle.append(idle)
                try:
                    await idle
                except asyncio.CancelledError:
                    if idle in self._idle:
                        self._idle.remove(idle)
                    raise
            call = queue.popleft()
            if queue and not self._helping:
                # Handlers that do not suspend are all run by this worker, in this turn; the others need more workers.
                self._helping = True
                loop.call_soon(self._help)
            if call.cancelled:
                continue
            call.task = task
            await self._answer(call, task)
            if contextvars.copy_context() != self._context:
                return

    async def _answer(self, call: Call, task: asyncio.Task[None]) -> None:
        """Run the handler for ``call`` and reply; whatever the handler does ends in one final reply."""
        try:
            result: Any = self._handler(call)
            if result.__class__ is CoroutineType or hasattr(result, "__await__"):
                result = await result
            elif hasattr(result, "__aiter__"):
                result = await self._stream(call, result)
            else:
                raise TypeError(f"the handler returned {type(result).__name__}: it must be async def")
            if result.__class__ is Reply:
                self._connection.reply(call, Status.OK, result._headers, result.data)
            else:
                self._connection.reply(call, Status.OK, None, pack(result))
        except asyncio.CancelledError:
            self._fail(call, BusError(Code.CANCELLED, subject=call.subject))
            if not call.cancelled or task.cancelling() > 1:
                raise
        except BusError as error:
            self._fail(call, error)
        except Exception as error:
            self._failed += 1
            _log.exception("the handler of %s failed on a call to %s", self.pattern, call.subject)
            self._fail(call, BusError(Code.HANDLER_FAILED, reason=type(error).__name__))
        finally:
            call.task = None
            self._answered += 1
            if call.cancelled and task.cancelling():
                task.uncancel()  # the cancellation was the call's, and the call is over

    async def _stream(self, call: Call, parts: AsyncIterator[Any]) -> Reply:
        """Send each part as it comes; the empty final reply that follows them."""
        connection = self._connection
        try:
            async for part in parts:
                if isinstance(part, Reply):
                    connection.reply(call, Status.PARTIAL, part._headers, part.data)
                else:
                    connection.reply(call, Status.PARTIAL, None, pack(part))
                if connection.congested():
                    await connection.ready_to_send()
        finally:
            close = getattr(parts, "aclose", None)
            if close is not None:
                await close()
        return Reply(data=b"")

    def _fail(self, call: Call, error: BusError) -> None:
        try:
            self._connection.reply(call, Status.ERROR, None, pack(error.body()))
        except BusError as unsendable:
            body = BusError(Code.HANDLER_FAILED, reason=f"its error cannot be sent: {unsendable.name}").body()
            self._connection.reply(call, Status.ERROR, None, pack(body))
