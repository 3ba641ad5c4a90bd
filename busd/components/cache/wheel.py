"""What expires when: finds what has expired without looking at what has not."""

import math
from heapq import heappop, heappush
from typing import Final

from busd.components.cache.entry import NEVER, Entry

__all__ = ["Wheel"]

FINENESS: Final = 4
"""An expired entry that nobody asks for stays for at most 1/2**(FINENESS - 1) of its time to live longer; finer, and a
tenant with all kinds of times would have more buckets than entries in them."""

FINEST: Final = -4
"""Buckets are not narrower than 2**FINEST seconds."""

COARSEST: Final = 40
"""Nor wider than 2**COARSEST seconds, which is some 35,000 years: larger expiries share the last one."""


class Wheel:
    """Keys by the time at which they expire, in buckets whose width grows with the time to live.

    Putting in, taking out and finding one that is due are O(1), besides a heap of the buckets: there are at most some
    16 for each power of two of times to live. Whoever changes it holds the lock of the store.
    """

    __slots__ = ("_buckets", "_due")

    def __init__(self) -> None:
        self._buckets: dict[tuple[float, int], set[bytes]] = {}
        self._due: list[tuple[float, int]] = []  # a heap of the buckets' ends, each with its width's exponent

    def added(self, key: bytes, entry: Entry, now: float) -> None:
        """``entry`` of ``key`` is in the index from ``now`` on. Whether it expires is seen here."""
        expiry = entry.expiry
        if expiry == NEVER:
            return
        exponent = min(max(math.frexp(expiry - now)[1] - FINENESS, FINEST), COARSEST)
        name = ((expiry // 2.0**exponent + 1) * 2.0**exponent, exponent)
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = self._buckets[name] = set()
            heappush(self._due, name)
        bucket.add(key)
        entry.bucket = bucket

    def removed(self, key: bytes, entry: Entry) -> None:
        """``entry`` of ``key`` is no longer in the index."""
        if entry.bucket is not None:
            entry.bucket.discard(key)
            entry.bucket = None

    def due(self, now: float) -> bytes | None:
        """Take out a key whose bucket's time is over; None if there is none. Who asks says then that it is gone."""
        while self._due and self._due[0][0] <= now:
            bucket = self._buckets[self._due[0]]
            if bucket:
                return bucket.pop()
            del self._buckets[heappop(self._due)]
        return None

    def __len__(self) -> int:
        """Buckets, also empty ones whose time is not yet over."""
        return len(self._buckets)
