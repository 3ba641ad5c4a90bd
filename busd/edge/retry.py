"""Doing again and again what can fail, and ends even when it worked: to connect to a guest, to open its line."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from busd.edge.pump import clock

FIRST_SECONDS: Final = 0.1
LAST_SECONDS: Final = 5.0
"""A guest that boots is met within this time after its agent listens."""

SETTLED_SECONDS: Final = 5.0
"""What lasted this long has worked: the next try is soon again. What ended earlier counts as a failure, or a peer that
accepts and closes would be tried ten times a second for ever."""


class Backoff:
    """Doubles the wait from failure to failure."""

    __slots__ = ("_next",)

    def __init__(self) -> None:
        self._next = FIRST_SECONDS

    def ended(self, lasted: float) -> float:
        """It ended after ``lasted`` seconds; the seconds to wait before the next try."""
        if lasted >= SETTLED_SECONDS:
            self._next = FIRST_SECONDS
        seconds = self._next
        self._next = min(2 * seconds, LAST_SECONDS)
        return seconds


class Retry:
    """Awaits ``attempt`` again whenever it has ended, until it is stopped."""

    def __init__(self, attempt: Callable[[], Awaitable[None]]) -> None:
        """``attempt`` ends without an exception, whatever the world does to it."""
        self._attempt = attempt
        self._task: asyncio.Task[None] | None = None
        self._due: float | None = None

    def start(self) -> None:
        """Begin the first attempt."""
        self._task = asyncio.get_running_loop().create_task(self._run())
        self._task.add_done_callback(_raise)

    def stop(self) -> None:
        """Cancel the attempt, and make no more."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def describe(self, trying: str, error: str | None) -> dict[str, Any]:
        """The state as ``bus guest list`` shows it: ``trying`` or waiting, and why the last attempt ended."""
        state: dict[str, Any] = {"state": trying}
        if self._due is not None:
            state = {"state": "waiting", "retry_seconds": max(0.0, self._due - clock())}
        return state if error is None else {**state, "error": error}

    async def _run(self) -> None:
        backoff = Backoff()
        while True:
            began = clock()
            self._due = None
            await self._attempt()
            seconds = backoff.ended(clock() - began)
            self._due = clock() + seconds
            await asyncio.sleep(seconds)


def _raise(task: "asyncio.Task[None]") -> None:
    """Have the loop report what nobody foresaw, instead of a unit that nobody connects to any more in silence."""
    if not task.cancelled():
        task.result()
