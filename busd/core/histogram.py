"""Durations in buckets."""

from bisect import bisect_left
from itertools import accumulate
from typing import Final

from busd.core.statistics import HistogramStatistics

BOUNDS: Final = (
    20e-6, 50e-6, 100e-6, 200e-6, 500e-6, 1e-3, 2e-3, 5e-3, 10e-3, 20e-3,
    50e-3, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0,
)  # fmt: skip
"""Upper bounds in seconds: 1-2-5 from 20 us, a call on a local bus; the usual 5 ms would say nothing."""


class Histogram:
    """Counts observations by duration."""

    __slots__ = ("_counts", "_sum")

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self._counts[bisect_left(BOUNDS, seconds)] += 1
        self._sum += seconds

    def statistics(self) -> HistogramStatistics:
        """What was observed so far, cumulative as Prometheus wants it."""
        running = tuple(accumulate(self._counts))
        return HistogramStatistics(bounds=BOUNDS, counts=running[:-1], count=running[-1], sum=self._sum)
