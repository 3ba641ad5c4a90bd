"""What became of the calls of one operation."""

from bisect import bisect_left
from itertools import accumulate
from time import perf_counter
from typing import Any, Final

__all__ = ["BOUNDS", "OperationStatistics"]

BOUNDS: Final = (
    2e-6, 5e-6, 10e-6, 20e-6, 50e-6, 100e-6, 200e-6, 500e-6, 1e-3, 2e-3, 5e-3, 10e-3, 20e-3,
    50e-3, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0,
)  # fmt: skip
"""Upper bounds in seconds: 1-2-5 from 2 us, the shortest call in process, to a minute."""


class OperationStatistics:
    """Counts calls, how they ended and how long they took. Only ever added to."""

    __slots__ = ("_counts", "_seconds", "calls", "errors", "in_flight")

    def __init__(self) -> None:
        self.calls = 0
        """Begun, those that were refused among them."""
        self.in_flight = 0
        """Begun and not ended."""
        self.errors: dict[int, int] = {}
        """How many ended with each error code; what was cancelled or closed early is 3003."""
        self._counts = [0] * (len(BOUNDS) + 1)
        self._seconds = 0.0

    def begin(self) -> float:
        """A call begins. Returns when, for `end`."""
        self.calls += 1
        self.in_flight += 1
        return perf_counter()

    def end(self, begun: float, code: int) -> None:
        """A call that began at ``begun`` ends, with an error of ``code`` or, if that is 0, well."""
        seconds = perf_counter() - begun
        self.in_flight -= 1
        self._counts[bisect_left(BOUNDS, seconds)] += 1
        self._seconds += seconds
        if code:
            code = int(code)  # not a Code: these are shown and sent
            self.errors[code] = self.errors.get(code, 0) + 1

    def snapshot(self) -> dict[str, Any]:
        """The figures as plain values: ``{calls, in_flight, errors: {code: n}, seconds: {count, sum, buckets}}``.

        Codes are texts. ``buckets`` is ``[[upper bound in seconds, calls up to it], ...]``, cumulative; ``count`` has
        those above the last as well.
        """
        running = list(accumulate(self._counts))
        return {
            "calls": self.calls,
            "in_flight": self.in_flight,
            "errors": {str(code): count for code, count in sorted(self.errors.items())},
            "seconds": {
                "count": running[-1],
                "sum": self._seconds,
                "buckets": [[bound, count] for bound, count in zip(BOUNDS, running, strict=False)],
            },
        }
