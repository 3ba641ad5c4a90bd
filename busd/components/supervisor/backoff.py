"""When a component that ended is started again: back-off, and how often at most. Pure: the time is an argument."""

from collections import deque
from typing import Final

__all__ = ["Restarts"]

FIRST_SECONDS: Final = 0.1
"""Before the first restart: whoever calls should hardly notice one crash."""

LONGEST_SECONDS: Final = 30.0
"""Doubling ends here: an operator who repairs something waits no longer than that."""

WINDOW_SECONDS: Final = 60.0
"""Restarts are counted over this time, and a run as long as this is a healthy one: what was before it is forgotten."""


class Restarts:
    """One component's restarts: 0.1 s of pause at first, doubling to 30 s, at most ``limit`` in 60 s."""

    __slots__ = ("_limit", "_pause", "_recent", "count")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pause = FIRST_SECONDS
        self._recent: deque[float] = deque()
        self.count = 0
        """Restarts that were granted since it was made; an operator's own start is not one."""

    def after(self, ran: float, now: float) -> float | None:
        """Seconds to wait before the next start of a component that ran ``ran`` seconds and ended at ``now``.

        None when it was restarted ``limit`` times within the last 60 s: it has failed.
        """
        if ran >= WINDOW_SECONDS:
            self.forget()
        while self._recent and now - self._recent[0] >= WINDOW_SECONDS:
            self._recent.popleft()
        if len(self._recent) >= self._limit:
            return None
        pause = self._pause
        self._pause = min(2 * pause, LONGEST_SECONDS)
        self._recent.append(now + pause)
        self.count += 1
        return pause

    def forget(self) -> None:
        """Begin anew, as an operator's ``start`` does; ``count`` stays."""
        self._pause = FIRST_SECONDS
        self._recent.clear()

    def limit(self, limit: int) -> None:
        """Have at most ``limit`` restarts in 60 s from now on."""
        self._limit = limit

    def reason(self) -> str:
        """Why there is no further restart, in words."""
        times = "once" if self._limit == 1 else f"{self._limit} times"
        return f"it was restarted {times} within {WINDOW_SECONDS:g} s" if self._limit else "it is not to be restarted"
