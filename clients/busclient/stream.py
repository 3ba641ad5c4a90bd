"""A streamed reply: an async iterator of its parts."""

import asyncio
from collections.abc import Callable
from typing import Self

from busclient.connection import Connection
from busclient.message import Reply
from busclient.queues import Parts
from busclient.waiters import Waiters

__all__ = ["Stream"]


class Stream:
    """The parts of one call's reply, each a `Reply`, in order. The call is made when iteration begins.

    Ends after the last part, or raises the call's outcome. Leaving early cancels the call: at the end of ``async
    with`` or at `aclose`, when the task that iterates is cancelled, and also when the iterator is simply dropped. What
    a responder answers to it in one piece is the only part.
    """

    def __init__(self, connection: Connection, start: Callable[[Parts], int]) -> None:
        self._connection = connection
        self._start: Callable[[Parts], int] | None = start
        self._waiters = Waiters()
        self._parts = Parts(self._waiters)
        self._id = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Reply:
        if self._start is not None:
            start, self._start = self._start, None
            await self._connection.ready_to_send()
            self._id = start(self._parts)
            self._connection.sent()
        parts = self._parts
        while True:
            if parts.queue:
                part = parts.take()
                assert part is not None
                return part
            if parts.done:
                if parts.outcome is None:
                    raise StopAsyncIteration
                error, parts.outcome = parts.outcome, None
                raise error
            parts.waiting = True
            try:
                await self._waiters.wait()
            except asyncio.CancelledError:
                self._cancel()
                raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the iteration; cancel the call if it is not over."""
        self._cancel()
        self._waiters.wake()

    def _cancel(self) -> None:
        self._start = None
        if not self._parts.done:
            self._parts.done = True
            self._parts.queue.clear()
            if self._id:
                self._connection.abandon(self._id)

    def __del__(self) -> None:
        # `break` in an `async for` drops the iterator without a word. Any thread may run this.
        if self._id and not self._parts.done and not self._connection.loop.is_closed():
            self._parts.done = True
            self._connection.loop.call_soon_threadsafe(self._connection.abandon, self._id)
