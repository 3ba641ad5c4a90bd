"""Time for expiries: a clock that never goes back, made of one that may."""

import threading
from collections.abc import Callable

__all__ = ["Forward"]


class Forward:
    """``clock`` without its steps backwards: time goes on from where it was. Thread-safe.

    ``time.monotonic``, which is what a cache uses if nobody says otherwise, needs none of this. A clock that is set
    back would let entries live longer, and bring back what has been reported as expired. A step forwards cannot be told
    from a long pause, and makes entries expire.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._latest = clock()
        self._lost = 0.0

    def __call__(self) -> float:
        with self._lock:
            now = self._clock()
            if now < self._latest:
                self._lost += self._latest - now
            self._latest = now
            return now + self._lost
