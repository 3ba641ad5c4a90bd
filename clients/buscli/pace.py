"""Sending at a rate."""

import asyncio
from math import inf


class Pace:
    """Lets one thing after another go at ``rate`` a second; without a rate, at once.

    The times are fixed from the start (``start + n / rate``), so what goes late does not make the next one later: that
    is what an open-loop measurement needs. ``catch_up``: being later than this many seconds starts the count anew, so
    that a pause is not followed by a burst.
    """

    def __init__(self, rate: float | None, *, catch_up: float = inf) -> None:
        self._rate = rate
        self._catch_up = catch_up
        self._gone = 0
        self._start = -inf

    async def wait(self) -> float:
        """Wait until the next one may go; the moment it was meant to go, on the loop's clock."""
        now = asyncio.get_running_loop().time()
        if self._rate is None:
            return now
        due = self._start + self._gone / self._rate
        if now - due > self._catch_up or self._start == -inf:
            self._start, self._gone, due = now, 0, now
        self._gone += 1
        if due > now:
            await asyncio.sleep(due - now)
        return due
