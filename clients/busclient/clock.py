"""Time as a bus sees it: the system's, or one that a test moves (`busclient.testing`)."""

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

__all__ = ["Clock", "LoopClock", "Timer"]


class Timer(Protocol):
    """Something that will be called."""

    def cancel(self) -> None:
        """Do not call it."""


class Clock(Protocol):
    """Where a bus gets the time and its timers from."""

    def time(self) -> float:
        """Seconds since some start; never goes back."""

    def call_at(self, when: float, callback: Callable[[], object], /) -> Timer:
        """Call ``callback`` once it is ``when``, or a little earlier."""


class LoopClock:
    """The system's monotonic clock and the running event loop's timers.

    Not the loop's own time: uvloop's stands still while Python runs, so after a second of work a timeout counted from
    it would be a second short.
    """

    def __init__(self) -> None:
        self.time: Callable[[], float] = time.monotonic

    def call_at(self, when: float, callback: Callable[[], object], /) -> Timer:
        """Call ``callback`` once it is ``when``, or a little earlier."""
        return asyncio.get_running_loop().call_later(max(0.0, when - time.monotonic()), callback)
