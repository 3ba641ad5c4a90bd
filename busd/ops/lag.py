"""How late the event loop runs: one timer each 100 ms, and how long after its time it was called.

Lag is the delay that every message on this node has just met before its own work began, so it is the first figure to
look at when the bus is slow. The sampler costs ten callbacks a second.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from busd.core.histogram import Histogram
from busd.core.statistics import HistogramStatistics

__all__ = ["LagStatistics", "LoopLag"]

clock: Final[Callable[[], float]] = time.monotonic
"""Finer than uvloop's own time, which counts milliseconds."""

INTERVAL: Final = 0.1
"""Seconds between samples."""


@dataclass(frozen=True, slots=True)
class LagStatistics:
    """The event loop's lateness."""

    last_seconds: float
    """The newest sample."""
    peak_seconds: float
    """The largest since the loop started."""
    age_seconds: float
    """Since the newest sample. Beyond a few intervals the loop is stuck right now."""
    samples: HistogramStatistics
    """All samples."""


class LoopLag:
    """Samples the lateness of the running loop from ``start`` to ``stop``."""

    def __init__(self, interval: float = INTERVAL) -> None:
        self._interval = interval
        self._samples = Histogram()
        self._last = self._peak = 0.0
        self._due = self._turned = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Begin to sample the running loop."""
        self._loop = asyncio.get_running_loop()
        self._turned = clock()
        self._arm()

    def stop(self) -> None:
        """Sample no more; the figures stay."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def statistics(self) -> LagStatistics:
        """The figures so far."""
        return LagStatistics(self._last, self._peak, self.age(), self._samples.statistics())

    def age(self) -> float:
        """Seconds since the newest sample; 0.0 before ``start``."""
        return clock() - self._turned if self._loop else 0.0

    def _arm(self) -> None:
        assert self._loop is not None
        self._due = clock() + self._interval
        self._timer = self._loop.call_later(self._interval, self._sample)

    def _sample(self) -> None:
        self._turned = clock()
        lag = max(0.0, self._turned - self._due)
        self._samples.observe(lag)
        self._last = lag
        self._peak = max(self._peak, lag)
        self._arm()
