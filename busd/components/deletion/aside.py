"""Calls that may block for as long as a disk does, made in threads beside the event loop."""

import asyncio
import contextvars
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

__all__ = ["AT_ONCE", "Aside"]

AT_ONCE: Final = 4
"""Calls of one tenant that are under way at a time. Its disk may be dead: then these never return, and its other calls
wait in vain, but nobody else's do."""

T = TypeVar("T")


class _Turns:
    """The calls of one tenant."""

    __slots__ = ("semaphore", "users")

    def __init__(self) -> None:
        self.semaphore = asyncio.Semaphore(AT_ONCE)
        self.users = 0


class Aside:
    """Runs calls in daemon threads, for a process must be able to end while one of them hangs."""

    def __init__(self) -> None:
        self._tenants: dict[str, _Turns] = {}

    @property
    def waiting(self) -> int:
        """Calls that are under way or wait."""
        return sum(turns.users for turns in self._tenants.values())

    async def run(self, tenant: str, call: Callable[[], T]) -> T:
        """What ``call`` returns or raises, in a thread with this context's variables, when it is ``tenant``'s turn.

        When this is cancelled a call that has begun goes on, and keeps its turn until it returns.
        """
        turns = self._tenants.setdefault(tenant, _Turns())
        turns.users += 1
        try:
            await turns.semaphore.acquire()
        except BaseException:
            self._leave(tenant, turns)
            raise
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        context = contextvars.copy_context()

        def over(result: Any, error: BaseException | None) -> None:
            turns.semaphore.release()
            self._leave(tenant, turns)
            if future.done():
                return  # nobody waits any more
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        def work() -> None:
            result, failure = None, None
            try:
                result = context.run(call)
            except BaseException as error:  # whatever it is, it is raised where it is waited for
                failure = error
            try:
                loop.call_soon_threadsafe(over, result, failure)
            except RuntimeError:
                pass  # the loop has ended meanwhile

        try:
            threading.Thread(target=work, name="deletion-call", daemon=True).start()
        except RuntimeError as error:  # no thread can be had
            over(None, error)
        return await future

    def _leave(self, tenant: str, turns: _Turns) -> None:
        turns.users -= 1
        if not turns.users:
            self._tenants.pop(tenant, None)
